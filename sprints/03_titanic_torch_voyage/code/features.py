"""Features as scikit-learn transformers. What is learned from rows or labels is learned in `fit`, so from the training fold only.

model = make_pipeline(features("tickets"), encode(), LogisticRegression()).fit(X, y)

`features` gives a table of float columns and three categorical ones (title, deck, port, with fixed categories), the same for
linear models, trees and nets. No passenger is ever their own companion or neighbour, in training or later: rows are recognised by
name and age, so `fit(X, y).transform(X)` equals `fit_transform(X, y)`, and a row that stands in X twice learns nothing from itself.
Without tickets (the embedded table) companions are the family alone, and the features of tickets are not there.
"""

from typing import Literal, Self, get_args

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from .people import CATEGORIES, companions, people, same

Level = Literal["raw", "engineered", "groups", "tickets"]
LEAN = (
    *("male", "class", "age", "age_unknown", "siblings_spouses", "parents_children", "port", "title", "family", "woman_child"),
    *(
        "log_fare",
        "ticket_group",
        "log_fare_per_person",
        "women_children_rate",
        "women_children",
        "men_rate",
        "verdict",
        "residual",
    ),
    *("verdict_woman_child", "verdict_man", "neighbourhood"),
)  # what the best blend of trees sees: columns that only add noise to a tree's choices are left out


class Features(TransformerMixin, BaseEstimator):
    """From the table of `people` to named columns; a subclass learns in `_learn` and builds in `_build`."""

    def fit(self, P: pd.DataFrame, y=None) -> Self:
        """Learn from the training rows P (m, people) and, where labels are used, y (m,) of 0 and 1."""
        self.known_ = P
        self.tickets_ = bool(P["ticket"].notna().any())
        self._learn(P, None if y is None else np.asarray(y, dtype=float))
        self.columns_ = list(self._build(P.head(1)))
        return self

    def transform(self, P: pd.DataFrame) -> pd.DataFrame:
        """Features (n, columns) of any rows, index kept."""
        check_is_fitted(self)
        built = {
            name: pd.Categorical(values, categories=CATEGORIES[name]) if name in CATEGORIES else np.asarray(values, dtype=float)
            for name, values in self._build(P).items()
        }
        return pd.DataFrame(built, index=P.index)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        return np.asarray(self.columns_, dtype=object)

    def _learn(self, P: pd.DataFrame, y: np.ndarray | None) -> None:
        raise NotImplementedError

    def _build(self, P: pd.DataFrame) -> dict:
        raise NotImplementedError

    def group(self, P: pd.DataFrame) -> np.ndarray:
        """(n,) passengers on the same ticket: the training rows among them and oneself. Without tickets: the family's size."""
        if not self.tickets_:
            return P["family"].to_numpy()
        return 1.0 + (same(P, self.known_, "ticket") & ~same(P, self.known_, "key")).sum(axis=1)


class Person(Features):
    """The raw facts: blanks in age are the median of title and class, in fare the class's median per person, in port the mode."""

    def _learn(self, P, y):
        self.age_by_rank_ = P.groupby(["title", "class"])["age"].median().dropna().to_dict()
        self.age_by_title_ = P.groupby("title")["age"].median().dropna().to_dict()
        self.age_ = P["age"].median()
        self.port_ = P["port"].value_counts().index[0]
        self.fare_by_class_ = (P["fare"] / self.group(P)).groupby(P["class"]).median().dropna().to_dict()

    def _build(self, P):
        by_title = [self.age_by_title_.get(title, self.age_) for title in P["title"]]
        rank = zip(P["title"], P["class"], strict=True)
        guess = [self.age_by_rank_.get(key, otherwise) for key, otherwise in zip(rank, by_title, strict=True)]
        return {name: P[name] for name in ("male", "class", "siblings_spouses", "parents_children")} | {
            "age": np.where(P["age"].isna(), guess, P["age"]),
            "age_unknown": P["age"].isna(),
            "port": P["port"].fillna(self.port_),
            "fare": self.fare(P),
        }

    def fare(self, P: pd.DataFrame) -> np.ndarray:
        guess = np.array([self.fare_by_class_.get(rank, 0.0) for rank in P["class"]]) * self.group(P)
        return np.where(P["fare"].isna(), guess, P["fare"])


class Party(Person):
    """Title, deck, size of family and ticket group, fare per person; no labels are used."""

    def _build(self, P):
        group, fare = self.group(P), self.fare(P)
        sizes = {"ticket_group": group, "group": np.maximum(group, P["family"])} if self.tickets_ else {}
        return {name: P[name] for name in ("title", "deck", "family", "woman_child")} | {
            "alone": P["family"] == 1,
            "mother": (P["title"] == "Mrs") & (P["parents_children"] > 0),
            "cabin_known": P["deck"] != "unknown",
            "log_fare": np.log1p(fare),
            "log_fare_per_person": np.log1p(fare / group),
            **sizes,
        }


class Fate(Features):
    """Base of the features that use labels: how training rows fared, against what their sex and class let expect."""

    def _learn(self, P, y):
        if y is None or len(y) != len(P) or not np.isin(y, (0, 1)).all():
            raise ValueError(f"{type(self).__name__} needs one label of 0 or 1 for each of the {len(P)} training rows")
        self.y_ = y
        cells = pd.Series(y, P.index).groupby([P["male"], P["class"]])
        lived, number = (cells.transform(what).to_numpy() for what in ("sum", "size"))
        self.surprise_ = y - (lived + 1) / (number + 2)

    def _build(self, P):
        return self.told(P, self.near(P))

    def near(self, P: pd.DataFrame) -> np.ndarray:
        """(n, m) weights of the training rows for each row, 0 for oneself; no labels are used."""
        raise NotImplementedError

    def told(self, P: pd.DataFrame, near: np.ndarray) -> dict:
        """Features of the rows P from `near`, whole or with some of it hidden (0)."""
        raise NotImplementedError


