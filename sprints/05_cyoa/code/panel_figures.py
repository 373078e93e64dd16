"""The figures of the evaluation: who stands where against authored text, and which measure sees which corruption."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .panel import MEASURES, band
from .quality import COPIED

SYSTEMS = {  # their colours, marks and names
    "model": ("#0072B2", "o", "tuned model"),
    "base": ("#E69F00", "s", "untuned base"),
    "ngram": ("#CC79A7", "^", "n-gram model"),
    "retrieval": ("#009E73", "D", "nearest authored scene"),
}
LABELS = {
    "format_validity": "valid choices, or an ending",
    "choice_relevance": "choices fit their scene",
    "scenario_distinct_1": "different words in a story",
    "scenario_distinct_2": "different word pairs in a story",
    "repetition_4": "repeated runs of four words",
    "sampled_self_bleu": "scenes like each other (self-BLEU)",
    "order_accuracy": "sentences in a likely order",
    "carry_over": "names that the prompt knows",
    "mood_accuracy": "scenes with the right mood",
    "longest_copy": "longest copy from training",
    "copied_scenes": f"scenes with a copy of {COPIED} words",
    "toxic_scenes": "answers with a listed word",
}
BETTER = {"higher": "better →", "lower": "← better", "band": "better in the grey"}


def panel_figure(plt: Any, values: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """A row per measure, on its own scale: the authored 5th to 95th percentile in grey and mean in black, a mark per system."""
    figure, axes = plt.subplots(len(MEASURES), 1, figsize=(9, 0.75 * len(MEASURES) + 0.8))
    for (name, measure), axis in zip(MEASURES.items(), axes, strict=True):
        percent = measure.unit == "fraction"
        scale = 100 if percent else 1
        axis.axvspan(*(scale * end for end in band(measure, values["authored"][name])), color="#DDDDDD", zorder=0)
        axis.axvline(scale * np.mean(values["authored"][name]), color="black", label="authored text")
        for lane, (system, (colour, mark, title)) in enumerate(SYSTEMS.items()):  # a lane each: equal means hide no mark
            axis.plot(scale * np.mean(values[system][name]), -lane, mark, color=colour, markersize=6, label=title)
        axis.set(yticks=[], ylim=(0.2 - len(SYSTEMS), 0.8))
        axis.margins(x=0.08)
        axis.tick_params(axis="x", labelsize=8, pad=1)
        unit = "%" if percent else measure.unit
        axis.set_ylabel(f"{LABELS[name]}{unit and f', {unit}'}", rotation=0, ha="right", va="center", fontsize=9)
        axis.annotate(BETTER[measure.better], (1.01, 0.5), xycoords="axes fraction", va="center", fontsize=9)
        axis.grid(visible=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(values))
    figure.tight_layout(rect=(0, 0.04, 1, 1), h_pad=0.3)
    return figure


def sight_figure(plt: Any, areas: np.ndarray, corruptions: Sequence[str]) -> Any:
    """`areas` (measures, corruptions) of the ROC curve; the cell that a measure is there for has a frame."""
    figure, axes = plt.subplots(figsize=(9.5, 5.4))
    axes.imshow(areas, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for row, measure in enumerate(MEASURES.values()):
        for column, name in enumerate(corruptions):
            area = areas[row, column]
            colour = "white" if abs(area - 0.5) > 0.35 else "black"
            axes.text(column, row, f"{area:.2f}", ha="center", va="center", fontsize=8, color=colour)
            if name == measure.sees:
                axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, lw=2.5, ec="black"))
    axes.set_xticks(range(len(corruptions)), [textwrap.fill(name, 11) for name in corruptions], fontsize=8)
    axes.set_yticks(range(len(MEASURES)), [LABELS[name] for name in MEASURES], fontsize=9)
    axes.grid(visible=False)
    figure.tight_layout()
    return figure
