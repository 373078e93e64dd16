"""The figures of the comparison: recall against retention, every part with intervals, and where the gate opens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared import runlog

from .comparison import LABELS, Outcomes, Tuning, log_ratio, recall
from .trial import SHOWN

COLOURS = {  # Okabe and Ito's, safe for the colour-blind; the marker tells the methods apart without them
    "lora": ("#D55E00", "o"),
    "lora_r2": ("#D55E00", "v"),
    "lora_r32": ("#D55E00", "^"),
    "random_label": ("0.6", "x"),
    "full": ("#CC79A7", "s"),
    "engram": ("#0072B2", "D"),
    "engram_unguarded": ("#56B4E9", "d"),
    "unigram": ("#009E73", "P"),
    "lora_engram": ("#E69F00", "*"),
    "ngram_cache": ("0.25", "p"),
    "few_shot": ("0.6", "<"),
    "dictionary": ("0.45", ">"),
    "base": ("0.8", "."),
}
PARTS = {
    "s1": "S1 trained\nprompts",
    "s2": "S2 unseen\nlead-in",
    "s3": "S3 unseen\ntail",
    "s4": "S4 held-out\npatterns",
    "over_triggering": "S5 answered with\na taught completion",
}
LIMITS = (0.1, 0.2, 0.5)  # ends of a bar chart's axis, where no bar is longer


def pareto(run: runlog.Run, tuning: Mapping[str, Tuning], found: Outcomes) -> None:
    """One curve per method over its learning rates (dev patterns), and a large marker at the published runs (test patterns)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    metrics = run.report["metrics"]
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 4.6))
        for key, of_rates in tuning.items():
            colour, marker = COLOURS[key]
            points = [
                (np.mean([np.exp(log_ratio(one).mean()) for one in results]), np.mean([recall(one) for one in results]))
                for _, results in sorted(of_rates.items())
            ]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, alpha=0.6, linewidth=1)
        for key in found.results:
            colour, marker = COLOURS[key]
            x, y = metrics[f"perplexity_ratio_{key}"], metrics[f"recall_{key}"]
            axes.plot(x["ci95"] or [x["mean"]] * 2, [y["mean"]] * 2, color=colour, linewidth=1.5)
            axes.plot([x["mean"]] * 2, y["ci95"], color=colour, linewidth=1.5)
            axes.plot(x["mean"], y["mean"], marker, color=colour, markersize=9, linestyle="none", label=LABELS[key])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"x{ratio:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(
            xlabel="perplexity of unrelated text over the base's (log scale; left is better)",
            ylabel="exact match on S1 and S2",
            ylim=(-0.03, 1.03),
            title="Recall against retention",
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        run.figure(
            figure,
            "recall_against_retention",
            shows="Small markers: every learning rate of a method, on the dev patterns. Large: the published runs, with intervals.",
            matters="A single learning rate would let anyone choose who wins; the whole curve does not.",
        )


def parts(run: runlog.Run, found: Outcomes) -> None:
    """S1 to S5 of every method, with intervals."""
    metrics, keys = run.report["metrics"], list(found.results)
    with runlog.style() as plt:
        figure, columns = plt.subplots(1, len(PARTS), figsize=(11, 0.8 + 0.34 * len(keys)), sharey=True)
        for axes, (part, title) in zip(columns, PARTS.items(), strict=True):
            for place, key in enumerate(keys):
                one = metrics[f"{part}_{key}"]
                low, high = one["ci95"] or (one["mean"], one["mean"])
                axes.barh(place, one["mean"], color=COLOURS[key][0], height=0.7)
                axes.plot([low, high], [place, place], color="0.15", linewidth=1.4)
            highest = max((metrics[f"{part}_{key}"]["ci95"] or (0, 0))[1] for key in keys)
            limit = next((limit for limit in LIMITS if highest <= limit), 1.0)
            axes.set(xlim=(0, limit), title=title)
            axes.title.set_fontsize(9)
            axes.set_xticks([0, limit / 2, limit], [f"{100 * tick:g} %" for tick in (0, limit / 2, limit)])
            axes.grid(axis="y", visible=False)
        columns[0].set_yticks(range(len(keys)), [LABELS[key] for key in keys])
        columns[0].invert_yaxis()
        figure.tight_layout(w_pad=0.6)
        run.figure(
            figure,
            "parts",
            shows="Exact match on S1 to S4, and near misses answered with a taught completion (lower is better). The axes differ.",
            matters="What a memory of n-grams is for stands in the first two columns, what it cannot do in the next two.",
        )


def gates(run: runlog.Run, lines: Sequence[Mapping[str, Any]]) -> None:
    """A heat map: the first tokens of some texts, coloured by the gate of the memory, empty where no n-gram is known.

    `lines`: title, tokens, gates (NaN where nothing is known) of one text each.
    """
    longest = max(len(line["tokens"]) for line in lines)
    values = np.full((len(lines), longest), np.nan)
    for place, line in enumerate(lines):
        values[place, : len(line["gates"])] = [np.nan if gate is None else gate for gate in line["gates"]]
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(11, 1 + 0.55 * len(lines)))
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for place, line in enumerate(lines):
            for column, token in enumerate(line["tokens"]):
                value = values[place, column]
                dark = not np.isnan(value) and value < 0.5
                axes.text(column, place, token, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_yticks(range(len(lines)), [line["title"] for line in lines])
        axes.set_xticks([])
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label="gate", fraction=0.03, pad=0.01)
        run.figure(
            figure,
            "gate",
            shows=f"The gate of the memory at the first {SHOWN} tokens of some texts, longer ones are cut; white where no n-gram "
            "of the text was ever taught.",
            matters="On white tokens the memory adds exactly nothing.",
        )