class CompanionFate(Fate):
    """The fate of the training rows that travelled with a passenger: one ticket, or one family (surname, class and port).

    Women and children apart from men; a rate is relative to the mean of its kind and shrunk by one pseudo-companion.
    verdict: 1 where all women and children among the companions lived, -1 where all died (Deotte's woman-child-groups).
    """

    def near(self, P):
        return companions(P, self.known_).astype(float)

    def fate(self, near: np.ndarray) -> dict[str, np.ndarray]:
        """Features (n,) from the matrix (n, m) of `companions`, whole or with some of them hidden."""
        weak = self.known_["woman_child"].to_numpy(float)
        number, lived = near @ weak, near @ (weak * self.y_)
        men, men_lived = near @ (1 - weak), near @ ((1 - weak) * self.y_)
        mean, mean_men = (self.y_ @ kind / max(kind.sum(), 1) for kind in (weak, 1 - weak))
        return {
            "women_children": number,
            "women_children_rate": (lived + mean) / (number + 1) - mean,
            "men": men,
            "men_rate": (men_lived + mean_men) / (men + 1) - mean_men,
            "residual": near @ self.surprise_ / (number + men + 1),
            "woman_child_died": lived < number,
            "man_lived": men_lived > 0,
            "verdict": np.where(number > 0, 1.0 * (lived == number) - (lived == 0), 0.0),
        }

    def told(self, P, near):
        built, weak = self.fate(near), P["woman_child"].to_numpy()
        return built | {"verdict_woman_child": built["verdict"] * weak, "verdict_man": built["verdict"] * ~weak}


class TicketNeighbourhood(Fate):
    """How the training rows with near ticket numbers of the same class fared: tickets sold together lay in cabins together.

    neighbourhood = sum_j k_j surprise_j / (1 + sum_j k_j),  k_j = exp(-|number - number_j| / length).
    """

    def __init__(self, length: float = 30.0):
        self.length = length

    def near(self, P):
        """(n, m) nearness of the ticket numbers in [0, 1]; 0 for oneself, another class, or a ticket without number."""
        if not self.tickets_:
            return np.zeros((len(P), len(self.known_)))
        distance = np.abs(P["ticket_number"].to_numpy()[:, None] - self.known_["ticket_number"].to_numpy())
        other = same(P, self.known_, "class") & ~same(P, self.known_, "key") & np.isfinite(distance)
        return np.where(other, np.exp(-np.where(other, distance, 0.0) / self.length), 0.0)

    def told(self, P, near):
        if not self.tickets_:
            return {}
        men = near * self.known_["male"].to_numpy(float)
        return {
            "neighbourhood": near @ self.surprise_ / (1 + near.sum(axis=1)),
            "neighbourhood_men": men @ self.surprise_ / (1 + men.sum(axis=1)),
        }


def features(level: Level) -> Pipeline:
    """Features up to a level: raw facts, engineered (no labels), groups (companions' fate), tickets (neighbourhood)."""
    steps = (("person", Person()), ("party", Party()), ("companions", CompanionFate()), ("tickets", TicketNeighbourhood()))
    union = FeatureUnion(list(steps[: 1 + get_args(Level).index(level)]), verbose_feature_names_out=False)
    return Pipeline([("people", FunctionTransformer(people)), ("features", union.set_output(transform="pandas"))])


def hidden_companions(
    fitted: Pipeline, table: pd.DataFrame, P: pd.DataFrame, share: float, seed: int, views: int = 8
) -> list[pd.DataFrame]:
    """Versions of the training features `table` in which a share of each row's companions and neighbours is unknown.

    `fitted` is what `features` returned, P the `people` of the training rows. The share differs from row to row, uniform between 0
    and twice `share` (at most all); a passenger with nobody known is one more kind of passenger to learn from.
    """
    random, made = np.random.default_rng(seed), []
    parts = [part for _, part in fitted.named_steps["features"].transformer_list if isinstance(part, Fate)]
    near = [part.near(P) for part in parts]  # once for all views
    for _ in range(views):
        keep = random.random((len(P), len(P))) > random.random((len(P), 1)) * 2 * share
        told = [part.told(P, weights * keep) for part, weights in zip(parts, near, strict=True)]
        columns = {name: values for found in told for name, values in found.items()}
        made.append(table.assign(**{name: np.asarray(values, dtype=float) for name, values in columns.items()}))
    return made


def lean() -> ColumnTransformer:
    """After features("tickets"): the columns of LEAN that are there."""
    keep = ColumnTransformer([("lean", "passthrough", _lean_columns)], verbose_feature_names_out=False)
    return keep.set_output(transform="pandas")


def _lean_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in LEAN if name in table]


def encode() -> ColumnTransformer:
    """Categories one-hot, then every column with mean 0 and variance 1: for linear models."""
    one_hot = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    return ColumnTransformer(
        [
            ("category", one_hot, make_column_selector(dtype_include="category")),  # type: ignore[arg-type]
            ("number", StandardScaler(), make_column_selector(dtype_exclude="category")),  # type: ignore[arg-type]
        ]
    )
