"""A blend of classifiers: the mean of their logits."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

CLIP = 1e-4  # a member's probability stays this far from 0 and 1, so that none can veto the others


class MeanLogit(ClassifierMixin, BaseEstimator):
    """Fits a clone of each member on the same rows; P(1) is the sigmoid of the mean of their logits."""

    def __init__(self, members: dict[str, BaseEstimator]):
        self.members = members

    def fit(self, X, y) -> Self:
        self.classes_ = np.unique(y)
        self.members_ = {name: clone(member).fit(X, y) for name, member in self.members.items()}  # type: ignore[attr-defined]
        return self

    def predict_proba(self, X) -> np.ndarray:
        """(n, 2): P(0) and P(1)."""
        check_is_fitted(self)
        p = mean_logit(np.array([member.predict_proba(X)[:, 1] for member in self.members_.values()]))
        return np.column_stack([1 - p, p])

    def predict(self, X) -> np.ndarray:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]


def mean_logit(p: np.ndarray) -> np.ndarray:
    """Probabilities (members, n) -> (n,)."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return 1 / (1 + np.exp(-np.log(p / (1 - p)).mean(axis=0)))
