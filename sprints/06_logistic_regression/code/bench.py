"""Time to the same gradient norm, ours beside scikit-learn, interleaved; extra memory; distance to the memory-bandwidth limit.

$ make logreg-bench                     1 000 000 x 32 and 100 000 x 256, about five minutes; use an idle machine
$ make logreg-bench ARGS=--smoke        20 000 x 8, seconds
"""

import re
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression as ScikitLearn
from threadpoolctl import threadpool_limits

from shared import data, runlog
from shared.errors import UserError

from . import figures
from .logistic_regression import LogisticRegression
from .objective import Objective
from .problems import large, parse
from .solvers import Solution, lbfgs, newton

OURS: dict[str, Callable[..., Solution]] = {
    "newton": newton,
    "lbfgs": lbfgs,
    "newton, full Hessians": partial(newton, sampled=False),
}
THEIRS = ("lbfgs", "newton-cg", "newton-cholesky")


@dataclass
class Args(runlog.Args):
    """What is timed."""

    problems: tuple[str, ...] = ("1000000x32", "100000x256", "1000000x32@100")
    """Rows x columns, and after @ the condition number of X^T X (independent columns when not given)."""
    repeats: int = 15
    """Rounds; every round times each solver once, in turn, so that a slow spell of the machine hits all alike."""
    tol: float = 1e-8
    """Stop at this 2-norm of the gradient of the mean loss."""
    threads: int = 2
    """Threads for everyone: ours, BLAS and OpenMP."""
    l2: float = 1.0
    """Penalty (scikit-learn: C = 1 / l2)."""


def main(args: Args) -> dict:
    check(args)
    if args.smoke:
        args.problems, args.repeats = ("20000x8",), 2
    with runlog.Run(
        args,
        __file__,
        "speed",
        title="Speed: time to the same gradient norm",
        objective="How long does each solver take to the same gradient norm, and how far is that from the memory's limit?",
        setup={
            "Model": f"logistic regression with intercept, l2 = {args.l2:g}",
            "Data": f"Gaussian columns, labels from a logistic model, float64: {', '.join(args.problems)}",
            "Optimisation": f"gradient norm of the mean loss <= {args.tol:g}; scikit-learn's tol set to the largest power of ten "
            f"that gets there; {args.repeats} interleaved rounds after one warm-up, whole call of fit, {args.threads} threads",
        },
        seeds=[0],
    ) as run:
        with threadpool_limits(args.threads):
            races = {name: race(run, args, name) for name in args.problems}
        with runlog.style() as plt:
            run.figure(
                figures.race(plt, races),
                "speed",
                shows=f"Seconds of a whole fit to gradient norm {args.tol:g}, one dot per round, a bar at the median.",
                matters="One row per solver, ours in another colour; the scale is logarithmic.",
            )
    return run.report


def check(args: Args) -> None:
    """Raises UserError for settings with which nothing can be timed."""
    for problem in args.problems:
        parse(problem)
    if not args.problems or len(set(args.problems)) < len(args.problems):
        raise UserError("--problems needs at least one problem, and each only once")
    if min(args.repeats, args.threads) < 1:
        raise UserError("--repeats and --threads must be at least 1")
    if not (0 < args.tol < np.inf and 0 < args.l2 < np.inf):
        raise UserError("--tol and --l2 must be above 0 and finite")


def race(run: runlog.Run, args: Args, name: str) -> dict[str, np.ndarray]:
    """Time every solver on one problem and record ratios, memory and bandwidth; returns the seconds per solver."""
    X, y = large(*parse(name), np.random.default_rng(0))
    main_problem = name == args.problems[0]
    run.data(name, data.digest((X, y)), rows=len(y), source="generated, seed 0")
    fits: dict[str, Callable] = {f"ours: {solver}": Ours(solver, args).fit for solver in OURS}
    fits |= {f"scikit-learn: {solver}": tuned(solver, args, X, y).fit for solver in THEIRS}
    seconds: dict[str, list[float]] = {label: [] for label in fits}
    fitted = {label: fit(X, y) for label, fit in fits.items()}  # also the warm-up
    norms = {label: gradient_norm(model, X, y, args.l2) for label, model in fitted.items()}
    sides = [[label for label in fits if label.startswith(side)] for side in ("ours", "scikit-learn")]
    if (lowest := max(min(norms[label] for label in side) for side in sides)) > args.tol:
        raise UserError(f"--tol {args.tol:g} is below what floating point reaches on {name}: take at least {lowest:.1e}")
    for _ in run.track(range(args.repeats), f"{name}: rounds"):
        for label, fit in fits.items():
            start = time.perf_counter()
            fit(X, y)
            seconds[label].append(time.perf_counter() - start)
    times = {label: np.array(values) for label, values in seconds.items()}
    ours, theirs = (
        min((label for label in side if norms[label] <= args.tol), key=lambda label: np.median(times[label])) for side in sides
    )
    tag = name.replace("@", "_condition_")
    run.metric(
        "time_ratio_vs_sklearn" if main_problem else f"time_ratio_vs_sklearn_{tag}",
        times[ours] / times[theirs],
        higher_is_better=False,
        meaning=f"{name}: seconds of {ours} / seconds of {theirs}, per round",
    )
    for label, values in times.items():
        key = re.sub(r"\W+", "_", label.replace("scikit-learn", "sklearn"))
        run.metric(
            f"seconds_{key}_{tag}",
            values,
            unit="s",
            higher_is_better=False,
            meaning=f"{name}: seconds, {label} ({np.max(fitted[label].n_iter_)} iterations, gradient norm {norms[label]:.0e})",
        )
        run.metric(
            f"extra_memory_{key}_{tag}",
            extra_memory(fits[label], X, y) / X.nbytes,
            unit="x data",
            higher_is_better=False,
            meaning=f"{name}: peak of the memory allocated during fit / bytes of X, {label}",
        )
    bandwidth(run, args, tag, X, y, OURS[ours.removeprefix("ours: ")], float(np.median(times[ours])))
    ratio = float(np.median(times[ours] / times[theirs]))
    run.observe(
        f"{name}: {ours} needs {ratio:.2f} of the time of scikit-learn's best ({theirs.removeprefix('scikit-learn: ')}), medians "
        f"{np.median(times[ours]):.3f} s and {np.median(times[theirs]):.3f} s."
    )
    if main_problem:
        run.conclude(
            f"On {name} our best solver ({ours.removeprefix('ours: ')}) needs {ratio:.2f} of the time of scikit-learn's best."
        )
    stopped = {label: f"{label} (stops at {norm:.0e})" for label, norm in norms.items() if norm > args.tol}
    return {stopped.get(label, label): values for label, values in times.items()}


