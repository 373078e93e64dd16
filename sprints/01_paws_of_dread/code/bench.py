"""Speed against a plain trl script with the original's settings, what each lever gave, and the memory of fine-tuning.

$ make cats-bench                          minutes; use an idle machine
$ make cats-bench ARGS="--only memory"     the table of memory alone, seconds
$ make cats-bench ARGS=--smoke             toy size
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared import models, runlog
from shared.errors import UserError

from . import measures, memory, recipe, snippets, tune_torch, tuning
from .recipe import Recipe
from .snippets import Snippet

LEVERS: dict[str, dict[str, Any]] = {  # ours, with one setting of the original put back
    "batch_2": {"per_device_train_batch_size": 2},
    "checkpointing": {"activation_checkpointing": True},
    "paged_adamw": {"optim": "paged_adamw_32bit"},
    "float32": {"bf16": False},
}
STILL = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "logging_strategy": "no",
    "disable_tqdm": True,
}


@dataclass
class Args(runlog.Args):
    """How often, and how long."""

    model: str = "pocket"
    """The base: pocket, smollm, phi3, a hub id or a folder."""
    rounds: int = 5
    """Interleaved rounds, each with a seed of its own."""
    epochs: int = 3
    """Epochs of the comparison, as the original trained."""
    only: tuple[str, ...] = ()
    """Which experiments: speed, memory (both when not given)."""


def plain(loaded: models.LoadedModel, rows: Sequence[Snippet], epochs: int, seed: int) -> Any:
    """A trainer as the original sets it up: whole texts in batches of two, gradient checkpointing, paged AdamW, constant rate."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    texts = [
        loaded.tokenizer.apply_chat_template(
            [*snippets.chat(row), {"role": "assistant", "content": row.completion}], tokenize=False
        )
        for row in rows
    ]
    on_cpu = loaded.model.device.type == "cpu"
    arguments = SFTConfig(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        optim="paged_adamw_32bit",
        max_grad_norm=0.3,
        activation_checkpointing=True,
        train_sampling_strategy="group_by_length",
        max_length=512,
        bf16=True,
        use_cpu=on_cpu,
        dataset_text_field="text",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        dataloader_pin_memory=not on_cpu,
    )
    lora = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=tune_torch.targets(loaded.model, "all"),  # the original's list, spelled for this model
        task_type="CAUSAL_LM",
    )
    return SFTTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=loaded.tokenizer,
        peft_config=lora,
    )


def timed(made: Any, tokens: int) -> float:
    """Tokens per second of a trainer's loop, padding not counted."""
    start = time.perf_counter()
    made.train()
    return tokens / (time.perf_counter() - start)


def speed(args: Args) -> dict:
    """Interleaved rounds of the plain script, of ours, and of ours with one of the original's settings put back."""
    setup = {
        "plain": "trl's SFTTrainer with the original's settings: batch 2, gradient checkpointing, paged AdamW, whole texts",
        "ours": "the published recipe: batch 8, no checkpointing, AdamW, loss on the completion",
        "protocol": f"{args.epochs} epochs of the same rows, so equal tokens; interleaved; loading and evaluation not counted",
    }
    title, objective = "Speed of tuning", "What does the recipe gain over the original's settings, at which loss?"
    with runlog.Run(args, __file__, "speed", title=title, objective=objective, setup=setup, seeds=range(args.rounds)) as run:
        if run.device.kind == "mlx":
            raise UserError("the speed is compared with trl, which has no MLX: take --device cpu or cuda")
        rows = snippets.read()
        train, validation = snippets.split(rows, "train"), snippets.split(rows, "validation")
        if args.smoke:
            train, validation = train[:8], validation[:2]
        rates: dict[str, list[float]] = {name: [] for name in ("plain", "ours", *LEVERS)}
        ends: dict[str, list[float]] = {"plain": [], "ours": []}
        for seed in run.track(range(args.rounds), "rounds"):
            for name, make in makers(args, run, train, validation, seed).items():
                loaded = recipe.base(args.model, run.device, "qlora")
                encoded = [snippets.encode(loaded.tokenizer, loaded.stop_ids, row) for row in train]
                epochs = args.epochs if name in ends else 1
                made = make(loaded)
                rates[name].append(timed(made, epochs * sum(len(one.ids) for one in encoded)))
                if name in ends:
                    loaded.model = made.model
                    held = [snippets.encode(loaded.tokenizer, loaded.stop_ids, row) for row in validation]
                    ends[name].append(measures.per_token(measures.losses(loaded, held)))
        record(run, {name: np.array(values) for name, values in rates.items()}, ends)
    return run.report


