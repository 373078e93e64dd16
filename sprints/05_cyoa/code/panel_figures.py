"""The figures of the evaluation: who stands where against authored text, and which measure sees which corruption."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .panel import MEASURES, band

COLOURS = {"model": "#0072B2", "base": "#E69F00", "ngram": "#CC79A7", "retrieval": "#009E73", "authored": "black"}
MARKS = {"model": "o", "base": "s", "ngram": "^", "retrieval": "D", "authored": "|"}


def panel_figure(plt: Any, values: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """A row per measure, on its own scale: the authored 5th to 95th percentile in grey, a mark per system."""
    figure, axes = plt.subplots(len(MEASURES), 1, figsize=(8, 0.62 * len(MEASURES) + 0.8))
    for row, (name, axis) in enumerate(zip(MEASURES, axes, strict=True)):
        axis.axvspan(*band(MEASURES[name], values["authored"][name]), color="#DDDDDD", zorder=0)
        for system, found in values.items():
            mark = {"color": COLOURS[system], "marker": MARKS[system], "markersize": 13 if system == "authored" else 7}
            axis.plot(np.mean(found[name]), 0, linestyle="", label=system if not row else None, alpha=0.85, **mark)
        axis.set_yticks([])
        axis.margins(x=0.08)
        axis.tick_params(axis="x", labelsize=7, pad=1)
        axis.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center", fontsize=9)
        axis.grid(visible=False)
    figure.legend(loc="lower center", ncols=len(values), frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1), h_pad=0.3)
    return figure


def sight_figure(plt: Any, areas: np.ndarray, corruptions: Sequence[str]) -> Any:
    """`areas` (measures, corruptions) of the ROC curve; the cell that a measure is there for has a frame."""
    figure, axes = plt.subplots(figsize=(8, 5.4))
    axes.imshow(areas, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for row, measure in enumerate(MEASURES.values()):
        for column, name in enumerate(corruptions):
            area = areas[row, column]
            colour = "white" if abs(area - 0.5) > 0.35 else "black"
            axes.text(column, row, f"{area:.2f}", ha="center", va="center", fontsize=8, color=colour)
            if name == measure.sees:
                axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, lw=2.5, ec="black"))
    axes.set_xticks(range(len(corruptions)), [textwrap.fill(name, 11) for name in corruptions], fontsize=8)
    axes.set_yticks(range(len(MEASURES)), [name.replace("_", " ") for name in MEASURES], fontsize=9)
    axes.grid(visible=False)
    figure.tight_layout()
    return figure
