"""The language of the plots (data/plots/*.txt): what happens, in which order, and the alternatives of each sentence.

= name                    a plot; hook and titles follow ("hook: what follows `a story about <A>`")
one || two || three       a sentence: one of the alternatives; `? ` in front: only sometimes
@cast B elder of A        somebody comes in          @thing T toy gear     an object      @place P in wild    a place
@let x = {*dish}          rendered once, then fixed  @several s small 3    s1, s2, s3     @choose x = a ; b   a hidden choice
@shuffle X Y = B C        X and Y stand for B and C in random order
@mood A sad               the state of mind          @para                 a new paragraph
@if key / @if key=value / @else / @end      @either / @or / @end           a branch of the state, a random branch
@beat A B                 the lines of the beat (data/plots/beats.txt) with $1 = A, $2 = B
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .tale import Tale

DATA = Path(__file__).parents[2] / "data" / "plots"
Step = Callable[[Tale], None]
BLOCKS = ("@if", "@either")


@dataclass(frozen=True)
class Plot:
    """A plot shape. hook: what follows "a story about <A>" in a request; titles: templates."""

    name: str
    hook: str
    titles: tuple[str, ...]
    steps: tuple[Step, ...]

    def tell(self, tale: Tale) -> None:
        run(self.steps, tale)


def run(steps: tuple[Step, ...], tale: Tale) -> None:
    for step in steps:
        step(tale)


def sections(file: Path) -> dict[str, list[str]]:
    """The lines under each `= name`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith("= "):
            name = line[2:].strip()
            found[name] = []
        elif line.strip() and not line.startswith("# "):
            found[name].append(line.strip())
    return found


@cache
def beats() -> dict[str, list[str]]:
    return sections(DATA / "beats.txt")


@cache
def plots() -> dict[str, Plot]:
    """All plots by name."""
    found = {}
    for file in sorted(DATA.glob("*.txt")):
        if file.stem in ("beats", "scenes", "quest_phrases"):  # read elsewhere, see beats() here and quest.py
            continue
        for name, lines in sections(file).items():
            head = dict(line.split(": ", 1) for line in lines[:2])
            titles = tuple(head["titles"].split(" || "))
            found[name] = Plot(name, head["hook"], titles, compiled(tuple(lines[2:])))
    return found


def compiled(lines: tuple[str, ...]) -> tuple[Step, ...]:
    steps, at = _block(lines, 0)
    if at != len(lines):
        raise ValueError(f"unmatched {lines[at]!r}")
    return steps


def _block(lines: tuple[str, ...], at: int) -> tuple[tuple[Step, ...], int]:
    """The steps up to the @or, @else or @end of this block, and where that stands."""
    steps: list[Step] = []
    while at < len(lines) and not lines[at].startswith(("@or", "@else", "@end")):
        word, _, rest = lines[at].partition(" ")
        if word in BLOCKS:
            branches = []
            while True:
                inner, at = _block(lines, at + 1)
                branches.append(inner)
                if lines[at] == "@end":
                    break
            steps.append(_if(rest, branches) if word == "@if" else _either(branches))
        elif word.startswith("@"):
            steps += _directive(word[1:], rest)
        else:
            steps.append(_sentence(lines[at]))
        at += 1
    return tuple(steps), at


def _sentence(line: str) -> Step:
    often = 0.5 if line.startswith("? ") else 1.0
    options = tuple(option.strip() for option in line.removeprefix("? ").split("||"))

    def say(tale: Tale) -> None:
        if often == 1.0 or tale.random() < often:
            tale.say(*options)

    return say


def _if(condition: str, branches: list[tuple[Step, ...]]) -> Step:
    key, _, value = condition.partition("=")
    yes, no = branches[0], branches[1] if len(branches) > 1 else ()

    def decide(tale: Tale) -> None:
        found = tale.bind.get(key)
        run(yes if found is not None and (not value or found == value) else no, tale)

    return decide


def _either(branches: list[tuple[Step, ...]]) -> Step:
    return lambda tale: run(tale.rng.choice(branches), tale)


def _directive(word: str, rest: str) -> tuple[Step, ...]:
    if word in beats():
        lines = beats()[word]
        for at, argument in enumerate(rest.split(), start=1):
            lines = [line.replace(f"${at}", argument) for line in lines]
        return compiled(tuple(lines))
    arguments = tuple(rest.split())
    if word == "cast":
        role, kind, *of = arguments
        return (lambda tale: tale.cast(role, kind, of[1] if of else ""),)
    if word in ("let", "choose"):
        key, value = rest.split(" = ", 1)
        if word == "let":
            return (lambda tale: tale.set(key, value),)
        options = tuple(option.strip() for option in value.split(";"))
        return (lambda tale: tale.bind.__setitem__(key, tale.rng.choice(options)),)
    if word == "several":
        key, category, count = arguments
        return (lambda tale: tale.several(key, category, int(count)),)
    if word == "shuffle":
        new, old = (side.split() for side in rest.split(" = "))
        return (lambda tale: tale.alias(new, tale.rng.sample(old, len(new))),)
    act = SIMPLE[word]
    return (lambda tale: act(tale, *arguments),)


SIMPLE: dict[str, Callable[..., None]] = {
    "thing": Tale.thing,
    "place": Tale.place,
    "fear": Tale.fear,
    "mood": Tale.feel,
    "para": Tale.para,
}
