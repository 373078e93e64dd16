"""Two automatic judges, of cat and of angst, how good they are on texts they have not seen, and how far people agree with them.

They learn from data/judges.yaml alone: half of its cats have no angst and half of its angst has no cat, so that neither judge can
pass the one for the other; no training snippet is among its texts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats as scipy_stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from shared.data import read_yaml
from shared.errors import UserError

from .snippets import FILE as SNIPPETS
from .snippets import normal, words

FILE, LEXICON = SNIPPETS.with_name("judges.yaml"), SNIPPETS.with_name("lexicon.yaml")
Key = Literal["cat", "angst"]
KEYS: tuple[Key, ...] = ("cat", "angst")
FOLDS = 5
C = 10.0  # inverse regularisation; from 1 to 100 the quality is the same
LEXICON_WEIGHT = 0.3  # of the standardised share, beside n-gram vectors of length one


@dataclass(frozen=True)
class Rated:
    """A text, and whether it sounds like a cat and carries dread."""

    text: str
    cat: bool
    angst: bool


def read(file: Path = FILE) -> list[Rated]:
    """All labelled texts. Raises UserError that names the row and what is wrong with it."""
    rows = read_yaml(file)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file} has no rows: it must be a list of text, cat, angst")
    found = [_checked(row, f"{file.name}, row {number}") for number, row in enumerate(rows, 1)]
    seen: dict[str, int] = {}
    for number, rated in enumerate(found, 1):
        if (first := seen.setdefault(normal(rated.text), number)) != number:
            raise UserError(f"{file.name}, row {number}: the text of row {first} again")
    cells = Counter((rated.cat, rated.angst) for rated in found)
    for cat in (True, False):
        for angst in (True, False):
            if (n := cells[cat, angst]) < FOLDS:
                kind = f"cat {int(cat)} and angst {int(angst)}"
                raise UserError(f"{file.name}: {n} rows with {kind} are too few for {FOLDS} folds")
    return found


def _checked(row: Any, where: str) -> Rated:
    if not isinstance(row, dict) or set(row) != {"text", *KEYS}:
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: it needs exactly text, cat, angst; it has {found}")
    if not isinstance(row["text"], str) or not words(row["text"]):
        raise UserError(f"{where}: its text is empty or no text")
    for key in KEYS:
        if row[key] not in (0, 1) or isinstance(row[key], float):
            raise UserError(f"{where}: its {key} is {row[key]!r}, it must be 0 or 1")
    return Rated(row["text"].strip(), bool(row["cat"]), bool(row["angst"]))


def lexicon(key: Key, file: Path = LEXICON) -> frozenset[str]:
    """The words of the list, in small letters. Raises UserError for a file that has no such list of single words."""
    lists = read_yaml(file)
    found = lists.get(key) if isinstance(lists, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"{file.name} has no list {key}")
    for word in found:
        if not isinstance(word, str) or words(word) != [word.lower()]:
            raise UserError(f"{file.name}, {key}: {word!r} is not one word (quote words like 'no' and 'on')")
    return frozenset(word.lower() for word in found)


def lexicon_share(texts: Sequence[str], listed: frozenset[str]) -> np.ndarray:
    """Words of the list per word: (texts,) in [0, 1], 0 for a text without words."""
    found = [words(text) for text in texts]
    return np.array([sum(word in listed for word in one) / max(1, len(one)) for one in found])


def _column(texts: Sequence[str], listed: frozenset[str]) -> np.ndarray:
    return lexicon_share(texts, listed)[:, None]


def _lengths(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(words(text)), len(text)] for text in texts], dtype=float)


def models(key: Key) -> dict[str, Pipeline]:
    """The judge and its baselines, untrained: the lexicon's share alone, and the length in words and characters alone."""
    share = FunctionTransformer(_column, kw_args={"listed": lexicon(key)})
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(token_pattern=r"[a-z0-9']+", ngram_range=(1, 2), sublinear_tf=True)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)),
            ("lexicon", make_pipeline(share, StandardScaler())),
        ],
        transformer_weights={"lexicon": LEXICON_WEIGHT},
    )
    return {
        "judge": make_pipeline(features, LogisticRegression(C=C, max_iter=1000)),
        "lexicon": make_pipeline(share, StandardScaler(), LogisticRegression()),
        "length": make_pipeline(FunctionTransformer(_lengths), StandardScaler(), LogisticRegression()),
    }


