"""The passengers: one schema, errors that name line and column, and the loaders of the embedded table and of Kaggle's files.

X, y = embedded()               891 passengers of data/titanic.csv: no ticket, nothing to download
X, y = kaggle_train()           the same 891 with their tickets, from $SPRINTS_DATA/titanic or the cache
X = kaggle_test()               418 passengers without labels
X = new_passengers(path)        anybody: every field but the header may be missing

The 1 309 passengers of titanic3 hold the answers to Kaggle's test: they have a module of their own (titanic3.py).
"""

import csv
import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from shared.data import DataError, digest

EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "titanic.csv"
KAGGLE_TRAIN, KAGGLE_TEST = ("kaggle_train.csv", "train.csv"), ("kaggle_test.csv", "test.csv")
KAGGLE_URL = "https://www.kaggle.com/c/titanic/data"
PORTS = {"C": "Cherbourg", "Q": "Queenstown", "S": "Southampton"}
DECKS = tuple("ABCDEFGT")
OUTCOMES = ("boat", "body", "alive")  # written down after the sinking: whoever has a boat lived, whoever has a body number did not
FOREIGN = {
    "pclass": "class",
    "sibsp": "siblings_spouses",
    "parch": "parents_children",
    "cabin": "deck",
    "embarked": "port",
    "passengerid": "id",
}  # lower-case names of Kaggle and titanic3 -> ours
WHO = "who"  # column with what passenger_key gave before facts were changed; no feature
SHOWN = 3  # problems of a file that its error lists


class LeakError(DataError):
    """Something would have told a model the answer."""


class Table(NamedTuple):
    """Facts X, one row per passenger, and y (n,): 1 survived, 0 did not."""

    X: pd.DataFrame
    y: np.ndarray


class Column(NamedTuple):
    """How a field is read: `parse` raises ValueError with the reason; a field may be blank."""

    parse: Callable[[str], Any]
    blank: bool = False


def _number(low: float, high: float, whole: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("is not a number") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"is not between {low:g} and {high:g}")
        if whole and value != int(value):
            raise ValueError("is not a whole number")
        return value

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return text

    return parse


SCHEMA = {
    "survived": Column(_number(0, 1, whole=True)),
    "class": Column(_number(1, 3, whole=True)),
    "name": Column(str),
    "sex": Column(_one_of("female", "male")),
    "age": Column(_number(0, 120), blank=True),
    "siblings_spouses": Column(_number(0, 20, whole=True)),
    "parents_children": Column(_number(0, 20, whole=True)),
    "fare": Column(_number(0, 1000), blank=True),
    "deck": Column(_one_of(*DECKS), blank=True),
    "port": Column(_one_of(*PORTS.values()), blank=True),
    "ticket": Column(str, blank=True),
}
TEXT = ("name", "sex", "deck", "port", "ticket")
FACTS = ("class", "name", "sex", "age", "siblings_spouses", "parents_children", "fare", "deck", "port", "ticket")


def embedded() -> Table:
    """The 891 passengers of data/titanic.csv, in the order of Kaggle's train.csv; without tickets."""
    return _labelled(check(rows_of(EMBEDDED), EMBEDDED.name, absent=("ticket",)))


def kaggle_train() -> Table:
    """Kaggle's train.csv, index PassengerId; raises DataError where it is not at hand or is not that table."""
    path = find(*KAGGLE_TRAIN)
    table = _labelled(check(ours(rows_of(path)), path.name))
    return expect(table, path, rows=891, survivors=342)


def kaggle_test() -> pd.DataFrame:
    """Kaggle's test.csv, index PassengerId; raises LeakError where the file holds labels."""
    path = find(*KAGGLE_TEST)
    raw = ours(rows_of(path))
    if "survived" in raw:
        raise LeakError(f"{path.name} holds labels, so it is not Kaggle's test.csv ({KAGGLE_URL})")
    X = check(raw, path.name, absent=("survived",))
    return expect(Table(X, np.zeros(len(X), dtype=int)), path, rows=418, survivors=0).X


def new_passengers(path: Path) -> pd.DataFrame:
    """Passengers to predict, in our columns or Kaggle's: columns and fields may be missing, labels are not used.

    Raises DataError for what cannot be read, LeakError for a column that was written down after the sinking.
    """
    raw = ours(rows_of(path))
    refuse_outcomes(raw.columns)
    unknown = [name for name in raw if name not in (*SCHEMA, "id")]
    if unknown:
        raise DataError(f"{path.name} has unknown columns {', '.join(unknown)}; known ones are {', '.join(SCHEMA)}")
    X = check(raw.drop(columns="survived", errors="ignore"), path.name, absent=SCHEMA, blanks=True)
    return X.reindex(columns=list(FACTS))


def find(*names: str) -> Path:
    """The first of these files in $SPRINTS_DATA/titanic or the cache; raises DataError that says where to put it."""
    offline = Path(os.environ.get("SPRINTS_DATA") or "$SPRINTS_DATA").expanduser()
    cache = Path(os.environ.get("SPRINTS_CACHE") or "~/.cache/sprintlab").expanduser()
    for path in (folder / "titanic" / name for folder in (offline, cache) for name in names):
        if path.is_file():
            return path
    raise DataError(
        f"there is no {names[-1]}: download it and put it at {offline / 'titanic' / names[0]} (data/README.md says where from)"
    )


