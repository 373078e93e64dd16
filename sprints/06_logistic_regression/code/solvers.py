"""Solvers for `Objective`: gd, momentum, nesterov, lbfgs, newton, averaged sgd. Each returns a `Solution` with its whole history.

`newton` and `lbfgs` are one method: L-BFGS (Nocedal & Wright, alg. 7.4) around a metric that approximates the inverse Hessian.
For lbfgs the metric is a multiple of the identity; for newton it is the Cholesky factor of a Hessian. On large data both first
solve a strided sample, whose optimum lies within the statistical error of the full one, and keep what they learned of its
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
SLOW = 0.7  # a step that leaves more than this share of the gradient calls for an exact Hessian
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

    def stop(self, norm: float, tol: float) -> bool:
        self.converged = norm <= tol
        self.message = f"gradient norm {norm:.3g} {'<=' if self.converged else '>'} tol {tol:.3g}"
        return self.converged


def gradient_descent(
    objective: Objective,
    theta: Array,
    *,
    method: str = "gd",
    learning_rate: float | None = None,
    momentum: float = 0.9,
    max_iter: int = 1000,
    tol: float = 1e-8,
) -> Solution:
    """Full-batch descent with a constant step, 1 / L by default (objective.lipschitz).

    method "gd": plain; "momentum": Polyak's heavy ball; "nesterov": accelerated, restarted whenever the step points uphill
    (O'Donoghue & Candes 2015). The step is used as given: too large a one diverges, as it should.
    """
    step = learning_rate if learning_rate is not None else 1 / objective.lipschitz()
    solution, velocity, t = Solution(theta), np.zeros_like(theta), 1.0
    ahead = theta  # where the gradient is taken: theta itself, except for nesterov
    for _ in range(max_iter):
        loss, gradient = objective.loss_gradient(ahead)
        if solution.stop(solution.record(objective, ahead, loss, gradient), tol):
            return solution
        if method == "nesterov":
            following = ahead - step * gradient
            if gradient @ (following - theta) > 0:
                t = 1.0
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            ahead = following + (t - 1) / t_next * (following - theta)
            theta, t = following, t_next
        else:
            velocity = (momentum * velocity if method == "momentum" else 0) - step * gradient
            ahead = theta = theta + velocity
    loss, gradient = objective.loss_gradient(theta)
    solution.stop(solution.record(objective, theta, loss, gradient), tol)
    return solution


def lbfgs(objective: Objective, theta: Array, *, max_iter: int = 1000, tol: float = 1e-8, sampled: bool = True) -> Solution:
    """Limited-memory BFGS around a scaled identity, for many parameters. `sampled`: start on a sample of large data."""
    start = _sampled_start(objective, theta, False) if sampled else _Start(theta)
    return _quasi_newton(objective, start, False, max_iter, tol)


def newton(objective: Objective, theta: Array, *, max_iter: int = 1000, tol: float = 1e-8, sampled: bool = True) -> Solution:
    """Newton's method (IRLS). `sampled`: start on a sample of large data and use its Hessian; otherwise, or where
    that one proves too poor, the exact Hessian of all rows is taken at every step."""
    start = _sampled_start(objective, theta, True) if sampled else _Start(theta)
    return _quasi_newton(objective, start, True, max_iter, tol)


@dataclass
class _Start:
    """Where a quasi-Newton method begins: the iterate, an approximate inverse Hessian, and pairs (s, y) to correct it with."""

    theta: Array
    metric: Callable[[Array], Array] | None = None
    pairs: deque = field(default_factory=lambda: deque(maxlen=MEMORY))


def _sampled_start(objective: Objective, theta: Array, second_order: bool) -> _Start:
    """The optimum of strided samples (float32 is fine enough for them), with their Hessian or their L-BFGS pairs."""
    rows = max(objective.n // 16, ROWS_PER_PARAMETER * objective.size)
    if objective.n < LARGE or 2 * rows > objective.n:
        return _Start(theta)
    start, stride = _Start(theta), objective.n // rows
    try:
        for every in (4 * stride, stride) if second_order else (stride,):
            sample = objective.subset(slice(None, None, every), np.float32)
            noise = math.sqrt(sample.size / sample.n) / 10  # below the sample's own error: more digits would be thrown away
            start.theta = _quasi_newton(sample, start, second_order, SAMPLE_ITERATIONS, noise).theta
            if second_order:
                start = _Start(start.theta, _factorise(sample.loss_gradient_hessian(start.theta)[2], sample.K))
    except FloatingPointError:  # too large for float32, or not finite: the full data will tell
        return _Start(theta)
    return start


def _quasi_newton(objective: Objective, start: _Start, second_order: bool, max_iter: int, tol: float) -> Solution:
    """L-BFGS from `start`. `second_order`: take the exact Hessian as metric wherever the present one is missing or poor."""
    theta, metric, pairs, solution = start.theta, start.metric, start.pairs, Solution(start.theta)
    exact = second_order and metric is None
    loss, gradient, hessian = _evaluate(objective, theta, exact)
    norm = solution.record(objective, theta, loss, gradient)
    for _ in range(max_iter):
        if solution.stop(norm, tol):
            return solution
        if hessian is not None:
            metric = _factorise(hessian, objective.K)
            pairs.clear()
        direction = -_two_loop(gradient, pairs, metric)
        step = 1.0 if pairs or metric else min(1.0, 1 / norm)
        found = _line_search(objective, theta, loss, gradient, direction, step, exact)
        if found is None:
            if second_order and not exact:  # a sampled metric has run its course: take the exact one
                exact, (loss, gradient, hessian) = True, _evaluate(objective, theta, True)
                continue
            solution.message += "; the loss cannot be lowered further in floating point"
            return solution
        following, loss, following_gradient, hessian = found
        s, y = following - theta, following_gradient - gradient
        if s @ y > 1e-16 * np.linalg.norm(s) * np.linalg.norm(y):  # always so on a convex function, but for rounding
            pairs.append((s, y))
        theta, gradient, previous = following, following_gradient, norm
        norm = solution.record(objective, theta, loss, gradient)
        if second_order and not exact and norm > SLOW * previous:
            exact, (loss, gradient, hessian) = True, _evaluate(objective, theta, True)
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
    scale = 1 / np.sqrt(np.maximum(np.diag(hessian), np.finfo(np.float64).tiny))
    if classes > 1:
        columns = len(hessian) // classes
        scale = np.tile(scale.reshape(classes, columns).min(axis=0), classes)
    scaled = hessian * scale[:, None] * scale
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


def _line_search(objective: Objective, theta: Array, loss: float, gradient: Array, direction: Array, step: float, hessian: bool):
    """Backtrack by the secant of the slope until the loss falls enough (Armijo), or, where the loss is flat to rounding, until the
    slope does (Hager & Zhang 2005, approximate Wolfe). Returns (theta, loss, gradient, hessian), or None when no step helps."""
    slope = gradient @ direction
    if not slope < 0:
        return None
    for _ in range(40):
        following = theta + step * direction
        new_loss, new_gradient, new_hessian = _evaluate(objective, following, hessian)
        new_slope = new_gradient @ direction
        flat = new_loss <= loss + 1e-14 * abs(loss) and abs(new_slope) <= 0.9 * abs(slope)
        if new_loss <= loss + 1e-4 * step * slope or flat:
            return following, new_loss, new_gradient, new_hessian
        secant = float(step * slope / (slope - new_slope)) if np.isfinite(new_slope) and new_slope > slope else 0.0
        step = min(max(secant, 0.1 * step), 0.5 * step)
    return None


@dataclass
class AveragedSGD:
    """Mini-batch SGD with a constant step and Polyak-Ruppert averaging (Bach & Moulines 2013); keeps its state between calls.

    The step defaults to 1 / (2 c R^2), R^2 = mean squared norm of the first rows seen and c = 1/4 (two classes) or 1/2 (softmax).
    """

    theta: Array
    learning_rate: float | None = None
    steps: int = 0
    average: Array = field(init=False)

    def __post_init__(self):
        self.average = self.theta.copy()

    def update(self, batch: Objective) -> None:
        """One step on the rows of `batch`."""
        if self.learning_rate is None:
            bound = 0.25 if batch.K == 1 else 0.5
            squared = float(np.square(batch.X, dtype=np.float64).sum(axis=1).mean()) + batch.fit_intercept
            self.learning_rate = 1 / (2 * bound * squared) if squared > 0 else 1.0
        _, gradient = batch.loss_gradient(self.theta)
        self.theta = self.theta - self.learning_rate * gradient
        self.steps += 1
        self.average += (self.theta - self.average) / self.steps


def averaged_sgd(
    objective: Objective, state: AveragedSGD, *, batch_size: int, rng: np.random.RandomState, max_iter: int, tol: float
) -> Solution:
    """`max_iter` epochs of averaged SGD; the history holds the averaged iterate on the full data, once per epoch."""
    solution = Solution(state.average)
    for _ in range(max_iter):
        sgd_epoch(objective, state, batch_size, rng)
        loss, gradient = objective.loss_gradient(state.average)
        if solution.stop(solution.record(objective, state.average.copy(), loss, gradient), tol):
            break
    return solution


def sgd_epoch(objective: Objective, state: AveragedSGD, batch_size: int, rng: np.random.RandomState) -> None:
    """One shuffled pass over the rows of `objective`."""
    order = rng.permutation(objective.n)
    for start in range(0, objective.n, batch_size):
        state.update(objective.subset(order[start : start + batch_size]))
