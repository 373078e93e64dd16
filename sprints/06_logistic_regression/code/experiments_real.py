"""Experiments on real data: the same numbers as scikit-learn's tightest solver, and how far probabilities can be trusted."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression as ScikitLearn
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from shared import data, runlog

from . import figures
from .logistic_regression import LogisticRegression, Solver
from .problems import real

BINS = 10


def parity(args: runlog.Args, datasets: Sequence[str], repeats: int) -> dict:
    """Coefficients, loss and accuracy of our solvers beside scikit-learn's."""
    with runlog.Run(
        args,
        __file__,
        "real_data",
        title="Real data: parity with scikit-learn",
        objective="Are coefficients, loss and accuracy those of scikit-learn's tightest solver?",
        setup={
            "Model": "logistic regression, l2 = 1 (C = 1), two classes and softmax",
            "Data": f"{', '.join(datasets)}; columns standardised (for accuracy: on the training folds only)",
            "Optimisation": "ours: newton, lbfgs, nesterov; scikit-learn: newton-cholesky, tol 1e-13; accuracy: "
            f"{repeats} x 5 stratified folds",
        },
        seeds=[0],
    ) as run:
        errors, losses = {}, {}
        for name in datasets:
            X, y, source = real(name)
            run.data(name, data.digest((X, y)), rows=len(y), source=source)
            scaled = StandardScaler().fit_transform(X)
            twin = ScikitLearn(C=1.0, solver="newton-cholesky", tol=1e-13, max_iter=1000).fit(scaled, y)
            tolerances: dict[Solver, float] = {"newton": 1e-11, "lbfgs": 1e-11, "nesterov": 1e-9}
            for solver, tol in tolerances.items():
                model = LogisticRegression(solver, l2=1.0, tol=tol, max_iter=20_000).fit(scaled, y)
                errors[name, solver] = relative_error(model.coef_, twin.coef_)
                losses[name, solver] = abs(model.loss_ - objective_of(twin, scaled, y)) / model.loss_
            accuracy(run, repeats, name, X, y)
        exact = max(errors[name, solver] for name in datasets for solver in ("newton", "lbfgs"))
        for key, worst, meaning in (
            (
                "coefficient_relative_error",
                exact,
                "||ours - scikit-learn|| / ||scikit-learn||, the worst of newton and lbfgs on all data sets",
            ),
            (
                "coefficient_relative_error_nesterov",
                max(errors[n, "nesterov"] for n in datasets),
                "the same for nesterov, a first-order method",
            ),
            ("loss_relative_error", max(losses.values()), "relative difference of the penalised loss, the worst of all"),
        ):
            run.metric(key, worst, higher_is_better=False, meaning=meaning)
        run.observe(f"The largest relative difference of newton and lbfgs to scikit-learn's coefficients is {exact:.1e}.")
        run.conclude(
            f"The coefficients agree with scikit-learn's to a relative {exact:.0e}, the loss to {max(losses.values()):.0e}."
        )
    return run.report


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def objective_of(model: ScikitLearn, X: np.ndarray, y: np.ndarray) -> float:
    """The mean penalised loss of a scikit-learn model with C = 1, from its own probabilities."""
    log_p = model.predict_log_proba(X)[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return float(-log_p.mean() + 0.5 * (model.coef_**2).sum() / len(y))


def accuracy(run: runlog.Run, repeats: int, name: str, X: np.ndarray, y: np.ndarray) -> None:
    """Cross-validated accuracy of ours, scikit-learn's default and the majority class, on the same folds."""
    models = {"ours": LogisticRegression(l2=1.0), "scikit-learn": ScikitLearn(C=1.0), "majority": DummyClassifier()}
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=repeats, random_state=0)
    scores = {label: [] for label in models}
    for train, test in run.track(list(folds.split(X, y)), f"{name}: folds"):
        for label, model in models.items():
            with threadpool_limits(1):  # on tables this small the threads of BLAS and OpenMP only wait for each other
                pipeline = make_pipeline(StandardScaler(), model).fit(X[train], y[train])
            scores[label].append(pipeline.score(X[test], y[test]))
    for label, values in scores.items():
        by_repeat = np.reshape(values, (repeats, 5)).mean(axis=1)
        run.metric(
            f"{name}_accuracy_{label.replace('-', '_')}",
            by_repeat,
            higher_is_better=True,
            meaning=f"{name}: cross-validated accuracy, {label}; the interval is over repeats of the folds",
        )
    for label, peer in (("majority", "majority class"), ("scikit-learn", "scikit-learn")):
        run.compare(
            f"{name}_ours_minus_{label.replace('-', '_')}",
            scores["ours"],
            scores[label],
            names=(f"{name}: ours", peer),
            test_over_train=1 / 4,
        )


