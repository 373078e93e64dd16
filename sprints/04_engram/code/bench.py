"""Decoding and prefill speed with the memory, its latency against the size of the table, and invariants beside a public retrofit.

$ make engram-bench                            some minutes; use an idle machine
$ make engram-bench ARGS="--only speed"        one of speed, latency, invariants
$ make engram-bench ARGS=--smoke               toy size

For the retrofit's column: .venv/bin/pip install --no-deps --target runs/engram/engram_peft
    engram-peft==1.2.7 jaxtyping typeguard wadler-lindig python-dotenv
"""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from shared import models, runlog
from shared.errors import UserError

from . import latency, peers
from .engram.adapter import EngramAdapter
from .engram.memory import EngramConfig, within_budget
from .patterns import load, retention_text
from .study import figures_bench
from .teaching import lora
from .teaching.training import Recipe, encode

PROMPT = 32  # tokens before those that are timed
BATCHES = (1, 8)
ARMS = {
    "base": "the base",
    "again": "the base once more: what is noise",
    "lora": "LoRA of rank 8, attached",
    "merged": "LoRA, merged into the weights",
    "engram": "guarded Engram",
}
TEXTS = {"ordinary": "ordinary text", "taught": "taught rows, one after the other"}
FLOOR = 0.95  # "no regression": at most 5 % slower


@dataclass
class Args(runlog.Args):
    """How often, and how long."""

    devices = ("cpu",)

    rounds: int = 40
    """Interleaved rounds, each on other text; one more warms up and is not recorded."""
    tokens: int = 64
    """Tokens that are decoded per round, arm and text."""
    prefill: int = 128
    """Tokens per text of the timed forward pass."""
    table_rows: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7, 10**8)
    """Sizes of the mapped tables."""
    lookups: int = 400
    """Taught positions whose rows are read, per table and round."""
    only: tuple[str, ...] = ()
    """Which experiments: speed, latency, invariants (all when not given)."""


class Dictated(LogitsProcessor):
    """Makes every arm say the same tokens, and notes when it asked for each."""

    def __init__(self, tokens: Sequence[int]):
        self.tokens, self.marks = tokens, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.marks.append(time.perf_counter())
        said = torch.full_like(scores, -torch.inf)
        said[:, self.tokens[len(self.marks) - 1]] = 0
        return said


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def decode_seconds(model: Any, text: Sequence[int]) -> float:
    """Seconds per token of greedy decoding with a cache by `generate`, from the first new token to the last."""
    clock = Dictated(text[PROMPT:])
    ids = torch.tensor([text[:PROMPT]])
    options: dict = {"do_sample": False, "max_new_tokens": len(clock.tokens), "eos_token_id": None}
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), logits_processor=LogitsProcessorList([clock]), **options)
    return (clock.marks[-1] - clock.marks[0]) / (len(clock.marks) - 1)


def prefill_seconds(model: Any, text: Sequence[int], batch: int) -> float:
    """Seconds per token of one forward pass over `batch` texts."""
    ids = torch.tensor(text).view(batch, -1)
    with torch.no_grad():
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        return (time.perf_counter() - start) / ids.numel()


def streams(loaded: models.LoadedModel) -> dict[str, list[int]]:
    """Token ids of both texts, without end tokens."""
    rows = [encode(loaded, row.prompt, row.completion).ids[:-1] for row in load().training_rows()]
    ids = loaded.tokenizer(retention_text("unrelated"), add_special_tokens=False, verbose=False)["input_ids"]
    return {"ordinary": ids, "taught": [token for row in rows for token in row]}


def chunk(stream: Sequence[int], turn: int, length: int) -> list[int]:
    """Another part of the stream each turn; it begins again at its end."""
    start = turn * length % len(stream)
    return [*stream, *stream][start : start + length]


def arm(name: str) -> Any:
    """A model of its own for each arm. The values of adapters do not change the work: the memory's table is random."""
    loaded = models.load("pocket", "cpu")
    loaded.model.requires_grad_(False)
    if name in ("lora", "merged"):
        adapted = lora.attach(loaded.model, Recipe.rank, 0)
        return adapted.merge_and_unload() if name == "merged" else adapted
    if name == "engram":
        budget = lora.parameter_count(loaded.model, Recipe.rank)
        adapter = EngramAdapter(
            loaded.model, loaded.tokenizer, within_budget(EngramConfig(), loaded.model.config.hidden_size, budget)
        )
        torch.nn.init.normal_(adapter.memory.table, std=0.02)
        adapter.learn([encode(loaded, row.prompt, row.completion).ids for row in load().training_rows()])
        adapter.memory.requires_grad_(False)
    return loaded.model


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Every arm, beginning with another one each round."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def measured(run: runlog.Run, args: Args) -> dict[tuple[str, str, str], np.ndarray]:
    """(arm, text, what) -> seconds per token of every round."""
    arms, texts = {name: arm(name) for name in ARMS}, streams(models.load("pocket", "cpu"))
    found: dict[tuple[str, str, str], list[float]] = {}
    for turn in run.track(range(-1, args.rounds), "rounds"):
        with undisturbed():
            for text, stream in texts.items():
                short, long = (chunk(stream, turn + 1, length) for length in (PROMPT + args.tokens, max(BATCHES) * args.prefill))
                for name in rotated(list(arms), turn):
                    new = {"decode": decode_seconds(arms[name], short)}
                    new |= {
                        f"prefill_b{batch}": prefill_seconds(arms[name], long[: batch * args.prefill], batch) for batch in BATCHES
                    }
                    if turn >= 0:
                        for what, seconds in new.items():
                            found.setdefault((name, text, what), []).append(seconds)
    return {key: np.array(values) for key, values in found.items()}


