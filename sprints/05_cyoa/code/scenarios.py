"""The scenarios of data/scenarios: small branching graphs, authored in advance; their schema, their rules, their splits.

A scenario that `read` returns is playable: no choice leads nowhere, every scene can be reached, and an ending can be reached from
every scene. What only reads badly, or repeats another scenario, is for `lint`.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from shared.data import DataError, read_yaml
from shared.errors import UserError

DATA = Path(__file__).resolve().parents[1] / "data" / "scenarios"
SOURCE = "progress log of the original project, January 1, 2025"  # where its claims stand
FLAT = ("prompt", "response", "choice_a", "choice_b", "genre")  # the columns of the original's table
Rating = Literal["all", "teen"]
Ending = Literal["triumph", "bittersweet", "loss", "secret"]
HELD_OUT = 0.1  # share of the families in test, and in validation


@dataclass(frozen=True)
class Person:
    name: str
    pronouns: str
    role: str = ""


@dataclass(frozen=True)
class Choice:
    text: str
    to: str


@dataclass(frozen=True)
class Scene:
    """A scene either offers choices or is an ending."""

    id: str
    text: str
    choices: tuple[Choice, ...] = ()
    ending: Ending | None = None


@dataclass(frozen=True)
class Scenario:
    id: str
    title: str
    family: str
    genre: str
    rating: Rating
    hero: Person
    cast: tuple[Person, ...]
    summary: str
    start: str
    scenes: dict[str, Scene]


class Step(NamedTuple):
    """A scene of a path and the choice taken in it (None in an ending)."""

    scene: Scene
    choice: Choice | None


class Split(NamedTuple):
    train: list[Scenario]
    validation: list[Scenario]
    test: list[Scenario]


class ScenarioError(UserError):
    """A scenario breaks rules; `problems` lists each of them in one line."""

    def __init__(self, where: str, problems: list[str]):
        more = f" (and {len(problems) - 1} more: run `python -m sprints.05_cyoa.code.lint`)" if len(problems) > 1 else ""
        super().__init__(f"{where}: {problems[0]}{more}")
        self.where, self.problems = where, problems


def load(folder: Path = DATA) -> list[Scenario]:
    """Every scenario of a folder, by id. Raises UserError that names the file and what is wrong with it."""
    found = [read(path) for path in sorted(folder.glob("*.yaml"))]
    if not found:
        raise UserError(f"there is no scenario in {folder}: put .yaml files there")
    return found


def read(path: Path) -> Scenario:
    """One scenario. Raises ScenarioError with every problem of the file."""
    try:
        raw = read_yaml(path)
    except DataError as error:
        raise ScenarioError(path.name, [str(error)]) from None
    if wrong := _misshapen(raw):
        raise ScenarioError(path.name, wrong)
    scenario = _build(raw)
    wrong = check(scenario)
    if scenario.id != path.stem:
        wrong.insert(0, f"its id is {scenario.id!r}: name the file {scenario.id}.yaml")
    if wrong:
        raise ScenarioError(path.name, wrong)
    return scenario


def _misshapen(raw: Any) -> list[str]:
    """What of a file's content has not the schema's keys and types."""
    wrong: list[str] = []

    def fields(value: Any, where: str, needed: str, optional: str = "") -> bool:
        """Whether `value` has exactly these fields; those that must be text are text."""
        if not isinstance(value, dict):
            wrong.append(f"{where} must have the fields {needed.replace(' ', ', ')}")
            return False
        if missing := set(needed.split()) - set(value):
            wrong.append(f"{where} has no {' and no '.join(sorted(missing))}")
        if unknown := set(value) - set(f"{needed} {optional}".split()):
            wrong.append(f"{where} has the unknown field {', '.join(sorted(map(str, unknown)))}")
        for key, item in value.items():
            if key not in ("hero", "cast", "scenes", "choices") and not (isinstance(item, str) and item.strip()):
                wrong.append(f"{where}: its {key} is empty or no text")
        return not missing

    if not fields(raw, "the scenario", "id title family genre rating hero cast summary start scenes"):
        return wrong
    fields(raw["hero"], "the hero", "name pronouns")
    if isinstance(raw["cast"], list):
        for number, person in enumerate(raw["cast"], 1):
            fields(person, f"person {number} of the cast", "name pronouns role")
    else:
        wrong.append("its cast is no list")
    if not isinstance(raw["scenes"], dict) or not raw["scenes"]:
        return [*wrong, "it has no scenes"]
    for name, scene in raw["scenes"].items():
        if not isinstance(name, str):
            wrong.append(f"the name of scene {name!r} is no text")
        if fields(scene, f"scene {name}", "text", "choices ending") and "choices" in scene:
            if isinstance(scene["choices"], list) and scene["choices"]:
                for number, choice in enumerate(scene["choices"], 1):
                    fields(choice, f"scene {name}, choice {number}", "text to")
            else:
                wrong.append(f"scene {name}: its choices are no list")
    return wrong


def _build(raw: dict) -> Scenario:
    def person(fields: dict) -> Person:
        return Person(**{key: text.strip() for key, text in fields.items()})

    scenes = {
        name: Scene(
            id=name,
            text=" ".join(scene["text"].split()),
            choices=tuple(Choice(" ".join(choice["text"].split()), choice["to"].strip()) for choice in scene.get("choices", [])),
            ending=scene.get("ending"),
        )
        for name, scene in raw["scenes"].items()
    }
    texts: dict[str, Any] = {
        key: " ".join(raw[key].split()) for key in ("id", "title", "family", "genre", "rating", "summary", "start")
    }
    return Scenario(hero=person(raw["hero"]), cast=tuple(map(person, raw["cast"])), scenes=scenes, **texts)


def check(scenario: Scenario) -> list[str]:
    """What keeps a scenario from being played, one line each: the rules of the graph and of the values."""
    scenes, wrong = scenario.scenes, []
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", scenario.id):
        wrong.append(f"its id {scenario.id!r} is not in kebab-case")
    if scenario.rating not in get_args(Rating):
        wrong.append(f"unknown rating {scenario.rating!r}: choose one of {', '.join(get_args(Rating))}")
    endings = [scene for scene in scenes.values() if scene.ending]
    if len(scenes) < 6:
        wrong.append(f"it has {len(scenes)} scenes: write at least 6")
    if len(endings) < 2:
        wrong.append(f"it has {len(endings)} ending{'s' if not endings else ''}: write at least 2")
    for scene in scenes.values():
        wrong += [f"scene {scene.id}: {problem}" for problem in _check_scene(scene, set(scenes))]
    if scenario.start not in scenes:
        return [*wrong, f"its start {scenario.start!r} is no scene"]
    forward = {scene.id: {choice.to for choice in scene.choices} & set(scenes) for scene in scenes.values()}
    backward = {name: {source for source, targets in forward.items() if name in targets} for name in scenes}
    reached, ends = _reach([scenario.start], forward), _reach([scene.id for scene in endings], backward)
    wrong += [f"scene {name}: no choice leads to it" for name in scenes if name not in reached]
    wrong += [f"scene {name}: no ending can be reached from it" for name in scenes if name not in ends]
    return wrong


def _check_scene(scene: Scene, names: set[str]) -> Iterator[str]:
    if scene.ending:
        if scene.ending not in get_args(Ending):
            yield f"unknown ending {scene.ending!r}: choose one of {', '.join(get_args(Ending))}"
        if scene.choices:
            yield "an ending has no choices"
    elif not 2 <= len(scene.choices) <= 3:
        yield f"it has {len(scene.choices)} choices: give it 2 or 3, or an ending"
    for choice in scene.choices:
        if choice.to not in names:
            yield f"the choice {choice.text!r} leads to {choice.to!r}, which is no scene"
        if choice.to == scene.id:
            yield f"the choice {choice.text!r} leads back to where it is"
    if len({choice.text.casefold() for choice in scene.choices}) < len(scene.choices):
        yield "two of its choices are the same"
    if len({choice.to for choice in scene.choices}) < len(scene.choices):
        yield "two of its choices lead to the same scene: a choice must matter"


def _reach(start: list[str], edges: dict[str, set[str]]) -> set[str]:
    found, todo = set(start), list(start)
    while todo:
        new = edges[todo.pop()] - found
        found |= new
        todo += new
    return found


def paths(scenario: Scenario, limit: int | None = None) -> list[tuple[Step, ...]]:
    """The ways from the start to an ending that visit no scene twice, at most `limit` of them."""

    def walk(name: str, before: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
        scene = scenario.scenes[name]
        if scene.ending:
            yield (*before, Step(scene, None))
        for choice in scene.choices:
            if choice.to != name and all(step.scene.id != choice.to for step in before):
                yield from walk(choice.to, (*before, Step(scene, choice)))

    return list(islice(walk(scenario.start, ()), limit))


def split(scenarios: Sequence[Scenario], seed: int = 0) -> Split:
    """Train, validation and test by family: a hash of the family decides, so a family never moves when others are added."""
    parts = Split([], [], [])
    for scenario in scenarios:
        place = int.from_bytes(hashlib.sha256(f"{seed} {scenario.family}".encode()).digest()[:8]) / 2**64
        parts[2 if place < HELD_OUT else 1 if place < 2 * HELD_OUT else 0].append(scenario)
    return parts


def flat_rows(scenario: Scenario) -> list[dict[str, str]]:
    """The scenario as rows of the original's table: the summary, or a scene with the choice taken, is the prompt; the scene that
    follows is the response, with the first two choices it offers (none in an ending). The opening comes first."""

    def row(prompt: str, scene: Scene) -> dict[str, str]:
        first, second, *_ = [*(choice.text for choice in scene.choices), "", ""]
        return dict(zip(FLAT, (prompt, scene.text, first, second, scenario.genre), strict=True))

    scenes = scenario.scenes
    edges = ((scene, choice) for scene in scenes.values() for choice in scene.choices)
    following = [row(f"{scene.text}\n> {choice.text}", scenes[choice.to]) for scene, choice in edges]
    return [row(scenario.summary, scenes[scenario.start]), *following]


def flat_csv(scenarios: Sequence[Scenario]) -> str:
    """All rows as CSV text, in the columns of FLAT."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FLAT)
    writer.writerows(row.values() for scenario in scenarios for row in flat_rows(scenario))
    return text.getvalue()
