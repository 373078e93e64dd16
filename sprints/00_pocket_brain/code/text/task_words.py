"""Words of the tasks: the data files, and invented names of which one in eight is reserved for the test."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from shared.data import read_yaml

from .sample import Sample

Split = Literal["train", "test"]
Slots = dict[str, Any]
Families = dict[str, Callable[[random.Random], Sample]]  # of one kind, by name

DATA = Path(__file__).parents[2] / "data"
SINGLE = list("bdfghjklmnprstvwyz")
ONSETS = 3 * SINGLE + ["br", "dr", "gr", "kr", "tr", "bl", "fl", "pl", "sk", "st", "sh", "th", "ch"]  # mostly simple: few tokens
VOWELS = 3 * list("aeiou") + ["ai", "ee", "oa", "ou"]
STARTS = [onset + vowel + coda for onset in ONSETS for vowel in VOWELS for coda in ("", "", "n", "r", "l", "m", "s")]
MIDDLES = [onset + vowel for onset in SINGLE for vowel in "aeiou"]
CODAS = ("", "", "n", "r", "l", "s", "x", "k", "th", "d", "m")
ENDS = [onset + vowel + coda for onset in ONSETS for vowel in "aeiou" for coda in CODAS]
LONG = 0.2  # share of names with a third syllable


@cache
def read(file: str) -> dict[str, Any]:
    return read_yaml(DATA / file, "ascii")


@cache
def parts(text: str, separator: str = "|") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


@cache
def rows(text: str, separator: str = "|") -> tuple[tuple[str, ...], ...]:
    """The lines of a block, each split; a backslash and n within a field becomes a line break."""
    return tuple(tuple(field.strip().replace("\\n", "\n") for field in line.split(separator)) for line in text.splitlines())


@cache
def vocabulary() -> tuple[str, ...]:
    """Real words for the lists: everything that is defined, and the members of the categories."""
    defined = [row[0] for section in read("knowledge_words.yaml").values() for row in rows(section, ": ")]
    listed = [word for words in read("knowledge_facts.yaml")["categories"].values() for word in parts(words, ",")]
    return tuple(sorted({*defined, *listed}))


def reserved(name: str) -> bool:
    """Whether this spelling belongs to the test."""
    return crc32(name.encode()) % 8 == 0


def invented(rng: random.Random, split: Split = "train", *, lower: bool = False) -> str:
    """A name that never was, one of some hundred millions. Train avoids a spelling that is reserved with or without its capital."""
    while True:
        middle = MIDDLES[int(rng.random() * len(MIDDLES))] if rng.random() < LONG else ""
        word = STARTS[int(rng.random() * len(STARTS))] + middle + ENDS[int(rng.random() * len(ENDS))]
        name = word.capitalize()
        if split == "test":
            if reserved(word if lower else name):
                return word if lower else name
        elif not (reserved(word) or reserved(name)):
            return word if lower else name


def person(rng: random.Random, split: Split = "train") -> str:
    """In training four of ten are real first names."""
    if split == "train" and rng.random() < 0.4:
        return rng.choice(parts(read("tasks_lookup.yaml")["pools"]["person"], ","))
    return invented(rng, split)


def distinct(draw: Callable[[], str], count: int, used: set[str] | None = None) -> list[str]:
    """`count` different draws, none of them in `used`, which they join."""
    used = set() if used is None else used
    found: list[str] = []
    while len(found) < count:
        word = draw()
        if word not in used:
            used.add(word)
            found.append(word)
    return found


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun behind a or an (spelling decides; the data has no hour or unicorn behind it)."""
    return f"{'an' if noun[0] in 'aeiou' and noun[:3] != 'uni' else 'a'} {noun}"


def phrase(family: str, turns: Sequence[str], slots: Callable[[random.Random], Mapping[str, Any]], rng: random.Random) -> Sample:
    values = slots(rng)
    return Sample(family, tuple([turn.format_map(values) for turn in turns]))


def phrased(kind: str, text: str, slots: Callable[[random.Random], Mapping[str, Any]]) -> Families:
    """One family for each line of `text`: turns separated by =>, filled from the slots."""
    return {f"{kind}/{at}": partial(phrase, f"{kind}/{at}", turns, slots) for at, turns in enumerate(rows(text, "=>"))}
