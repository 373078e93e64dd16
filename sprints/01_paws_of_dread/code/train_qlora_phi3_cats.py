"""Tune a 4-bit base on the cat snippets with LoRA: Phi-3-mini on CUDA and Apple silicon, the Pocket Brain on a CPU.

$ make cats-train                                    adapters (five seeds, and their control) to runs/cats
$ make cats-train ARGS="--model phi3 --seeds 0"      one adapter for another base (smollm, a hub id, a folder)
$ make cats-train ARGS="--only ablations"            rank, end sign, fused layers, what the loss counts, QLoRA against LoRA and full
$ make cats-train ARGS="--processes 2"               two processes share each batch
$ make cats-train ARGS=--smoke                       toy size, seconds
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from shared import runlog
from shared.errors import UserError
from shared.sprints import ROOT

from . import ablations, snippets, tuning
from .recipe import CONTROL_SEEDS, Course, Recipe

RUNS = ROOT / "runs" / "cats"


@dataclass
class Args(runlog.Args):
    """The base, the data and the recipe; the same for every backend."""

    model: str = "auto"
    """auto (Phi-3-mini on CUDA and MLX, pocket elsewhere), pocket, smollm, phi3, a hub id or a folder."""
    data: Path = snippets.FILE
    """YAML list of theme, form, prompt, completion."""
    method: Literal["qlora", "lora"] = "qlora"
    """qlora: LoRA on a 4-bit base (NF4; MLX's own on Apple). lora: on the base as stored."""
    rank: int = 16
    """Rank of the adapter; its scale stays at 2."""
    learning_rate: float = 2e-3
    """Peak of the cosine schedule."""
    epochs: int = 4
    """At most; it stops earlier after an epoch whose validation loss has not fallen."""
    batch: int = 8
    """Rows per update."""
    max_length: int = 256
    """Tokens per row; longer ones are cut, with a warning."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One adapter each: start of the adapter, order of the rows."""
    processes: int = 1
    """Processes that share each batch (torchrun)."""
    only: tuple[str, ...] = ()
    """Which experiments: training, ablations (only training when not given)."""


def chosen(args: Args) -> Recipe:
    return Recipe(
        method=args.method,
        rank=args.rank,
        alpha=2 * args.rank,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        batch=args.batch,
        max_length=args.max_length,
    )


def training(args: Args, base: Path) -> dict:
    """One adapter per seed, and for the first of them one on the control rows, for the evaluation."""
    rows = snippets.toy(snippets.read(args.data)) if args.smoke else snippets.read(args.data)
    setting = chosen(args)
    setup = {
        "model": "the base in 4 bit (NF4 with double quantisation; MLX's own on Apple), a LoRA adapter on every linear layer",
        "data": f"{len(snippets.split(rows, 'train'))} snippets; the loss counts the completion and its end sign only",
        "optimisation": f"AdamW, {setting.batch} rows per update, cosine from {setting.learning_rate:g}; "
        f"the epoch with the lowest validation loss is kept, of at most {setting.epochs}",
    }
    title, objective = "Tuning", "What the validation loss does, on forms and themes that do not train."
    with runlog.Run(args, __file__, "training", title=title, objective=objective, setup=setup, seeds=args.seeds) as run:
        run.data("cats", snippets.digest(rows), rows=len(rows), source="data/cats.yaml, written for this sprint")
        courses = []
        for seed in run.track(args.seeds, "seeds"):
            tuned = tuning.tune(args.model, run.device, replace(setting, seed=seed), rows, base, processes=args.processes)
            courses.append(tuned.course)
            if seed == args.seeds[0]:
                run.observe(f"The base: {tuned.loaded}.")
        for seed in run.track(args.seeds[:CONTROL_SEEDS], "control"):
            setting = replace(setting, seed=seed)
            tuning.tune(args.model, run.device, setting, snippets.mixed(rows), base, processes=args.processes)
        record(run, courses)
    return run.report


def record(run: runlog.Run, courses: list[Course]) -> None:
    down = {"unit": "nats", "higher_is_better": False}
    best = [one.best for one in courses]
    run.metric(
        "validation_loss",
        [entry["validation_loss"] for entry in best],
        **down,
        meaning="at the kept epoch, as the trainer reports it",
    )
    run.metric("kept_epoch", [entry["epoch"] for entry in best], unit="epochs", meaning="the epoch with the lowest validation loss")
    run.metric("trainable_parameters", courses[0].trainable, unit="parameters", meaning="in the adapter")
    rates = [one.tokens / one.seconds for one in courses]
    run.metric("tuning_tokens_per_second", rates, unit="tokens/s", higher_is_better=True, meaning="evaluation and saving included")
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.8))
        for place, one in enumerate(courses):
            epochs = [entry["epoch"] for entry in one.history]
            for side, color in (("train", "C0"), ("validation", "C1")):
                losses = [entry[f"{side}_loss"] for entry in one.history]
                of = {"train": "training rows, mean over the epoch", "validation": "validation rows, after it"}[side]
                axes.plot(epochs, losses, color=color, alpha=0.7, label=of if place == 0 else None)
            axes.plot(one.best["epoch"], one.best["validation_loss"], "ko", label="kept" if place == 0 else None)
        last = max(int(entry["epoch"]) for one in courses for entry in one.history)
        axes.set(xlabel="epoch", xticks=range(1, last + 1), ylabel="loss, nats per token", title=f"{len(courses)} adapters")
        axes.legend()
        run.figure(
            figure,
            "curves",
            shows="Loss of the training rows and of validation rows, whose forms or themes never train.",
            matters="What falls on training rows alone is learned by heart; the epoch with the lowest validation loss is kept.",
        )
    run.conclude(f"The validation loss ends at {np.mean([entry['validation_loss'] for entry in best]):.2f} nats per token.")


EXPERIMENTS = {
    "training": training,
    "ablations": lambda args, base: ablations.ablations(args, chosen(args), base / "ablations"),
}


def main(args: Args) -> dict:
    runlog.check_only(args.only, EXPERIMENTS)
    if not args.seeds or args.processes < 1:
        raise UserError("--seeds needs at least one seed, --processes at least 1")
    chosen = args.only or (EXPERIMENTS if args.smoke else ("training",))
    if "ablations" in chosen and len(args.seeds) < 2:
        raise UserError("the ablations compare by seeds: give --seeds at least two, or --only training")
    base = RUNS
    if args.smoke:
        args.seeds, args.epochs = args.seeds[:2], 1
        base = args.toys / "cats"
        shutil.rmtree(base, ignore_errors=True)
    return {name: EXPERIMENTS[name](args, base) for name in chosen}


if __name__ == "__main__":
    runlog.launch(main, Args)
