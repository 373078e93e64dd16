"""Tune a small model on the authored scenes: early stopping, checkpoints, MLflow while it runs, and a version in the registry.

make cyoa-train                                             the published run, the whole of the Pocket Brain
make cyoa-train ARGS="--only lora"                          an adapter instead, merged into its base at the end
make cyoa-train ARGS="--only lora --base smollm"            a model of the hub, on CUDA or an Apple GPU
make cyoa-train ARGS=--smoke                                toy size, seconds

A run that was killed goes on with the same command, and ends with the same weights.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from shared import models, runlog
from shared.report import replaced, write_atomically
from shared.sprints import ROOT

from . import encoding, registry, scenarios, storytext, tuning, versions
from .diary import RUN_FILE, diary

PREFIX: dict[tuning.Method, str] = {"full": "tuned", "lora": "lora"}  # of the metrics

TORCH = ("cpu", "cuda", "mps")  # where trl computes


@dataclass
class Args(runlog.Args):
    """The base and the recipe."""

    devices: ClassVar[tuple[str, ...]] = TORCH

    base: str = "pocket"
    """pocket, smollm, phi3 (LoRA on 4 bit where the device has it), a hub id or a folder."""
    learning_rate: float = 5e-4
    """Peak of the cosine schedule, when the whole model is tuned."""
    lora_learning_rate: float = 3e-3
    """The same for LoRA."""
    rank: int = 16
    """Rank of the adapter on every linear layer; its scale is 2."""
    epochs: int = 3
    """At most; it stops after two epochs without a better validation loss."""
    batch: int = 32
    """Examples per update."""
    seed: int = 0
    """Of the order of the examples and the start of an adapter."""
    only: tuple[str, ...] = ()
    """Which experiments: training (the whole model; this alone when none is given), lora."""


@dataclass(frozen=True)
class Examples:
    """The examples of each split, and the version of the data."""

    train: list[storytext.Example]
    validation: list[storytext.Example]
    test: list[storytext.Example]
    scenarios: list[scenarios.Scenario]

    @property
    def version(self) -> str:
        return versions.version(self.scenarios)


def examples(tokenizer: Any, smoke: bool) -> Examples:
    """Every scene as an answer, in each split by families; prompts within the budget of this tokenizer. A training scene stands
    there once, by the first way to it: by all of its ways, its answer is known by heart within the first epoch."""
    every = scenarios.load()
    parts = scenarios.split(every)
    if smoke:
        parts = [part[:2] for part in parts]
    made = [storytext.training_examples(part, counter(tokenizer)) for part in parts]
    if smoke:
        made = [part[:: len(part) // 8 or 1] for part in made]
    return Examples(storytext.once(made[0]), *made[1:], scenarios=every)


def counter(tokenizer: Any) -> Callable[[str], int]:
    """How many tokens a text has."""
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def fit(args: Args, method: tuning.Method, experiment: str, base: Path) -> dict:
    """Tune by one method; record, save, register."""
    title = {"full": "Tuning the whole model", "lora": "Tuning an adapter"}[method]
    recipe = tuning.Recipe(
        method=method,
        learning_rate=args.learning_rate if method == "full" else args.lora_learning_rate,
        rank=args.rank,
        epochs=args.epochs,
        batch=args.batch,
        seed=args.seed,
    )
    setup = {
        "Model": f"{args.base}; " + ("every weight" if method == "full" else f"LoRA of rank {args.rank} on every linear layer"),
        "Data": "every scene as the answer to one story before it; the loss counts the answer and its end sign",
        "Optimisation": f"AdamW in bf16 autocast, {args.batch} examples per update, cosine from {recipe.learning_rate:g}; the "
        f"epoch with the lowest validation loss is kept, of at most {args.epochs}",
    }
    objective = "What tuning on authored scenes does to the loss on scenarios of other families."
    with runlog.Run(args, __file__, experiment, title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        loaded = models.load(args.base, run.device, "none" if method == "full" else None)
        data = examples(loaded.tokenizer, args.smoke)
        run.data("scenarios", data.version, rows=len(data.scenarios), source=scenarios.DATA.relative_to(ROOT).as_posix())
        run.observe(f"The base: {loaded}.")
        before = encoding.bits_per_byte(loaded, data.test)
        train, validation = (encoding.encode(loaded, part) for part in (data.train, data.validation))
        home = tuning.home(base, loaded.name, recipe, data.version)
        store = versions.Store() if args.mlflow and not args.smoke else None
        with diary(home, asdict(recipe) | {"base": args.base}, data.scenarios, store) as log:
            course = tuning.tune(loaded, recipe, train, validation, home, log.callbacks)
        tuning.save(loaded, args.base, run.device, home / "model")
        after = encoding.bits_per_byte(
            models.load(str(home / "model"), run.device, "none"), data.test
        )  # of the files, not of the memory
        record(run, PREFIX[method], course, before, after)
        metrics = {"validation_loss": course.best["validation_loss"], "test_bits_per_byte": float(np.mean(list(after.values())))}
        card = {"data_version": data.version, "method": method, "base": args.base, "recipe": asdict(recipe), "metrics": metrics}
        write_card(home / "model", card)
        if store:
            version = registry.Registry(store).register(home / "model", log.run)
            runlog.console.print(f"version {version} of {registry.NAME}; the gates and the alias: make cyoa-eval")
        if method == "full" and run.folder.is_relative_to(run.sprint / "results"):
            ship(home / "model", registry.SHIPPED)
    shutil.rmtree(home / "checkpoints", ignore_errors=True)
    (home / RUN_FILE).unlink(missing_ok=True)  # the same command again is another run of MLflow
    return run.report


def write_card(folder: Path, card: dict[str, Any]) -> None:
    write_atomically(folder / registry.CARD, (json.dumps(card, indent=1) + "\n").encode())
    write_atomically(folder / "README.md", registry.describe(card).encode())


def ship(folder: Path, target: Path) -> None:
    """Put a copy of a model folder in the place of the shipped one."""
    with replaced(target) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)


def record(run: runlog.Run, prefix: str, course: tuning.Course, before: dict[str, float], after: dict[str, float]) -> None:
    down = {"unit": "bits/byte", "higher_is_better": False}
    if prefix == "tuned":
        meaning = "answers of the test scenarios under the untuned base, mean over scenarios"
        run.metric("base_test_bits_per_byte", list(before.values()), **down, meaning=meaning)
        meaning = "from the first step to the end, evaluations and checkpoints included"
        run.metric("training_minutes", course.seconds / 60, unit="minutes", higher_is_better=False, meaning=meaning)
        rate = course.tokens * len(course.history) / course.seconds
        run.metric("training_tokens_per_second", rate, unit="tokens/s", higher_is_better=True, meaning="prompts and answers")
        run.claim(
            "Training completes in under 30 minutes",
            source=scenarios.SOURCE,
            protocol="a target, not ticked; no training is in its repository",
            ours=f"{course.seconds / 60:.1f} minutes on {run.report['device']['kind']}",
            honest="the same: every start of a run counts, with its evaluations and checkpoints",
            verdict="reproduced" if course.seconds < 1800 else "not reproduced",
        )
    best, last = course.best, course.history[-1]
    run.metric(
        f"{prefix}_validation_loss",
        best["validation_loss"],
        unit="nats",
        higher_is_better=False,
        meaning="per token of the answers, at the kept epoch, as the trainer reports it",
    )
    run.metric(f"{prefix}_kept_epoch", best["epoch"], unit="epochs", meaning="the epoch with the lowest validation loss")
    run.metric(f"{prefix}_parameters", course.trainable, unit="parameters", meaning="that were trained")
    meaning = "answers of the test scenarios, mean over scenarios; of the saved files"
    run.metric(f"{prefix}_test_bits_per_byte", list(after.values()), **down, meaning=meaning)
    names = ({"tuned": "whole model tuned", "lora": "LoRA"}[prefix], "base")
    run.compare(f"{prefix}_minus_base_bits_per_byte", list(after.values()), list(before.values()), names=names, unit="bits/byte")
    curves(run, course.history, best)
    run.observe(
        f"After epoch {best['epoch']:.0f} the validation loss no longer falls, while that of the training examples goes on from "
        f"{best['train_loss']:.2f} to {last['train_loss']:.2f}."
        if last["epoch"] > best["epoch"]
        else f"The validation loss still falls in the last of {last['epoch']:.0f} epochs."
    )
    run.conclude(
        f"Bits per byte on unseen families fall from {np.mean(list(before.values())):.3f} to {np.mean(list(after.values())):.3f}; "
        f"the validation loss is {best['validation_loss']:.2f} nats per token (perplexity {math.exp(best['validation_loss']):.0f})."
    )


def curves(run: runlog.Run, history: Sequence[dict[str, float]], best: dict[str, float]) -> None:
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.8))
        epochs = [entry["epoch"] for entry in history]
        axes.plot(epochs, [entry["train_loss"] for entry in history], marker=".", label="training examples, mean over the epoch")
        axes.plot(epochs, [entry["validation_loss"] for entry in history], marker=".", label="validation families, after it")
        axes.plot(best["epoch"], best["validation_loss"], "ko", label="kept")
        axes.set(xlabel="epoch", xticks=range(1, round(epochs[-1]) + 1), ylabel="loss, nats per token")
        axes.legend()
        run.figure(
            figure,
            "curves",
            shows="Loss of the training examples and of the validation examples, whose families never train.",
            matters="What falls on the training examples alone is learned by heart; the best epoch on the other families is kept.",
        )


EXPERIMENTS: dict[str, tuning.Method] = {"training": "full", "lora": "lora"}


def main(args: Args) -> dict:
    runlog.check_only(args.only, EXPERIMENTS)
    base = registry.RUNS
    if args.smoke:
        args.epochs, args.batch = 1, 4
        base = args.toys / "cyoa"
        shutil.rmtree(base, ignore_errors=True)
    chosen = args.only or (EXPERIMENTS if args.smoke else ("training",))
    return {name: fit(args, EXPERIMENTS[name], name, base) for name in chosen}


if __name__ == "__main__":
    runlog.launch(main, Args)
