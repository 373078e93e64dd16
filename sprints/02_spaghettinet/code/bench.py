"""How fast: our layer beside nn.Linear, oneDNN's linear, a masked one and other sparse ones, interleaved in one process.

$ make spaghetti-bench                           three shapes, batches and sparsities each; ten minutes, on an idle machine
$ make spaghetti-bench ARGS="--only roofline"    the machine's limits and how near we come, seconds
$ make spaghetti-bench ARGS=--smoke              toy size, seconds

`pip install sparselinear` (it needs torch-sparse, which pip compiles for minutes) adds that package to the table; it is no
requirement of this project.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared import runlog
from shared.errors import UserError

from . import contenders, roofline, timings
from .contenders import BUNDLE, HALF, LINEAR, ONEDNN, PACKED, RANDOM, Case
from .kernels import kernels

SHORTEST = 1e-3  # seconds of a sample: faster work is repeated within it
CROSSING = (0.5, 0.6, 0.7, 0.8, 0.9)  # sparsities among which the crossover with the dense layers is looked for
RACERS = (LINEAR, RANDOM, BUNDLE)  # and oneDNN: all that is needed there


@dataclass
class Args(runlog.Args):
    """What is timed."""

    shapes: tuple[str, ...] = ("784x1024", "1024x1024", "4096x4096")
    """Inputs x outputs."""
    batches: tuple[int, ...] = (1, 64, 256)
    """Rows at a time; one row is timed without gradients only."""
    sparsities: tuple[float, ...] = (0.7, 0.9, 0.95, 0.99)
    """Shares of absent connections."""
    repeats: int = 15
    """Rounds; each times every layer once, in turn, so that a slow spell of the machine hits all alike."""
    only: tuple[str, ...] = ()
    """Which experiments: speed, crossover, roofline (all when not given)."""


Times = dict[str, np.ndarray]  # layer -> seconds of each round


def race(timed: contenders.Timed, repeats: int, device: str, training: bool = True) -> Times:
    """Seconds of one call of each, for every round; the order turns from round to round. Gradients are on where it is training."""
    seconds = {name: np.empty(repeats) for name in timed}
    names = list(timed)
    with torch.set_grad_enabled(training):  # once for all calls, as programs do: it takes a microsecond
        calls = {name: calls_per_sample(call, device) for name, call in timed.items()}
        for turn in range(repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds[name][turn] = sample(timed[name], calls[name], device)
    return seconds


def calls_per_sample(call: Callable[[], Any], device: str) -> int:
    sample(call, 1, device)  # the first one builds, allocates, finds its algorithm
    return max(1, int(SHORTEST / max(1e-7, sample(call, 2, device))))


def sample(call: Callable[[], Any], calls: int, device: str) -> float:
    call()  # those before it have emptied the caches, and a sample of many calls would hardly notice
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def setup(run_device: str) -> dict[str, str]:
    engine = kernels() if run_device == "cpu" else None
    return {
        "layers": "the same weights for all that can hold them; x and y row-major, so transposes and bias are part of the work",
        "threads": f"{torch.get_num_threads()} for everyone but SciPy, which has one",
        "ours": f"kernels for {engine.isa}" if engine else "no C kernels on this device",
        "protocol": "one process; in every round each layer in turn, one call to warm up and then a millisecond of calls at least; "
        "speed-ups are ratios within a round",
    }


def shape(text: str) -> tuple[int, int]:
    try:
        n, out = (int(part) for part in text.split("x"))
    except ValueError:
        raise UserError(f"--shapes: {text!r} is not of the form 784x1024") from None
    if min(n, out) < 16 or n % 16 or out % 16:
        raise UserError(f"--shapes: both sides of {text} must be multiples of 16, for the bundles")
    return n, out


def speed(args: Args) -> dict:
    """Every layer at every shape, batch and sparsity: forward, training, training with Adam."""
    title, objective = "Speed", "Is the sparse layer faster than the fastest dense one, and from which sparsity on?"
    with runlog.Run(args, __file__, "speed", title=title, objective=objective, setup=setup_of(args), seeds=[0]) as run:
        device, table = run.device.kind, {}
        cells = [
            (Case(*shape(text), batch, sparsity), mode)
            for text in args.shapes
            for batch in args.batches
            for sparsity in args.sparsities
            for mode in (contenders.MODES if batch > 1 else contenders.MODES[:1])
        ]
        for case, mode in run.track(cells, "cells"):
            timed = contenders.forward(case, device) if mode == "forward" else contenders.training(case, device, mode)
            table[case, mode] = race(timed, args.repeats, device, training=mode != "forward")
        timings.record(run, table)
        lines = ["shape,batch,sparsity,mode,layer,median_us,low_us,high_us"]
        for (case, mode), times in table.items():
            for name, seconds in times.items():
                low, middle, high = 1e6 * np.percentile(seconds, [25, 50, 75])
                cell = f"{case.in_features}x{case.out_features},{case.batch},{case.sparsity},{mode}"
                lines.append(f'{cell},"{name}",{middle:.2f},{low:.2f},{high:.2f}')
        run.file("times.csv", "\n".join([*lines, ""]))
    return run.report


def setup_of(args: Args) -> dict[str, str]:
    from shared.device import pick

    return setup(pick(args.device, ("cpu", "cuda")).kind)


def crossover(args: Args) -> dict:
    """The sparsity from which on our layer trains faster than the dense ones."""
    title, objective = "Crossover", "From which sparsity on is sparse training faster than dense?"
    with runlog.Run(args, __file__, "crossover", title=title, objective=objective, setup=setup_of(args), seeds=[0]) as run:
        device, lines = run.device.kind, {}
        sparsities = CROSSING if not args.smoke else (0.5, 0.9)
        pairs = [(text, batch) for text in args.shapes for batch in args.batches if batch > 1]
        for text, batch in run.track(pairs, "shapes"):
            cases = [Case(*shape(text), batch, sparsity) for sparsity in sparsities]
            lines[cases[0]] = {
                case.sparsity: race(contenders.training(case, device, "training", RACERS), args.repeats, device) for case in cases
            }
        timings.crossings(run, lines)
    return run.report


def limits(args: Args) -> dict:
    """Measured bandwidth and peak, and what share of them the products reach."""
    title, objective = "Roofline", "How near do the kernels come to what the machine can do?"
    with runlog.Run(args, __file__, "roofline", title=title, objective=objective, setup=setup_of(args), seeds=[0]) as run:
        if run.device.kind != "cpu":
            raise UserError("the roofline is measured on the CPU: --device cpu")
        memory, cache = roofline.bandwidth(2 if args.smoke else 512, 5), roofline.bandwidth(0.5, 20)
        flops = roofline.peak(64 if args.smoke else 2048, 3 if args.smoke else 10)
        run.metric("memory_bandwidth", memory / 1e9, unit="GB/s", meaning="reading 512 MiB, all threads, the best of 5")
        run.metric(
            "cache_bandwidth",
            cache / 1e9,
            unit="GB/s",
            meaning="summing 512 KiB again and again, all threads, the best of 20; no upper bound",
        )
        run.metric("peak_gflops", flops / 1e9, unit="GFLOP/s", meaning="the fastest large dense product (oneDNN), all threads")
        points, shares = [], {}
        sparsity = min(args.sparsities, key=lambda one: abs(one - 0.9))
        cells = [(Case(*shape(text), batch, sparsity), batch > 1) for text in args.shapes for batch in (1, max(args.batches))]
        for case, training in run.track(cells, "cases"):
            timed = contenders.training(case, "cpu", "training", RACERS) if training else contenders.forward(case, "cpu", RACERS)
            for name, seconds in race(timed, args.repeats, "cpu", training).items():
                if name not in ((ONEDNN, BUNDLE) if training else (PACKED, HALF)):
                    continue
                moved, computed = roofline.needs(case, name, training)
                points.append((name, case.shape, computed / moved, computed / np.median(seconds)))
                share = roofline.limit(case, name, training, cache, flops) / seconds
                shares[name, case.shape] = float(np.median(share))
                key = f"roofline_{timings.word(name)}_b{case.batch}_{case.shape}"
                meaning = f"{name}, {case}, {'training' if training else 'forward'}: least time by cache bandwidth and peak / time"
                run.metric(key, share, higher_is_better=True, meaning=meaning)
        nearest = max(shares, key=shares.__getitem__)
        run.observe(f"Nearest to its limit comes {nearest[0]} at {nearest[1]} with {shares[nearest]:.0%}.")
        run.observe(
            "A sparse product of many rows loads a register of activations for every multiply-add, so half the peak is the limit: "
            f"at {sparsity:.0%} sparsity at most {0.5 / (1 - sparsity):.0f} times the speed of a dense layer at its peak."
        )
        run.conclude(
            f"The machine reads {memory / 1e9:.0f} GB/s from memory, {cache / 1e9:.0f} from the caches, and computes "
            f"{flops / 1e9:.0f} GFLOP/s in plain sums and products; we reach "
            f"{min(shares.values()):.0%} to {max(shares.values()):.0%} of that. The caches give a product more than the sum that "
            "measured them."
        )
        with runlog.style() as plt:
            run.figure(
                roofline.figure(plt, points, memory, cache, flops),
                "roofline",
                shows=f"Operations per second against operations per byte, {sparsity:.0%} sparsity; "
                "lines: plain sums and products.",
                matters="One row is bound by bytes, many rows by arithmetic; what lies below the lines is ours to gain. "
                "A sum does not read all that the caches give: a product may lie above the dashed line.",
            )
    return run.report


EXPERIMENTS = {"speed": speed, "crossover": crossover, "roofline": limits}


def main(args: Args) -> Mapping[str, dict]:
    runlog.check_only(args.only, EXPERIMENTS)
    if args.repeats < 2 or min(args.batches) < 1 or not all(0 < sparsity < 1 for sparsity in args.sparsities):
        raise UserError("--repeats must be at least 2, --batches at least 1, --sparsities between 0 and 1")
    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    if args.smoke:
        args.shapes, args.batches, args.sparsities, args.repeats = ("64x64",), (1, 8), (0.9,), 2
    chosen: Sequence[str] = args.only or list(EXPERIMENTS)
    return {name: EXPERIMENTS[name](args) for name in chosen}


if __name__ == "__main__":
    runlog.launch(main, Args)