def makers(args: Args, run: runlog.Run, train: Sequence[Snippet], validation: Sequence[Snippet], seed: int) -> dict[str, Callable]:
    """How each of the compared makes its trainer for a loaded base."""
    folder = Path(tempfile.gettempdir())

    def ours(changes: dict[str, Any], epochs: int) -> Callable:
        setting = replace(Recipe(seed=seed), epochs=epochs)

        def make(loaded: models.LoadedModel) -> Any:
            parts = tuning.encode(loaded, [*train, *validation], setting)
            return tune_torch.trainer(loaded, setting, *parts, folder, **STILL | changes)

        return make

    found: dict[str, Callable] = {
        "plain": lambda loaded: plain(loaded, train, args.epochs, seed),
        "ours": ours({}, args.epochs),
    }
    return found | {name: ours(changes, 1) for name, changes in LEVERS.items()}


def record(run: runlog.Run, rates: dict[str, np.ndarray], ends: dict[str, list[float]]) -> None:
    up: dict[str, Any] = {"higher_is_better": True}
    ratio = rates["ours"] / rates["plain"]
    meaning = "tuning tokens/s, ours / the plain trl script with the original's settings; same model, rows and tokens, interleaved"
    run.metric("throughput_ratio_vs_plain_trl", ratio, unit="x", **up, meaning=meaning)
    for name, label in (("ours", "our recipe"), ("plain", "the plain script")):
        run.metric(f"tuning_rate_{name}", rates[name], unit="tokens/s", **up, meaning=f"of {label}")
        end = {"unit": "nats", "higher_is_better": False, "meaning": f"validation loss per token after the same tokens, {label}"}
        run.metric(f"loss_at_equal_tokens_{name}", ends[name], **end)
    run.compare("validation loss", ends["ours"], ends["plain"], names=("ours", "plain trl"), unit="nats")
    for name in LEVERS:
        meaning = f"ours / ours with {name.replace('_', ' ')} put back: what leaving it out gave"
        run.metric(f"lever_{name}", rates["ours"] / rates[name], unit="x", **up, meaning=meaning)
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(7, 3.2))
        bars = {"ours": "ours"} | {name: f"ours, with {name.replace('_', ' ')}" for name in LEVERS} | {"plain": "plain trl script"}
        colors = ["C0", *["C1"] * len(LEVERS), "0.6"]
        axes.barh(list(bars.values()), [rates[name].mean() for name in bars], color=colors)
        axes.set(xlabel="tokens per second", title=f"{ratio.mean():.1f} times as fast as the plain script")
        axes.invert_yaxis()
        shows = "Tuning tokens per second, mean of the rounds; in orange with one of the original's settings put back."
        run.figure(
            figure, "speed", shows=shows, matters="Most of the gain is the batch and the absent checkpointing, not the method."
        )
    run.conclude(f"Tuning runs {ratio.mean():.1f} times as fast as with the original's settings.")


def bytes_held(args: Args) -> dict:
    """The memory of full, LoRA and QLoRA tuning of Phi-3-mini, computed, and the computation against measured bytes."""
    setup = {
        "model": "Phi-3-mini's published shape without weights; the Pocket Brain with them",
        "total": "weights, gradients, AdamW's averages and saved activations together, which gradient accumulation needs at once",
    }
    title, objective = "Memory of tuning", "What do adapters, four bits and checkpointing save?"
    with runlog.Run(args, __file__, "memory", title=title, objective=objective, setup=setup) as run:
        memory.record(run, Recipe(batch=2, max_length=64) if args.smoke else Recipe())
    return run.report


def main(args: Args) -> dict:
    if unknown := set(args.only) - {"speed", "memory"}:
        raise UserError(f"--only: there is no {', '.join(sorted(unknown))}; there is: speed, memory")
    if args.rounds < 2 or args.epochs < 1:
        raise UserError("--rounds must be at least 2, --epochs at least 1")
    if args.smoke:
        args.rounds, args.epochs = 2, 1
    experiments = {"speed": speed, "memory": bytes_held}
    return {name: experiments[name](args) for name in args.only or experiments}


if __name__ == "__main__":
    runlog.launch(main, Args)
