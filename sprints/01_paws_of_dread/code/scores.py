"""What generated texts show without a reader: variety, what they copied from the training rows, and whether their form is clean."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .snippets import normal, words

Gram = tuple[str, ...]
ORDER = 4  # of BLEU
EPSILON = 0.1  # smoothing method 1 of Chen & Cherry 2014, as in the original Self-BLEU
FEWEST_WORDS, WINDOW, FEWEST_TYPES = 8, 50, 0.5


def grams(text: str, n: int) -> list[Gram]:
    """The n-grams of a text in their order, repeated ones too."""
    if n < 1:
        raise ValueError("n-grams need n of at least 1")
    found = words(text)
    return [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams per n-gram of all texts together, in [0, 1]; 0 where there is none (Li et al. 2016, arXiv:1510.03055).

    It falls with the number of words: compare only sets of about equal size.
    """
    found = [gram for text in texts for gram in grams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """BLEU-4 of each text against all others, averaged, in [0, 1]; high means alike (Zhu et al. 2018, arXiv:1802.01886).

    Smoothed by method 1 of Chen & Cherry 2014: an order without a match counts 0.1 matches; without a common word BLEU is 0.
    It rises with the number of texts: compare only equally many. Raises ValueError for fewer than two.
    """
    if len(texts) < 2:
        raise ValueError("Self-BLEU needs at least two texts")
    lengths = [len(words(text)) for text in texts]
    counts = [[Counter(grams(text, n)) for text in texts] for n in range(1, ORDER + 1)]
    best = [_two_highest(order) for order in counts]
    total = 0.0
    for place, length in enumerate(lengths):
        matches = [sum(_clipped(order[place], highest, place)) for order, highest in zip(counts, best, strict=True)]
        if not matches[0]:
            continue
        logs = [math.log((hits or EPSILON) / max(1, length - n)) for n, hits in enumerate(matches)]
        closest = min(lengths[:place] + lengths[place + 1 :], key=lambda other: (abs(other - length), other))
        total += math.exp(min(0, 1 - closest / length) + sum(logs) / ORDER)
    return total / len(texts)


def _two_highest(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Per n-gram its highest count in one text, which text that is, and the highest count in another one."""
    found: dict[Gram, tuple[int, int, int]] = {}
    for place, counter in enumerate(counts):
        for gram, count in counter.items():
            high, owner, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, place, high) if count > high else (high, owner, max(second, count))
    return found


def _clipped(counter: Counter[Gram], highest: dict[Gram, tuple[int, int, int]], place: int) -> Iterable[int]:
    for gram, count in counter.items():
        high, owner, second = highest[gram]
        yield min(count, second if owner == place else high)


def corpus_grams(corpus: Iterable[str], n: int = 5) -> set[Gram]:
    """All n-grams of the training completions; none runs from one row into the next."""
    return {gram for text in corpus for gram in grams(text, n)}


def copied_share(text: str, corpus_grams: Collection[Gram], n: int = 5) -> float:
    """Share of the text's n-grams that stand in the training completions, in [0, 1]; 0 for a text of fewer than n words."""
    if len(next(iter(corpus_grams), range(n))) != n:
        raise ValueError(f"the n-grams of the corpus are not of {n} words")
    found = grams(text, n)
    return sum(gram in corpus_grams for gram in found) / len(found) if found else 0.0


class Copied(NamedTuple):
    """length: words; 0 and "" where not one word is copied."""

    length: int
    phrase: str


def longest_copied(text: str, corpus: Sequence[str]) -> Copied:
    """The longest run of words that stands in one training text too; of equally long ones the first of the text."""
    found, rows = words(text), "|".join(f" {normal(row)} " for row in corpus)
    length = start = 0
    for at in range(len(found)):
        while at + length < len(found) and f" {' '.join(found[at : at + length + 1])} " in rows:
            length, start = length + 1, at
    return Copied(length, " ".join(found[start : start + length]))


def _sentences(text: str) -> list[str]:
    """Sentences and lines, as words only."""
    return [found for part in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n", text) if (found := normal(part))]


def _ends(text: str) -> bool:
    """A sentence's end, or the signature of a letter: a short last line below one that ends with a comma."""
    lines = text.rstrip().split("\n")
    signed = len(lines) > 1 and lines[-2].rstrip().endswith(",") and 1 <= len(words(lines[-1])) <= 6
    return signed or bool(re.search(r"[.!?…][\"'”’)\]]*$", lines[-1]))


def _stutters(text: str) -> bool:
    found = words(text)
    return any(a == b == c for a, b, c in zip(found, found[1:], found[2:], strict=False))


def _balanced(text: str) -> bool:
    pairs = all(text.count(opened) == text.count(closed) for opened, closed in ("“”", "()", "[]"))
    return pairs and text.count('"') % 2 == 0


def _fewest_types(text: str) -> float:
    """Different words per word in the poorest WINDOW words: a ratio over the whole text falls with its length."""
    found = words(text)
    windows = (found[at : at + WINDOW] for at in range(max(1, len(found) - WINDOW + 1)))
    return min(len(set(window)) / max(1, len(window)) for window in windows)


RULES = {  # what is wrong when it holds
    "too short": lambda text: len(words(text)) < FEWEST_WORDS,
    "no end": lambda text: not _ends(text),
    "word thrice": _stutters,
    "sentence twice": lambda text: any(n > 1 and " " in sentence for sentence, n in Counter(_sentences(text)).items()),
    "open quotes": lambda text: not _balanced(text),
    "few words": lambda text: _fewest_types(text) < FEWEST_TYPES,
}


def broken_rule(text: str) -> str | None:
    """Name of the first of RULES that the text breaks; a sentence of one word may come twice."""
    return next((name for name, broken in RULES.items() if broken(text)), None)


def clean_form(text: str) -> bool:
    """Whether a text breaks none of RULES: no loop, no cut-off end, no stutter.

    It says nothing of sense: with all words but the last in random order, nine of ten snippets still pass. Word order is measured
    elsewhere, by measures.order_gain. A ratio of different words below one half is rarer than any row of data/cats.yaml.
    """
    return broken_rule(text) is None
