"""One protocol for every model: the same folds, the same five numbers, tests and intervals that know that folds overlap.

result = evaluate(model, X, y, folds(y))        25 fits, each on a training fold, each scored on rows it has not seen
result.scores["log_loss"]                       one number per fold
record(run, "lr_raw", "logistic regression, raw", result)
compare(run, {"lr_raw": result, "net": other}, "net", "lr_raw")
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from shared import runlog, stats

from .people import CHILD, companions, people
from .preprocess_data import Table, fingerprint

Split = tuple[np.ndarray, np.ndarray]
SEED, SPLITS, REPEATS = 42, 5, 5
METRICS = {"accuracy": True, "roc_auc": True, "log_loss": False, "brier": False}  # -> is higher better?
CLIP = 1e-6  # of probabilities in the log-loss
BINS = 10  # of the reliability curve


def folds(y: np.ndarray, seed: int = SEED, splits: int = SPLITS, repeats: int = REPEATS) -> list[Split]:
    """Stratified folds (train, test) of rows in file order, `repeats` times over."""
    return list(RepeatedStratifiedKFold(n_splits=splits, n_repeats=repeats, random_state=seed).split(np.zeros(len(y)), y))


def family_folds(X: pd.DataFrame, y: np.ndarray, seed: int = SEED, splits: int = SPLITS, repeats: int = 3) -> list[Split]:
    """Folds that no family and no ticket straddles: nobody's companions are in the training rows."""
    groups = families(X)
    cold = [StratifiedGroupKFold(splits, shuffle=True, random_state=seed + repeat) for repeat in range(repeats)]
    return [split for splitter in cold for split in splitter.split(np.zeros(len(y)), y, groups)]


def families(X: pd.DataFrame) -> np.ndarray:
    """(n,) ids: passengers joined by a ticket or a family, directly or through others, share one."""
    P = people(X)
    return connected_components(companions(P, P), directed=False)[1]


