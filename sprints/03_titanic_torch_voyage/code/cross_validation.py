"""Every model by name, scored fold by fold: in parallel, and resumable, since each fold is kept under runs/ as soon as it is done.

results = cross_validate(run, "embedded", ["net", "logistic_regression_raw"], splits, jobs=2)

A kept fold counts only for the same model (settings, code and packages, see recipe.py), passengers and rows, so a change of any of
these computes it again, and nothing else does.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from shared import data, runlog
from shared.processes import spread
from shared.report import write_atomically
from shared.sprints import ROOT

from . import protocol
from .baselines import published
from .gaussian_process import GaussianProcess
from .linear_model import LinearModel
from .mean_logit import mean_logit
from .preprocess_data import Table, embedded, fingerprint, kaggle_train
from .protocol import Result, Split
from .recipe import recipe
from .titanic3 import titanic3
from .titanic_model import EntityNet, Tempered, embedding_nets, tabm, voyage
from .tuning import TunedNet, reach

TABLES: dict[str, Callable[[], Table]] = {"embedded": embedded, "k891": kaggle_train, "t1309": titanic3}
STEADY = ("gaussian_process", "linear_model")
BLENDS = {"net": ("tabm", *STEADY)} | {
    "net_groups": ("tabm_groups", *(f"{part}_groups" for part in STEADY)),
    **{f"net_seed_{seed}": (f"tabm_seed_{seed}", *STEADY) for seed in (1, 2)},
    "tabm_and_gp": ("tabm", "gaussian_process"),
    "tabm_and_linear_model": ("tabm", "linear_model"),
    "tabm_all_companions_and_gp": ("tabm_all_companions", "gaussian_process"),
    "embedding_nets_and_gp": ("embedding_nets", "gaussian_process"),
}  # `net` equals titanic_model.voyage, but for its members being scored once
TUNED = {
    "tabm_tuned": 12,
    "tabm_tuned_briefly": 6,
}  # -> trials; the brief search for the embedded table, which is to be done in minutes
TOY: dict[str, Any] = {"members": 2, "steps": 20}
TOY_ROWS = 200
FOLDS = ROOT / "runs" / "titanic" / "folds"


@cache
def table(name: str) -> Table:
    return TABLES[name]()


def passengers_of(name: str, toy: bool) -> Table:
    """The table, or its first rows."""
    X, y = table(name)
    return Table(X.iloc[:TOY_ROWS], y[:TOY_ROWS]) if toy else Table(X, y)


def nets(toy: bool = False) -> dict[str, Callable[[], Any]]:
    """The torch models by name. `net` and its seeds are blends of these, see BLENDS."""
    small: dict[str, Any] = TOY if toy else {}
    apart = partial(EntityNet, shared=False, **({"members": 8} | small))
    return {
        "tabm": partial(tabm, **small),
        "embedding_nets": partial(embedding_nets, **small),
        **{f"tabm_seed_{seed}": partial(tabm, seed=seed, **small) for seed in (1, 2)},
        "linear_model": LinearModel,
        "tabm_groups": partial(tabm, "groups", **small),
        "gaussian_process_groups": partial(GaussianProcess, "groups", amplitude=0.0, steps=2 if toy else 30),
        "linear_model_groups": partial(LinearModel, "groups"),
        "tabm_all_companions": partial(tabm, companion_dropout=0.0, **small),
        "gaussian_process": partial(GaussianProcess, steps=2 if toy else 30),
        "gaussian_process_no_tickets": partial(GaussianProcess, amplitude=0.0, steps=2 if toy else 30),
        "one_net": partial(embedding_nets, **(small | {"members": 1})),
        "net_tempered": lambda: Tempered(voyage(**small)),
        **{name: partial(TunedNet, trials=2 if toy else trials, folds=2 if toy else 3, toy=toy) for name, trials in TUNED.items()},
        "mlp_embeddings": partial(apart, "engineered"),
        "mlp_one_hot": partial(apart, "engineered", embedding=0),
        "mlp_raw": partial(apart, "raw"),
        "mlp_groups": partial(apart, "groups"),
        "mlp_original": partial(
            EntityNet, "engineered", **({"members": 1, "shared": False, "embedding": 0, "width": 32, "dropout": 0.4})
        ),
    }


def model(name: str, toy: bool = False, storage: str | None = None) -> Any:
    """An unfitted model of the catalogue; `storage` is where tuning keeps its trials."""
    if (made := nets(toy).get(name)) is None:
        return published()[name]
    return made().set_params(storage=storage) if name in TUNED else made()


@protocol.one_thread()
def score_fold(table_name: str, name: str, split: Split, toy: bool, storage: str | None) -> tuple[list[float], float]:
    """P(survived) of the test rows, and the CPU seconds of fit and prediction, on one thread."""
    p, seconds = protocol.fit_predict(model(name, toy, storage), *table(table_name), split)
    return p.tolist(), seconds


def cross_validate(
    run: runlog.Run,
    table_name: str,
    names: Sequence[str],
    splits: list[Split],
    *,
    jobs: int = 0,
    toy: bool = False,
    storage: str | None = None,
) -> dict[str, Result]:
    """Result of each model on the same splits. `jobs` processes (0: one per core); toy models are not kept."""
    parts = list(dict.fromkeys(part for name in names for part in BLENDS.get(name, (name,))))
    keys = {name: recipe(model(name), protocol.fit_predict) for name in parts}
    places = {(name, i): _place(table_name, name, keys[name], split) for name in parts for i, split in enumerate(splits)}
    done = {} if toy else {key: json.loads(place.read_text()) for key, place in places.items() if place.is_file()}
    todo = [key for key in places if key not in done]
    work = partial(_work, run, done, places, toy)
    label = f"{table_name}: {len(parts)} models x {len(splits)} folds"
    if storage and any(name in TUNED for name, _ in todo):
        reach(storage)  # before the processes, which would all make its tables at once
    waiting = {(name, i): (table_name, name, splits[i], toy, storage) for name, i in todo}
    for key, found in run.track(spread(score_fold, waiting, 1 if toy else jobs), label, total=len(waiting)):
        work(key, found)
    y = table(table_name).y
    return {name: _result(name, y, splits, done) for name in names}


def _work(run: runlog.Run, done: dict, places: dict, toy: bool, key: tuple[str, int], found: tuple[list[float], float]) -> None:
    done[key] = found
    if not toy:
        places[key].parent.mkdir(parents=True, exist_ok=True)
        write_atomically(places[key], json.dumps(found).encode())


def _result(name: str, y: np.ndarray, splits: list[Split], done: dict) -> Result:
    parts = BLENDS.get(name, (name,))
    folds = [[done[part, i] for part in parts] for i in range(len(splits))]
    p = [np.array(fold[0][0]) if len(fold) == 1 else mean_logit(np.array([p for p, _ in fold])) for fold in folds]
    return Result(y, splits, p, [sum(seconds for _, seconds in fold) for fold in folds])


def _place(table_name: str, name: str, made: str, split: Split) -> Path:
    key = f"{made} {_passengers(table_name)} {name} {data.digest(list(split))}"
    return FOLDS / table_name / name / f"{data.digest(key.encode())[:24]}.json"


@cache
def _passengers(table_name: str) -> str:
    return fingerprint(*table(table_name))
