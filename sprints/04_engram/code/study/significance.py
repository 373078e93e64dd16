"""Intervals and tests for outcomes that depend on each other: patterns (or blocks of a text) crossed with seeds.

An outcome is a matrix (units, seeds), the mean over a pattern's rows for one seed. A method without seeds has one column.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import binomtest

DRAWS = 10_000


def per_unit(units: Sequence[str], values: np.ndarray) -> np.ndarray:
    """(distinct units, seeds) means of the rows of each unit; values is (rows, seeds), units names each row's."""
    names = {name: place for place, name in enumerate(dict.fromkeys(units))}
    places = np.array([names[name] for name in units])
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, places, values)
    return sums / np.bincount(places)[:, None]


def interval(*terms: tuple[float, np.ndarray], draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile interval of a signed sum of means, by a bootstrap that draws units and seeds (pigeonhole, Owen 2007).

    Every term has the same units, and the same seeds or one column; they are drawn together, so differences are paired.
    """
    units, seeds = len(terms[0][1]), max(matrix.shape[1] for _, matrix in terms)
    total = sum(sign * np.broadcast_to(matrix, (units, seeds)) for sign, matrix in terms)
    low, high = np.quantile(((_shares(units, draws) @ total) * _shares(seeds, draws)).sum(1), (0.025, 0.975))
    return round(float(low), 12), round(float(high), 12)  # a zero that is left of sums is no side of zero


def interval_of_present(matrix: np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """The same for the mean of a matrix (units, seeds) in which some seeds did not ask some units (NaN)."""
    there = ~np.isnan(matrix)
    units, seeds = _shares(len(matrix), draws), _shares(matrix.shape[1], draws)
    sums, counts = (((units @ part) * seeds).sum(1) for part in (np.nan_to_num(matrix), there.astype(float)))
    low, high = np.quantile(sums[counts > 0] / counts[counts > 0], (0.025, 0.975))  # a draw may hold nothing that was asked
    return float(low), float(high)


@cache
def _shares(count: int, draws: int) -> np.ndarray:
    """(draws, count): how often each of `count` is drawn when as many are drawn with replacement, as a share."""
    generator = np.random.default_rng(count)
    return generator.multinomial(count, np.full(count, 1 / count), draws) / count


def majority(matrix: np.ndarray) -> np.ndarray:
    """(units,) bool: every row of the unit is right with more than half of the seeds."""
    return (matrix == 1).mean(1) > 0.5


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact p of McNemar's test on paired outcomes (units,) bool."""
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p values after Holm's (1979) correction for their number."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([(len(p) - rank) * p[place] for rank, place in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(adjusted, 1)
    return found.tolist()
