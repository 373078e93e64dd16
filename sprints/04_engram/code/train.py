"""Teach the Pocket Brain every taught pattern twice, by LoRA and by guarded Engram memory, at equal trainable parameters.

$ make engram-train                                                     both adapters to runs/engram/adapters, in minutes
$ make engram-train ARGS="--backend mlx"                                LoRA with MLX (Apple silicon, Linux), converted for torch
$ make engram-train ARGS="--device cuda --model phi3 --quantization nf4"   on a 4-bit base (QLoRA)
$ make engram-train ARGS=--smoke                                        toy size, seconds
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shared import data, models, runlog
from shared.device import Device, pick
from shared.errors import UserError
from shared.sprints import ROOT

from . import patterns
from .patterns import Pattern, Patterns
from .study import scores
from .teaching import convert, lora, training
from .teaching.training import Encoded, Recipe

NAMES = {"lora": "LoRA", "engram": "Engram"}
WIDTH = 20  # updates that a drawn loss is the mean of
SMOKE_PATTERNS = 2  # of each category


@dataclass
class Args(runlog.Args):
    """The base, the two adapters and how they are trained."""

    model: str = "pocket"
    """pocket, smollm, phi3, a hub id or a folder."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4: a frozen 4-bit base (bitsandbytes; CUDA, and slowly the CPU)."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """What trains LoRA; auto takes mlx on Apple silicon (not for nf4). The memory is always trained with torch."""
    lora_rate: float = 3e-3
    """Peak learning rate of LoRA, as the evaluation chose it."""
    engram_rate: float = 1e-3
    """Of the memory's projections, chosen alike; its table learns at a multiple (EngramConfig.table_rate)."""
    rank: int = 8
    """Of LoRA on every linear layer; the memory gets as many trainable parameters."""
    steps: int = 400
    """Updates of each."""
    batch: int = 16
    """Rows per update."""
    seed: int = 0
    """Start of the adapters, hash, order of the rows."""


def home(args: Args) -> Path:
    """Where the adapters of these settings stand: a training with other ones, or on another base, leaves them alone."""
    base = args.toys if args.smoke else args.out or ROOT / "runs"
    known = repr([args.model, args.quantization, args.backend, recipes(args)])
    name = re.sub(r"\W+", "-", args.model)  # of a hub id or a folder too
    return base / "engram" / "adapters" / f"{name}_{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def recipes(args: Args) -> dict[str, Recipe]:
    same: Any = {"steps": args.steps, "batch": args.batch, "rank": args.rank, "seed": args.seed}
    return {"lora": Recipe("lora", args.lora_rate, **same), "engram": Recipe("engram", args.engram_rate, **same)}


def taught(known: Patterns, most: int | None = None) -> list[Pattern]:
    """The patterns that are taught, or the first `most` of each category."""
    every = [*known.test, *known.dev]
    kinds = sorted({one.category for one in every})
    return every if most is None else [one for kind in kinds for one in [p for p in every if p.category == kind][:most]]


def torch_device(device: Device) -> Device:
    """The device of what only torch does: where MLX is chosen, the CPU."""
    return pick("cpu") if device.kind == "mlx" else device