def rows_of(path: Path, encoding: str = "utf-8-sig") -> pd.DataFrame:
    """The fields of a csv as text, blanks as ""; index = line in the file. Raises DataError for what is no table."""
    try:
        with path.open(newline="", encoding=encoding) as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a csv file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a csv file in {encoding.removesuffix('-sig')} ({error})") from None
    if not lines:
        raise DataError(f"{path.name} has no passengers: a header and one line per passenger are needed")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path.name} has the column {', '.join(twice)} twice")
    for line, row in lines:
        if len(row) != len(header):
            raise DataError(f"{path.name}, line {line}: {len(row)} fields, the header has {len(header)}")
    return pd.DataFrame([row for _, row in lines], index=[line for line, _ in lines], columns=header, dtype=object)


def ours(raw: pd.DataFrame) -> pd.DataFrame:
    """A table of Kaggle or titanic3 in our names: a cabin becomes its deck, a port gets its name."""
    frame = raw.rename(columns=lambda name: FOREIGN.get(name.lower(), name.lower()))
    if "deck" in frame:
        frame["deck"] = frame["deck"].str[:1]
    if "port" in frame:
        frame["port"] = frame["port"].map(lambda code: PORTS.get(code, code))
    return frame


def check(raw: pd.DataFrame, source: str, *, absent: Collection[str] = (), blanks: bool = False) -> pd.DataFrame:
    """Text fields -> values in the schema's columns; index: the column id where there is one, else 0..n-1.

    `absent` columns may be missing, with `blanks` every field may. Raises DataError that lists what is wrong by line and column:
    a missing column, a blank, text in numbers, an unknown port, a passenger who stands there twice.
    """
    refuse_outcomes(raw.columns)
    missing = [name for name, column in SCHEMA.items() if name not in raw and name not in absent]
    if missing:
        raise DataError(f"{source} has no column {', '.join(missing)}; its columns are {', '.join(raw.columns)}")
    problems: list[tuple[int, str]] = []
    columns = {}
    for name in (name for name in SCHEMA if name in raw):
        values: list[Any] = []
        for line, text in zip(raw.index.tolist(), raw[name].tolist(), strict=True):
            value = None
            try:
                if text:
                    value = SCHEMA[name].parse(text)
                elif not (blanks or SCHEMA[name].blank):
                    raise ValueError("must not be blank")
            except ValueError as error:
                problems.append((line, f"line {line}, column {name}: {repr(text) + ' ' if text else ''}{error}"))
            values.append(value)
        columns[name] = pd.Series(values, raw.index, dtype=object if name in TEXT else float)
    frame = pd.DataFrame(columns)
    first: dict[str, int] = {}
    for line, who in zip(raw.index.tolist(), passenger_key(frame), strict=True):
        if who and first.setdefault(who, line) != line:
            problems.append((line, f"line {line}, column name: {who} stands in line {first[who]} already"))
    if problems:
        problems.sort()
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(f"{source}: " + "; ".join(problem for _, problem in problems[:SHOWN]) + more)
    return frame.set_axis(_ids(raw, source))


def _ids(raw: pd.DataFrame, source: str) -> pd.Index:
    if "id" not in raw:
        return pd.RangeIndex(len(raw))
    ids = raw["id"].tolist()
    if not all(text.isdecimal() for text in ids) or len(set(ids)) < len(ids):
        raise DataError(f"{source}: the passenger ids must be whole numbers, each once")
    return pd.Index([int(text) for text in ids], name="PassengerId")


def passenger_key(frame: pd.DataFrame) -> pd.Series:
    """Who this is, name and age as text, None without a name: the ship had two Kate Connollys and two James Kellys.

    A column `who` says it instead: whoever is asked about with other facts stays the same person (explain.swap).
    """
    if WHO in frame:
        return pd.Series(frame[WHO], dtype=object)
    name, age = (frame[column].tolist() if column in frame else [math.nan] * len(frame) for column in ("name", "age"))
    keys = [f"{who} (age {years:g})" if isinstance(who, str) else None for who, years in zip(name, age, strict=True)]
    return pd.Series(keys, index=frame.index, dtype=object)


def fingerprint(X: pd.DataFrame, y: np.ndarray | None = None) -> str:
    """sha256 (hex) of the facts in their order, and of the labels; a blank is a blank however it is stored."""
    facts = X.reset_index(drop=True).astype(object).where(X.notna().to_numpy(), None)
    return digest(facts if y is None else [facts, y])


def refuse_outcomes(columns) -> None:
    """Raise LeakError where a column was written down after the sinking."""
    outcomes = [str(name) for name in columns if str(name).lower() in OUTCOMES]
    if outcomes:
        raise LeakError(f"column {', '.join(outcomes)} was recorded after the sinking and gives the answer away: remove it")


def _labelled(frame: pd.DataFrame) -> Table:
    return Table(frame.drop(columns="survived"), frame["survived"].to_numpy(int))


def expect(table: Table, path: Path, *, rows: int, survivors: int) -> Table:
    """The table itself; raises DataError where it has another number of passengers or survivors than the published one."""
    if (found := (len(table.X), int(table.y.sum()))) != (rows, survivors):
        expected = f"{rows} passengers and {survivors} survivors expected"
        raise DataError(f"{path} is not the published table: {expected}, found {found[0]} and {found[1]}")
    return table
