"""Logistic regression in torch: the steady member of the ensemble, and the only one whose optimum is exact."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .encoding import TorchClassifier
from .features import Level

STEPS = 25  # of Newton, at most


class LinearModel(TorchClassifier):
    """P(survived) from facts by Newton's method; no step of it is random. See encoding.TorchClassifier for the API."""

    def __init__(self, level: Level = "tickets", C: float = 0.1):
        """C: the inverse of the L2 penalty, as in scikit-learn; the intercept is free."""
        self.level = level
        self.C = C

    def _learn(self, table: pd.DataFrame, y: np.ndarray) -> None:
        x, _ = self.encoding_.dense(table)
        self.coefficients_ = newton_logistic(x, torch.tensor(y), self.C)

    def _probability(self, P: pd.DataFrame, table: pd.DataFrame) -> Tensor:
        return torch.sigmoid(with_intercept(self.encoding_.dense(table)[0]) @ self.coefficients_)

    def _tensors(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients_}

    def _reload(self, table: pd.DataFrame, y: np.ndarray, tensors: dict[str, Tensor]) -> None:
        self.coefficients_ = tensors["coefficients"]


def with_intercept(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def newton_logistic(x: Tensor, y: Tensor, C: float) -> Tensor:
    """(d + 1,) minimiser of C * log-loss summed over rows x (n, d), y (n,) + |w|^2 / 2; the intercept comes last."""
    z = with_intercept(x)
    penalty = torch.ones(z.shape[1], dtype=z.dtype)
    penalty[-1] = 1e-8
    w = torch.zeros(z.shape[1], dtype=z.dtype)
    for _ in range(STEPS):
        p = torch.sigmoid(z @ w)
        gradient = C * z.T @ (p - y) + penalty * w
        curvature = C * (z.T * (p * (1 - p))) @ z + torch.diag(penalty)
        step = torch.linalg.solve(curvature, gradient)
        w = w - step
        if step.abs().max() < 1e-10:
            break
    return w
