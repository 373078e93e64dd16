"""Time per token against the rows of the table: a memory-mapped file of 1e4 to 1e8 rows. Called by bench.py.

The file is sparse (never written, all zeros): its pages come from the kernel without a disk, so what is timed is memory.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared import models, runlog

from .engram.hashing import Vocabulary
from .engram.memory import EngramConfig, EngramMemory
from .patterns import load
from .study import figures_bench
from .teaching.training import Encoded, encode

GIB = 2**30
FLAT = 1.5  # the slowest table may take so many times the fastest one


def mapped(folder: Path, rows: int, width: int) -> np.ndarray:
    """A sparse file of zeros (rows, width) in float32, mapped read-only."""
    path = folder / f"{rows}.table"
    with path.open("wb") as file:
        file.truncate(rows * width * 4)
    return np.memmap(path, np.float32, "r", shape=(rows, width))


def memory_of(folder: Path, vocabulary: Vocabulary, hidden_size: int, rows: int) -> EngramMemory:
    """The default memory with a mapped table of about `rows` rows."""
    plain = EngramConfig()
    config = EngramConfig(rows=max(2, rows // (len(plain.orders) * plain.heads)))
    return EngramMemory(config, vocabulary, hidden_size, mapped=mapped(folder, sum(config.primes()), config.head_width))


def windows(taught: list[Encoded], reach: int) -> list[tuple[int, ...]]:
    """The last `reach` tokens at every taught position, each once, in random order."""
    every = list(dict.fromkeys(tuple(row.ids[end - reach : end]) for row in taught for end in range(reach, len(row.ids))))
    return [every[place] for place in np.random.default_rng(0).permutation(len(every))]


def part(every: list[tuple[int, ...]], turn: int, count: int) -> list[tuple[int, ...]]:
    """Other `count` positions each turn: those of the turn before, asked again, would lie in the processor's caches."""
    return [every[place % len(every)] for place in range(turn * count, (turn + 1) * count)]


@torch.no_grad()
def seconds(memory: EngramMemory, asked: list[tuple[int, ...]], hidden: torch.Tensor) -> float:
    """Per position: hash, guard, rows, projections and gate, nothing from the store of recent ones."""
    memory._projected.clear()
    start = time.perf_counter()
    for tokens in asked:
        if (known := memory.step(tokens)) is not None:
            memory.add_step(0, hidden, known)
    return (time.perf_counter() - start) / len(asked)


def run(args: Any) -> dict:
    """Look-ups in tables of every size, interleaved, recorded as experiment `latency`."""
    setup = {
        "table": "memory-mapped, sparse, in a temporary folder: zeros that were never written, read through the page cache",
        "look-up": f"hash, guard, {len(EngramConfig().orders) * EngramConfig().heads} rows, projections and gate for one position; "
        f"{args.lookups} taught positions per round, other ones in the next, and none remembered",
        "protocol": f"{args.rounds} rounds over all sizes, after all of their positions were read once, which faults the pages in; "
        "the order of the sizes rotates",
    }
    title, objective = "Latency against table rows", "Does a look-up cost more in a larger table?"
    with runlog.Run(args, __file__, "latency", title=title, objective=objective, setup=setup) as recorded:
        loaded = models.load("pocket", "cpu")
        taught = [encode(loaded, row.prompt, row.completion) for row in load().training_rows()]
        vocabulary, hidden_size = Vocabulary.of(loaded.tokenizer, compress=True), loaded.model.config.hidden_size
        hidden = torch.randn(1, 1, hidden_size, generator=torch.Generator().manual_seed(0))
        found: dict[int, list[float]] = {rows: [] for rows in args.table_rows}
        with tempfile.TemporaryDirectory() as folder:
            memories = {rows: memory_of(Path(folder), vocabulary, hidden_size, rows) for rows in args.table_rows}
            for memory in memories.values():
                memory.guard.learn([row.ids for row in taught], memory.mixes)
            every, sizes = windows(taught, EngramConfig().orders[-1]), list(memories)
            for memory in recorded.track(memories.values(), "warm-up"):
                seconds(memory, part(every, 0, min(len(every), args.rounds * args.lookups)), hidden)
            for turn in recorded.track(range(args.rounds), "rounds"):
                start = turn % len(sizes)
                for rows in [*sizes[start:], *sizes[:start]]:
                    found[rows].append(1e6 * seconds(memories[rows], part(every, turn, args.lookups), hidden))
        record(recorded, found, EngramConfig().head_width)
    return recorded.report


def record(run: runlog.Run, found: dict[int, list[float]], width: int) -> None:
    for rows, values in found.items():
        meaning = f"one position looked up in a mapped table of {rows:,} rows ({rows * width * 4 / GIB:.3g} GiB)"
        run.metric(f"lookup_{rows}_us", values, unit="us", higher_is_better=False, meaning=meaning)
    least, most = min(found), max(found)
    ratio = np.array(found[most]) / np.array(found[least])
    meaning = f"time of a look-up, {most:,} rows / {least:,} rows, paired by round"
    run.metric("lookup_ratio_largest", ratio, unit="x", higher_is_better=False, meaning=meaning)
    metrics = run.report["metrics"]
    series = {"look-up, mapped table in RAM": [(rows, metrics[f"lookup_{rows}_us"]) for rows in found]}
    with runlog.style() as plt:
        shows = "Median time to look up one position against the rows of the table, with 95 % intervals."
        matters = "The number of rows that are read does not depend on the size of the table; only caches notice it."
        run.figure(figures_bench.latency(plt, series), "latency", shows=shows, matters=matters)
    run.observe(
        "The mapped files are sparse: no disk is read. A table beyond RAM adds the disk's latency per row, not measured here."
    )
    said = metrics["lookup_ratio_largest"]  # medians: a round in which the kernel writes back other pages takes ten times as long
    middle = said.get("median", said["mean"])
    low, high = said.get("median_ci95", said["ci95"])
    run.claim(
        "O(1) look-up",
        source="softwarewrighter/engram-poc, README",
        protocol="one module, inputs 32 times longer: 18 times slower, which is the cost per sequence",
        ours="not repeated: the length of the input is not the size of the memory",
        honest=f"{most:,} against {least:,} rows: {middle:.2f} times the time per token [{low:.2f}, {high:.2f}]",
        verdict="reproduced" if high <= FLAT else "not reproduced",
    )
    run.conclude(f"A table {most // least:,} times larger makes a look-up {middle:.2f} times as long [{low:.2f}, {high:.2f}].")