def teach(
    args: Args, device: Device, recipe: Recipe, rows: Sequence[Encoded], folder: Path, progress: Callable[[range], Iterable[int]]
) -> Any:
    """Train one adapter and write it to `folder`; returns what fit returned, with the adapter still on its model."""
    auto = args.backend == "auto" and args.quantization == "none"  # nf4 is torch's
    on_mlx = recipe.method == "lora" and (args.backend == "mlx" or (auto and device.kind == "mlx"))
    if on_mlx:
        mlx = pick("mlx", ("mlx",))  # says what to install, where the import below could not
        from .teaching import train_mlx

        twin = models.load(args.model, mlx, "none")
        made = train_mlx.fit(twin, recipe, rows, progress)
        train_mlx.save(made.model, folder.with_name(f"{folder.name}_mlx"))
        convert.to_peft(folder.with_name(f"{folder.name}_mlx"), folder)
        return made
    loaded = models.load(args.model, torch_device(device), args.quantization)
    tuned = training.fit(loaded, recipe, rows, progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if recipe.method == "lora":
        lora.save(tuned.adapter, folder)
    else:
        tuned.adapter.save(folder)
    return tuned


def reload(name: str, model: str, device: Device, quantization: models.Quantization, folder: Path) -> tuple[Any, Any]:
    """(model, adapter) of a saved adapter on a base of its own."""
    from .engram.adapter import EngramAdapter

    loaded = models.load(model, device, quantization)
    if name == "lora":
        adapted = lora.load(loaded.model, folder)
        return adapted, adapted
    return loaded.model, EngramAdapter.load(loaded.model, loaded.tokenizer, folder)


def main(args: Args) -> dict:
    if args.smoke:
        args.steps, args.batch = 6, 4
    if args.backend == "mlx" and args.quantization == "nf4":
        raise UserError("MLX trains no nf4 base: take --backend torch, or --quantization none")
    setup = {
        "base": f"{args.model}, frozen, {'4-bit NF4' if args.quantization == 'nf4' else 'in full precision'}",
        "adapters": f"LoRA of rank {args.rank} on every linear layer; guarded n-gram memory before decoder layer 1",
        "data": "every taught pattern under every training lead-in; plain text, no chat template",
        "optimisation": f"{args.steps} updates of {args.batch} rows, the same for both; Adam, linear warm-up and decay; "
        "the loss counts the completion and its end",
    }
    title, objective = "Training", "Both adapters, from the same batches, for the demo and for use."
    with runlog.Run(args, __file__, "training", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        found = patterns.load()
        ids = {one.id for one in taught(found, SMOKE_PATTERNS if args.smoke else None)}
        rows, asked = ([row for row in part if row.pattern in ids] for part in (found.training_rows(), found.rows("S1")))
        files = sorted(patterns.DATA.glob("*.yaml"))
        run.data("patterns", data.digest(files), rows=len(rows), source="data/*.yaml, written for this sprint")
        device, folder = torch_device(run.device), home(args)
        loaded = models.load(args.model, device, args.quantization)
        encoded, scored = ([training.encode(loaded, one.prompt, one.completion) for one in part] for part in (rows, asked))
        losses: dict[str, list[float]] = {}
        for name, recipe in recipes(args).items():
            label = NAMES[name]
            made = teach(args, run.device, recipe, encoded, folder / name, lambda steps, label=label: run.track(steps, label))
            losses[name] = made.losses
            model, _ = reload(name, args.model, device, args.quantization, folder / name)
            size = sum(path.stat().st_size for path in (folder / name).glob("*.safetensors"))
            up, count = {"unit": "fraction", "higher_is_better": True}, {"unit": "parameters", "higher_is_better": None}
            seconds, stored = {"unit": "s", "higher_is_better": False}, {"unit": "bytes", "higher_is_better": False}
            right = scores.exact_match(model, scored)
            run.metric(f"saved_{name}_exact_match", right, **up, meaning=f"trained prompts that {label} answers right")
            run.metric(f"saved_{name}_seconds", made.seconds, **seconds, meaning=f"training of {label}")
            run.metric(f"saved_{name}_parameters", made.trainable_parameters, **count, meaning=f"trainable in {label}")
            run.metric(f"saved_{name}_bytes", size, **stored, meaning=f"file of {label}, what the guard knows included")
        curves(run, losses)
        shares = {name: run.report["metrics"][f"saved_{name}_exact_match"]["mean"] for name in NAMES}
        last = {name: float(np.mean(kept[-WIDTH:])) for name, kept in losses.items()}
        run.observe(f"Loss at the end: LoRA {last['lora']:.3f}, Engram {last['engram']:.3f} nats per completion token.")
        run.conclude(f"Of the trained prompts LoRA answers {shares['lora']:.1%} right, the memory {shares['engram']:.1%}.")
    runlog.console.print(f"adapters: {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}")
    return run.report


def curves(run: runlog.Run, losses: dict[str, list[float]]) -> None:
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.8))
        for name, values in losses.items():
            width = min(WIDTH, len(values))
            axes.plot(range(width, len(values) + 1), np.convolve(values, np.ones(width) / width, "valid"), label=NAMES[name])
        axes.set(xlabel="update", ylabel="loss, nats per token", yscale="log", title=f"Mean of {width} updates, same batches")
        axes.legend()
        run.figure(
            figure,
            "curves",
            shows="The loss of the completions in the batches of both adapters.",
            matters="Both see the same rows in the same order, so their speed of learning can be compared update by update.",
        )


if __name__ == "__main__":
    runlog.launch(main, Args)
