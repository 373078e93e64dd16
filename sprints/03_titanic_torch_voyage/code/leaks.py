"""Four checks for leaks, and leaks planted on purpose, which the checks must find.

A recipe is what somebody does before the folds are cut: facts X and labels y in, the table that the folds are cut from and the
model out. Models are pipelines whose step "features" makes the table that the rest learns from.

    shuffled_auc(honest(model), X, y)                   about 0.5: labels dealt out at random cannot be predicted
    label_effect(honest(model), X, y, split)            0: flipping the test labels changes no feature and no prediction
    row_effect(honest(model), X, y, split)              0: deleting the test rows changes no training feature
    own_label_effect(honest(model), X, y)               small: flipping a row's label hardly moves the row's own features
"""

from collections.abc import Callable, Iterable
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
from .protocol import Split, evaluate, folds

Recipe = Callable[[pd.DataFrame, np.ndarray], tuple[pd.DataFrame, Any]]


def honest(model: Any) -> Recipe:
    """Nothing happens before the folds are cut."""
    return lambda X, y: (X, model)


def shuffled_auc(recipe: Recipe, X: pd.DataFrame, y: np.ndarray, seeds: Iterable[int] = range(3)) -> float:
    """Mean ROC-AUC on five folds, over seeds, with the labels dealt out at random."""
    found = []
    for seed in seeds:
        dealt = np.random.default_rng(seed).permutation(y)
        table, model = recipe(X, dealt)
        found.append(evaluate(model, table, dealt, folds(dealt, seed, repeats=1)).scores["roc_auc"].mean())
    return float(np.mean(found))


def label_effect(recipe: Recipe, X: pd.DataFrame, y: np.ndarray, split: Split) -> float:
    """The largest change of a feature or a prediction when every test label is flipped."""
    flipped = y.copy()
    flipped[split[1]] = 1 - flipped[split[1]]
    seen = []
    for labels in (y, flipped):
        table, model = recipe(X, labels)
        seen.append([*_tables(recipe, X, labels, split), evaluate(model, table, labels, [split]).p[0]])
    return _distance(*seen)


def row_effect(recipe: Recipe, X: pd.DataFrame, y: np.ndarray, split: Split) -> float:
    """The largest change of a training feature when the test rows are deleted before anything is done."""
    train = split[0]
    alone = np.arange(len(train)), np.arange(0)
    return _distance(_tables(recipe, X, y, split)[:1], _tables(recipe, X.iloc[train], y[train], alone)[:1])


def own_label_effect(recipe: Recipe, X: pd.DataFrame, y: np.ndarray, rows: Iterable[int] = range(0, 60, 3)) -> float:
    """The largest change of a row's own training features when its label is flipped; a mean over many rows may move a little."""
    whole = np.arange(len(y)), np.arange(0)
    before, largest = _tables(recipe, X, y, whole)[0], 0.0
    for row in rows:
        flipped = y.copy()
        flipped[row] = 1 - flipped[row]
        largest = max(largest, _distance([before[row]], [_tables(recipe, X, flipped, whole)[0][row]]))
    return largest


def _tables(recipe: Recipe, X: pd.DataFrame, y: np.ndarray, split: Split) -> list[np.ndarray]:
    """Features of the training rows as they are fitted, and of the test rows; categories as numbers."""
    table, model = recipe(X, y)
    train, test = split
    maker: Any = clone(model["features"])
    parts = [maker.fit_transform(table.iloc[train], y[train]), maker.transform(table.iloc[test])]
    codes = [part.apply(lambda column: column.cat.codes if column.dtype == "category" else column) for part in parts]
    return [part.to_numpy(float) for part in codes]


def _distance(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))


# -- planted leaks -----------------------------------------------------------------------------------------------------------


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