def speed(args: Args) -> dict:
    """Interleaved rounds of all arms, recorded as experiment `speed`."""
    setup = {
        "model": "the Pocket Brain in float32, a copy for each arm",
        "decoding": f"generate with a cache, batch 1, {args.tokens} dictated tokens after {PROMPT}, the same for all",
        "prefill": f"one forward pass over {args.prefill} tokens per text, batches of {BATCHES[0]} and {BATCHES[1]}",
        "texts": "ordinary: unrelated prose, where the guard knows little; taught: training rows, where it knows nearly all; "
        "other parts each round, so nothing is answered from an earlier round",
        "protocol": f"{args.rounds} rounds after one of warm-up; the order of the arms rotates; ratios are paired by round",
    }
    title, objective = "Speed with the memory", "What do decoding and prefill cost with LoRA and with the memory?"
    with runlog.Run(args, __file__, "speed", title=title, objective=objective, setup=setup) as run:
        found = measured(run, args)
        record(run, found)
    return run.report


def record(run: runlog.Run, found: dict[tuple[str, str, str], np.ndarray]) -> None:
    both = {(name, what): sum(found[name, text, what] for text in TEXTS) for name, _, what in found}
    up: dict[str, Any] = {"higher_is_better": True}
    whats = {"decode": "decoding, batch 1"} | {f"prefill_b{batch}": f"prefill, batch {batch}" for batch in BATCHES}
    for what, says in whats.items():
        for name, label in ARMS.items():
            rate = len(TEXTS) / both[name, what]
            run.metric(f"{what}_rate_{name}", rate, unit="tokens/s", **up, meaning=f"{says}, both texts, {label}")
            if name != "base":
                meaning = f"{says}, tokens/s against the base, both texts: {label}"
                run.metric(f"{what}_speed_ratio_{name}", both["base", what] / both[name, what], unit="x", **up, meaning=meaning)
        for text, of in TEXTS.items():
            ratio = found["base", text, what] / found["engram", text, what]
            meaning = f"{says}, tokens/s against the base, {of}: {ARMS['engram']}"
            run.metric(f"{what}_speed_ratio_engram_{text}", ratio, unit="x", **up, meaning=meaning)
    metrics = run.report["metrics"]

    def shown(key: str) -> str:
        low, high = metrics[key]["ci95"]
        return f"{metrics[key]['mean']:.3f} [{low:.3f}, {high:.3f}]"

    parts = {text: f"decode_speed_ratio_engram_{text}" for text in TEXTS}
    low = min(metrics[key]["ci95"][0] for key in parts.values())
    said = ", ".join(f"{shown(key)} on {TEXTS[text]}" for text, key in parts.items())
    run.claim(
        "no speed regression",
        source="seed 002 (softwarewrighter/engram-poc), targets",
        protocol="252.6 to 262.4 ms per generation (LoRA, not merged), one run",
        ours=f"LoRA attached {shown('decode_speed_ratio_lora')}, merged {shown('decode_speed_ratio_merged')} of the base",
        honest=f"guarded Engram {said}; at most 5 % slower counts",
        verdict="reproduced" if low >= FLOOR else "not reproduced",
    )
    rows = [
        (f"{says}: {ARMS[name]}", metrics[f"{what}_speed_ratio_{name}"]) for what, says in whats.items() for name in list(ARMS)[1:]
    ]
    with runlog.style() as plt:
        figure = figures_bench.speed(plt, rows, "tokens per second / the base's")
        shows = "Speed against the base with 95 % intervals; dotted: 5 % slower."
        run.figure(figure, "speed", shows=shows, matters="The base against itself shows what is noise.")
    run.observe(f"The base against itself: {shown('decode_speed_ratio_again')}; what lies within is noise.")
    small, large = (shown(f"prefill_b{batch}_speed_ratio_engram") for batch in BATCHES)
    run.observe(f"Prefill with the memory: {small} at batch {BATCHES[0]}, {large} at {BATCHES[1]}.")
    run.conclude(f"With the memory the base decodes at {said} of its speed; LoRA attached at {shown('decode_speed_ratio_lora')}.")


EXPERIMENTS = {"speed": speed, "latency": latency.run, "invariants": peers.run}


def main(args: Args) -> dict[str, dict]:
    runlog.check_only(args.only, EXPERIMENTS)
    if min(args.rounds, args.tokens, args.prefill) < 2 or args.lookups < 1 or not args.table_rows or min(args.table_rows) < 1000:
        raise UserError(
            "--rounds, --tokens and --prefill must be at least 2, --lookups at least 1, --table-rows at least 1000 each"
        )
    if args.smoke:
        args = replace(args, rounds=2, tokens=4, prefill=8, table_rows=(1000, 10_000), lookups=10)
    return {name: EXPERIMENTS[name](args) for name in args.only or EXPERIMENTS}


if __name__ == "__main__":
    runlog.launch(main, Args)
