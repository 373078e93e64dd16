"""Speed against a plain trl script with the original's settings, what each lever gave, and the memory of fine-tuning.

$ make cats-bench                          some seven minutes on two cores; use an idle machine
$ make cats-bench ARGS="--only memory"     the table of memory alone, seconds
$ make cats-bench ARGS=--smoke             toy size
"""

import gc
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared import models, runlog
from shared.errors import UserError

from . import measures, memory, recipe, snippets, tune_torch, tuning
from .recipe import Recipe
from .snippets import Snippet

PUT_BACK: dict[str, dict[str, Any]] = {  # ours, with one setting of the original put back
    "batch_2": {"per_device_train_batch_size": 2},
    "checkpointing": {"activation_checkpointing": True},
    "paged_adamw": {"optim": "paged_adamw_32bit"},
}
APART: dict[str, dict[str, Any]] = {  # ours, with a change that neither the original nor we make
    "no_autocast": {"bf16": False},  # the 4-bit layers compute in bf16 all the same
    "packing": {"packing": True, "packing_strategy": "bfd", "max_length": Recipe.max_length},  # rows do not see each other in it
}
NAMES = ("plain", "ours", *PUT_BACK, *APART)
SAYS = {"plain": "plain trl script", "ours": "ours", "batch_2": "batch 2", "checkpointing": "gradient checkpointing"}
SAYS |= {"paged_adamw": "paged AdamW", "no_autocast": "bf16 autocast off", "packing": "packing"}
SHARE = 6  # one training row in so many, drawn once: speed per token does not need them all


@dataclass
class Args(runlog.Args):
    """How often, and how long."""

    model: str = "pocket"
    """The base: pocket, smollm, phi3, a hub id or a folder."""
    rounds: int = 5
    """Interleaved rounds, each with a seed of its own; one more, of one epoch, warms up and is not recorded."""
    epochs: int = 3
    """Epochs of every arm, as many as the original trained."""
    only: tuple[str, ...] = ()
    """Which experiments: speed, memory (both when not given)."""


def plain(loaded: models.LoadedModel, rows: Sequence[Snippet], epochs: int, seed: int) -> Any:
    """A trainer with the original's settings. It gets our token ids, so that both train on the same; logging and saving are off.

    The original's list of names is all of a Llama's linear layers and two of Phi-3's four.
    """
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    encoded, _ = snippets.encode_all(loaded.tokenizer, loaded.stop_ids, rows, 512)
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
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=not on_cpu,
    )
    names = tune_torch.targets(loaded.model, "original")
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=names, task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    made = SFTTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=tune_torch.rows(encoded, completion_only=False),
        processing_class=loaded.tokenizer,
        peft_config=lora,
    )
    made.remove_callback(PrinterCallback)
    return made


def make(
    name: str, loaded: models.LoadedModel, train: Sequence[Snippet], validation: Sequence[Snippet], epochs: int, seed: int
) -> Any:
    """The trainer of one arm."""
    if name == "plain":
        return plain(loaded, train, epochs, seed)
    setting = Recipe(epochs=epochs, seed=seed)
    parts = tuning.encode(loaded, [*train, *validation], setting)
    return tune_torch.trainer(
        loaded, setting, *parts, Path(tempfile.gettempdir()), **tune_torch.STILL | (PUT_BACK | APART).get(name, {})
    )


def tokens(made: Any) -> int:
    """Tokens of an epoch, padding not counted."""
    return sum(map(len, made.train_dataset["input_ids"]))


