"""Experiments whose right answer is known: separable data, blobs with a known best accuracy, the step-size bound."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.svm import LinearSVC

from shared import data, runlog

from . import figures
from .descent import gradient_descent
from .logistic_regression import LogisticRegression
from .objective import Objective
from .problems import PRINTS_AS_ZERO, Blobs
from .problems import separable as separable_blobs
from .solvers import newton

BAYES = (0.75, 0.85, 0.95, Blobs().bayes_accuracy)
CONVERGED = 1e-9  # loss above the optimum, in nats
NAMES = dict(zip(BAYES, ("75", "85", "95", "original"), strict=True))
WEAK_L2 = 0.01  # beside the default of 1 on the easiest blobs: what of its line is the penalty's doing


def separable(args: runlog.Args, seeds: Sequence[int], total: int) -> dict:
    """Gradient descent on separable data: there is no optimum (Soudry et al. 2018)."""
    n, margin = 50, 0.5
    with runlog.Run(
        args,
        __file__,
        "separable",
        title="Separable data: the optimum does not exist",
        objective="What happens to norm, loss and direction when gradient descent runs for ever on separable classes?",
        setup={
            "Model": "logistic regression without intercept and penalty",
            "Data": f"blobs with every point at least {margin} from the dividing line, {n} per class",
            "Optimisation": f"gradient descent, step 1 / L, {total:,} steps; theory: w(t) = w_svm log t + const",
        },
        seeds=seeds,
    ) as run:
        steps = np.unique(np.logspace(0, np.log10(total), 200).astype(int))
        rows = [_path(n, margin, total, steps, seed) for seed in run.track(seeds, "seeds")]
        norms, losses, sides = (np.array([row[key] for row in rows]) for key in ("norm", "loss", "angle"))
        angles = np.abs(sides)
        slopes, before = (
            [np.polyfit(np.log(steps[rows]), norm[rows], 1)[0] for norm in norms]
            for rows in (steps > total // 10, (steps > total // 100) & (steps <= total // 10))
        )
        theory = [1 / row["margin"] for row in rows]
        run.metric(
            "norm_slope_over_theory_decade_before",
            np.divide(before, theory),
            meaning="slope of the norm over log t / slope in theory (1 / margin), in the last decade of steps but one",
        )
        run.metric(
            "norm_slope_over_theory",
            np.divide(slopes, theory),
            meaning="the same in the last decade of steps",
        )
        run.metric(
            "final_angle_to_max_margin",
            angles[:, -1],
            unit="degrees",
            higher_is_better=False,
            meaning="angle to the max-margin direction after the last step",
        )
        run.metric("loss_times_steps", losses[:, -1] * total, meaning="loss x steps after the last step (constant in theory)")
        run.metric(
            "newton_iterations_to_1e-8",
            [row["newton"] for row in rows],
            unit="iterations",
            higher_is_better=False,
            meaning="Newton iterations to gradient norm 1e-8 on the same data",
        )
        run.metric("newton_final_norm", [row["newton_norm"] for row in rows], meaning="norm of the coefficients where Newton stops")
        run.data(
            "separable_seed_0",
            data.digest(separable_blobs(n, margin, np.random.default_rng(0))),
            rows=2 * n,
            source="generated, seed 0",
        )
        ratio, angle = float(np.mean(np.divide(slopes, theory))), float(angles[:, -1].mean())
        run.observe(f"In the last decade of steps the norm grows at {ratio:.2f} times the rate 1 / margin per unit of log t.")
        run.observe(
            f"After {total:,} steps the direction is still {angle:.2f} degrees from the max-margin one: it converges "
            "only like 1 / log t, long after accuracy and loss look finished."
        )
        newton_steps, lowest = np.mean([row["newton"] for row in rows]), losses[:, -1].mean()
        run.observe(f"{total:,} steps: loss {lowest:.1e}; Newton has the gradient at 1e-8 after {newton_steps:.0f}.")
        run.conclude(
            f"Nothing converges: after {total:,} steps the norm still grows, at {ratio:.2f} times the rate of theory; the loss "
            "has whatever value the number of steps gives it."
        )
        decade_before = angles[:, np.searchsorted(steps, total // 10)].mean()
        with runlog.style() as plt:
            run.figure(
                figures.separation(plt, steps, norms, sides, float(np.mean(theory)), losses, PRINTS_AS_ZERO),
                "separable",
                shows="Norm, loss and angle to the max-margin direction over the steps of gradient descent, one line per seed; "
                "the angle's sign says on which side of it the coefficients are.",
                matters="Nothing converges: the norm grows for ever, and a printed zero is only a matter of time. In theory every "
                "angle ends at zero, but only like 1 / log t, and a line may cross it on the way: the last decade of steps takes "
                f"the mean size of the angle from {decade_before:.2f} to {angle:.2f} degrees.",
            )
    return run.report


def _path(n: int, margin: float, total: int, steps: np.ndarray, seed: int) -> dict:
    X, y = separable_blobs(n, margin, np.random.default_rng(seed))
    objective = Objective(X, y, 2, fit_intercept=False)
    svm = LinearSVC(fit_intercept=False, C=1e5, loss="hinge", tol=1e-9, max_iter=2_000_000, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direction = svm.fit(X, y).coef_[0]
    best = direction / np.linalg.norm(direction)
    angles, theta, rate = np.empty(len(steps)), np.zeros(2), 1 / objective.lipschitz()
    losses, norms = np.empty(len(steps)), np.empty(len(steps))
    wanted = {int(step): index for index, step in enumerate(steps)}
    for step in range(total + 1):
        loss, gradient = objective.loss_gradient(theta)
        if step in wanted:
            index, norm = wanted[step], np.linalg.norm(theta)
            losses[index], norms[index] = loss, norm
            angles[index] = np.degrees(np.arctan2(best[0] * theta[1] - best[1] * theta[0], theta @ best))
        theta = theta - rate * gradient
    solved = newton(objective, np.zeros(2), tol=1e-8)
    return {
        "loss": losses,
        "norm": norms,
        "angle": angles,
        "margin": float(((2 * y - 1) * (X @ best)).min()),
        "newton": len(solved.loss) - 1,
        "newton_norm": solved.coef_norm[-1],
    }


def overlap(args: runlog.Args, seeds: Sequence[int]) -> dict:
    """Blobs that overlap by a known amount: how close to the best possible accuracy does the fitted line come?"""
    sizes = np.array([20, 80, 320, 1280, 5120])
    with runlog.Run(
        args,
        __file__,
        "overlap",
        title="Overlapping blobs with a known best accuracy",
        objective="How far from the best possible accuracy is the fitted line, for a given number of rows?",
        setup={
            "Model": "logistic regression, l2 = 1",
            "Optimisation": "newton to gradient norm 1e-8",
            "Data": f"two unit-variance blobs with best accuracy {', '.join(f'{b:.2%}' for b in BAYES)}; exact accuracy of "
            "every fitted line from the normal distribution function, so no test set is needed",
        },
        seeds=seeds,
    ) as run:
        lines = [*((bayes, 1.0) for bayes in BAYES), (BAYES[-1], WEAK_L2)]
        gaps = {line: np.empty((len(seeds), len(sizes))) for line in lines}
        for seed in run.track(seeds, "seeds"):
            for bayes, l2 in lines:
                blobs = Blobs.with_bayes_accuracy(bayes)
                for column, size in enumerate(sizes):
                    X, y = blobs.sample(size // 2, np.random.default_rng([seed, size]))
                    model = LogisticRegression(l2=l2).fit(X, y)
                    gap = blobs.bayes_accuracy - blobs.accuracy(model.coef_[0], model.intercept_[0])
                    gaps[bayes, l2][seed, column] = 100 * gap
        for bayes in BAYES:
            for column in (1, len(sizes) - 1):
                run.metric(
                    f"bayes_gap_{NAMES[bayes]}_n{sizes[column]}",
                    gaps[bayes, 1.0][:, column],
                    unit="points",
                    higher_is_better=False,
                    meaning=f"distance to the best accuracy {bayes:.2%} with {sizes[column]} rows",
                )
        X, y = Blobs.with_bayes_accuracy(BAYES[0]).sample(10, np.random.default_rng([0, 20]))
        run.data("overlap_75_seed_0_n20", data.digest((X, y)), rows=20, source="generated, seed 0")
        hard, easy = (gaps[bayes, 1.0][:, 1].mean() for bayes in (BAYES[1], BAYES[-1]))
        run.observe(
            f"With 80 rows the line is {hard:.2f} points below the best possible on blobs of {BAYES[1]:.0%}, "
            f"{easy:.3f} points on the original's."
        )
        fall = np.polyfit(np.log(sizes), np.log(gaps[BAYES[1], 1.0].mean(axis=0)), 1)[0]
        run.observe(f"The distance falls like n to the power {fall:.2f}; theory says -1.")
        run.metric(
            "gap_exponent", fall, meaning="exponent of n in the distance to the best accuracy (theory: -1), best accuracy 85 %"
        )
        run.conclude(
            f"With 80 rows the fitted line is within {easy:.3f} points of the best possible one on the original's blobs and within "
            f"{hard:.2f} on blobs of {BAYES[1]:.0%}: good accuracy says how easy the problem is."
        )
        last = {line: np.diff(np.log(values.mean(axis=0)))[-1] / np.log(sizes[-1] / sizes[-2]) for line, values in gaps.items()}
        with runlog.style() as plt:
            run.figure(
                figures.bayes_gap(plt, sizes, gaps),
                "bayes_gap",
                shows="Distance to the best possible accuracy against the number of rows, for four degrees of overlap: mean and "
                "95 % interval over seeds.",
                matters="In theory every line ends parallel to the dotted one, proportional to 1 / n. From "
                f"{sizes[-2]:,} to {sizes[-1]:,} rows the distance falls like n to the power {last[BAYES[1], 1.0]:.2f} at "
                f"{BAYES[1]:.0%}, {last[BAYES[-1], 1.0]:.2f} at {BAYES[-1]:.2%}, and there {last[BAYES[-1], WEAK_L2]:.2f} with "
                f"l2 = {WEAK_L2:g} (dashed): where blobs hardly overlap, few rows lie near the line, and penalties count longer.",
            )
    return run.report


def step_size(args: runlog.Args, seeds: Sequence[int]) -> dict:
    """The bound 2 / L against the step at which gradient descent really stops converging."""
    blobs = Blobs.with_bayes_accuracy(0.85)
    with runlog.Run(
        args,
        __file__,
        "step_size",
        title="The learning-rate bound 2 / L and the real divergence point",
        objective="Up to which step does gradient descent converge, and does theory foretell it?",
        setup={
            "Model": "logistic regression, l2 = 0",
            "Data": "blobs with best possible accuracy 85 %, 100 rows per class",
            "Optimisation": "gradient descent, 4 000 steps per trial, bisection of the step to 1 %; L = largest eigenvalue of "
            "X^T X / 4n, curvature = largest eigenvalue of the Hessian at the optimum",
        },
        seeds=seeds,
    ) as run:
        multiples = np.geomspace(0.05, 8, 24)
        rows = [_thresholds(*blobs.sample(100, np.random.default_rng(seed)), multiples) for seed in run.track(seeds, "seeds")]
        bound, local, measured = (np.array([row[key] for row in rows]) for key in ("bound", "local", "measured"))
        run.metric("divergence_over_bound", measured / bound, meaning="largest step that converges / (2 / L)")
        run.metric(
            "divergence_over_local", measured / local, meaning="largest step that converges / (2 / curvature at the optimum)"
        )
        run.metric("bound_2_over_L", bound, meaning="2 / L")
        run.data("blobs_85_seed_0", data.digest(blobs.sample(100, np.random.default_rng(0))), rows=200, source="generated, seed 0")
        outcomes = np.array([row["outcomes"] for row in rows])
        safe = (outcomes[:, multiples < 1] < CONVERGED).ravel()
        run.metric("steps_below_bound_converge", safe, meaning="share of trials with a step below 2 / L that reach the optimum")
        run.observe(
            f"{safe.sum()} of {len(safe)} trials with a step below 2 / L converge; the measured limit is "
            f"{np.mean(measured / bound):.2f} times 2 / L: the curvature 1/4 behind L is only met where the model is undecided."
        )
        run.observe(f"2 / curvature at the optimum foretells the limit to within {100 * np.abs(measured / local - 1).max():.1f} %.")
        run.conclude(
            f"Descent breaks down at {np.mean(measured / local):.2f} times 2 / (largest curvature at the optimum), which is "
            f"{np.mean(measured / bound):.1f} times the bound 2 / L."
        )
        with runlog.style() as plt:
            run.figure(
                figures.step_size(plt, multiples, outcomes, measured, local),
                "step_size",
                shows="Left: loss above the optimum after 4 000 steps against the step. Right: measured limit against theory.",
                matters="Left: is the bound ever violated? Right: on the line, the local curvature foretells the limit.",
            )
    return run.report


def _thresholds(X: np.ndarray, y: np.ndarray, multiples: np.ndarray) -> dict:
    objective = Objective(X, y, 2)
    optimum = newton(objective, np.zeros(3), tol=1e-12)
    bound = 2 / objective.lipschitz()
    local = 2 / np.linalg.eigvalsh(objective.loss_gradient_hessian(optimum.theta)[2])[-1]

    def excess(rate: float) -> float:
        with np.errstate(all="ignore"):
            return gradient_descent(objective, np.zeros(3), learning_rate=rate, max_iter=4000, tol=1e-9).loss[-1] - optimum.loss[-1]

    outcomes = [max(excess(float(multiple * bound)), 1e-17) for multiple in multiples]
    low, high = 0.01 * bound, 4 * local
    while high / low > 1.01:
        middle = np.sqrt(low * high)
        low, high = (middle, high) if excess(float(middle)) < CONVERGED else (low, middle)
    return {"bound": bound, "local": local, "measured": np.sqrt(low * high), "outcomes": outcomes}
