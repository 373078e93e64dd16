"""How much text a second of a core gives: the experiment engines of `load`."""

import asyncio
from contextlib import AbstractContextManager, ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared import models, runlog

from .. import registry
from ..engines import throughput
from ..engines.choose import open_engine
from . import figures, rivals, servers
from .waiting import Game

REPEATS = 4  # bursts on the fast engine, one after the other: the CPU time of one would be too short to read
NAMES = {
    "fast": "our engine (int8), in process",
    "naive": "generate in process, one after the other",
    "http_fast": "our server",
    "http_naive": "a naive server",
    "http_transformers_serve": "transformers serve",
}
RATIOS = {
    "throughput_ratio_vs_naive": ("fast", "naive"),
    "http_throughput_ratio_vs_naive": ("http_fast", "http_naive"),
    "http_throughput_ratio_vs_transformers_serve": ("http_fast", "http_transformers_serve"),
}
PROMPTS = {"": "from the beginning of a story", "_long_prompts": "from the middle of a story"}


def engines(args: Any, game: Game) -> dict:
    champion = registry.champion()
    with (
        ExitStack() as stack,
        runlog.Run(
            args,
            __file__,
            "load_engines",
            title="CYOA: text per second of a core",
            objective="How much does the fast engine gain over what one writes first, and over the field's own server?",
            setup={
                "model": f"{champion.name}: {champion.reason}",
                "load": f"{args.prompts} prompts at a time, {args.tokens} tokens each, one thread, interleaved, the same sampling",
                "naive": "model.generate in float32; over HTTP a thread per request, streamed",
                "transformers serve": " ".join(("--continuous-batching --dtype float32", *servers.PAGED)),
            },
        ) as run,
    ):
        torch.set_num_threads(1)
        loaded = models.load(str(champion.folder), "cpu")
        engine = open_engine("fast", champion.folder, champion.name)
        stack.callback(lambda: asyncio.run(engine.close()))
        running = {name: stack.enter_context(server) for name, server in started(champion.folder, game).items()}

        def count(text: str) -> int:
            return len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

        chats = {kind: rivals.chats(args.prompts, count, bool(kind)) for kind in PROMPTS}

        def measure(name: str, kind: str) -> float:
            if name == "naive":
                return throughput.naive(loaded, chats[kind], args.tokens)
            if name == "fast":
                return asyncio.run(throughput.served(engine, chats[kind], args.tokens, REPEATS))
            repeats = REPEATS if name == "http_fast" else 1
            return rivals.efficiency(running[name], chats[kind], args.tokens, count, loaded, repeats)

        for name in NAMES:
            measure(name, "")  # warms up
        pairs = list(product(NAMES, PROMPTS))
        plan = [pairs[(round + place) % len(pairs)] for round in range(args.rounds) for place in range(len(pairs))]
        measured: dict[str, list[float]] = {}
        for name, kind in run.track(plan, "rounds"):
            measured.setdefault(name + kind, []).append(measure(name, kind))
        for name, kind in pairs:
            meaning = f"tokens per CPU-second: {NAMES[name]}, {PROMPTS[kind]}"
            run.metric(f"{name}{kind}_tokens_per_cpu_second", measured[name + kind], higher_is_better=True, meaning=meaning)
        means = {}
        for key, kind in product(RATIOS, PROMPTS):
            ours, other = RATIOS[key]
            values = np.array(measured[ours + kind]) / np.array(measured[other + kind])
            means[key + kind] = values.mean()
            meaning = f"tokens per CPU-second, {NAMES[ours]} over {NAMES[other]}, {PROMPTS[kind]}, per round"
            run.metric(key + kind, values, unit="x", higher_is_better=True, meaning=meaning)
        for kind, said in PROMPTS.items():
            sizes = [count("".join(message["content"] for message in chat)) for chat in chats[kind]]
            run.observe(f"The prompts {said} have {min(sizes)} to {max(sizes)} tokens.")
        with runlog.style() as plt:
            run.figure(
                figures.engines(plt, measured, NAMES, PROMPTS),
                "engines",
                shows="Tokens per CPU-second, in process and over HTTP, from the beginning and from the middle of stories.",
                matters="The longer the prompt, the more of the time goes into reading it, where the engines differ less.",
            )
        run.conclude(
            f"A second of a core gives {means['throughput_ratio_vs_naive']:.0f} times the text of naive generation in process, "
            f"{means['http_throughput_ratio_vs_naive']:.0f} times over HTTP, and "
            f"{means['http_throughput_ratio_vs_transformers_serve']:.1f} times that of transformers serve."
        )
    return run.report


def started(model: Path, game: Game) -> dict[str, AbstractContextManager[servers.Server]]:
    """The three servers, not yet entered."""
    ports = [servers.free_port() for _ in range(2)]
    return {
        "http_fast": game("--engine", "fast", "--queue", "64"),
        "http_naive": servers.running(servers.naive(ports[0], model), ports[0], "/livez"),
        "http_transformers_serve": servers.running(servers.transformers(ports[1], model), ports[1], "/health"),
    }