def seconds(made: Any) -> float:
    """Train, and time the loop from its first step to its last."""
    from transformers import TrainerCallback

    marks = []

    class Clock(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if not args.use_cpu:
                import torch

                torch.cuda.synchronize()
            marks.append(time.perf_counter())

        on_train_end = on_train_begin

    made.add_callback(Clock())
    made.train()
    return marks[1] - marks[0]


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Every arm, beginning with another one each round."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def speed(args: Args) -> dict:
    """Interleaved rounds of the plain script, ours, ours with one of the original's settings put back, and changes apart."""
    setup = {
        "plain": "trl's SFTTrainer with the original's settings: batch 2, gradient checkpointing, paged AdamW, grouped by length, "
        "constant rate, loss on the whole text, the original's layer names",
        "ours": "the published recipe: batch 8, no checkpointing, AdamW, cosine rate, loss on the completion, every linear layer",
        "levers": "ours with one of the original's settings put back",
        "apart": "ours without bf16 autocast; ours with rows packed by trl (bfd), which makes fewer and larger steps",
        "protocol": f"{args.epochs} epochs of one training row in {SHARE}, drawn once, the same for every arm, so equal tokens; a "
        "warm-up round is not recorded; the order rotates from round to round; loading and evaluation not counted",
    }
    title, objective = "Speed of tuning", "What does the recipe gain over the original's settings, at which loss?"
    with runlog.Run(args, __file__, "speed", title=title, objective=objective, setup=setup, seeds=range(args.rounds)) as run:
        if run.device.kind == "mlx":
            raise UserError("the speed is compared with trl, which has no MLX: take --device cpu or cuda")
        rows = snippets.read()
        train, validation = snippets.split(rows, "train"), snippets.split(rows, "validation")
        train = random.Random(0).sample(train, len(train) // SHARE)
        if args.smoke:
            train, validation = train[:4], validation[:2]
        names = ("plain", "ours", "batch_2", "packing") if args.smoke else NAMES
        rates: dict[str, list[float]] = {name: [] for name in names}
        ends: dict[str, list[float]] = {name: [] for name in names}
        counts: dict[str, int] = {}
        for turn in run.track(range(0 if args.smoke else -1, args.rounds), "rounds"):
            for name in rotated(names, turn):
                gc.collect()  # trainers are held by cycles
                loaded = recipe.base(args.model, run.device, "qlora")
                made = make(name, loaded, train, validation, args.epochs if turn >= 0 else 1, max(turn, 0))
                counts[name] = tokens(made)
                if len(set(counts.values())) > 1:
                    raise UserError(f"rows of more than {Recipe.max_length} tokens: the arms would not train on the same ones")
                took = seconds(made)
                if turn >= 0:
                    rates[name].append(args.epochs * counts[name] / took)
                    loaded.model = made.model
                    held = [snippets.encode(loaded.tokenizer, loaded.stop_ids, row) for row in validation]
                    ends[name].append(measures.per_token(measures.losses(loaded, held)))
        record(run, {name: np.array(values) for name, values in rates.items()}, ends)
    return run.report


def record(run: runlog.Run, rates: dict[str, np.ndarray], ends: dict[str, list[float]]) -> None:
    up: dict[str, Any] = {"higher_is_better": True}
    ratio = rates["ours"] / rates["plain"]
    meaning = "tuning tokens/s, ours / the plain trl script with the original's settings; same model, rows and tokens, interleaved"
    run.metric("throughput_ratio_vs_plain_trl", ratio, unit="x", **up, meaning=meaning)
    labels = SAYS | {name: f"ours, {SAYS[name]} put back" for name in PUT_BACK} | {name: f"ours, {SAYS[name]}" for name in APART}
    for name in rates:
        run.metric(f"tuning_rate_{name}", rates[name], unit="tokens/s", **up, meaning=labels[name])
        meaning = f"validation loss per token after the same tokens: {labels[name]}"
        run.metric(f"loss_at_equal_tokens_{name}", ends[name], unit="nats", higher_is_better=False, meaning=meaning)
    gains = {name: f"{'lever' if name in PUT_BACK else 'change'}_{name}" for name in rates if name in (*PUT_BACK, *APART)}
    levers, changes = [name for name in gains if name in PUT_BACK], [name for name in gains if name in APART]
    for name, key in gains.items():
        back = name in PUT_BACK
        meaning = f"ours / {labels[name]}: what leaving it out gave" if back else f"{labels[name]} / ours: what it would give"
        run.metric(key, rates["ours"] / rates[name] if back else rates[name] / rates["ours"], unit="x", **up, meaning=meaning)
    run.compare("validation loss", ends["ours"], ends["plain"], names=("ours", "plain trl"), unit="nats")
    run.compare("validation loss", ends["packing"], ends["ours"], names=("packing", "ours"), unit="nats")

    def told(name: str) -> str:
        metric = run.report["metrics"][gains[name]]
        low, high = metric["ci95"]
        return f"{SAYS[name]} {metric['mean']:.2f} x{' (its interval holds 1)' if low <= 1 <= high else ''}"

    def order(names: Sequence[str]) -> str:
        return ", ".join(told(name) for name in sorted(names, key=lambda name: -run.report["metrics"][gains[name]]["mean"]))

    alone = np.prod([run.report["metrics"][gains[name]]["mean"] for name in levers])
    run.observe(f"What leaving out each of the original's settings gave: {order(levers)}. Apart: {order(changes)}.")
    rest = "the rest is settings that were not put back alone"
    run.observe(f"Multiplied, the levers make {alone:.2f} x of the measured {ratio.mean():.2f} x; {rest}.")
    unsteady = max(rates, key=lambda name: rates[name].std(ddof=1) / rates[name].mean())
    spread = rates[unsteady].std(ddof=1) / rates[unsteady].mean()
    run.observe(f"The least steady rate ({labels[unsteady]}) has a standard deviation of {spread:.1%} over the rounds.")
    if run.device.kind == "cpu":
        run.observe("On a CPU bitsandbytes does not page: paged AdamW is its AdamW in 32 bit.")
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(7, 3.6))
        bars = ["ours", *levers, *changes, "plain"]
        colors = ["C0", *["C1"] * len(levers), *["C2"] * len(changes), "0.6"]
        spread = [np.ptp(run.report["metrics"][f"tuning_rate_{name}"]["ci95"]) / 2 for name in bars]
        axes.barh([labels[name] for name in bars], [rates[name].mean() for name in bars], xerr=spread, color=colors, ecolor="0.3")
        axes.set(xlabel="tokens per second", title=f"{ratio.mean():.2f} times the rate of the plain script")
        axes.invert_yaxis()
        shows = "Tuning tokens per second and 95 % interval; orange: one of the original's settings put back; green: other changes."
        run.figure(figure, "speed", shows=shows, matters=f"By what leaving it out gave: {order(levers)}.")
    low, high = run.report["comparisons"][0]["ci95"]
    verdict = "a lower" if high < 0 else "a higher" if low > 0 else "no clearly different"
    pair = f"{np.mean(ends['ours']):.3f} against {np.mean(ends['plain']):.3f} nats per token"
    run.conclude(
        f"Tuning runs at {ratio.mean():.2f} times the rate of the original's settings, to {verdict} validation loss ({pair})."
    )


def bytes_held(args: Args) -> dict:
    """The memory of full, LoRA and QLoRA tuning of Phi-3-mini, computed, and the computation against measured bytes."""
    setup = {
        "model": "Phi-3-mini's published shape without weights; the Pocket Brain with them",
        "total": "weights, gradients, AdamW's averages and saved activations together, which gradient accumulation needs at once",
    }
    title, objective = "Memory of tuning", "What do adapters, four bits and checkpointing save?"
    with runlog.Run(args, __file__, "memory", title=title, objective=objective, setup=setup) as run:
        chosen = Recipe(batch=2, max_length=64) if args.smoke else Recipe()
        full, lora, qlora = entries = memory.record(run, chosen)
        size, gib = f"{chosen.batch} rows of {chosen.max_length} tokens", memory.GIB
        states = (full.gradients + full.optimizer - qlora.gradients - qlora.optimizer) / gib
        matters = f"4 bits save {(lora.weights - qlora.weights) / gib:.1f} GiB of weights, adapters {states:.1f} of gradients and "
        matters += f"optimiser, checkpointing {(qlora.activations - qlora.recomputed) / gib:.1f} of QLoRA's activations."
        with runlog.style() as plt:
            shows = "What fine-tuning Phi-3-mini holds, computed from the shapes of its layers."
            run.figure(memory.figure(plt, entries, f"Phi-3-mini, {size}, computed"), "memory", shows=shows, matters=matters)
        errors = {method: run.report["metrics"][f"memory_pocket_{method}_error"]["mean"] for method in memory.METHODS}
        worst = max(errors, key=errors.__getitem__)
        run.observe(f"On the pocket model the computed total is off by at most {100 * errors[worst]:.1g} % ({worst}).")
        if run.device.kind != "cuda":
            run.observe("Peaks of Phi-3-mini on a GPU: not run here.")
        less = qlora.total() < lora.total() < full.total()  # where no GPU measures it this is arithmetic, however well checked
        needs = (
            f"{full.total() / gib:.1f} GiB when every weight is tuned, {qlora.total(True) / gib:.1f} by QLoRA with checkpointing"
        )
        run.claim(
            "QLoRA reduces the memory of fine-tuning",
            source="leonvanbokhorst, sprints/01_paws_of_dread, README and docs",
            protocol="not measured",
            ours=f"Phi-3-mini, {size}, computed: full {full.total() / gib:.1f} GiB, LoRA {lora.total() / gib:.1f}, "
            f"QLoRA {qlora.total() / gib:.1f}",
            honest=f"most of it is LoRA's doing; 4 bits save {(lora.weights - qlora.weights) / gib:.1f} GiB beside it",
            verdict="not reproduced" if not less else "reproduced" if run.device.kind == "cuda" else "partly reproduced",
        )
        run.conclude(f"By computation Phi-3-mini with {size} needs {needs}.")
    return run.report


def main(args: Args) -> dict:
    runlog.check_only(args.only, ("speed", "memory"))
    if args.rounds < 2 or args.epochs < 1:
        raise UserError("--rounds must be at least 2, --epochs at least 1")
    if args.smoke:
        args.rounds, args.epochs = 2, 1
    experiments = {"speed": speed, "memory": bytes_held}
    return {name: experiments[name](args) for name in args.only or experiments}


if __name__ == "__main__":
    runlog.launch(main, Args)
