"""What a model's answer depends on: permutation importance over rows, influence and one-feature curves for one passenger.

Facts are changed, not features, and what hangs together changes together: the title follows the sex, and the companions are the
surname and the ticket. The model then makes all its features anew. Whoever is asked about stays the same person with another age or
name: else a passenger of the training rows would become a companion of the own row, whose end the model knows.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .people import CHILD
from .preprocess_data import WHO, passenger_key
from .titanic_model import log_loss

CHANGES: dict[str, tuple[str, ...]] = {
    "sex": ("sex",),
    "class": ("class",),
    "age": ("age",),
    "relatives": ("siblings_spouses", "parents_children"),
    "fare": ("fare",),
    "deck": ("deck",),
    "port": ("port",),
    "companions": ("ticket",),
}  # what is changed -> the columns that change with it; names follow in `swap`


def swap(X: pd.DataFrame, what: str, donors: pd.DataFrame) -> pd.DataFrame:
    """X with one thing taken from the donors, row by row."""
    columns = [name for name in CHANGES[what] if name in X and name in donors]
    changed = X.assign(**{WHO: passenger_key(X)}, **{name: donors[name].to_numpy() for name in columns})
    if what == "sex":
        rows = zip(X["name"], changed["sex"], X["age"], strict=True)
        changed["name"] = pd.Series([_retitled(name, sex, age) for name, sex, age in rows], X.index, dtype=object)
    if what == "companions":
        pairs = zip(X["name"], donors["name"], strict=True)
        changed["name"] = pd.Series([_renamed(name, donor) for name, donor in pairs], X.index, dtype=object)
    return changed


def _retitled(name: Any, sex: Any, age: float) -> Any:
    """The name with the title of the other sex where the title would contradict."""
    if not isinstance(name, str) or not isinstance(sex, str):
        return name
    title = "Miss" if sex == "female" else "Master" if age < CHILD else "Mr"
    return re.sub(r",\s*[^.,]+\.", f", {title}.", name, count=1)


def _renamed(name: Any, donor: Any) -> Any:
    """The donor's surname, otherwise one's own name."""
    if not isinstance(name, str) or not isinstance(donor, str):
        return name
    return donor.split(",")[0] + "," + name.partition(",")[2]


def importance(model: Any, X: pd.DataFrame, y: np.ndarray, random: np.random.Generator, repeats: int = 3) -> dict[str, float]:
    """How much the log-loss on rows X, y rises when one thing is dealt out anew among them (Breiman 2001)."""
    base = log_loss(y, model.predict_proba(X)[:, 1])
    found = {}
    for what in CHANGES:
        dealt = [swap(X, what, X.iloc[random.permutation(len(X))]) for _ in range(repeats)]
        found[what] = float(np.mean([log_loss(y, model.predict_proba(rows)[:, 1]) for rows in dealt])) - base
    return found


def influence(
    model: Any, passenger: pd.DataFrame, others: pd.DataFrame, random: np.random.Generator, draws: int
) -> dict[str, float]:
    """Mean absolute change of one passenger's (one row) probability when one thing is that of others, most influential first."""
    donors = others.iloc[random.integers(len(others), size=draws)]
    copies = passenger.iloc[np.zeros(draws, dtype=int)].reset_index(drop=True)
    base = model.predict_proba(passenger)[0, 1]
    found = {what: float(np.abs(model.predict_proba(swap(copies, what, donors))[:, 1] - base).mean()) for what in CHANGES}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def curve(model: Any, X: pd.DataFrame, what: str, values: Sequence) -> np.ndarray:
    """(values,) mean probability of rows X when all of them have the value (partial dependence, Friedman 2001)."""
    column, n = CHANGES[what][0], len(X)
    copies = X.iloc[np.tile(np.arange(n), len(values))].reset_index(drop=True)
    given = pd.Series(np.repeat(np.array(values, dtype=object), n)).astype(X[column].dtype)
    p = model.predict_proba(swap(copies, what, copies.assign(**{column: given})))[:, 1]
    return p.reshape(len(values), n).mean(axis=1)
