"""The text format: a story as chat messages within a token budget, and the model's answer as a scene with choices.

    system     A story of the genre mecha. You are Rokuro (he/him). With: Granny Nine (she/her), Tamsin (she/her). Remember: ...
    user       the newest scenes that fit, each followed by `> the choice taken`; for a beginning `Begin.`
    assistant  the scene, an empty line, then 2 or 3 lines `> choice`; an ending has the last line `The end.` instead

Training, evaluation, generation and the API build and read it here only, so a model is asked in the words it was trained on.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .scenarios import Person, Scenario, Scene, Step, paths

BUDGET = 320  # tokens of a prompt; pocket has 512 positions, of which 160 are for the answer
OVERHEAD = 16  # tokens that a chat template adds around a system and a user message
LORE_REACH = 3  # a lore card fires when one of its keys stands in that many of the newest turns
BEGIN, GO_ON, THE_END = "Begin.", "Go on", "The end."
ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u2013": "-", "\u2014": "-"})
Count = Callable[[str], int]


@dataclass(frozen=True)
class Lore:
    """A card of background; it fires when one of its keys stands in the newest turns, or `always`. Low priority gives way first."""

    keys: tuple[str, ...]
    text: str
    always: bool = False
    priority: int = 0


@dataclass(frozen=True)
class World:
    """What stays the same through a story; `memory` is pinned by the player."""

    genre: str
    hero: Person
    cast: tuple[Person, ...] = ()
    memory: str = ""
    lore: tuple[Lore, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A scene and the choice taken after it; None where the player let the story go on."""

    scene: str
    choice: str | None


