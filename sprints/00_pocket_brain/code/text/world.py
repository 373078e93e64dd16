"""The words and records of the stories' world: word lists, places, trades, animals, traits, fears, objects; a little grammar."""

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[2] / "data" / "world"
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|u(?!ni|se|su|til|ku)|hour|honest|heir|honou)")
_SMALL_WORDS = frozenset(("a", "and", "at", "by", "for", "in", "of", "on", "the", "to", "under", "with"))


def articles(text: str) -> str:
    """Templates write `a` everywhere; here it becomes `an` before a vowel sound."""
    return _A_BEFORE_VOWEL.sub(r"\1n ", text)


def title_case(text: str) -> str:
    words = [word if at and word in _SMALL_WORDS else word[:1].upper() + word[1:] for at, word in enumerate(text.split())]
    return " ".join(words)


def sentence_case(text: str) -> str:
    """Upper-case the first letter, also behind an opening quote."""
    return '"' + text[1:2].upper() + text[2:] if text[:1] == '"' else text[:1].upper() + text[1:]


def listing(items: list[str]) -> str:
    """a, b and c"""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def split(values: str) -> tuple[str, ...]:
    """Semicolons separate if there is one, else commas."""
    return tuple(part.strip() for part in values.split(";" if ";" in values else ",") if part.strip())


def lines(file: str) -> list[str]:
    text = (DATA / file).read_text(encoding="ascii")
    return [line for line in text.splitlines() if line and line[0] != "#"]


@cache
def lexicon() -> dict[str, tuple[str, ...]]:
    """All word lists by category: lines `category: words`; `[section]` puts `section.` before the categories that follow."""
    found: dict[str, tuple[str, ...]] = {}
    for file in ("names.txt", "lexicon.txt", "more_words.txt", "genres.txt"):
        section = ""
        for line in lines(file):
            if line[0] == "[":
                section = line.strip("[]") + "."
                continue
            category, values = line.split(":", 1)
            found[section + category] = (*found.get(section + category, ()), *split(values))
    return found


def records(file: str) -> list[list[str]]:
    return [[field.strip() for field in line.split("|")] for line in lines(file)]


class Place(NamedTuple):
    name: str
    at: str
    kind: str  # in, out, wild
    spots: tuple[str, ...]
    sights: tuple[str, ...]
    sounds: tuple[str, ...]
    smells: tuple[str, ...]

    @property
    def the(self) -> str:
        return self.at.split(" ", 1)[1]


class Trade(NamedTuple):
    name: str
    at: str
    tools: tuple[str, ...]
    goods: tuple[str, ...]
    work: tuple[str, ...]
    mishap: str
    advice: str


class Species(NamedTuple):
    name: str
    sound: str
    gesture: str
    food: str
    home: str
    kind: str  # house, farm, wild


class Fear(NamedTuple):
    of: str
    moment: str
    truth: str


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


@cache
def places(*kinds: str) -> tuple[Place, ...]:
    """Places by kind (in, out, wild) or by name."""
    found = (Place(name, at, kind, *map(_list, rest)) for name, at, kind, *rest in records("places.txt"))
    return tuple(place for place in found if not kinds or place.kind in kinds or place.name in kinds)


@cache
def trades() -> tuple[Trade, ...]:
    return tuple(Trade(r[0], r[1], _list(r[2]), _list(r[3]), _list(r[4]), r[5], r[6]) for r in records("trades.txt"))


@cache
def species(*kinds: str) -> tuple[Species, ...]:
    """Animals by kind (house, farm, wild) or by name (cat)."""
    found = (Species(*record) for record in records("species.txt"))
    return tuple(animal for animal in found if not kinds or animal.kind in kinds or animal.name in kinds)


@cache
def traits(kind: str) -> tuple[tuple[str, str], ...]:
    return tuple((trait, habit) for of, trait, habit in records("traits.txt") if of == kind)


@cache
def fears() -> tuple[Fear, ...]:
    return tuple(Fear(*record) for record in records("fears.txt"))


@cache
def things(kind: str) -> tuple[tuple[str, str], ...]:
    """Pairs (material or "", noun) of one kind of object."""
    pairs = []
    for of, materials, nouns in records("things.txt"):
        if of == kind:
            pairs += [(material, noun) for noun in split(nouns) for material in split(materials) or ("",)]
    return tuple(pairs)


