"""Base, few-shot prompt and tuned model side by side: loss on unseen forms and themes, and what they write.

$ make cats-eval                                    the five adapters of make cats-train, minutes
$ make cats-eval ARGS="--votes my_votes.json"       adds votes from the blind page (results/samples/vote.html)
$ make cats-eval ARGS=--smoke                       two toy adapters, seconds
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from shared import models, runlog
from shared.errors import UserError

from . import adapter, judges, measures, ratings, recipe, snippets, tuning, verdicts
from .measures import Written
from .recipe import CONTROL_SEEDS, Recipe
from .snippets import Snippet
from .train_qlora_phi3_cats import RUNS


@dataclass
class Args(runlog.Args):
    """Which adapters, and how much they write."""

    model: str = "auto"
    """The base of the adapters: auto, pocket, smollm, phi3, a hub id or a folder."""
    adapters: Path = RUNS
    """The folder that make cats-train fills; those of the published recipe and of these data are taken."""
    data: Path = snippets.FILE
    """YAML list of theme, form, prompt, completion."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Adapters, draws of the few-shot examples, and draws of the texts."""
    prompts: int = 48
    """Held-out prompts that every system answers with every seed."""
    new_tokens: int = measures.NEW_TOKENS
    """Longest answer, in tokens."""
    votes: tuple[Path, ...] = ()
    """Votes from the blind page, beside those in data/votes."""


@dataclass
class System:
    """What one of the compared gave, for each seed: losses per row of three sets of texts, and its own texts."""

    heldout: list[np.ndarray]
    shuffled: list[np.ndarray]
    unrelated: list[np.ndarray]
    written: list[list[Written]]

    def texts(self) -> list[str]:
        return [one.text for texts in self.written for one in texts]


@dataclass(frozen=True)
class Material:
    """What every system is measured on."""

    train: list[Snippet]
    test: list[Snippet]
    asked: list[Snippet]  # held-out prompts to answer
    unrelated: list[str]  # texts without a cat and without dread
    rows: list[Snippet]  # all of them


def material(args: Args) -> Material:
    rows = snippets.read(args.data)
    test = snippets.split(rows, "test")
    if not 2 <= args.prompts <= len(test):
        raise UserError(f"--prompts must be at least 2, and there are only {len(test)} held-out prompts")
    places = np.linspace(0, len(test) - 1, args.prompts).astype(int)  # evenly over themes and forms
    plain = [rated.text for rated in judges.read() if not rated.cat and not rated.angst]
    if args.smoke:
        test = test[:4]
    return Material(snippets.split(rows, "train"), test, [test[place % len(test)] for place in places], plain, rows)


def measured(args: Args, load: Callable[[int], models.LoadedModel], given: Material, few: bool) -> System:
    """Losses and texts of a system for each seed; `load` gives its model for a seed, `few` puts examples before each prompt."""
    found = System([], [], [], [])
    for seed in args.seeds:
        loaded = load(seed)

        def shots(row: Snippet, seed: int = seed) -> list[Snippet]:
            return measures.examples(given.train, seed, row.prompt) if few else []

        def losses(rows: Sequence[Snippet], loaded: models.LoadedModel = loaded) -> np.ndarray:
            parts = [snippets.encode(loaded.tokenizer, loaded.stop_ids, row, examples=shots(row)) for row in rows]
            return measures.losses(loaded, parts)

        found.heldout.append(losses(given.test))
        found.shuffled.append(losses([snippets.shuffled(row, seed) for row in given.test]))
        if not few:
            plain = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in given.unrelated]
            found.unrelated.append(measures.losses(loaded, [snippets.Encoded(ids, 1) for ids in plain]))
        chats = [snippets.chat(row, shots(row)) for row in given.asked]
        found.written.append(measures.write(loaded, chats, args.new_tokens, seed))
    return found


