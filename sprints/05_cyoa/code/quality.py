"""Measures of written scenes that need no model: each sees one failure and is blind to others, so they are read as a panel.

An answer is what a model wrote to one prompt, in the format of storytext. Values are per answer, or per group of answers where a
measure is about a set; a mean with its interval is made of them elsewhere.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import lint
from .storytext import Draft, Example, parse

WORD_LIST = Path(__file__).resolve().parents[1] / "data" / "word_list.txt"
FEWEST, MOST = 2, 4  # choices of a scene
FEWEST_WORDS = 5  # of a scene
REFERENCES = 24  # other answers that an answer is compared with: self-BLEU rises with their number
COPIED = 12  # words in a row, from which on a passage counts as copied
Gram = tuple[str, ...]


def grams(found: Sequence[str], n: int) -> list[Gram]:
    """Every run of n words, repetitions included."""
    return list(zip(*(found[at:] for at in range(n)), strict=False))


def valid_choices(choices: Sequence[str], taken: str = "") -> bool:
    """2 to 4 choices, each with a letter in it and short enough for a button, all different and none the choice just taken."""
    keys = ["".join(lint.words(choice)) for choice in (*choices, taken)]
    fits = all(key and len(choice) <= lint.CHOICE_LETTERS for key, choice in zip(keys, choices, strict=False))
    return fits and FEWEST <= len(choices) <= MOST and len(set(keys)) == len(keys)


def taken(example: Example) -> str:
    """The choice that an answer goes on from; empty for a beginning."""
    last = example.messages[-1]["content"].rsplit("\n", 1)[-1]
    return last.removeprefix("> ") if last.startswith("> ") else ""


def valid_format(draft: Draft, taken: str = "") -> bool:
    """A scene with valid choices, or an ending without any."""
    offered = not draft.choices if draft.ending else valid_choices(draft.choices, taken)
    return offered and len(lint.words(draft.scene)) >= FEWEST_WORDS


def repetition(scene: str, n: int = 4) -> float:
    """Share of the word n-grams of a scene that stood in it before (seq-rep-n of Welleck et al. 2019)."""
    found = grams(lint.words(scene), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(scenes: Sequence[str], n: int) -> float:
    """Share of different word n-grams among all of some scenes (Li et al. 2016)."""
    found = [gram for scene in scenes for gram in grams(lint.words(scene), n)]
    return len(set(found)) / len(found) if found else 0.0


def bleu(scene: str, others: Sequence[str], n: int = 4) -> float:
    """Geometric mean of the n-gram precisions of a scene against others, 1 to n, smoothed by 0.1; no brevity penalty."""
    mine, theirs, total = lint.words(scene), [lint.words(other) for other in others], 0.0
    for size in range(1, n + 1):
        have, most = Counter(grams(mine, size)), Counter()
        for other in theirs:
            most |= Counter(grams(other, size))
        total += math.log((sum((have & most).values()) + 0.1) / (have.total() + 0.1)) / n
    return math.exp(total)


def self_bleu(scenes: Sequence[str], references: int = REFERENCES, seed: int = 0) -> list[float]:
    """BLEU of each scene against a sample of the others (Zhu et al. 2018): how much alike the scenes are."""
    rng = random.Random(seed)
    found = []
    for place, scene in enumerate(scenes):
        others = [*scenes[:place], *scenes[place + 1 :]]
        found.append(bleu(scene, rng.sample(others, min(references, len(others)))))
    return found


def names(text: str) -> set[str]:
    """Capitalised words that begin no sentence: people, places, the names of things."""
    return {word.removesuffix("'s") for word in re.findall(r"(?<=[\w,;:] )[A-Z][a-z][\w']*", text)}


def carry_over(scene: str, prompt: str) -> float:
    """Share of the names in a scene that its prompt knows; 0 for a scene without any."""
    found, known = names(scene), set(re.findall(r"[A-Z][\w]+", prompt))
    return len(found & known) / len(found) if found else 0.0


class Memory:
    """Texts that a model was trained on, to find what an answer copies from them."""

    def __init__(self, texts: Sequence[str]):
        self._text = "\n".join(f" {' '.join(lint.words(text))} " for text in texts)

    def longest(self, scene: str) -> int:
        """Words of the longest run in a scene that stands in one of the texts."""
        mine, best = lint.words(scene), 0
        for start in range(len(mine)):
            while start + best < len(mine) and f" {' '.join(mine[start : start + best + 1])} " in self._text:
                best += 1
        return best


def word_list(path: Path = WORD_LIST) -> set[str]:
    """The words that have no place in a story for teens; lines after # are remarks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def toxic(text: str, listed: set[str]) -> bool:
    """Whether one of the listed words, or its plural, stands in a text."""
    return any(word in listed or word.removesuffix("s") in listed for word in lint.words(text))


def drafts(answers: Sequence[str]) -> list[Draft]:
    return [parse(answer) for answer in answers]