PRONOUNS = {"f": ("she", "her", "her", "herself"), "m": ("he", "his", "him", "himself")}
CATLIKE = ("cat", "kitten")
COATED = ("dog", "puppy", "rabbit", "hamster", "guinea pig", "goat", "pony", "cow", "calf", "hen", "donkey", "pig", "lamb")
KIN = {
    "child": (
        "sister brother",
        "cousin cousin",
        "friend friend",
        "best friend/best friend",
        "neighbour neighbour",
        "classmate classmate",
    ),
    "adult": ("aunt uncle", "neighbour neighbour", "teacher teacher", "friend friend", "godmother godfather"),
    "elder": (
        "grandmother grandfather",
        "great-aunt great-uncle",
        "old neighbour/old neighbour",
        "great-grandmother great-grandfather",
    ),
}
NOUNS = {"child": ("girl", "boy"), "adult": ("woman", "man"), "elder": ("woman", "man")}


@dataclass(frozen=True)
class Character:
    """Somebody of a story; `words` are what templates may say about them, `{A.his}` for role A."""

    name: str
    words: dict[str, str]


def _kin(rng: random.Random, age: str, female: bool) -> str:
    pair = rng.choice(KIN[age])
    return pair.split("/" if "/" in pair else " ")[0 if female else 1]


def human(
    rng: random.Random, age: str, taken: tuple[str, ...], of: str = "", trade: Trade | None = None, kin: str = ""
) -> Character:
    """A child, adult or elder with a name not taken yet; of="his" makes a relation ("his cousin Tom"), kin fixes which."""
    female = rng.random() < 0.5 and not (trade and trade.name.endswith("man"))
    words_of = lexicon()
    name = rng.choice([n for n in rng.sample(words_of["girl" if female else "boy"], 6) if n not in taken])
    trait, habit = rng.choice(traits("human"))
    noun = trade.name if trade else NOUNS[age][0 if female else 1]
    adjective = rng.choice(words_of["old_adj_f" if female else "old_adj"]) if age == "elder" else trait
    called = rng.choice(("named", "called", "named"))
    if age != "elder" and not trade and rng.random() < 0.3:
        adjective = rng.choice(words_of["help_adj"])
    plain = f"a {adjective} {noun}"
    if trade and rng.random() < 0.5:
        plain = f"a {noun}"
    kin = (kin or _kin(rng, age, female)) if of else ""
    intro = (
        f"{of} {kin} {name}"
        if kin
        else rng.choice((f"{plain} {called} {name}", f"{plain} {called} {name}", f"a {noun} {called} {name}"))
    )
    tag = f"{name} the {noun}" if trade else name
    return _character(name, female, noun, trait, habit, intro, plain, tag, kin or noun)


def animal(rng: random.Random, kind: Species, taken: tuple[str, ...], of: str = "") -> Character:
    female = rng.random() < 0.5
    words_of = lexicon()
    name = rng.choice([n for n in rng.sample(words_of["pet"], 6) if n not in taken])
    trait, habit = rng.choice(traits("animal"))
    fur = rng.choice(words_of["fur"]) if kind.name in CATLIKE else rng.choice(words_of["coat"]) if kind.name in COATED else ""
    look = f"{fur} {kind.name}" if fur and rng.random() < 0.6 else kind.name
    plain = rng.choice((f"a {trait} {look}", f"a {look}", f"a {trait} {kind.name}", f"a small {look}"))
    intro = rng.choice((f"{plain} named {name}", f"{plain} called {name}", f"{name} the {kind.name}"))
    if of:
        intro = rng.choice((f"{of} {kind.name} {name}", f"{of} {trait} {kind.name} {name}"))
    made = _character(name, female, kind.name, trait, habit, intro, plain, f"{name} the {kind.name}", kind.name)
    his = made.words["his"]
    made.words.update(sound=kind.sound, gesture=kind.gesture.replace("its", his), food=kind.food, home=kind.home, fur=fur or trait)
    return made


def _character(
    name: str, female: bool, noun: str, trait: str, habit: str, intro: str, plain: str, tag: str, bond: str
) -> Character:
    he, his, him, himself = PRONOUNS["f" if female else "m"]
    habit = habit.replace("{his}", his).replace("{him}", him).replace("{he}", he)
    words = {"he": he, "his": his, "him": him, "himself": himself, "He": he.capitalize(), "His": his.capitalize()}
    words |= {
        "noun": noun,
        "the": f"the {noun}",
        "trait": trait,
        "habit": habit,
        "intro": intro,
        "plain": plain,
        "tag": tag,
        "bond": bond,
    }
    return Character(name, words)
