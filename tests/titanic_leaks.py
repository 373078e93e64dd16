"""Four checks for leaks, of a recipe (leaks.py: facts X and labels y in, the table that is split and the model out).

shuffled_auc(recipe, X, y)               about 0.5: labels dealt out at random cannot be predicted
label_effect(recipe, X, y, split)        0: flipping the test labels changes no feature and no prediction
row_effect(recipe, X, y, split)          0: deleting the test rows changes no training feature
own_label_effect(recipe, X, y)           small: flipping a row's label hardly moves the row's own features
"""

from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import clone

protocol = import_module("sprints.03_titanic_torch_voyage.code.protocol")


def shuffled_auc(recipe, X, y, seeds=range(3)):
    """Mean ROC-AUC on five folds, over seeds, with the labels dealt out at random."""
    found = []
    for seed in seeds:
        dealt = np.random.default_rng(seed).permutation(y)
        table, model = recipe(X, dealt)
        found.append(protocol.evaluate(model, table, dealt, protocol.folds(dealt, seed, repeats=1)).scores["roc_auc"].mean())
    return float(np.mean(found))


def label_effect(recipe, X, y, split):
    """The largest change of a feature or a prediction when every test label is flipped."""
    flipped = y.copy()
    flipped[split[1]] = 1 - flipped[split[1]]
    seen = []
    for labels in (y, flipped):
        table, model = recipe(X, labels)
        seen.append([*_tables(recipe, X, labels, split), protocol.evaluate(model, table, labels, [split]).p[0]])
    return _distance(*seen)


def row_effect(recipe, X, y, split):
    """The largest change of a training feature when the test rows are deleted before anything is done."""
    train = split[0]
    alone = np.arange(len(train)), np.arange(0)
    return _distance(_tables(recipe, X, y, split)[:1], _tables(recipe, X.iloc[train], y[train], alone)[:1])


def own_label_effect(recipe, X, y, rows):
    """The largest change of a row's own training features when its label is flipped; a mean over many rows may move a little."""
    whole = np.arange(len(y)), np.arange(0)
    before, largest = _tables(recipe, X, y, whole)[0], 0.0
    for row in rows:
        flipped = y.copy()
        flipped[row] = 1 - flipped[row]
        largest = max(largest, _distance([before[row]], [_tables(recipe, X, flipped, whole)[0][row]]))
    return largest


def _tables(recipe, X, y, split):
    """Features of the training rows as they are fitted, and of the test rows; categories as numbers."""
    table, model = recipe(X, y)
    train, test = split
    maker: Any = clone(model["features"])
    parts = [maker.fit_transform(table.iloc[train], y[train]), maker.transform(table.iloc[test])]
    codes = [part.apply(lambda column: column.cat.codes if column.dtype == "category" else column) for part in parts]
    return [part.to_numpy(float) for part in codes]


def _distance(before, after):
    return max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))
