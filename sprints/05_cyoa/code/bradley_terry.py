"""From votes on pairs to a ranking: strengths with intervals, how far raters agree, who paid attention, how many votes it takes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from shared.stats import wilson_interval

SHUFFLED = "shuffled"  # the system of the worse text of a check of attention, which is no contest
PRIOR = 0.5  # wins that either side of every two models has before the first vote
POINTS = 400 / math.log(10)  # of an Elo scale, per unit of log-strength
CENTRE = 1000
Cast = tuple[str, str, str]  # model_a, model_b, winner: "a", "b" or "tie"


@dataclass(frozen=True)
class Rated:
    """A model on the Elo scale, whose mean over all models is 1000; low and high are a 95 % interval."""

    model: str
    rating: float
    low: float
    high: float


def fit(votes: Iterable[Cast], raters: Sequence[str] | None = None, draws: int = 1000, seed: int = 0) -> list[Rated]:
    """Bradley-Terry strengths (Bradley & Terry 1952), best first; a tie is half a win to each side.

    Every two models begin with half a win each, so a record of wins alone stays finite. The interval is a percentile bootstrap:
    since the votes of one person are of one taste, `raters` (one name per vote) are drawn first, then votes of each, together with
    those half wins. Without raters all votes are taken for one person's. Without a vote between two models nobody is ranked.
    """
    votes = list(votes)
    cast = [(*vote, who) for vote, who in zip(votes, raters or [""] * len(votes), strict=True) if _contest(vote)]
    if not cast:
        return []
    models = sorted({model for a, b, *_ in cast for model in (a, b)})
    place, k = {model: at for at, model in enumerate(models)}, len(models)
    of: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros((k, k, 2)))  # wins of the row over the column; ties
    for a, b, winner, who in cast:
        i, j = (place[b], place[a]) if winner == "b" else (place[a], place[b])
        of[who][(i, j, 0) if winner != "tie" else (min(i, j), max(i, j), 1)] += 1
    cells = np.sum(list(of.values()), axis=0)
    prior = np.stack([PRIOR * (1 - np.eye(k)), np.zeros((k, k))], axis=-1)
    rng, drawn = np.random.default_rng(seed), np.zeros((draws, k, k, 2))
    times = rng.multinomial(len(of), np.full(len(of), 1 / len(of)), draws)  # how often each rater is drawn
    for mine, often in zip(of.values(), times.T, strict=True):
        whole = (mine + prior * mine.sum() / cells.sum()).ravel()
        drawn += rng.multinomial(often * int(mine.sum()), whole / whole.sum()).reshape(drawn.shape)
    ratings = CENTRE + POINTS * strengths(cells + prior)
    low, high = np.quantile(CENTRE + POINTS * strengths(drawn + prior), (0.025, 0.975), axis=0)
    rows = [Rated(model, *map(float, (ratings[at], low[at], high[at]))) for model, at in place.items()]
    return sorted(rows, key=lambda row: -row.rating)


def _contest(vote: Cast) -> bool:
    return vote[0] != vote[1] and SHUFFLED not in vote[:2]


def strengths(cells: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """(..., k, k, 2) wins and ties -> (..., k) log-strengths of mean 0, by the MM algorithm of Hunter (2004)."""
    ties = cells[..., 1]
    wins = cells[..., 0] + (ties + ties.swapaxes(-1, -2)) / 2
    met, won = wins + wins.swapaxes(-1, -2), wins.sum(-1)
    found, change = np.zeros_like(won), 1.0
    while change > tolerance:
        strength = np.exp(found)
        better = np.log(won / (met / (strength[..., :, None] + strength[..., None, :])).sum(-1))
        better -= better.mean(-1, keepdims=True)
        change, found = float(np.abs(better - found).max()), better
    return found


def agreement(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha (2011) of the ratings of each unit, by their order: 1 is agreement, 0 is chance. None where no unit has
    two ratings or all ratings are the same: then nothing can be said."""
    rated = [list(unit) for unit in units if len(unit) > 1]
    values = np.array(sorted({value for unit in rated for value in unit}))
    if len(values) < 2:
        return None
    coincidences = np.zeros((len(values), len(values)))
    for unit in rated:
        counts = np.array([unit.count(value) for value in values], dtype=float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(0)
    ranks = np.cumsum(totals) - totals / 2
    distance = (ranks[:, None] - ranks[None, :]) ** 2  # between two values: the ratings between them, squared
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected)


def power(win_rate: float, votes: int, noise: float = 0.15) -> float:
    """Probability that this many votes show a better model to be better: that the whole 95 % interval (Wilson's) of its wins lies
    above one half. A share `noise` of the votes goes to the wrong side by mistake. Exact, by the binomial distribution."""
    seen = win_rate * (1 - noise) + (1 - win_rate) * noise
    least = next((wins for wins in range(votes + 1) if wilson_interval(wins, votes)[0] > 0.5), votes + 1)
    return float(binom.sf(least - 1, votes, seen))
