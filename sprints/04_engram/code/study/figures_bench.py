"""The figures of capacity, ablations and bench; each takes pyplot and returns a figure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MARKERS = ("o", "s", "^", "D")


def capacity(plt: Any, points: Sequence[Any], names: Mapping[Any, str], goal: float) -> Any:
    """Exact match against the number of facts, a panel per method, a line per budget. points: of capacity.Point; goal: a share."""
    names = {method: name for method, name in names.items() if any(point.method == method for point in points)}
    figure, panels = plt.subplots(1, len(names), figsize=(9, 3.8), sharey=True, squeeze=False)
    for axes, (method, name) in zip(panels[0], names.items(), strict=True):
        for place, budget in enumerate(sorted({point.budget for point in points if point.method == method})):
            line = [point for point in points if (point.method, point.budget) == (method, budget)]
            line.sort(key=lambda point: point.size.count)
            counts, means = [point.size.count for point in line], [100 * point.shares.mean() for point in line]
            bounds = [[100 * abs(bound - point.shares.mean()) for bound in point.interval] for point in line]
            style = {"color": f"C{place}", "marker": MARKERS[place], "capsize": 3}
            label = f"x{budget}: {max(point.megabytes for point in line):.1f} MiB"
            axes.errorbar(counts, means, yerr=np.array(bounds).T, label=label, **style)
        axes.axhline(100 * goal, color="0.6", linewidth=1, linestyle=":")
        axes.set(xscale="log", xlabel="private facts", title=name, ylim=(-4, 104))
        axes.legend(title="budget, stored at most", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    panels[0][0].set_ylabel("exact match, %")
    right = {"transform": panels[0][0].get_yaxis_transform(), "ha": "right", "va": "top", "fontsize": 8, "color": "0.4"}
    panels[0][0].text(0.98, 100 * goal - 1, f"our aim: {goal:.0%}", **right)
    return figure


def ablations(plt: Any, rows: Sequence[tuple[str, Mapping[str, dict]]], titles: Mapping[str, str]) -> Any:
    """One line per variant, one panel per measure; rows: (label, measure -> metric), the first is the default."""
    figure, panels = plt.subplots(1, len(titles), figsize=(11, 0.32 * len(rows) + 1.4), sharey=True)
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        for place, (_, metrics) in enumerate(rows):
            metric = metrics[measure]
            low, high = metric["ci95"] or (metric["mean"], metric["mean"])
            axes.plot([low, high], [place, place], color="0.6")
            axes.plot(metric["mean"], place, "o", color="C1" if place == 0 else "C0")
        axes.axvline(rows[0][1][measure]["mean"], color="C1", linewidth=1, linestyle=":")
        axes.set_xlabel(textwrap.fill(title, 24))
        if measure == "perplexity":  # one variant is far off, and would hide the others
            axes.set_xscale("log")
            axes.set_xticks([1, 2, 5, 10], ["x1", "x2", "x5", "x10"])
            axes.set_xticks([], minor=True)
    panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
    panels[0].invert_yaxis()
    figure.tight_layout(w_pad=2)
    return figure


def speed(plt: Any, rows: Sequence[tuple[str, dict]], unit: str) -> Any:
    """Bars of ratios to the base with their intervals; rows: (label, metric)."""
    figure, axes = plt.subplots(figsize=(7.5, 0.42 * len(rows) + 1.2))
    for place, (_, metric) in enumerate(rows):
        low, high = metric["ci95"]
        axes.barh(place, metric["mean"], color="C0", alpha=0.85)
        axes.plot([low, high], [place, place], color="0.2", linewidth=2)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.axvline(0.95, color="C1", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlabel=unit, xlim=(0, None))
    axes.invert_yaxis()
    return figure


def latency(plt: Any, series: Mapping[str, Sequence[tuple[int, dict]]]) -> Any:
    """Median microseconds per token against the rows of the table; series: label -> (rows, metric)."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for place, (label, points) in enumerate(series.items()):
        rows = [count for count, _ in points]
        medians = [metric.get("median", metric["mean"]) for _, metric in points]
        ends = [metric.get("median_ci95", metric["ci95"]) for _, metric in points]
        bounds = [[abs(median - bound) for bound in of_it] for median, of_it in zip(medians, ends, strict=True)]
        axes.errorbar(rows, medians, yerr=np.array(bounds).T, marker=MARKERS[place], capsize=3, label=label)
    axes.set(xscale="log", xlabel="rows of the table", ylabel="microseconds per token", ylim=(0, None))
    axes.legend()
    return figure
