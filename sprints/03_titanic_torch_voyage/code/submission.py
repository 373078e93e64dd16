"""Kaggle's submission file, written by a process that cannot read the answers.

The 418 test labels are public (titanic3), so a score on them proves nothing unless they were out of reach: from `write` on,
this process refuses to open titanic3.csv and to import the module that reads it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.report import write_atomically

from .preprocess_data import LeakError, kaggle_test, kaggle_train

ANSWERS = "titanic3"


def write(model: Any, target: Path) -> pd.DataFrame:
    """Fit on Kaggle's train.csv, predict its test.csv, write PassengerId,Survived; returns the table (418, 2)."""
    lock()
    train, test = kaggle_train(), kaggle_test()
    p = model.fit(train.X, train.y).predict_proba(test)[:, 1]
    table = pd.DataFrame({"PassengerId": test.index, "Survived": np.asarray(p > 0.5, dtype=int)})
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def lock() -> None:
    """Shut titanic3 out for the rest of this process; raises LeakError where it has been loaded already."""
    if f"{__package__}.{ANSWERS}" in sys.modules:
        raise LeakError("this process has loaded titanic3, Kaggle's answers: write the submission in a process of its own")
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike) and ANSWERS in Path(os.fsdecode(arguments[0])).name:
        raise LeakError("titanic3 holds Kaggle's answers: a submission is made without it")