def scores(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """accuracy (at 0.5), ROC-AUC, log-loss (nats) and Brier score of P(survived) p (n,) against y (n,)."""
    return {
        "accuracy": float(np.mean((p > 0.5) == y)),
        "roc_auc": float(roc_auc_score(y, p)),
        "log_loss": float(log_loss(y, np.clip(p, CLIP, 1 - CLIP))),
        "brier": float(brier_score_loss(y, p)),
    }


def interval(values: np.ndarray, test_over_train: float) -> tuple[float, float] | None:
    """95 % interval of the mean of one value per split, given that splits overlap (Nadeau & Bengio's variance)."""
    return stats.paired(values, np.zeros_like(values), test_over_train)["ci95"] if len(values) > 1 else None


@dataclass(frozen=True)
class Result:
    """What a model predicted for the test rows of each split, and the CPU seconds of each fit and prediction."""

    y: np.ndarray
    splits: list[Split]
    p: list[np.ndarray]
    cpu_seconds: list[float]

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Metric -> (splits,)."""
        rows = [scores(self.y[test], p) for (_, test), p in zip(self.splits, self.p, strict=True)]
        return {name: np.array([row[name] for row in rows]) for name in METRICS}

    @property
    def test_over_train(self) -> float:
        return float(np.mean([len(test) / len(train) for train, test in self.splits]))

    def interval(self, values: np.ndarray) -> tuple[float, float] | None:
        """That of the mean of one value per split of this result."""
        return interval(values, self.test_over_train)

    def span(self, metric: str) -> tuple[float, float, float]:
        """Mean of a metric and the ends of its interval; of a single split the mean alone, three times."""
        mean = float(self.scores[metric].mean())
        return (mean, *(self.interval(self.scores[metric]) or (mean, mean)))

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of all test folds, as they were made: a mean over repeats would be another model's calibration."""
        return np.concatenate([self.y[test] for _, test in self.splits]), np.concatenate(self.p)

    def accuracy_of(self, mask: np.ndarray) -> np.ndarray:
        """Accuracy on the rows of a mask (n,), one value for each test fold that has any."""
        found = [((p > 0.5) == self.y[test])[mask[test]] for (_, test), p in zip(self.splits, self.p, strict=True)]
        return np.array([right.mean() for right in found if len(right)])


@contextmanager
def one_thread() -> Iterator[None]:
    """All libraries on one thread: sums in one order, so equal numbers on every machine of a kind, and CPU seconds that compare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def fit_predict(model: Any, X: pd.DataFrame, y: np.ndarray, split: Split) -> tuple[np.ndarray, float]:
    """Fit a fresh clone on the training part and predict the test part, whose labels it never meets.

    Returns P(survived) (n,) and the CPU seconds of both.
    """
    train, test = split
    start = time.process_time()
    fresh: Any = clone(model)
    p = fresh.fit(X.iloc[train], y[train]).predict_proba(X.iloc[test])[:, 1]
    return p, time.process_time() - start


@one_thread()
def evaluate(
    model: Any, X: pd.DataFrame, y: np.ndarray, splits: list[Split], track: Callable[[Iterable], Iterable] = iter
) -> Result:
    """What a model predicts for the test part of each split, see fit_predict; on one thread."""
    found = [fit_predict(model, X, y, split) for split in track(splits)]
    return Result(y, splits, [p for p, _ in found], [seconds for _, seconds in found])


def one_shot(model: Any, train: Table, test: Table) -> Result:
    """Fit on one table, predict another, once."""
    n = len(train.y) + len(test.y)
    split = np.arange(len(train.y)), np.arange(len(train.y), n)
    return evaluate(model, pd.concat([train.X, test.X]), np.concatenate([train.y, test.y]), [split])


def record_data(run: runlog.Run, name: str, passengers: Table) -> None:
    run.data(name, fingerprint(*passengers), rows=len(passengers.y), source=name)


def record(run: runlog.Run, key: str, name: str, result: Result, table: str = "") -> None:
    """The metrics of one model, keyed {key}_{metric}_{table}; intervals of the mean are those of overlapping folds."""
    end = f"_{table}" if table else ""
    for metric, higher in METRICS.items():
        values = result.scores[metric]
        run.metric(
            f"{key}_{metric}{end}",
            values,
            higher_is_better=higher,
            interval=result.interval(values),
            meaning=f"{metric}, {name}; one value per fold",
        )
    run.metric(
        f"{key}_cpu_seconds{end}",
        result.cpu_seconds,
        unit="s",
        higher_is_better=False,
        meaning=f"{name}: fit and prediction of a fold",
    )


def compare(run: runlog.Run, results: dict[str, Result], a: str, b: str) -> None:
    """Paired differences a - b of every metric on the same folds (corrected resampled t-test, Nadeau & Bengio 2003)."""
    first, second = results[a], results[b]
    if any(not np.array_equal(x, z) for x, z in zip(first.splits, second.splits, strict=True) for x, z in zip(x, z, strict=True)):
        raise ValueError(f"{a} and {b} were not scored on the same folds")
    for metric in METRICS:
        values = first.scores[metric], second.scores[metric]
        run.compare(f"{metric}_{a}_minus_{b}", *values, names=(a, b), test_over_train=first.test_over_train)


def difference(run: runlog.Run, key: str, results: dict[str, Result], a: str, b: str, metric: str) -> None:
    """The difference a - b of each fold as a metric, with the interval of overlapping folds: for prose to quote."""
    first, second = results[a].scores[metric], results[b].scores[metric]
    meaning = f"{metric} of {a.replace('_', ' ')} minus that of {b.replace('_', ' ')}, paired on the same folds"
    ends = results[a].interval(first - second)
    run.metric(key, first - second, interval=ends, higher_is_better=METRICS[metric], meaning=meaning)


def record_calibration(run: runlog.Run, model: str, result: Result, table: str) -> None:
    """The expected calibration error, out of fold."""
    meaning = f"expected calibration error of {model.replace('_', ' ')}, out of fold, {BINS} bins"
    error = reliability(*result.pooled())[3]
    run.metric(f"{model}_calibration_error_{table}", error, higher_is_better=False, meaning=meaning)


def subgroups(X: pd.DataFrame) -> dict[str, np.ndarray]:
    """Masks (n,) of women and men by class, and of the children (younger than 14)."""
    P = people(X)
    sexes = {"women": ~P["male"], "men": P["male"]}
    cells = {f"{sex}_class_{rank}": (mask & (P["class"] == rank)).to_numpy() for sex, mask in sexes.items() for rank in (1, 2, 3)}
    return cells | {"children": (P["age"] < CHILD).to_numpy()}


def reliability(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean prediction, observed share and rows of each non-empty bin; expected calibration error (Guo et al. 2017)."""
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    rows = np.bincount(which, minlength=BINS)
    used = rows > 0
    mean, share = (np.bincount(which, weights=values, minlength=BINS)[used] / rows[used] for values in (p, y))
    return mean, share, rows[used], float(np.abs(mean - share) @ rows[used] / rows.sum())
