"""What the rows share that they should not, or that explains a result: copied prompts, near-duplicates, known n-grams."""

import re
from collections.abc import Iterable, Sequence

from .patterns import Pattern, Row


def share_in(prompts: Iterable[str], others: Iterable[str]) -> float:
    """The share of the prompts that stand among the others, letter for letter."""
    known, found = set(others), list(prompts)
    return sum(prompt in known for prompt in found) / len(found)


def words(text: str) -> frozenset[str]:
    """Its words, numbers and signs; neither case nor order counts."""
    return frozenset(re.findall(r"\w+|[^\w\s]", text.lower()))


def near_duplicates(
    held_out: Sequence[Pattern], taught: Sequence[Pattern], limit: float = 0.8
) -> list[tuple[Pattern, Pattern, float]]:
    """(held-out pattern, taught pattern, overlap): the most alike taught one, where both together have at least `limit` of their
    words in common (Jaccard index over prompt and completion). Worst first."""
    bags = [(pattern, words(pattern.prompt + pattern.completion)) for pattern in taught]
    pairs = []
    for pattern in held_out:
        bag = words(pattern.prompt + pattern.completion)
        overlap, twin = max(((len(bag & b) / len(bag | b), other) for other, b in bags), key=lambda pair: pair[0])
        if overlap >= limit:
            pairs.append((pattern, twin, overlap))
    return sorted(pairs, key=lambda pair: -pair[2])


def quoted_in(text: str, patterns: Iterable[Pattern], least_words: int = 3) -> list[str]:
    """The prompts, tails and near misses of at least so many words that stand in a text."""
    return [
        prompt
        for pattern in patterns
        for prompt in (pattern.prompt, *pattern.tails, pattern.near_miss)
        if len(prompt.split()) >= least_words and prompt in text
    ]


def ngrams(ids: Sequence[int], n: int) -> set[tuple[int, ...]]:
    return {tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)}


def known_share(ids: Sequence[int], sequences: Iterable[Sequence[int]], n: int) -> float:
    """The share of the positions of a text whose last n tokens stand in some of the sequences: where an n-gram memory speaks."""
    known = set().union(*(ngrams(sequence, n) for sequence in sequences))
    places = range(n, len(ids) + 1)
    return sum(tuple(ids[at - n : at]) in known for at in places) / len(places)


def untold_apart(rows: Sequence[Row], encoded: Sequence[Sequence[int]], n: int) -> int:
    """How many rows have a prompt whose last n tokens also end a prompt with another completion: n tokens cannot answer them."""
    completions: dict[tuple[int, ...], set[str]] = {}
    for row, ids in zip(rows, encoded, strict=True):
        completions.setdefault(tuple(ids[-n:]), set()).add(row.completion)
    return sum(len(completions[tuple(ids[-n:])]) > 1 for ids in encoded)
