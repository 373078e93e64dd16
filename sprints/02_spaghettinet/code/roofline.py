"""What the processor can do at most, measured, and what a sparse product needs: bytes from memory and multiply-adds."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .contenders import BUNDLE, HALF, ONEDNN, PACKED, Case, has_onednn, product

# Bytes of a connection of a bundle: weight, lane (packed: half a byte), a sixteenth of a block's number.
ENTRY = {PACKED: 4 + 0.5 + 0.25, HALF: 2 + 0.5 + 0.25, BUNDLE: 4 + 1 + 0.25}
TABLE = 8  # of a table's: weight and index


def best(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls: a limit is not an average."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def bandwidth(mebibytes: float, repeats: int) -> float:
    """Bytes per second that the threads read together from a block of so many MiB, by taking its sum."""
    block = torch.ones(int(mebibytes * 2**18))
    times = max(1, int(64 / mebibytes))
    block.sum()

    def read() -> None:
        for _ in range(times):
            block.sum()

    return times * 4 * block.numel() / best(read, repeats)


def peak(size: int, repeats: int) -> float:
    """Floating-point operations per second of the fastest large dense product there is here."""
    x, weight = torch.randn(size, size), torch.randn(size, size)
    dense = product if has_onednn() else torch.nn.functional.linear
    dense(x, weight)
    return 2 * size**3 / best(lambda: dense(x, weight), repeats)


def needs(case: Case, name: str, training: bool) -> tuple[float, float]:
    """Bytes (weights once, activations once per product) and floating-point operations of a case, for a dense or a sparse layer."""
    dense = name not in ENTRY and not name.startswith("ours")
    connections = case.in_features * case.out_features * (1.0 if dense else 1 - case.sparsity)
    weights = connections * (4 if dense else ENTRY.get(name, TABLE))
    activations = 4 * case.batch * (case.in_features + case.out_features)
    products = 3 if training else 1  # y, gradient of x, gradient of the weights
    return products * (weights + activations), products * 2 * case.batch * connections


def limit(case: Case, name: str, training: bool, bytes_per_second: float, flops_per_second: float) -> float:
    """Seconds that a case takes at least: the longer of reading its bytes and of computing."""
    moved, computed = needs(case, name, training)
    return max(moved / bytes_per_second, computed / flops_per_second)


def figure(plt, points: Sequence[tuple[str, str, float, float]], memory: float, cache: float, flops: float):
    """Operations per second against operations per byte: the limits as lines, points (layer, shape, intensity, rate)."""
    made, axes = plt.subplots(figsize=(8, 4.8))
    x = torch.logspace(-1, 2.5, 200).numpy()
    for level, style, label in (
        (memory, "-", f"memory {memory / 1e9:.0f} GB/s"),
        (cache, "--", f"sums in cache {cache / 1e9:.0f} GB/s"),
    ):
        axes.plot(x, [min(flops, level * one) / 1e9 for one in x], color="black", linestyle=style, linewidth=1.3, label=label)
    markers = dict(zip(dict.fromkeys(label for _, label, _, _ in points), "os^D", strict=False))
    for name, color in ((ONEDNN, "0.55"), (BUNDLE, "C1"), (PACKED, "C2"), (HALF, "C3")):
        for owner, label, intensity, rate in points:
            if owner == name:
                axes.scatter(intensity, rate / 1e9, color=color, marker=markers.get(label, "o"), s=40, zorder=3)
        axes.plot([], [], "s", color=color, label=name)
    for label, marker in markers.items():
        axes.plot([], [], marker, color="none", markeredgecolor="black", label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte",
        ylabel="GFLOP/s",
        title=f"Roofline: peak {flops / 1e9:.0f} GFLOP/s",
    )
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    return made
