"""The solvers `newton` and `lbfgs`, and the `Solution` that every solver returns.

They are one method: L-BFGS (Nocedal & Wright, alg. 7.4) around a metric that approximates the inverse Hessian.
For lbfgs the metric is a multiple of the identity; for newton it is the Cholesky factor of a Hessian. On large data both first
solve a random sample, whose optimum lies within the statistical error of the full one, and keep what they learned of its
curvature: newton its Hessian, lbfgs its pairs. The full data is then read for a handful of gradients only, never for a Hessian
(sub-sampled Newton: Byrd et al. 2011).
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from .objective import Array, Objective

LARGE = 20_000  # rows from which newton starts on samples
ROWS_PER_PARAMETER = 50  # of the larger sample at least; with k rows per parameter its Hessian is right to about 1 / sqrt(k)
SAMPLE_ITERATIONS = 20
SLOW = 0.5  # a step that leaves more than this share of the loss still to be gained calls for an exact Hessian
STALLED = 10  # steps without any gain, in loss or gradient, after which rounding is taken to be the limit
MEMORY = 20  # pairs that L-BFGS keeps


@dataclass
class Solution:
    """Where a solver stopped, and its path: one entry per iterate on the full data (per epoch for sgd)."""

    theta: Array
    converged: bool = False
    message: str = ""
    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    coef_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    started: float = field(default_factory=perf_counter, repr=False)
    starts: int = 1  # entries of the history before the first step

    def record(self, objective: Objective, theta: Array, loss: float, gradient: Array) -> float:
        """Append one entry; returns the gradient's 2-norm."""
        norm = float(np.linalg.norm(gradient))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise FloatingPointError(
                "the loss is not finite: X holds NaN, infinity or values too large for its dtype, "
                "or the learning rate is far too large"
            )
        self.theta = theta
        self.loss.append(loss)
        self.gradient_norm.append(norm)
        self.coef_norm.append(float(np.linalg.norm(objective.unpack(theta)[0])))
        self.seconds.append(perf_counter() - self.started)
        return norm

    @property
    def iterations(self) -> int:
        """Steps taken: the start is the first entry of the history (not for sgd, whose entries are epochs)."""
        return len(self.loss) - self.starts

    def stop(self, norm: float, tol: float) -> bool:
        self.converged = norm <= tol
        self.message = f"gradient norm {norm:.3g} {'<=' if self.converged else '>'} tol {tol:.3g}"
        return self.converged


def lbfgs(objective: Objective, theta: Array, *, max_iter: int = 1000, tol: float = 1e-8, sampled: bool = True) -> Solution:
    """Limited-memory BFGS around a scaled identity, for many parameters. `sampled`: start on a sample of large data."""
    started = perf_counter()
    start = _sampled_start(objective, theta, False) if sampled else _Start(theta)
    return _quasi_newton(objective, start, False, max_iter, tol, started=started)


def newton(objective: Objective, theta: Array, *, max_iter: int = 1000, tol: float = 1e-8, sampled: bool = True) -> Solution:
    """Newton's method (IRLS). `sampled`: start on a sample of large data and use its Hessian; otherwise, or where
    that one proves too poor, the exact Hessian of all rows is taken at every step."""
    started = perf_counter()
    start = _sampled_start(objective, theta, True) if sampled else _Start(theta)
    return _quasi_newton(objective, start, True, max_iter, tol, started=started)


@dataclass
class _Start:
    """Where a quasi-Newton method begins: the iterate, an approximate inverse Hessian, and pairs (s, y) to correct it with."""

    theta: Array
    metric: Callable[[Array], Array] | None = None
    pairs: deque = field(default_factory=lambda: deque(maxlen=MEMORY))


