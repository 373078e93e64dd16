"""Leaks planted on purpose: the leak ladder tells what each would give, and the checks of the tests must find it.

A recipe is what somebody does before the folds are cut: facts X and labels y in, the table that the folds are cut from and the
model out. Models are pipelines whose step "features" makes the table that the rest learns from.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from .features import encode, features
from .people import companions, people

Recipe = Callable[[pd.DataFrame, np.ndarray], tuple[pd.DataFrame, Any]]


def honest(model: Any) -> Recipe:
    """Nothing happens before the folds are cut."""
    return lambda X, y: (X, model)


def survival_rate(P: pd.DataFrame, known: pd.DataFrame, y: np.ndarray, own: bool) -> np.ndarray:
    """(n,) survival rate of the companions among `known` (m rows, labels y), with `own` of the row itself too (then n = m)."""
    near = companions(P, known) + (np.eye(len(P)) if own else 0.0)
    return (near @ y + 0.5) / (near.sum(axis=1) + 1)


class OwnLabelKept(TransformerMixin, BaseEstimator):
    """A companion rate that counts a training row's own label: the usual slip of a group-by, which new rows do not share."""

    def fit(self, X: pd.DataFrame, y) -> Self:
        self.known_, self.y_ = people(X), np.asarray(y, dtype=float)
        return self

    def fit_transform(self, X: pd.DataFrame, y=None, **_) -> pd.DataFrame:
        self.fit(X, y)
        return pd.DataFrame({"leak": survival_rate(self.known_, self.known_, self.y_, own=True)}, index=X.index)

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"leak": survival_rate(people(X), self.known_, self.y_, own=False)}, index=X.index)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        return np.array(["leak"], dtype=object)


def _model(leak: Any, classifier: Any) -> Pipeline:
    """The features without labels, the leak beside them, the classifier."""
    union = FeatureUnion([("honest", features("engineered")), ("leak", leak)], verbose_feature_names_out=False)
    return Pipeline([("features", union.set_output(transform="pandas")), ("encode", encode()), ("model", classifier)])


def _column_before_split(make: Callable[[pd.DataFrame, np.ndarray], np.ndarray], classifier: Any) -> Recipe:
    keep = ColumnTransformer([("keep", "passthrough", ["leak"])], verbose_feature_names_out=False)
    return lambda X, y: (X.assign(leak=make(people(X), y)), _model(clone(keep), classifier))


def _made_before_split(classifier: Any) -> Recipe:
    """Medians, sizes and scales of the whole table, then the folds."""

    def recipe(X: pd.DataFrame, y: np.ndarray) -> tuple[pd.DataFrame, Any]:
        made: Any = features("engineered").fit_transform(X)
        numbers = made.select_dtypes(exclude="category")
        scaled = made.assign(**(numbers - numbers.mean()) / numbers.std())
        one_hot = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
        category = make_column_selector(dtype_include="category")
        hot = ColumnTransformer([("category", one_hot, category)], remainder="passthrough")  # type: ignore[arg-type]
        return scaled, Pipeline([("features", FunctionTransformer()), ("encode", hot), ("model", classifier)])

    return recipe


def _group_size(P: pd.DataFrame, y: np.ndarray) -> np.ndarray:
    return companions(P, P).sum(axis=1)


PLANTED: dict[str, Callable[[Any], Recipe]] = {
    "own label in a group rate over all rows": partial(_column_before_split, lambda P, y: survival_rate(P, P, y, own=True)),
    "group rate of the others over all rows": partial(_column_before_split, lambda P, y: survival_rate(P, P, y, own=False)),
    "own label kept in the training feature": lambda classifier: honest(_model(OwnLabelKept(), classifier)),
    "group sizes over all rows, no labels": partial(_column_before_split, _group_size),
    "medians, sizes and scalers over all rows, no labels": _made_before_split,
}  # what somebody does -> the recipe, for a classifier
