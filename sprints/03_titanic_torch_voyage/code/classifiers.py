"""Classifiers that scikit-learn does not have: a rule, CatBoost in a form that can be cloned, pre-trained nets if at hand."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from shared.data import DataError, digest

from .preprocess_data import find

FOUNDATIONS = {"tabpfn": ("TabPFN", "tabpfn.ckpt"), "tabicl": ("TabICL", "tabicl.ckpt")}  # package -> its name, file of weights


class RateTable(ClassifierMixin, BaseEstimator):
    """A rule: the survival rate of the training rows with the same values in some columns, smoothed by a death and a survival."""

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns

    def fit(self, X: pd.DataFrame, y) -> Self:
        """X (m, columns) with `columns` among them, y (m,) of 0 and 1."""
        self.classes_, y = np.unique(y), np.asarray(y, dtype=float)
        seen: dict[tuple, list[float]] = {}
        for cell, lived in zip(self._cells(X), y, strict=True):
            seen.setdefault(cell, []).append(lived)
        self.rates_ = {cell: (sum(labels) + 1) / (len(labels) + 2) for cell, labels in seen.items()}
        self.rate_ = y.mean()
        return self

    def _cells(self, X: pd.DataFrame) -> list[tuple]:
        return list(zip(*(X[name].tolist() for name in self.columns), strict=True))

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """(n, 2); the overall rate for values that no training row has."""
        check_is_fitted(self)
        p = np.array([self.rates_.get(cell, self.rate_) for cell in self._cells(X)])
        return np.column_stack([1 - p, p])

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]


class CatBoost(ClassifierMixin, BaseEstimator):
    """CatBoost's classifier, told which columns are categories; its own class cannot be cloned with such a list."""

    def __init__(
        self,
        iterations: int = 1000,
        learning_rate: float | None = None,
        depth: int = 6,
        l2_leaf_reg: float = 3.0,
        rsm: float = 1.0,
        random_strength: float = 1.0,
    ):
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.depth = depth
        self.l2_leaf_reg = l2_leaf_reg
        self.rsm = rsm
        self.random_strength = random_strength

    def fit(self, X: pd.DataFrame, y) -> Self:
        quiet = {"random_seed": 0, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
        categories = list(X.select_dtypes("category"))
        self.model_ = import_module("catboost").CatBoostClassifier(cat_features=categories, **quiet, **self.get_params())
        self.model_.fit(X, y)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        check_is_fitted(self)
        return self.model_.predict_proba(X)

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]


class Foundation(ClassifierMixin, BaseEstimator):
    """TabPFN or TabICL: nets trained on invented tables, which read the training rows as context. Nothing is downloaded."""

    def __init__(self, package: str, weights: str):
        """`weights`: sha256 of the file, which is looked for again in `fit`."""
        self.package = package
        self.weights = weights

    def fit(self, X, y) -> Self:
        """X (m, columns) of numbers, y (m,) of 0 and 1."""
        path = find(FOUNDATIONS[self.package][1])
        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "tabpfn": ("TabPFNClassifier", {}),
            "tabicl": ("TabICLClassifier", {"allow_auto_download": False}),
        }
        name, settings = kinds[self.package]
        made = getattr(import_module(self.package), name)(model_path=path, device="cpu", random_state=0, **settings)
        self.model_, self.classes_ = made.fit(np.asarray(X, dtype=float), np.asarray(y)), np.unique(y)
        return self

    def predict_proba(self, X) -> np.ndarray:
        """(n, 2): P(0) and P(1)."""
        check_is_fitted(self)
        return np.asarray(self.model_.predict_proba(np.asarray(X, dtype=float)), dtype=float)

    def predict(self, X) -> np.ndarray:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]


def digest_of(package: str) -> str:
    """sha256 of the weights of a pre-trained net; "" where it is not installed or its weights are not at hand."""
    if not find_spec(package):
        return ""
    try:
        return _digest(find(FOUNDATIONS[package][1]))
    except DataError:
        return ""


@cache
def _digest(path: Path) -> str:
    return digest(path)
