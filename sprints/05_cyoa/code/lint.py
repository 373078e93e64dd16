"""Check scenarios before anybody trains on them or plays them.

    python -m sprints.05_cyoa.code.lint              all of data/scenarios
    python -m sprints.05_cyoa.code.lint FILE...      these files, against the others as well

Errors (exit code 1): what `scenarios.check` finds (dangling choices, unreachable scenes, loops without exit, missing endings),
texts that no model could learn from, near-duplicates, two spellings of one genre. Warnings: what reads alike or too long.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .scenarios import DATA, Scenario, ScenarioError, read

NGRAM, NEAR = 5, 0.5  # two texts are near-duplicates from this Jaccard similarity of their word 5-grams on
WORDS, WORDS_LIMIT = (45, 75), (25, 100)  # of a scene: as asked for, and as accepted
CHOICE_WORDS = (2, 12)
CHOICE_LETTERS = 80  # a button on a phone holds them


@dataclass(frozen=True)
class Problem:
    where: str  # the file
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.fatal else 'warning'}: {self.where}: {self.text}"


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.casefold())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[at:] for at in range(n)), strict=False))


def near_duplicates(texts: Mapping[str, str], n: int = NGRAM, limit: float = NEAR) -> list[tuple[str, str, float]]:
    """Pairs of names whose texts have a Jaccard similarity of at least `limit` in their sets of word n-grams, closest first."""
    grams = {name: ngrams(text, n) for name, text in texts.items()}
    holders: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, found in grams.items():
        for gram in found:
            holders[gram].append(name)
    shared = Counter((a, b) for names in holders.values() for at, b in enumerate(names) for a in names[:at])
    pairs = ((a, b, both / (len(grams[a]) + len(grams[b]) - both)) for (a, b), both in shared.items())
    return sorted((pair for pair in pairs if pair[2] >= limit), key=lambda pair: (-pair[2], pair[:2]))


def genre_key(genre: str) -> str:
    """What two spellings of one genre share: `Magic_School`, `magic schools` and `a magic-school story` are all `magic school`."""
    found = [
        re.sub(r"(?<=\w\w)(ies|s)$", lambda end: "y" if end[0] == "ies" else "", word) for word in words(genre.replace("_", " "))
    ]
    kept = [word for word in found if word not in ("a", "an", "the", "anime")]
    while len(kept) > 1 and kept[-1] in ("story", "tale", "genre", "fiction", "adventure"):
        kept.pop()
    return " ".join(kept)


def genres(scenarios: Iterable[Scenario]) -> list[str]:
    """The genres, each once however it is spelled."""
    return sorted({genre_key(scenario.genre): scenario.genre for scenario in scenarios}.values())


def text_problems(scenario: Scenario) -> Iterator[Problem]:
    """What is wrong with the words of one scenario."""
    where = f"{scenario.id}.yaml"
    people = (scenario.hero, *scenario.cast)
    texts = {"title": scenario.title, "summary": scenario.summary, "genre": scenario.genre}
    texts |= {f"name {person.name}": f"{person.name} {person.pronouns} {person.role}" for person in people}
    texts |= {f"scene {scene.id}": scene.text for scene in scenario.scenes.values()}
    texts |= {f"choice {choice.text!r}": choice.text for scene in scenario.scenes.values() for choice in scene.choices}
    for name, text in texts.items():
        if foreign := sorted({letter for letter in text if not " " <= letter <= "~"} | set("<>|[]{}") & set(text)):
            yield Problem(where, f"{name} has {' '.join(map(ascii, foreign))}: write plain ASCII, without markup")
    for person in people:
        if not re.fullmatch(r"[a-z]+/[a-z]+", person.pronouns):
            yield Problem(where, f"the pronouns of {person.name} are {person.pronouns!r}: write such as she/her")
    if scenario.genre != scenario.genre.lower() or "_" in scenario.genre:
        yield Problem(where, f"its genre {scenario.genre!r} is not in plain lower case")
    for scene in scenario.scenes.values():
        count = len(scene.text.split())
        if not WORDS[0] <= count <= WORDS[1]:
            fatal = not WORDS_LIMIT[0] <= count <= WORDS_LIMIT[1]
            yield Problem(where, f"scene {scene.id} has {count} words: write {WORDS[0]} to {WORDS[1]}", fatal)
        for choice in scene.choices:
            count = len(choice.text.split())
            if not CHOICE_WORDS[0] <= count <= CHOICE_WORDS[1] or len(choice.text) > CHOICE_LETTERS:
                asked = f"write {CHOICE_WORDS[0]} to {CHOICE_WORDS[1]} words, {CHOICE_LETTERS} letters at most"
                yield Problem(where, f"the choice {choice.text!r} is too short or too long: {asked}")
            if choice.text[-1] in ".,;:":
                yield Problem(where, f"the choice {choice.text!r} ends with a stop: leave it out")


def across(scenarios: Sequence[Scenario]) -> Iterator[Problem]:
    """What scenarios must not share."""
    names: defaultdict[str, dict[str, Scenario]] = defaultdict(dict)  # what -> id -> scenario
    for scenario in scenarios:
        for person in (scenario.hero, *scenario.cast):
            names[f"the name {person.name}"][scenario.id] = scenario
        opening = " ".join(words(scenario.scenes[scenario.start].text)[:3])
        names[f"the first three words {opening!r}"][scenario.id] = scenario
        names[f"the title {scenario.title!r}"][scenario.id] = scenario
    for what, found in names.items():
        if len({scenario.family for scenario in found.values()}) > 1:
            first, *rest = found
            yield Problem(f"{rest[-1]}.yaml", f"it shares {what} with {', '.join([first, *rest[:-1]])}", fatal=False)
    spellings: defaultdict[str, dict[str, str]] = defaultdict(dict)  # key of a genre -> spelling -> the first file with it
    for scenario in scenarios:
        spellings[genre_key(scenario.genre)].setdefault(scenario.genre, scenario.id)
    for found in spellings.values():
        first, *rest = found
        for other in rest:
            yield Problem(
                f"{found[other]}.yaml", f"its genre {other!r} is {first!r} ({found[first]}) spelled otherwise: use one of them"
            )
    whole = {s.id: " ".join([s.summary, *(scene.text for scene in s.scenes.values())]) for s in scenarios}
    scenes = {f"{s.id}: {scene.id}": scene.text for s in scenarios for scene in s.scenes.values()}
    for texts in (whole, scenes):
        for a, b, similarity in near_duplicates(texts):
            yield Problem(f"{b.split(':')[0]}.yaml", f"{b} and {a} share {similarity:.0%} of their {NGRAM}-grams: rewrite one")


def lint(paths: Sequence[Path]) -> tuple[list[Scenario], list[Problem]]:
    """The scenarios of these files that can be played, and the problems of all of them by file."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(read(path))
        except ScenarioError as error:
            problems += [Problem(error.where, text) for text in error.problems]
    for scenario in found:
        problems += text_problems(scenario)
    return found, sorted([*problems, *across(found)], key=lambda problem: (problem.where, not problem.fatal))


def main(files: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()) -> None:
    """Print the problems of these files (of all scenarios when none is named); exit code 1 where one is an error."""
    others = {path.resolve() for path in DATA.glob("*.yaml")}
    found, problems = lint(sorted(others | {path.resolve() for path in files}))
    shown = [problem for problem in problems if not files or problem.where in {path.name for path in files}]
    print(*shown, f"{len(files) or len(others)} files, {len(found)} playable scenarios, {len(genres(found))} genres", sep="\n")
    print(f"{sum(p.fatal for p in shown)} errors, {sum(not p.fatal for p in shown)} warnings")
    raise SystemExit(any(problem.fatal for problem in shown))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
