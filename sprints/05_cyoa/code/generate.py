"""Read what the model writes: 24 scenes as they come, or a story that goes on from your own beginning.

make cyoa-generate                                              results/samples/scenes.md: six stories, nothing selected
make cyoa-generate PROMPT="The lighthouse blinks a name."       goes on from your own beginning
make cyoa-generate ARGS="--genre pirates --turns 6"             another genre, longer stories
make cyoa-generate ARGS=--smoke                                 two short scenes
"""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from shared import models, runlog
from shared.errors import UserError
from shared.report import quoted

from . import lint, quality, registry, scenarios, storytext
from .engines import choices
from .engines.base import Engine, EngineError, Request
from .engines.choose import open_engine
from .train import counter

T = TypeVar("T")
Worlds = list[tuple[str, storytext.World]]  # with their titles
HERO = scenarios.Person("Sora", "they/them")


@dataclass
class Args(runlog.Args):
    """Which stories, and by whom."""

    prompt: str | None = None
    """Your own beginning; the story that goes on from it is printed. Without it the page of samples is written."""
    genre: str = ""
    """Genre of a story of your own (default: fantasy), or the only one of the samples."""
    model: Path | None = None
    """A model folder; when not given the champion of the registry."""
    engine: Literal["auto", "fast", "hf", "mlx"] = "auto"
    """auto, fast, hf or mlx."""
    stories: int = 6
    """Of the samples."""
    turns: int = 4
    """Scenes per story; the last one is asked to be the ending."""
    tokens: int = 160
    """Longest scene with its choices."""
    temperature: float = 0.8
    """0 takes the likeliest token."""
    seed: int = 0
    """Of the scenes, and of the choices taken."""


@dataclass(frozen=True)
class Story:
    title: str
    world: storytext.World
    drafts: list[storytext.Draft]
    taken: list[str]  # after each scene but the last


async def write(
    engine: Engine,
    count: storytext.Count,
    args: Args,
    title: str,
    world: storytext.World,
    begun: Sequence[storytext.Turn],
    seed: int,
) -> Story:
    """A story of `turns` scenes that goes on from `begun`, the last of them its ending; the choices taken are drawn."""
    rng, turns = random.Random(seed), list(begun)
    story = Story(title, world, [], [])
    for at in range(args.turns):
        messages = storytext.messages(world, turns, count)
        request = Request(messages, args.tokens, args.temperature, seed=seed + at)
        last = at == args.turns - 1
        *_, draft = [part async for part in choices.scene(engine, request, world.genre, ending=last and at > 0, may_end=last)]
        assert isinstance(draft, storytext.Draft)
        story.drafts.append(draft)
        if last:
            break
        story.taken.append(rng.choice(draft.choices))
        turns.append(storytext.Turn(draft.scene, story.taken[-1]))
    return story


def worlds(args: Args) -> Worlds:
    """Title and world of every sample: test scenarios in the order of their names, or the one of the genre asked for."""
    every = scenarios.load()
    if args.genre:
        found = [one for one in every if one.genre == lint.genre_key(args.genre)]
        if not found:
            raise UserError(f"no scenario of the genre {args.genre!r}: give a PROMPT, or one of {', '.join(lint.genres(every))}")
    else:
        found = sorted(scenarios.split(every).test, key=lambda one: one.id)
    return [(one.title, storytext.world(one, one.summary)) for one in found]


def main(args: Args) -> dict:
    if args.smoke:
        args.stories, args.turns, args.tokens = 1, 2, 24
    if min(args.stories, args.turns, args.tokens) < 1:
        raise UserError("--stories, --turns and --tokens are at least 1")
    place, name = _model(args)
    tokenizer, *_ = models.load_tokenizer(place)
    count = counter(tokenizer)
    if args.prompt is not None:
        return own(args, place, name, count)
    setup = {
        "Model": "the champion, through the engine of the game",
        "Data": "test scenarios: hero, cast and summary are given, every scene is the model's, the choices taken are drawn",
        "Sampling": f"temperature {args.temperature:g}, top 40, at most {args.tokens} tokens",
    }
    title, objective, given = "Samples", "What do scenes read like that nobody has selected?", worlds(args)
    engine = open_engine(args.engine, place, name, on=args.device)
    try:
        with runlog.Run(
            args, __file__, "samples", title=title, objective=objective, setup=setup, seeds=[args.seed], device=engine.device
        ) as run:
            stories = _run(_all(args, engine, count, given))
            drafts = [draft for story in stories for draft in story.drafts]
            record(run, drafts)
            run.file("scenes.md", sheet(stories, name))
    finally:
        asyncio.run(engine.close())
    return run.report