def calibration(args: runlog.Args, repeats: int) -> dict:
    """Are the probabilities right? Out-of-fold reliability for no, a moderate and a strong penalty."""
    strengths = {"no penalty": 0.0, "l2 = 1": 1.0, "l2 = 300": 300.0}
    with runlog.Run(
        args,
        __file__,
        "calibration",
        title="Calibration: what a probability is worth",
        objective="How well do out-of-fold probabilities match frequencies, with and without a penalty?",
        setup={
            "Model": f"logistic regression, {', '.join(strengths)}",
            "Data": "breast_cancer, columns standardised on the training folds",
            "Optimisation": f"newton; {repeats} x 5 stratified folds, every row predicted by a model that has not seen it",
        },
        seeds=range(repeats),
    ) as run:
        X, y, source = real("breast_cancer")
        run.data("breast_cancer", data.digest((X, y)), rows=len(y), source=source)
        groups, ece = {}, {}
        for label, strength in run.track(list(strengths.items()), "penalties"):
            probabilities = [out_of_fold(X, y, strength, seed) for seed in range(repeats)]
            pooled, truth = np.concatenate(probabilities), np.tile(y, repeats)
            groups[label] = reliability(pooled, truth)
            ece[label] = [expected_calibration_error(p, y) for p in probabilities]
            key = label.replace(" = ", "_").replace(" ", "_")
            run.metric(f"ece_{key}", ece[label], higher_is_better=False, meaning=f"expected calibration error, {label}")
            losses = [-np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-15, 1)).mean() for p in probabilities]
            run.metric(f"log_loss_{key}", losses, unit="nats", higher_is_better=False, meaning=f"out-of-fold log-loss, {label}")
        best = min(ece, key=lambda label: float(np.mean(ece[label])))
        run.observe(f"Expected calibration error: {', '.join(f'{label} {np.mean(values):.3f}' for label, values in ece.items())}.")
        run.observe(
            "The log-loss without a penalty is where the solver stopped: the training folds are separable, so a smaller tolerance "
            "makes the model surer, and its errors dearer."
        )
        run.conclude(f"Of {', '.join(strengths)}, {best} is calibrated best.")
        with runlog.style() as plt:
            run.figure(
                figures.reliability(plt, groups, repeats),
                "reliability",
                shows="Observed share of positives against predicted probability, out of fold; area: rows, bars: 95 % intervals.",
                matters="Points on the diagonal are probabilities that mean what they say.",
            )
    return run.report


def out_of_fold(X: np.ndarray, y: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """P(class 1) of every row from a model fitted on the other folds."""
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a penalty the folds are separable, which is the point
        model = make_pipeline(StandardScaler(), LogisticRegression(l2=strength))
        return np.asarray(cross_val_predict(model, X, y, cv=folds, method="predict_proba"))[:, 1]


def reliability(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, observed share and number of rows of each non-empty bin of equal width."""
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    rows = np.bincount(which, minlength=BINS)
    used = rows > 0
    mean = [np.bincount(which, weights=values, minlength=BINS)[used] / rows[used] for values in (p, y)]
    return mean[0], mean[1], rows[used]


def expected_calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """Mean distance of prediction and frequency over equal-width bins, weighted by rows (Guo et al. 2017, eq. 3)."""
    predicted, observed, rows = reliability(p, y)
    return float(np.abs(predicted - observed) @ rows / rows.sum())