def tuned(args: Args, run: runlog.Run, seed: int, rows: Sequence[Snippet]) -> models.LoadedModel:
    """The base with the adapter that make cats-train tuned on these rows."""
    loaded = recipe.base(args.model, run.device, "qlora")
    return adapter.load(loaded, tuning.home(args.adapters, loaded, recipe_of(args, seed), rows) / "adapter")


def systems(args: Args, run: runlog.Run, given: Material) -> dict[str, System]:
    """The three that are compared, by name."""

    def base(seed: int) -> models.LoadedModel:
        return recipe.base(args.model, run.device, "qlora")

    def adapted(seed: int) -> models.LoadedModel:
        return tuned(args, run, seed, given.rows)

    for seed, rows in ((args.seeds[-1], given.rows), (args.seeds[:CONTROL_SEEDS][-1], snippets.mixed(given.rows))):
        tuned(args, run, seed, rows)  # the last of each that is made: if one is missing, that is said now
    makers = {"base": (base, False), "fewshot": (base, True), "tuned": (adapted, False)}
    return {name: measured(args, load, given, few) for name, (load, few) in run.track(makers.items(), "systems")}


def control(args: Args, run: runlog.Run, given: Material) -> list[np.ndarray]:
    """Losses on the held-out rows of the adapters that were tuned on words in random order."""
    found = []
    for seed in run.track(args.seeds[:CONTROL_SEEDS], "control"):
        loaded = tuned(args, run, seed, snippets.mixed(given.rows))
        found.append(measures.losses(loaded, [snippets.encode(loaded.tokenizer, loaded.stop_ids, row) for row in given.test]))
    return found


def sheet_for_readers(found: dict[str, System], given: Material, folder: Path) -> None:
    """A sheet of texts to rate without knowing who wrote them (ratings.py), once."""
    pool = {
        name: [(row.prompt, one.text) for row, one in zip(given.asked, system.written[0], strict=True)]
        for name, system in found.items()
    }
    if not folder.is_dir():
        ratings.write_sheet(folder, pool | {"written": [(row.prompt, row.completion) for row in given.asked]})


def recipe_of(args: Args, seed: int) -> Recipe:
    return Recipe(epochs=1, seed=seed) if args.smoke else Recipe(seed=seed)


def main(args: Args) -> dict:
    if len(args.seeds) < 2 or args.new_tokens < 8:
        raise UserError("--seeds needs at least two seeds, --new-tokens at least 8")
    if args.smoke:
        args.seeds, args.prompts, args.new_tokens = args.seeds[:2], 2, 8
    given = material(args)
    setup = {
        "compared": f"the 4-bit base; the base with {measures.SHOTS} training examples in its prompt; the tuned adapters",
        "held out": f"{len(given.test)} snippets whose theme or form never trains; the same with their words in random order",
        "control": "the same recipe on training rows with their words in random order",
        "texts": f"{args.prompts} held-out prompts x {len(args.seeds)} seeds, temperature {measures.TEMPERATURE}, "
        f"top-p {measures.TOP_P}, no {measures.NO_REPEAT} tokens twice, at most {args.new_tokens} tokens, nothing selected",
    }
    title, objective = "Base, few-shot, tuned", "Did it learn the voice, and what did it cost?"
    with runlog.Run(args, __file__, "evaluation", title=title, objective=objective, setup=setup, seeds=args.seeds) as run:
        if args.smoke:
            args.adapters = run.folder.parent / "adapters"
            given = replace(given, rows=snippets.toy(given.rows))
            for seed, rows in product(args.seeds, (given.rows, snippets.mixed(given.rows))):
                tuning.tune(args.model, run.device, recipe_of(args, seed), rows, args.adapters)
        found = systems(args, run, given)
        if not args.smoke:
            sheet_for_readers(found, given, args.adapters / "ratings")
        reader = recipe.base(args.model, run.device, "lora")
        verdicts.losses(run, found, control(args, run, given), given, len(reader.tokenizer))
        verdicts.texts(run, found, given)
        verdicts.word_order(run, found, given, reader)
        verdicts.readers(run, found, given, args.votes)
        verdicts.claims(run)
        verdicts.conclude(run)
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
