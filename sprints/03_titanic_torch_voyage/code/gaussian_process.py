"""A Gaussian-process classifier in torch: smooth in what is known of a passenger, correlated along the ticket numbers.

p = GaussianProcess().fit(X, y).predict_proba(X_new)[:, 1]

The prior over the logit of a row with features x, ticket number t and class c has the covariance

    k(i, j) = a^2 exp(-|S (x_i - x_j)|^2 / 2)  +  x_i' L x_j  +  4  +  b^2 exp(-|t_i - t_j| / length) [c_i = c_j]

The posterior is Laplace's approximation; S, L (diagonal) and a maximise its evidence on the training rows times a prior. Nothing is
random. Source: Rasmussen & Williams, "Gaussian Processes for Machine Learning" (2006), algorithms 3.1, 3.2 and 5.1.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .encoding import TorchClassifier
from .features import Level
from .people import same

BIAS = 4.0  # variance of a constant added to all logits
JITTER = 1e-4  # on the diagonal
BOYHOOD = 6.0  # years: exp(-age / BOYHOOD) tells children from everybody else
CURVED = ("male", "class", "age", "boyhood")  # columns expected to interact; the others start out nearly linear
LENGTH = {True: 0.3, False: 1.2}  # prior mean of the log length scale, curved or not
SPREAD = 0.7  # prior standard deviation of log length scales and of log a
LINEAR, HEIGHT = -2.0, 0.4  # prior means of log sqrt(L) (standard deviation 1) and of log a

Hyper = dict[str, Tensor]


class GaussianProcess(TorchClassifier):
    """P(survived) from facts; see encoding.TorchClassifier for the API."""

    def __init__(
        self,
        level: Level = "tickets",
        steps: int = 30,
        learning_rate: float = 0.15,
        length: float = 30.0,
        amplitude: float = 0.5,
    ):
        """
        steps, learning_rate: of Adam on the evidence.
        length, amplitude: of the ticket kernel (amplitude is b, 0 for none).
        """
        self.level = level
        self.steps = steps
        self.learning_rate = learning_rate
        self.length = length
        self.amplitude = amplitude

    def _columns(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(boyhood=np.exp(-table["age"].to_numpy() / BOYHOOD))

    def _learn(self, table: pd.DataFrame, y: np.ndarray) -> None:
        x, self.place_ = self._dense(table)
        start = self._start()
        hyper = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimiser = torch.optim.Adam(hyper.values(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - 0.9 * step / self.steps)
        x, labels, near = (value.float() for value in (x, torch.tensor(y), self._near(self.known_)))  # half the time of double
        f = torch.zeros(len(y))
        for _ in range(self.steps):
            optimiser.zero_grad()
            K = self._covariance(x, x, hyper, near)
            f, slope = evidence_slope(K.detach() + JITTER * torch.eye(len(f)), labels, f)
            prior = ((hyper["scale"] - start["scale"]) ** 2).sum() + (hyper["height"] - start["height"]) ** 2
            loss = prior / (2 * SPREAD**2) + ((hyper["linear"] - start["linear"]) ** 2).sum() / 2 - (slope * K).sum()
            loss.backward()
            optimiser.step()
            schedule.step()
        self.hyper_ = {name: value.detach().double() for name, value in hyper.items()}
        self._condition(table, y)

    def _start(self) -> Hyper:
        """Prior means: log length scale and log sqrt(L) of each column, log a."""
        names = self.encoding_.names
        scale = torch.tensor([LENGTH[name in CURVED] for name in names])
        return {"scale": scale, "linear": torch.full((len(names),), LINEAR), "height": torch.tensor(HEIGHT)}

    def _condition(self, table: pd.DataFrame, y: np.ndarray) -> None:
        """The posterior on the training rows, in double precision."""
        (self.x_, self.place_), labels = self._dense(table), torch.tensor(y)
        K = self._covariance(self.x_, self.x_, self.hyper_, self._near(self.known_)) + JITTER * torch.eye(len(y))
        f, self.factor_, self.root_ = newton(K, labels, torch.zeros_like(labels), 12)
        self.residual_ = labels - torch.sigmoid(f)

    def _dense(self, table: pd.DataFrame) -> tuple[Tensor, Tensor]:
        return self.encoding_.dense(self._columns(table))

    def _covariance(self, a: Tensor, b: Tensor, hyper: Hyper, near: Tensor) -> Tensor:
        """(n, m) of the logits of rows a (n, d) and b (m, d), whose tickets have the covariance near (n, m)."""
        narrow, linear = torch.exp(-hyper["scale"])[self.place_], torch.exp(2 * hyper["linear"])[self.place_]
        u, v = a * narrow, b * narrow
        distance = (u**2).sum(1)[:, None] + (v**2).sum(1) - 2 * u @ v.T
        return torch.exp(2 * hyper["height"] - distance.clamp_min(0) / 2) + (a * linear) @ b.T + BIAS + near

    def _near(self, P: pd.DataFrame) -> Tensor:
        """(n, m) covariance from near ticket numbers of one class, to the training rows."""
        distance = np.abs(P["ticket_number"].to_numpy()[:, None] - self.known_["ticket_number"].to_numpy())
        near = np.isfinite(distance) & same(P, self.known_, "class")
        return torch.tensor(self.amplitude**2 * np.where(near, np.exp(-np.where(near, distance, 0.0) / self.length), 0.0))

    def _probability(self, P: pd.DataFrame, table: pd.DataFrame) -> Tensor:
        """(n,) the mean of the sigmoid over the posterior of the logit (MacKay's approximation, 1992)."""
        x, _ = self._dense(table)
        K = self._covariance(x, self.x_, self.hyper_, self._near(P))
        prior = torch.exp(2 * self.hyper_["height"]) + (x**2 * torch.exp(2 * self.hyper_["linear"])[self.place_]).sum(1) + BIAS
        prior = prior + self.amplitude**2 * torch.tensor(P["ticket_number"].notna().to_numpy(float))
        reduced = torch.linalg.solve_triangular(self.factor_, self.root_[:, None] * K.T, upper=False)
        variance = (prior - (reduced**2).sum(0)).clamp_min(0)
        return torch.sigmoid(K @ self.residual_ / torch.sqrt(1 + math.pi / 8 * variance))

    def _tensors(self) -> Hyper:
        return self.hyper_

    def _reload(self, table: pd.DataFrame, y: np.ndarray, tensors: Hyper) -> None:
        self.hyper_ = tensors
        self._condition(table, y)


def newton(K: Tensor, y: Tensor, f: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Newton steps to the mode of the posterior: logits f (n,), the Cholesky factor of B = I + W^1/2 K W^1/2, and W^1/2 (n,)."""
    one = torch.eye(len(y), dtype=K.dtype)
    for _ in range(steps):
        p = torch.sigmoid(f)
        root = (p * (1 - p)).clamp_min(1e-9).sqrt()
        factor = torch.linalg.cholesky(one + root[:, None] * K * root)
        b = root**2 * f + y - p
        f = K @ (b - root * torch.cholesky_solve((root * (K @ b))[:, None], factor)[:, 0])
    return f, factor, root


def evidence_slope(K: Tensor, y: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Two Newton steps on from the logits f (n,) and, exact where f is the mode, the derivative of log P(y) by K (n, n)."""
    f, factor, root = newton(K, y, f, 2)  # one step lags behind the hyper-parameters and finds worse ones
    inverse, p = torch.cholesky_inverse(factor), torch.sigmoid(f)
    R = root[:, None] * inverse * root
    pull = (p - 0.5) * (1 - torch.diagonal(inverse))  # posterior variance times half the third derivative of the log-likelihood
    return f, (torch.outer(y - p, y - p) - R) / 2 + torch.outer(pull - R @ (K @ pull), y - p)
