"""What a net has to beat, each a pipeline from the facts to a probability, on the same folds and with the same information.

for name, model in published().items(): ...     the rows of the README's table
baseline("extra_trees", "tickets")              one of them
tuned("extra_trees", "groups")                  the same with its settings chosen by a search inside the training fold

XGBoost, LightGBM and CatBoost take part where they are installed, TabPFN and TabICL where their weights are at hand;
`missing()` and `absent()` name what cannot run here.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from scipy.stats import loguniform, randint, uniform
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RandomizedSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

from .classifiers import FOUNDATIONS, CatBoost, Foundation, RateTable, digest_of
from .features import Level, encode, features, lean
from .mean_logit import MeanLogit


class Model(NamedTuple):
    """`make(**settings)` gives the pipeline after the features; `space` is searched when tuning, with `trials` draws."""

    make: Callable[..., list[tuple[str, BaseEstimator]]]
    space: Mapping[str, Any]
    trials: int
    package: str = "sklearn"


def _codes() -> ColumnTransformer:
    """Categories as whole numbers, in their fixed order; other columns as they are."""
    to_code = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    category = make_column_selector(dtype_include="category")
    return ColumnTransformer([("category", to_code, category)], remainder="passthrough")  # type: ignore[arg-type]


def _forest(kind: type) -> Callable:
    def make(**settings) -> list:
        return [("encode", _codes()), ("model", kind(n_estimators=300, random_state=0, n_jobs=1, **settings))]

    return make


def _logistic(**settings) -> list:
    return [("encode", encode()), ("model", LogisticRegression(max_iter=2000, **settings))]


def _hist(**settings) -> list:
    return [("model", HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype", **settings))]


def _xgboost(**settings) -> list:
    kind = import_module("xgboost").XGBClassifier
    return [("encode", encode()), ("model", kind(random_state=0, n_jobs=1, tree_method="hist", verbosity=0, **settings))]


def _lightgbm(**settings) -> list:
    return [("model", import_module("lightgbm").LGBMClassifier(random_state=0, n_jobs=1, verbose=-1, **settings))]


_FOREST = {"min_samples_leaf": randint(1, 12), "max_features": uniform(0.15, 0.85), "max_depth": [None, 4, 6, 8, 10]}
MODELS = {
    "logistic_regression": Model(_logistic, {"C": loguniform(0.003, 10)}, 8),
    "random_forest": Model(_forest(RandomForestClassifier), _FOREST, 6),
    "extra_trees": Model(_forest(ExtraTreesClassifier), _FOREST, 6),
    "hist_gradient_boosting": Model(
        _hist,
        {
            "learning_rate": loguniform(0.02, 0.15),
            "max_iter": randint(40, 250),
            "max_leaf_nodes": randint(3, 16),
            "min_samples_leaf": randint(5, 40),
            "l2_regularization": loguniform(0.01, 20),
            "max_features": uniform(0.3, 0.7),
        },
        8,
    ),
    "xgboost": Model(
        _xgboost,
        {
            "learning_rate": loguniform(0.02, 0.15),
            "n_estimators": randint(50, 400),
            "max_depth": randint(2, 6),
            "min_child_weight": loguniform(0.5, 10),
            "subsample": uniform(0.5, 0.5),
            "colsample_bytree": uniform(0.3, 0.7),
            "reg_lambda": loguniform(0.3, 20),
        },
        10,
        "xgboost",
    ),
    "lightgbm": Model(
        _lightgbm,
        {
            "learning_rate": loguniform(0.02, 0.15),
            "n_estimators": randint(50, 300),
            "num_leaves": randint(3, 16),
            "min_child_samples": randint(5, 40),
            "subsample": uniform(0.5, 0.5),
            "subsample_freq": [1],  # without it LightGBM ignores subsample
            "colsample_bytree": uniform(0.3, 0.7),
            "reg_lambda": loguniform(0.01, 20),
        },
        10,
        "lightgbm",
    ),
    "catboost": Model(
        lambda **settings: [("model", CatBoost(**settings))],
        {
            "iterations": randint(100, 500),
            "learning_rate": loguniform(0.02, 0.1),
            "depth": randint(3, 7),
            "l2_leaf_reg": loguniform(1, 20),
            "rsm": uniform(0.4, 0.6),
            "random_strength": loguniform(0.3, 5),
        },
        4,
        "catboost",
    ),
}
BY_HAND = {
    "logistic_regression": {"C": 0.1},
    "extra_trees": {"min_samples_leaf": 3},
    "hist_gradient_boosting": {
        "max_iter": 120,
        "learning_rate": 0.05,
        "max_leaf_nodes": 6,
        "l2_regularization": 5.0,
        "max_features": 0.5,
    },
    "xgboost": {"n_estimators": 150, "learning_rate": 0.05, "max_depth": 3},
    "catboost": {"iterations": 300, "learning_rate": 0.03, "depth": 4, "l2_leaf_reg": 6, "rsm": 0.6},
}  # settings by hand: strongly regularised, chosen on other folds (seed 7) of the same passengers
TUNED_WITH_TICKETS = ("extra_trees", "catboost")  # the members of the best blend
BLENDS = {"blend_of_trees": ("extra_trees", "catboost"), "blend_of_scikit_learn_trees": ("extra_trees", "hist_gradient_boosting")}


def baseline(kind: str, level: Level, *, lean_columns: bool = False, **settings) -> Pipeline:
    """Features up to `level`, its encoding, the model; raises ModuleNotFoundError where its package is not installed."""
    chosen = [("lean", lean())] if lean_columns else []
    return Pipeline([("features", features(level)), *chosen, *MODELS[kind].make(**settings)])


def tuned(kind: str, level: Level) -> RandomizedSearchCV:
    """The baseline with settings drawn from its space, scored by log-loss on 3 inner folds of the rows it is fitted on."""
    space = {f"model__{name}": values for name, values in MODELS[kind].space.items()}
    inner = StratifiedKFold(3, shuffle=True, random_state=0)
    trials = MODELS[kind].trials
    return RandomizedSearchCV(baseline(kind, level), space, n_iter=trials, scoring="neg_log_loss", cv=inner, random_state=0)


def blend(*kinds: str) -> MeanLogit:
    """The mean logit of regularised trees on the lean columns, with all the information that the nets have."""
    return MeanLogit({kind: baseline(kind, "tickets", lean_columns=True, **BY_HAND[kind]) for kind in kinds})


def rule(level: Level, *columns: str) -> Pipeline:
    """A table of survival rates by a few features."""
    return Pipeline([("features", features(level)), ("rule", RateTable(columns))])


def published() -> dict[str, Any]:
    """The rows that can run here, by name, unfitted."""
    rows: dict[str, Any] = {
        "sex_rule": rule("raw", "male"),
        "woman_child_group_rule": rule("groups", "male", "woman_child", "verdict"),
    }
    for kind in (kind for kind, model in MODELS.items() if find_spec(model.package)):
        rows |= {f"{kind}_{level}": baseline(kind, level) for level in ("raw", "engineered", "groups")}
        if kind in BY_HAND:
            rows |= {f"{kind}_{level}_by_hand": baseline(kind, level, **BY_HAND[kind]) for level in ("groups", "tickets")}
        rows[f"{kind}_groups_tuned"] = tuned(kind, "groups")
        if kind in TUNED_WITH_TICKETS:
            rows[f"{kind}_tickets_tuned"] = tuned(kind, "tickets")
    for package in FOUNDATIONS:
        if weights := digest_of(package):
            steps = [("features", features("tickets")), ("codes", _codes()), ("model", Foundation(package, weights))]
            rows[f"{package}_tickets"] = Pipeline(steps)
    return rows | {name: blend(*kinds) for name, kinds in BLENDS.items() if all(find_spec(MODELS[kind].package) for kind in kinds)}


def missing() -> list[str]:
    """Packages of the table that are not installed: their rows, and the blends with them, read `not run here`."""
    return sorted({model.package for model in MODELS.values() if not find_spec(model.package)})


def absent() -> list[str]:
    """Pre-trained nets that are not installed or have no weights at hand."""
    return [name for package, (name, _) in FOUNDATIONS.items() if not digest_of(package)]
