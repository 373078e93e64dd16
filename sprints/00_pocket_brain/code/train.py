"""Pretrain the Pocket Brain: corpus, tokenizer, training on every core, weights. Stop and start it as you like.

$ make pocket-train                                          the shipped model: hours on two cores, resumes after a stop
$ make pocket-train ARGS="--only pretraining --size 1M --tokens 5_000_000"   a small one, in minutes, to runs/custom
$ make pocket-train ARGS="--only scaling"                    loss against tokens and parameters, Muon against AdamW
$ make pocket-train ARGS=--smoke                             toy size, seconds
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer

from shared import data, runlog
from shared.environment import describe_machine
from shared.errors import UserError
from shared.processes import torchrun

from . import scaling
from .batches import Settings
from .export import export
from .pretrain import Pretraining, history, matmul_peak, reached
from .text import corpus

RUNS = corpus.FOLDER.parent


@dataclass
class Args(runlog.Args):
    """How large, how long, and with which optimizer."""

    size: Literal["1M", "3M", "6M"] = "6M"
    """Parameters of the model."""
    tokens: int = 96_000_000
    """Tokens to train on."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: orthogonalised momentum for the matrices, AdamW for embedding and norms. adamw: AdamW for everything."""
    processes: int = 0
    """Processes that share each batch; 0 takes one per physical core, or one per GPU."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    scaling_tokens: int = 6_000_000
    """Longest of the short runs behind the scaling law."""
    only: tuple[str, ...] = ()
    """Which experiments to run: pretraining, scaling (all when not given)."""


def processes_for(device: str) -> int:
    """One per GPU, or one per physical core that this program may use, at most sixteen: then each still has a sequence per step."""
    if device == "cuda":
        return torch.cuda.device_count()
    machine = describe_machine()
    return min(machine["logical_cores"] or 1, machine["physical_cores"] or 16, 16)


def fastest_dtype(device: str) -> str:
    """bfloat16 where its matrix products are faster than those of float32, which on a CPU depends on its instructions."""
    rates = {dtype: matmul_peak(torch.device(device), dtype, 1024) for dtype in ("bfloat16", "float32")}
    return max(rates, key=lambda dtype: rates[dtype])


def pretrain(folder: Path, settings: Settings, processes: int, device: str) -> list[dict]:
    """Run the training processes until the checkpoint is complete, and give the log. None of them outlives this call."""
    settings = settings.write(folder)
    if reached(folder) == settings.steps:
        return history(folder)
    processes = processes or processes_for(device)
    if processes == 1:
        Pretraining(folder, device).run()
        return history(folder)
    environment = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    torchrun(processes, f"{__package__}.pretrain", str(folder), device, environment=environment, doing="pretraining")
    return history(folder)


def curves(entries: list[dict], title: str, settings: Settings):
    """Held-out loss of every source over the tokens seen, with the phases of the run."""
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 4.2))
        tokens = [entry["tokens"] / 1e6 for entry in entries]
        for source in entries[-1]["heldout"]:
            axes.plot(tokens, [entry["heldout"][source] for entry in entries], label=source)
        for share, what in ((settings.first_share, "recall alone until here"), (1 - settings.decay_share, "rate falls from here")):
            axes.axvline(share * settings.tokens / 1e6, color="0.5", linestyle=":", linewidth=1)
            axes.text(share * settings.tokens / 1e6, 11.5, f" {what}", fontsize=8, va="top")
        axes.set(xlabel="million tokens", ylabel="held-out loss, nats per token", title=title, yscale="log", ylim=(1, 12))
        axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axes.minorticks_off()
        axes.legend(ncols=3, loc="upper right", bbox_to_anchor=(1, 0.92))
        return figure


def main(args: Args) -> dict:
    if args.tokens < 100_000 or args.scaling_tokens < 100_000:
        raise UserError("--tokens and --scaling-tokens must be at least 100 000: fewer are a handful of steps")
    if args.processes < 0 or args.seed < 0:
        raise UserError("--processes and --seed must be at least 0")
    runlog.check_only(args.only, EXPERIMENTS)
    base = args.toys / "pocket" if args.smoke else RUNS
    if args.smoke:
        args.processes = 1
        shutil.rmtree(base, ignore_errors=True)
    return {name: EXPERIMENTS[name](args, base) for name in args.only or EXPERIMENTS}


def settings_for(args: Args, base: Path, device: str, **changes) -> Settings:
    """The settings of a run on the corpus in `base`; at smoke size a toy of the same shape."""
    small = {
        "size": "1M",
        "tokens": 6 * 1024,
        "step_tokens": 1024,
        "evaluate_every": 3,
        "context": 64,
        "final_context": 128,
        "windows": 2,
    }
    chosen = {
        "corpus": str(base / "corpus"),
        "mix": corpus.MIX,
        "first_mix": corpus.FIRST_MIX,
        "seed": args.seed,
        "dtype": fastest_dtype(device),
    } | changes
    return Settings(**chosen | small) if args.smoke else Settings(**chosen)


def trained_on(settings: Settings, manifest: dict) -> str:
    """The share of each source in the training, and how often that reads all its text."""
    sizes = {source: sides["train"]["tokens"] for source, sides in manifest["sources"].items()}
    shares = settings.shares.items()
    return ", ".join(f"{name} {share:.0%} ({share * settings.tokens / sizes[name]:.1f} times its text)" for name, share in shares)


def shipped_run(args: Args, base: Path) -> Path:
    """The folder of the run behind the shipped model."""
    return base / f"{args.size}_{args.optimizer}_{args.tokens / 1e6:g}M_{args.seed}"


def pretraining(args: Args, base: Path) -> dict:
    """The shipped model."""
    setup = {
        "model": "Llama with tied embeddings, 4 096 tokens of vocabulary",
        "data": f"six sources (code/text/corpus.py); the first {Settings.first_share:.0%} of the steps see recall alone, the rest "
        + ", ".join(f"{source} {share:.0%}" for source, share in corpus.MIX.items()),
        "loss": f"per token; the tokens of an answer to a task weigh {Settings.answer_weight:g} times",
        "optimisation": "Muon and AdamW, bf16 weights with fp32 masters; warm-up, constant rate, linear decay over the second half",
    }
    title, objective = "Pretraining from nothing", "The base model that the other sprints tune without a network or a GPU."
    with runlog.Run(args, __file__, "pretraining", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        manifest = corpus.build(base / "corpus", smoke=args.smoke)
        brain = AutoTokenizer.from_pretrained(base / "corpus")
        settings = settings_for(args, base, run.device.kind, size=args.size, optimizer=args.optimizer, tokens=args.tokens)
        folder = shipped_run(args, base)
        entries = pretrain(folder, settings, args.processes, run.device.kind)
        last, machine = entries[-1], run.report["machine"]
        facts = {
            "tokens": f"{last['tokens']:,}",
            "hours": f"{last['seconds'] / 3600:.2f}",
            "mix": trained_on(settings, manifest),
            "first": f"{settings.first_share:.0%}",
            "answer_weight": f"{settings.answer_weight:g}",
            "machine": f"{machine['cpu']} ({machine['logical_cores']} cores)",
        }
        checkpoint = folder / "checkpoint.safetensors"
        weights = export(checkpoint, settings.size, brain, run.folder.parent / "model", facts, manifest)
        for source, sides in manifest["sources"].items():
            digest = data.digest(base / "corpus" / f"{source}.train.bin")
            train = sides["train"]
            run.data(source, digest, rows=train["tokens"], source=f"{train['characters']} characters, code/text/corpus.py")
        record(run, entries, settings, weights)
    return run.report


def scaling_law(args: Args, base: Path) -> dict:
    """Three sizes at three budgets, and Muon against AdamW."""
    setup = {
        "runs": "sizes 1M, 3M, 6M; a quarter, a half and the whole of the budget; each with its own schedule down to zero",
        "loss": "held-out nats per token, 64 windows of 256 tokens per source, the sources weighted as in training",
        "apart from the shipped run": "4 096 tokens per step in sequences of 256, where that has 8 192 and at the end 512",
        "optimizers": "the 6M model at a quarter of the budget; AdamW at the best of five learning rates and of two weight "
        "decays, tried on a seed that is not compared",
    }
    seeds = range(args.seed, args.seed + (2 if args.smoke else 3))
    title, objective = "What more compute would buy", "Loss against parameters and tokens, and what the optimizer is worth."
    with runlog.Run(args, __file__, "scaling", title=title, objective=objective, setup=setup, seeds=seeds) as run:
        corpus.build(base / "corpus", smoke=args.smoke)
        budgets = [args.scaling_tokens // 4, args.scaling_tokens // 2, args.scaling_tokens]
        short = settings_for(args, base, run.device.kind, step_tokens=4096, final_context=256, windows=64, evaluate_every=10**9)
        if args.smoke:
            budgets = [2048, 3072, 4096]
        runs = scaling.Runs(
            base / "scaling", short, lambda folder, chosen: pretrain(folder, chosen, args.processes, run.device.kind)
        )
        scaling.law(run, runs, budgets, run.folder.parent)
        scaling.optimizers(run, runs, budgets[0], seeds)
        found = run.report["metrics"]
        muon, adamw = found["loss_muon"]["mean"], found["loss_adamw"]["mean"]
        run.conclude(f"After {budgets[0] / 1e6:g} million tokens Muon stands at {muon:.3f} nats per token, AdamW at {adamw:.3f}.")
    return run.report


EXPERIMENTS = {"pretraining": pretraining, "scaling": scaling_law}


def record(run: runlog.Run, entries: list[dict], settings: Settings, weights: Path) -> None:
    """What the run gave, from its log."""
    last = entries[-1]
    rates = [entry["tokens_per_second"] for entry in entries]
    run.metric("pretraining_tokens", last["tokens"], unit="tokens", meaning="tokens the shipped weights have seen")
    run.metric("pretraining_hours", last["seconds"] / 3600, unit="hours", meaning="wall time of the training loop on this machine")
    run.metric(
        "model_megabytes", weights.stat().st_size / 1e6, unit="MB", higher_is_better=False, meaning="size of the weights file"
    )
    run.metric(
        "pretraining_tokens_per_second",
        statistics.median_high(rates),
        unit="tokens/s",
        higher_is_better=True,
        meaning="median over the run, evaluations included",
    )
    run.figure(
        curves(entries, "Held-out loss while training", settings),
        "curves",
        shows="Held-out loss per source while training; the learning rate falls to zero over the second half.",
        matters="Where a curve falls at the end, more hours would help; where it is flat or rises, the text is known by "
        "heart and only other text would.",
    )
    run.observe(f"{last['tokens'] / 1e6:.1f} million tokens in {last['seconds'] / 3600:.2f} hours.")
    best = {source: min(entries, key=lambda entry: entry["heldout"][source]) for source in last["heldout"]}
    lows = [f"{name} {one['heldout'][name]:.2f} at {one['tokens'] / 1e6:.0f} million tokens" for name, one in best.items()]
    run.observe(f"Lowest held-out loss in nats per token: {', '.join(lows)}.")
    run.conclude(
        f"The model fits into {weights.stat().st_size / 1e6:.1f} MB and was trained in {last['seconds'] / 3600:.1f} hours."
    )


if __name__ == "__main__":
    runlog.launch(main, Args)
