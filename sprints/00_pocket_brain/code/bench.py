"""Timings: pretraining against transformers.Trainer, side by side, and the speed of generation. Use an idle machine.

$ make pocket-bench               five interleaved rounds, about eight minutes
$ make pocket-bench ARGS=--smoke  toy size, seconds
"""

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from shared import runlog
from shared.errors import UserError

from .batches import Settings
from .model import SHAPES, configuration
from .text.tokenizer import VOCABULARY
from .train import fastest_dtype, pretrain

WARM_UP = 2  # steps that are not timed


@dataclass
class Args(runlog.Args):
    """How often, and how long."""

    rounds: int = 5
    """Interleaved rounds; each trains both ways and generates."""
    steps: int = 30
    """Steps of 8 192 tokens that our trainer takes per round (the library's takes a third of them)."""
    new_tokens: int = 64
    """Tokens per generated text."""


class Clock(TrainerCallback):
    """Seconds from the beginning of the third step to the end of the last: warm-up does not count."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.start


def library(tokens: np.ndarray, settings: Settings, steps: int, device: str, bf16: bool) -> float:
    """Tokens per second of a transformers.Trainer with its defaults, or in bf16 autocast; same model, same tokens per step."""
    rows = tokens[: len(tokens) // settings.context * settings.context].reshape(-1, settings.context).astype(np.int64)
    dataset: Any = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows]
    model = LlamaForCausalLM(configuration(SHAPES[settings.size], end=0, pad=1))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.step_tokens // settings.context,
            max_steps=WARM_UP + steps,
            use_cpu=device == "cpu",
            bf16=bf16,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[clock]).train()
    return steps * settings.step_tokens / clock.seconds


@torch.no_grad()
def generation(model: Any, batch: int, new_tokens: int) -> float:
    """Tokens per second of greedy generation after prompts of 32 tokens, all running to the end."""
    prompts = torch.randint(0, VOCABULARY, (batch, 32), device=model.device)
    start = time.perf_counter()
    out = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    return (out.shape[1] - 32) * batch / (time.perf_counter() - start)


def rounds(args: Args, run: runlog.Run, size: str, step_tokens: int, folder: Path) -> dict[str, np.ndarray]:
    """Tokens per second of everything, a value per round; ours and its share of the peak from the last third of its steps."""
    device, threads = run.device.kind, torch.get_num_threads()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 400_000).astype(np.uint16)
    for side in ("train", "heldout"):
        tokens.tofile(folder / f"noise.{side}.bin")
    settings = Settings(
        corpus=str(folder),
        mix={"noise": 1.0},
        first_mix={"noise": 1.0},
        size=size,
        dtype=fastest_dtype(device),
        tokens=args.steps * step_tokens,
        step_tokens=step_tokens,
        evaluate_every=args.steps // 3,
        windows=8,  # as many evaluated tokens per trained token as in a real run
        decay_share=0.01,
    )
    torch.manual_seed(0)
    writer: Any = LlamaForCausalLM(configuration(SHAPES[size], end=0, pad=1))
    writer.to(device).eval()
    found: dict[str, list[float]] = {name: [] for name in ("ours", "share", "trainer", "trainer_bf16", "batch_1", "batch_16")}
    for place in run.track(range(args.rounds), "rounds"):
        last = pretrain(folder / str(place), settings, 1 if args.smoke else 0, device)[-1]
        found["ours"].append(last["tokens_per_second"])
        found["share"].append(last["peak_share"])
        found["trainer"].append(library(tokens, settings, args.steps // 3, device, bf16=False))
        found["trainer_bf16"].append(library(tokens, settings, args.steps // 3, device, bf16=True))
        torch.set_num_threads(1)  # a token at a time is too little work to share
        found["batch_1"].append(generation(writer, 1, args.new_tokens))
        found["batch_16"].append(generation(writer, 16, args.new_tokens))
        torch.set_num_threads(threads)
    return {name: np.array(values) for name, values in found.items()}


def main(args: Args) -> dict:
    if args.rounds < 2 or args.steps < 3 or args.steps % 3 or args.new_tokens < 1:
        raise UserError("--rounds must be at least 2, --steps a multiple of 3, --new-tokens at least 1")
    if args.smoke:
        args.rounds, args.steps, args.new_tokens = 2, 3, 4
    size, step_tokens = ("1M", 1024) if args.smoke else ("6M", 8192)
    setup = {
        "model": f"the {size} shape, from scratch",
        "data": "random tokens: speed does not depend on them",
        "ours": "one process of one thread per core, in the faster dtype with fp32 masters, Muon",
        "library": "transformers.Trainer with its defaults: one process with a thread per core, AdamW; fp32, and bf16 autocast",
        "protocol": f"{step_tokens} tokens per step in sequences of 256; rounds interleaved; start-up and first steps not counted",
    }
    title, objective = "Speed of pretraining and generation", "What the training loop gains over the library's, side by side."
    with runlog.Run(args, __file__, "speed", title=title, objective=objective, setup=setup) as run:
        with tempfile.TemporaryDirectory() as folder:
            found = rounds(args, run, size, step_tokens, Path(folder))
        record(run, found)
    return run.report


def record(run: runlog.Run, found: dict[str, np.ndarray]) -> None:
    ratio = found["ours"] / found["trainer"]
    up: dict[str, Any] = {"higher_is_better": True}
    same = "same model and machine, rounds interleaved"
    run.metric(
        "throughput_ratio_vs_trainer",
        ratio,
        unit="x",
        **up,
        meaning=f"tokens/s, ours / transformers.Trainer in fp32; {same}",
    )
    against_bf16 = found["ours"] / found["trainer_bf16"]
    run.metric(
        "throughput_ratio_vs_trainer_bf16",
        against_bf16,
        unit="x",
        **up,
        meaning=f"tokens/s, ours / transformers.Trainer in bf16; {same}",
    )
    rows = {
        "tokens_per_second_ours": ("ours", "pretraining end to end: forward, backward, exchange, update, evaluation"),
        "tokens_per_second_trainer": ("trainer", "pretraining by transformers.Trainer in fp32"),
        "tokens_per_second_trainer_bf16": ("trainer_bf16", "pretraining by transformers.Trainer in bf16 autocast"),
        "generation_tokens_per_second_batch_1": ("batch_1", "greedy generation, one text at a time, one thread, fp32"),
        "generation_tokens_per_second_batch_16": ("batch_16", "greedy generation, sixteen texts at a time, one thread, fp32"),
    }
    for key, (name, meaning) in rows.items():
        run.metric(key, found[name], unit="tokens/s", **up, meaning=meaning)
    meaning = "share of the measured matrix-product rate of these cores that pretraining uses (6 x parameters x tokens/s)"
    run.metric("matmul_peak_share", found["share"], unit="fraction", **up, meaning=meaning)
    for name, label in (("trainer", "transformers.Trainer fp32"), ("trainer_bf16", "transformers.Trainer bf16")):
        run.compare("pretraining", found["ours"], found[name], names=("ours", label), unit="tokens/s")
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(7, 2.8))
        bars = {"ours": "ours", "transformers.Trainer, bf16": "trainer_bf16", "transformers.Trainer, fp32": "trainer"}
        speeds = [found[name].mean() for name in bars.values()]
        axes.barh(list(bars), speeds, color=["C0", "0.6", "0.6"])
        for name, place in zip(bars.values(), range(len(bars)), strict=True):
            axes.plot(found[name], [place] * len(found[name]), "k.", markersize=4)
        title = f"{against_bf16.mean():.1f} x the library in bf16, {ratio.mean():.1f} x its default fp32"
        axes.set(xlabel="tokens per second", title=title)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        hours = ", ".join(f"{100e6 / speed / 3600:.1f} h ({label})" for label, speed in zip(bars, speeds, strict=True))
        shows = "Tokens per second in pretraining: mean of the rounds, and each round (dots)."
        run.figure(
            figure,
            "speed",
            shows=shows,
            matters=f"At these rates, short sequences on an idle machine, a hundred million tokens take {hours}.",
        )
    run.observe(f"{found['share'].mean():.0%} of the measured matrix-product peak is used in pretraining.")
    run.conclude(
        f"Pretraining runs {against_bf16.mean():.1f} times as fast as transformers.Trainer in bf16, {ratio.mean():.1f} times as "
        "fast as in its default fp32."
    )


if __name__ == "__main__":
    runlog.launch(main, Args)
