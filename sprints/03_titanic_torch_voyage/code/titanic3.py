"""titanic3, the 1 309 passengers, and the labels of Kaggle's test set, which it gives away.

Programs that write a submission must not import this module: a test follows their imports, and submission.py refuses to run
beside it. Source: https://hbiostat.org/data/repo/titanic (Encyclopedia Titanica, Vanderbilt University).
"""

import re

import numpy as np
import pandas as pd

from shared.data import DataError

from .preprocess_data import OUTCOMES, Table, check, expect, find, kaggle_test, kaggle_train, ours, rows_of

FILE = "titanic3.csv"


def titanic3() -> Table:
    """The 1 309 passengers with tickets, in file order; raises DataError where the file is not at hand or is another table."""
    path = find(FILE)
    raw = ours(rows_of(path, "latin-1")).drop(columns=list(OUTCOMES), errors="ignore")
    frame = check(raw, path.name)
    table = Table(frame.drop(columns="survived"), frame["survived"].to_numpy(int))
    return expect(table, path, rows=1309, survivors=500)


def boats() -> tuple[np.ndarray, np.ndarray]:
    """Who has a boat (n,), and who survived (n,): for the leak ladder alone, no model sees it."""
    raw = ours(rows_of(find(FILE), "latin-1"))
    return (raw["boat"] != "").to_numpy(), titanic3().y


def hold_out() -> tuple[Table, Table]:
    """Kaggle's 891 passengers to train on, the 418 of its test set with titanic3's labels: for one shot with frozen settings."""
    train, test, full = kaggle_train(), kaggle_test(), titanic3()
    fate = dict(zip(_who(full.X), full.y, strict=True))
    if unknown := [key for key in _who(test) if key not in fate]:
        raise DataError(f"titanic3 does not know {len(unknown)} of the test passengers, the first is {unknown[0]}")
    return train, Table(test, np.array([fate[key] for key in _who(test)]))


def _who(X: pd.DataFrame) -> list[tuple[str, str]]:
    """Letters of the name (the two tables quote nicknames differently) and the ticket."""
    return [(re.sub(r"\W", "", name), ticket) for name, ticket in zip(X["name"], X["ticket"], strict=True)]