class Ours(LogisticRegression):
    """The estimator, validation and all, with any of the functions above as its solver."""

    def __init__(self, variant: str, args: Args):
        super().__init__(l2=args.l2, tol=args.tol, threads=args.threads)
        self.variant = variant

    def _solve(self, objective: Objective) -> Solution:
        return OURS[self.variant](objective, np.zeros(objective.size), tol=self.tol)


def tuned(solver: str, args: Args, X: np.ndarray, y: np.ndarray) -> ScikitLearn:
    """scikit-learn's solver with the loosest tol, in powers of ten, that reaches the gradient norm (its tol is another norm)."""
    model = ScikitLearn(C=1 / args.l2, solver=solver, max_iter=2000)  # type: ignore[arg-type]
    for tol in 10.0 ** np.arange(-3, -13, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if gradient_norm(model.set_params(tol=tol).fit(X, y), X, y, args.l2) <= args.tol:
                break
    return model


def gradient_norm(model, X: np.ndarray, y: np.ndarray, l2: float) -> float:
    """2-norm of the gradient of the mean loss at a fitted model, the same yardstick for all (plain NumPy, not our solver's)."""
    wrong = 1 / (1 + np.exp(-(X @ model.coef_[0] + model.intercept_[0]))) - y
    return float(np.linalg.norm(np.append(X.T @ wrong + l2 * model.coef_[0], wrong.sum()))) / len(y)


def extra_memory(fit: Callable, X: np.ndarray, y: np.ndarray) -> int:
    """Peak of what NumPy and Python allocate during one fit, in bytes (a run of its own: tracing slows it down)."""
    tracemalloc.start()
    fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def bandwidth(run: runlog.Run, args: Args, tag: str, X: np.ndarray, y: np.ndarray, solver: Callable, seconds: float) -> None:
    """How far the fit is from reading the data at the speed of memory: bytes it read / measured bandwidth, against its time."""
    with Objective(X, y, 2, l2=args.l2, threads=args.threads) as objective:
        solver(objective, np.zeros(objective.size), tol=args.tol)
        read = objective.bytes_read.total()
        samples = []
        for _ in range(20):
            start = time.perf_counter()
            objective.loss_gradient(np.zeros(objective.size))
            samples.append(time.perf_counter() - start)
    vector, reads = np.ones(X.shape[1]), []
    for _ in range(20):  # BLAS's matrix-vector product on all threads: the fastest reading of X there is in NumPy
        start = time.perf_counter()
        np.dot(X, vector)
        reads.append(time.perf_counter() - start)
    stream = X.nbytes / min(reads)
    run.metric(
        f"stream_bandwidth_{tag}",
        stream / 1e9,
        unit="GB/s",
        meaning=f"{tag}: measured read bandwidth (X @ v, all threads, best of 20)",
    )
    run.metric(
        f"pass_bandwidth_{tag}",
        X.nbytes / np.median(samples) / 1e9,
        unit="GB/s",
        higher_is_better=True,
        meaning=f"{tag}: bytes of X / time of one fused pass (loss and gradient)",
    )
    run.metric(
        f"data_reads_{tag}",
        read / X.nbytes,
        unit="x data",
        higher_is_better=False,
        meaning=f"{tag}: bytes of rows read by the fit / bytes of X",
    )
    run.metric(
        f"share_of_bandwidth_limit_{tag}",
        read / stream / seconds,
        higher_is_better=True,
        meaning=f"{tag}: time the reads would take at full bandwidth / time of the fit (1 = the memory's limit)",
    )


if __name__ == "__main__":
    runlog.launch(main, Args)