@dataclass(frozen=True)
class Judge:
    """A logistic regression on TF-IDF of word 1-2-grams and character 3-5-grams, and on the lexicon's share.

    It knows words but hardly their order: a shuffled text scores nearly the same. Read it beside measures.order_gain.
    """

    key: Key
    model: Pipeline

    @classmethod
    def train(cls, key: Key, rows: Sequence[Rated] | None = None) -> "Judge":
        """On all rows of data/judges.yaml, or on these; the same rows in another order make the same judge."""
        rows = sorted(read() if rows is None else rows, key=lambda rated: rated.text)
        labels = [getattr(rated, key) for rated in rows]
        if len(set(labels)) < 2:
            raise UserError(f"a judge of {key} needs texts with it and texts without it")
        return cls(key, models(key)["judge"].fit([rated.text for rated in rows], labels))

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of each text: (texts,)."""
        return self.model.predict_proba(list(texts))[:, 1] if len(texts) else np.zeros(0)


def quality(key: Key, seed: int = 0, repeats: int = 4, rows: Sequence[Rated] | None = None) -> dict[str, dict[str, list[float]]]:
    """accuracy and roc_auc on each held-out fold of the judge, the lexicon alone and the length alone; the same folds for all.

    Repeated 5-fold, stratified by both labels; vocabulary, IDF and scales are fitted on the training folds. Folds overlap:
    compare with stats.paired(..., test_over_train=1 / (FOLDS - 1)).
    """
    rows = read() if rows is None else rows
    texts, labels = [rated.text for rated in rows], np.array([getattr(rated, key) for rated in rows])
    cells = [2 * rated.cat + rated.angst for rated in rows]
    folds = list(RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=repeats, random_state=seed).split(texts, cells))
    found = {}
    for name, model in models(key).items():
        scored = cross_validate(model, texts, labels, cv=folds, scoring=("accuracy", "roc_auc"))
        found[name] = {metric: scored[f"test_{metric}"].tolist() for metric in ("accuracy", "roc_auc")}
    return found


def agreement(scores: Sequence[float], ratings: Sequence[float], seed: int = 0, draws: int = 2000) -> dict[str, Any]:
    """How a judge's scores follow somebody's ratings, both in [0, 1]: spearman with a 95 % bootstrap interval of the texts
    (spearman_ci95), and with both cut at 0.5 accuracy and Cohen's kappa (0 where both sides say only
    yes or only no: it is 0 / 0 then); n.

    Raises ValueError for other ranges, unequal lengths, fewer than three texts, or where one side says the same of all texts.
    """
    pairs = np.array([scores, ratings], dtype=float) if len(scores) == len(ratings) else np.zeros((2, 0))
    if pairs.shape[1] < 3 or not ((pairs >= 0) & (pairs <= 1)).all():
        raise ValueError("agreement needs two equally long lists of at least three numbers in [0, 1]")
    if not np.ptp(pairs, axis=1).all():
        raise ValueError("the scores or the ratings are all the same: nothing can agree with them")
    picks = np.random.default_rng(seed).integers(pairs.shape[1], size=(draws, pairs.shape[1]))
    drawn = pairs[:, picks]  # (2, draws, texts)
    varied = drawn[:, np.ptp(drawn, axis=2).all(axis=0)]
    low, high = np.quantile(_spearman(*varied), (0.025, 0.975))
    one, other = pairs >= 0.5
    return {
        "spearman": float(_spearman(*pairs)),
        "spearman_ci95": (float(low), float(high)),
        "accuracy": float((one == other).mean()),
        "kappa": float(cohen_kappa_score(one, other)) if {*one} != {*other} or len({*one}) > 1 else 0.0,
        "n": pairs.shape[1],
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks along the last axis: (..., texts) twice -> (...)."""
    a, b = (scipy_stats.rankdata(one, axis=-1) for one in (a, b))
    a, b = (one - one.mean(axis=-1, keepdims=True) for one in (a, b))
    return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
