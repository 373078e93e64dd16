"""First-order solvers for `Objective`: gd, momentum, nesterov on the whole data, averaged sgd on mini-batches."""

from dataclasses import dataclass, field

import numpy as np

from .objective import Array, Objective
from .solvers import Solution


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
            t_next = (1 + float(np.sqrt(1 + 4 * t * t))) / 2
            ahead = following + (t - 1) / t_next * (following - theta)
            theta, t = following, t_next
        else:
            velocity = (momentum * velocity if method == "momentum" else 0) - step * gradient
            ahead = theta = theta + velocity
    loss, gradient = objective.loss_gradient(theta)
    solution.stop(solution.record(objective, theta, loss, gradient), tol)
    return solution


@dataclass
class AveragedSGD:
    """Mini-batch SGD with a constant step and Polyak-Ruppert averaging (Bach & Moulines 2013); keeps its state between calls.

    The step defaults to 1 / (2 c R^2 + l2 / n), R^2 = mean squared norm of the first rows seen, c = Objective.curvature.
    """

    theta: Array
    learning_rate: float | None = None
    steps: int = 0
    rows: int = 0  # seen so far, for the penalty of a stream
    average: Array = field(init=False)

    def __post_init__(self):
        self.average = self.theta.copy()

    def update(self, batch: Objective) -> None:
        """One step on the rows of `batch`."""
        if self.learning_rate is None:
            squared = float(np.square(batch.X, dtype=np.float64).sum(axis=1).mean()) + batch.fit_intercept
            self.learning_rate = 1 / (2 * batch.curvature * squared + batch.l2 / batch.total) if squared > 0 else 1.0
        _, gradient = batch.loss_gradient(self.theta)
        self.theta = self.theta - self.learning_rate * gradient
        self.steps += 1
        self.average += (self.theta - self.average) / self.steps


def averaged_sgd(
    objective: Objective, state: AveragedSGD, *, batch_size: int, rng: np.random.RandomState, max_iter: int, tol: float
) -> Solution:
    """`max_iter` epochs of averaged SGD; the history holds the averaged iterate on the full data, once per epoch."""
    solution = Solution(state.average, starts=0)
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
