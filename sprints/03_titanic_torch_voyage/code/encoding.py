"""From the table of features to tensors, and what the torch classifiers share: scikit-learn's API, and a state of tensors and JSON.

model = EntityNet(seed=1).fit(X, y)             X: facts (n, preprocess_data.FACTS), y (n,) of 0 and 1
model.predict_proba(X_new)[:, 1]                P(survived)
tensors, notes = model.state()                  everything learned beyond the training rows: tensors, and JSON
EntityNet(seed=1).restore(X, y, tensors, notes) the same model again
"""

import math
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from shared.data import DataError

from .features import Level, features
from .people import people

CLIP = 4.0  # standard deviations: no outlier may dominate
ONE_HOT = 0.7  # value of a category's column: two categories are one standard deviation apart
BINS = 8
BINNED = ("age", "log_fare", "log_fare_per_person")  # also given piecewise linearly between quantiles (Gorishniy et al. 2022)


class Encoding:
    """Means, scales, bin edges and categories of the training rows: numbers and text, so it is JSON as it stands."""

    def __init__(self, state: dict[str, Any] | None = None):
        self.state: dict[str, Any] = state or {}

    def fit(self, table: pd.DataFrame) -> Self:
        """Learn from the features (n, columns) of the training rows; columns without variance are left out."""
        numbers = {name: table[name].to_numpy(float) for name in table.select_dtypes(exclude="category")}
        names = [name for name, values in numbers.items() if values.std() > 1e-6]
        cuts = np.linspace(0, 1, BINS + 1)
        self.state = {
            "mean": {name: float(numbers[name].mean()) for name in names},
            "scale": {name: float(numbers[name].std()) for name in names},
            "edges": {name: np.unique(np.quantile(numbers[name], cuts)).tolist() for name in BINNED if name in names},
            "categories": {name: list(table[name].cat.categories) for name in table.select_dtypes("category")},
        }
        return self

    @property
    def names(self) -> list[str]:
        """Of the numeric columns, then of the categorical ones."""
        return [*self.state["mean"], *self.state["categories"]]

    def numbers(self, table: pd.DataFrame) -> np.ndarray:
        """(n, numeric columns) standardised."""
        mean, scale = self.state["mean"], self.state["scale"]
        return np.clip(np.stack([(table[name].to_numpy() - mean[name]) / scale[name] for name in mean], 1), -CLIP, CLIP)

    def bins(self, table: pd.DataFrame) -> np.ndarray:
        """(n, bins of all binned columns) in [-0.5, 0.5]: how far a value has come through each bin."""
        blocks = [np.zeros((len(table), 0))]
        for name, edges in self.state["edges"].items():
            low, high = np.array(edges[:-1]), np.array(edges[1:])
            blocks.append(np.clip((table[name].to_numpy()[:, None] - low) / (high - low), 0, 1) - 0.5)
        return np.concatenate(blocks, 1)

    def codes(self, table: pd.DataFrame) -> np.ndarray:
        """(n, categorical columns) places of the categories."""
        blocks = [table[name].cat.codes.to_numpy(np.int64)[:, None] for name in self.state["categories"]]
        return np.concatenate([np.zeros((len(table), 0), np.int64), *blocks], 1)

    def dense(self, table: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """(n, d) standardised numbers, then the one-hot of each category; (d,) the place in `names` that a column belongs to."""
        x, codes, sizes = self.numbers(table), self.codes(table), self.sizes()
        hot = [ONE_HOT * np.eye(size)[codes[:, j]] for j, size in enumerate(sizes)]
        place = [*range(x.shape[1]), *(x.shape[1] + np.repeat(np.arange(len(sizes)), sizes))]
        return torch.tensor(np.concatenate([x, *hot], 1)), torch.tensor(place)

    def sizes(self) -> list[int]:
        """Categories of each categorical column."""
        return [len(values) for values in self.state["categories"].values()]


class TorchClassifier(ClassifierMixin, BaseEstimator):
    """From facts to a probability: features of `level` fitted on the training rows, then what a subclass learns from them."""

    level: Level

    def fit(self, X: pd.DataFrame, y) -> Self:
        """X (n, facts), y (n,) of 0 and 1, both present."""
        labels, table = self._prepare(X, y)
        self.encoding_ = Encoding().fit(self._columns(table))
        self._learn(table, labels)
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """(n, 2): P(died) and P(survived)."""
        check_is_fitted(self)
        with torch.no_grad():
            p = self._probability(people(X), self.features_.transform(X)).double().numpy()  # type: ignore[arg-type]
        return np.column_stack([1 - p, p])

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the encoding."""
        return self._tensors(), self.encoding_.state

    def restore(self, X: pd.DataFrame, y, tensors: dict[str, Tensor], notes: dict[str, Any]) -> Self:
        """Undo `state`, given the same training rows; raises DataError where the features are made otherwise today."""
        labels, table = self._prepare(X, y)
        self.encoding_ = Encoding(notes)
        if not _alike(Encoding().fit(self._columns(table)).state, notes):
            raise DataError("the checkpoint was made by other features than today's: train again")
        self._reload(table, labels, tensors)
        return self

    def _prepare(self, X: pd.DataFrame, y) -> tuple[np.ndarray, pd.DataFrame]:
        labels = np.asarray(y, dtype=float)
        if len(labels) != len(X) or set(np.unique(labels)) != {0.0, 1.0}:
            raise ValueError("fit needs one label for each row, and both 0 and 1 among them")
        self.classes_ = np.array([0, 1])
        self.features_ = features(self.level)
        table: Any = self.features_.fit_transform(X, labels)
        self.known_ = people(X)
        return labels, table

    def _columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """The features that the model sees."""
        return table

    def _learn(self, table: pd.DataFrame, y: np.ndarray) -> None:
        raise NotImplementedError

    def _probability(self, P: pd.DataFrame, table: pd.DataFrame) -> Tensor:
        raise NotImplementedError

    def _tensors(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _reload(self, table: pd.DataFrame, y: np.ndarray, tensors: dict[str, Tensor]) -> None:
        raise NotImplementedError


def _alike(a: Any, b: Any) -> bool:
    """Equal up to rounding, which differs between processors."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
