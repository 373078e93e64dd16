"""The data of this sprint: Gaussian blobs whose best possible classifier is known, separable blobs, and real tables."""

import re
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from shared.errors import UserError

PRINTS_AS_ZERO = 5e-5  # a loss below this is printed as 0.0000
ORIGINAL_MEAN = 2.0  # the original's blobs sit at (-2, -2) and (2, 2), unit variance
REAL = ("breast_cancer", "digits")


@dataclass(frozen=True)
class Blobs:
    """Two unit-variance Gaussians at -mean * (1, 1) and +mean * (1, 1), equally likely."""

    mean: float = ORIGINAL_MEAN

    @classmethod
    def with_bayes_accuracy(cls, accuracy: float) -> "Blobs":
        """The blobs on which no classifier is better than `accuracy`."""
        from scipy.special import ndtri

        return cls(float(ndtri(accuracy)) / np.sqrt(2))

    @property
    def bayes_accuracy(self) -> float:
        """Accuracy of the best classifier, Phi(half the distance of the means)."""
        return float(ndtr(np.sqrt(2) * self.mean))

    def sample(self, n_per_class: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """X (2 * n_per_class, 2) and y, the classes one after the other."""
        y = np.repeat([0, 1], n_per_class)
        return rng.standard_normal((2 * n_per_class, 2)) + self.mean * (2 * y[:, None] - 1), y

    def accuracy(self, coef: np.ndarray, intercept: float) -> float:
        """The exact accuracy of the linear rule coef . x + intercept > 0 on this distribution: no test set needed."""
        norm = np.linalg.norm(coef)
        if norm == 0:
            return 0.5
        shift = self.mean * coef.sum() / norm
        return float(ndtr(shift + intercept / norm) + ndtr(shift - intercept / norm)) / 2


def separable(n_per_class: int, margin: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Blobs without the points that come closer than `margin` to the line through the origin between them."""
    X, y = Blobs(1.5).sample(20 * n_per_class, rng)
    keep = (X.sum(axis=1) / np.sqrt(2)) * (2 * y - 1) >= margin
    rows = np.concatenate([np.flatnonzero(keep & (y == label))[:n_per_class] for label in (0, 1)])
    return X[rows], y[rows]


def real(name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """X, y and the source of one of REAL, which ship with scikit-learn."""
    from sklearn.datasets import load_breast_cancer, load_digits

    X, y = (load_breast_cancer if name == "breast_cancer" else load_digits)(return_X_y=True)
    return np.asarray(X), np.asarray(y), f"scikit-learn's load_{name} (UCI, CC BY 4.0)"


def large(n: int, d: int, condition: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n x d Gaussian columns, mixed so that X^T X has roughly this condition number, with labels drawn from a logistic model."""
    X = rng.standard_normal((n, d))
    coef = rng.standard_normal(d) * 2 / np.sqrt(d)
    mixing = None
    if condition > 1:
        left, _ = np.linalg.qr(rng.standard_normal((d, d)))
        right, _ = np.linalg.qr(rng.standard_normal((d, d)))
        mixing = left * np.logspace(0, -0.5 * np.log10(condition), d) @ right
    y = (rng.random(n) < 1 / (1 + np.exp(-(X @ coef)))).astype(np.int64)
    return (X if mixing is None else X @ mixing), y


def parse(problem: str) -> tuple[int, int, int]:
    """Rows, columns and condition number (1: independent columns) of a name such as "1000000x32" or "1000000x32@100".

    Raises UserError for another form, and for fewer than 20 rows: labels at random could then be of one class only."""
    sizes = re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?", problem, re.ASCII)
    n, d, condition = (int(size or 1) for size in sizes.groups()) if sizes else (0, 0, 0)
    if n < 20 or min(d, condition) < 1:
        raise UserError(f"a problem is rows x columns, such as 300x4 or 300x4@100, of at least 20 rows; {problem!r} is not")
    return n, d, condition