@dataclass(frozen=True)
class Draft:
    """A scene as the model wrote it: its choices may be too few or alike, but an ending never has any."""

    scene: str
    choices: tuple[str, ...] = ()
    ending: bool = False


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that a person wrote to it."""

    scenario: str  # its id
    scene: str  # the id of the scene in the answer
    messages: list[dict[str, str]]
    response: str


def plain(text: str) -> str:
    """One line in which nothing is markup: no special token of a tokenizer, no choice mark, no control character.

    `<|end|>`, `</s>` and `[INST]` stay readable but are no longer tokens; typographic quotes and dashes become ASCII, as in
    training.
    """
    text = "".join(c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    text = unicodedata.normalize("NFC", text).translate(ASCII)
    text = re.sub(r"<(?=[|/]|[^\W\d])", "< ", text)
    text = re.sub(r"\[(?=/?[A-Z_]+\])", "[ ", text)
    return " ".join(text.split()).lstrip("> ")


def messages(world: World, turns: Sequence[Turn], count: Count, budget: int = BUDGET) -> list[dict[str, str]]:
    """The prompt for the scene that follows `turns`, as chat messages of at most `budget` tokens.

    `count` gives the tokens of a text. What does not fit is left out, never an error: of lore, the cards of low priority; of the
    cast, the last; of the turns, the oldest. The choice just taken stays; one that is too long itself loses its end.
    """
    room = budget - OVERHEAD
    system = _system(world, _fired(world, turns), count, room // 2)
    user = _tail(turns, count, room - count(system)) if turns else BEGIN
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _fired(world: World, turns: Sequence[Turn]) -> list[Lore]:
    recent = " ".join(f"{turn.scene} {turn.choice or ''}" for turn in turns[-LORE_REACH:])

    def fires(card: Lore) -> bool:
        keys = (re.escape(key.strip()) for key in card.keys if key.strip())
        return card.always or any(re.search(rf"(?<!\w){key}(?!\w)", recent, re.IGNORECASE) for key in keys)

    return sorted(filter(fires, world.lore), key=lambda card: (not card.always, -card.priority))


def _system(world: World, cards: Sequence[Lore], count: Count, room: int) -> str:
    """Genre and hero, then what fits of memory, cast and lore, in this order of importance."""
    base = f"A story of the genre {plain(world.genre)}. You are {plain(world.hero.name)} ({plain(world.hero.pronouns)})."
    cast, memory, lore = [], "", []

    def whole() -> str:
        return base + (f" With: {', '.join(cast)}." if cast else "") + memory + "".join(lore)

    base = _clip(base, count, room)
    if kept := _clip(plain(world.memory), count, room - count(f"{base} Remember: ")):
        memory = f" Remember: {kept}"
    for kept, items in (
        (cast, [f"{plain(p.name)} ({plain(p.pronouns)})" for p in world.cast]),
        (lore, [f" {plain(card.text)}" for card in cards]),
    ):
        for item in items:
            kept.append(item)
            if count(whole()) > room:
                kept.pop()
                break
    return whole()


def _tail(turns: Sequence[Turn], count: Count, room: int) -> str:
    """The newest turns that fit, oldest first. Of a scene that does not fit whole, the last sentences, if it is the newest."""
    newest = turns[-1]
    kept = _clip(f"> {plain(newest.choice or '') or GO_ON}", count, room)
    for place, turn in enumerate(reversed(turns)):
        taken = f"\n> {plain(turn.choice)}" if turn.choice and place else ""
        longer = f"{plain(turn.scene)}{taken}\n{kept}"
        if count(longer) > room:
            if not place:
                sentences = re.split(r"(?<=[.!?\"'])\s+", plain(turn.scene))
                for at in range(1, len(sentences)):
                    if count(shorter := f"{' '.join(sentences[at:])}\n{kept}") <= room:
                        return shorter
            break
        kept = longer
    return kept


def _clip(text: str, count: Count, room: int) -> str:
    """The longest beginning of `text`, in whole words, of at most `room` tokens (in letters, where a word alone is longer)."""
    if count(text) <= room:
        return text
    for pieces, joint in ((text.split(" "), " "), (list(text), "")):
        low, high = 0, len(pieces) - 1
        while low < high:
            middle = (low + high + 1) // 2
            fits = count(joint.join(pieces[:middle])) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        if low:
            return joint.join(pieces[:low])
    return ""


def render(draft: Draft) -> str:
    """The answer that `parse` reads as `draft`."""
    last = [THE_END] if draft.ending else [f"> {choice}" for choice in draft.choices]
    return "\n".join([draft.scene, "", *last]) if last else draft.scene


def parse(text: str) -> Draft:
    """The scene and choices of an answer; whatever a model writes gives a draft. Lines after the first choice that are none are
    dropped, as is all that follows `The end.`"""
    scene, choices, ending = [], [], False
    for line in (line.strip() for line in text.splitlines()):
        if line == THE_END and not choices:
            ending = True
            break
        if line.startswith(">"):
            choices += [choice] if (choice := line.lstrip("> ").rstrip()) else []
        elif line and not choices:
            scene.append(line)
    return Draft("\n\n".join(scene), tuple(choices), ending)


def world(scenario: Scenario, memory: str = "") -> World:
    return World(scenario.genre, scenario.hero, scenario.cast, memory)


def draft(scene: Scene) -> Draft:
    """A scene that a person wrote, as a model would answer it."""
    return Draft(scene.text, tuple(choice.text for choice in scene.choices), scene.ending is not None)


def turns(path: Sequence[Step]) -> list[Turn]:
    return [Turn(step.scene.text, step.choice.text if step.choice else None) for step in path]


def estimate(text: str) -> int:
    """Tokens of an English text where no tokenizer is at hand, rather too many than too few."""
    return -(-2 * len(text) // 5)


def training_examples(
    scenarios: Sequence[Scenario], count: Count = estimate, budget: int = BUDGET, paths_per_scenario: int = 64
) -> list[Example]:
    """Each way to reach each scene once, as far as the budget lets a prompt see it. Every other example has the summary as its
    memory, so that a model knows prompts with and without one."""
    found: list[Example] = []
    count = cache(count)  # prompts of one scenario share their beginnings
    for scenario in scenarios:
        seen: set[str] = set()
        for before, scene in _arrivals(scenario, paths_per_scenario):
            memory = scenario.summary if len(found) % 2 else ""
            asked = messages(world(scenario, memory), turns(before), count, budget)
            if (key := f"{asked[-1]['content']}\n{scene.id}") not in seen:
                seen.add(key)
                found.append(Example(scenario.id, scene.id, asked, render(draft(scene))))
    return found


def once(examples: Sequence[Example]) -> list[Example]:
    """Each scene by the first way to it."""
    return list({(example.scenario, example.scene): example for example in reversed(examples)}.values())[::-1]


def _arrivals(scenario: Scenario, limit: int) -> Iterator[tuple[tuple[Step, ...], Scene]]:
    """Every scene with the steps before it, in every path; and what a choice leads back to, which no path holds."""
    seen = set()
    for path in paths(scenario, limit):
        yield (), path[0].scene
        for place, step in enumerate(path):
            for choice in step.scene.choices:
                before = (*path[:place], Step(step.scene, choice))
                if (key := tuple((taken.scene.id, taken.choice) for taken in before)) not in seen:
                    seen.add(key)
                    yield before, scenario.scenes[choice.to]