def _sampled_start(objective: Objective, theta: Array, second_order: bool) -> _Start:
    """The optimum of random samples (float32 is fine enough for them), with their Hessian or their L-BFGS pairs."""
    rows = max(objective.n // 16, ROWS_PER_PARAMETER * objective.size)
    if objective.n < LARGE or 2 * rows > objective.n:
        return _Start(theta)
    start, stride, rng = _Start(theta), objective.n // rows, np.random.default_rng(0)
    try:
        for every in (4 * stride, stride) if second_order else (stride,):
            # One row of each stretch, at random: a fixed stride could resonate with the order of the rows.
            first = np.arange(0, objective.n - every + 1, every)
            sample = objective.subset(first + rng.integers(0, every, len(first)), np.float32)
            if len(np.unique(sample.y)) < sample.classes or (sample.weights is not None and not sample.weights.any()):
                return _Start(theta)
            error = sample.size / (2 * sample.n)  # expected excess of the loss at the sample's optimum: fewer digits will do
            start.theta = _quasi_newton(sample, start, second_order, SAMPLE_ITERATIONS, 0.0, enough=error / 100).theta
            if objective.K > 1:  # float32 leaves traces of a shift common to all classes, which nothing but the penalty would undo
                start.theta = _without_shift(start.theta, objective.K)
                pairs = [(_without_shift(s, objective.K), _without_shift(y, objective.K)) for s, y in start.pairs]
                start.pairs = deque(pairs, maxlen=MEMORY)
            if second_order:
                start = _Start(start.theta, _factorise(sample.loss_gradient_hessian(start.theta)[2], sample.K))
    except FloatingPointError:  # too large for float32, or not finite: the full data will tell
        return _Start(theta)
    return start


def _without_shift(theta: Array, classes: int) -> Array:
    table = theta.reshape(classes, -1)
    return (table - table.mean(axis=0)).ravel()


def _quasi_newton(
    objective: Objective, start: _Start, second_order: bool, max_iter: int, tol: float, *, enough: float = 0.0, started: float = 0.0
) -> Solution:
    """L-BFGS from `start` until the gradient's norm is at most `tol`, or half the Newton decrement (the loss still to be gained)
    at most `enough`. `second_order`: take the exact Hessian as metric wherever the present one is missing or poor."""
    theta, metric, pairs = start.theta, start.metric, start.pairs
    solution = Solution(theta, started=started or perf_counter())
    exact = second_order and metric is None
    loss, gradient, hessian = _evaluate(objective, theta, exact)
    norm, gain, stalled = solution.record(objective, theta, loss, gradient), math.inf, 0
    rounding = 10 * float(np.finfo(objective.X.dtype).eps)
    for _ in range(max_iter):
        if solution.stop(norm, tol):
            return solution
        if hessian is not None:
            metric = _factorise(hessian, objective.K)
            pairs.clear()
        direction = -_two_loop(gradient, pairs, metric)
        previous_gain, gain = gain, -0.5 * float(gradient @ direction)
        if gain <= enough and (metric or pairs):
            return solution
        if second_order and not exact and gain > SLOW * previous_gain:  # the sampled metric is poor
            exact, gain, (loss, gradient, hessian) = True, math.inf, _evaluate(objective, theta, True)
            continue
        step = 1.0 if pairs or metric else min(1.0, 1 / norm)
        found = _line_search(objective, theta, loss, gradient, direction, step, exact, rounding)
        if found is None and pairs:  # they may mislead: once more without them
            pairs.clear()
            continue
        if found is None or stalled == STALLED:
            solution.message += f"; {objective.X.dtype} cannot lower the loss further"
            return solution
        following, following_loss, following_gradient, hessian = found
        s, y = following - theta, following_gradient - gradient
        if s @ y > 1e-16 * np.linalg.norm(s) * np.linalg.norm(y):  # always so on a convex function, but for rounding
            pairs.append((s, y))
        flat = following_loss >= loss - rounding * abs(loss)
        theta, loss, gradient, best = following, following_loss, following_gradient, min(solution.gradient_norm)
        norm = solution.record(objective, theta, loss, gradient)
        stalled = stalled + 1 if flat and norm >= best else 0
    solution.stop(norm, tol)
    return solution


def _evaluate(objective: Objective, theta: Array, hessian: bool):
    return objective.loss_gradient_hessian(theta) if hessian else (*objective.loss_gradient(theta), None)


def _two_loop(gradient: Array, pairs: deque, metric: Callable | None) -> Array:
    """The inverse Hessian of `metric`, updated by the BFGS `pairs` (s, y), times the gradient (Nocedal & Wright, alg. 7.4)."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    if metric is not None:
        q = metric(q)
    elif pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - (y @ q) / (s @ y)) * s
    return q


def _factorise(hessian: Array, classes: int) -> Callable[[Array], Array]:
    """Solve with the Hessian: Cholesky, or the pseudo-inverse where it is singular (collinear columns, fewer rows than columns).

    Scaled to a unit diagonal first, so that the units of the columns do not matter. Softmax ignores a shift common to all classes:
    that direction is filled with ones, which leaves the solution as it is, for no gradient has a part in it.
    """
    diagonal = np.diag(hessian)
    scale = np.divide(1, np.sqrt(diagonal), out=np.zeros(len(hessian)), where=diagonal > 0)  # a column of zeros stays where it is
    if classes > 1:
        columns = len(hessian) // classes
        scale = np.tile(scale.reshape(classes, columns).min(axis=0), classes)
    scaled = hessian * scale[:, None] * scale
    scaled[scale == 0, scale == 0] = 1
    if classes > 1:
        scaled += np.kron(np.full((classes, classes), 1 / classes), np.eye(columns))
    try:
        factor = cho_factor(scaled, lower=True, check_finite=False)
        if np.diag(factor[0]).min() > 1e-7:
            return lambda v: scale * cho_solve(factor, scale * v, check_finite=False)
    except LinAlgError:
        pass
    values, vectors = np.linalg.eigh(scaled)
    keep = values > 1e-13 * max(values[-1], np.finfo(np.float64).tiny)
    half = scale[:, None] * vectors[:, keep] / np.sqrt(values[keep])
    return lambda v: half @ (half.T @ v)


def _line_search(
    objective: Objective, theta: Array, loss: float, gradient: Array, direction: Array, step: float, hessian: bool, rounding: float
):
    """Backtrack by the secant of the slope until the loss falls enough (Armijo), or, where the loss is flat to `rounding`, until
    the slope does (Hager & Zhang 2005, approximate Wolfe). Returns (theta, loss, gradient, hessian), or None when no step helps."""
    slope = gradient @ direction
    if not slope < 0:
        return None
    flat_trials = 0
    for _ in range(25):
        following = theta + step * direction
        new_loss, new_gradient, new_hessian = _evaluate(objective, following, hessian)
        new_slope = new_gradient @ direction
        flat = abs(new_loss - loss) <= rounding * abs(loss)
        if new_loss <= loss + 1e-4 * step * slope or (flat and abs(new_slope) <= 0.9 * abs(slope)):
            return following, new_loss, new_gradient, new_hessian
        flat_trials += flat
        if flat_trials > 3:
            return None  # the loss says nothing any more, and the secant of the slope should have found its root by now
        secant = float(step * slope / (slope - new_slope)) if np.isfinite(new_slope) and new_slope > slope else 0.0
        step = min(max(secant, 0.1 * step), 0.5 * step)
    return None