async def _all(args: Args, engine: Engine, count: storytext.Count, given: Worlds) -> list[Story]:
    """The stories of the samples, each of another world as long as there are any."""
    with runlog.console.status(f"{args.stories * args.turns} scenes"):
        return [
            await write(engine, count, args, *given[at % len(given)], (), 1000 * args.seed + 100 * at) for at in range(args.stories)
        ]


def own(args: Args, place: Path, name: str, count: storytext.Count) -> dict[str, Any]:
    """Print a story that goes on from the user's own beginning."""
    beginning = storytext.plain(args.prompt or "")
    if not beginning:
        raise UserError('PROMPT is empty: give a beginning, such as PROMPT="The lighthouse blinks a name."')
    world = storytext.World(lint.genre_key(args.genre) if args.genre else "fantasy", HERO)

    async def tell() -> Story:
        engine = open_engine(args.engine, place, name, on=args.device)
        try:
            return await write(engine, count, args, "", world, [storytext.Turn(beginning, None)], args.seed)
        finally:
            await engine.close()

    story = _run(tell())
    runlog.console.print(f"{beginning}\n")
    for at, draft in enumerate(story.drafts):
        runlog.console.print(draft.scene + "\n")
        for choice in draft.choices:
            mark = "->" if at < len(story.taken) and story.taken[at] == choice else "  "
            runlog.console.print(f"{mark} {choice}")
        runlog.console.print("The end.\n" if draft.ending else "")
    return {}


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except EngineError as error:
        raise UserError(str(error)) from None


def _model(args: Args) -> tuple[Path, str]:
    if args.model is None:
        champion = registry.champion()
        return champion.folder, champion.name
    if not (args.model / "config.json").is_file():
        raise UserError(f"{args.model} is no model folder: train one with `make cyoa-train`")
    return args.model, args.model.parent.name


def record(run: runlog.Run, drafts: Sequence[storytext.Draft]) -> None:
    """What can be counted about the samples."""
    scenes = [draft.scene for draft in drafts]
    run.metric("samples_scenes", len(drafts), meaning="scenes on the page of samples")
    words = [len(scene.split()) for scene in scenes]
    run.metric("samples_words", words, unit="words", meaning="length of the scenes")
    valid = np.array([quality.valid_format(draft) for draft in drafts])
    run.metric("samples_valid", valid, unit="fraction", higher_is_better=True, meaning="of these with valid choices, or an ending")
    deck = np.array([choice in _cards() for draft in drafts for choice in draft.choices] or [False])
    meaning = "choices of the samples that stand word for word in the choice deck, which fills in where the model wrote too few"
    run.metric("samples_from_deck", deck, unit="fraction", higher_is_better=False, meaning=meaning)
    repeated = [quality.repetition(scene) for scene in scenes]
    run.metric("samples_repetition_4", repeated, unit="fraction", meaning="4-grams of a scene that stood in it before")
    run.observe("The stories are the first test scenarios by name; no scene was drawn twice or left out.")
    run.conclude(f"{len(drafts)} scenes with {np.mean(words):.0f} words on average stand in scenes.md, as they came.")


def _cards() -> set[str]:
    return {card for cards in choices._deck().values() for card in cards}


def sheet(stories: Sequence[Story], name: str) -> str:
    """The page of samples, as Markdown."""
    parts = ["# Scenes as they came", f"Written by `{name}`; nothing is selected. An arrow marks the choice that was drawn."]
    for number, story in enumerate(stories, 1):
        hero = f"the hero {story.world.hero.name} ({story.world.hero.pronouns})"
        parts.append(f"## {number}. {story.title} ({story.world.genre})")
        parts.append(f"Given to the model: the genre, {hero}, the cast, and: {story.world.memory}")
        for at, draft in enumerate(story.drafts):
            taken = story.taken[at] if at < len(story.taken) else None
            lines = [f"- {'→ **' + choice + '**' if choice == taken else choice}" for choice in draft.choices]
            parts += [quoted(draft.scene), "\n".join(lines) if lines else "*The end.*" if draft.ending else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    runlog.launch(main, Args)
