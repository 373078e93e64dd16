"""The figures of `load`; each takes pyplot and returns a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def latency(plt: Any, waits: Mapping[tuple[str, int], Sequence[np.ndarray]]) -> Any:
    """Seconds against players; waits: (first_token or scene, players) -> median and p95 of each round."""
    figure, axes = plt.subplots()
    titles = {"scene": "whole scene", "first_token": "first text"}
    for colour, (what, title) in enumerate(titles.items()):
        users = sorted(number for name, number in waits if name == what)
        rounds = np.array([np.array(waits[what, number]) for number in users])  # (players, rounds, 2)
        for place, (name, style) in enumerate((("median", "--"), ("p95", "-"))):
            values = rounds[:, :, place]
            axes.plot(users, values.mean(1), style, color=f"C{colour}", marker="os"[colour], label=f"{title}, {name}")
            axes.fill_between(users, values.min(1), values.max(1), color=f"C{colour}", alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(users, [str(number) for number in users])
    axes.set(xlabel="players at a time, without a pause", ylabel="seconds", ylim=(0, None))
    axes.legend()
    return figure


def memory(plt: Any, samples: Sequence[tuple[float, float]]) -> Any:
    """samples: (seconds, MiB)."""
    figure, axes = plt.subplots(figsize=(7.2, 3))
    times, values = np.array(samples).T
    axes.plot(times / 60, values)
    axes.set(xlabel="minutes", ylabel="memory of the server, MiB", ylim=(0, 1.2 * values.max()))
    return figure


def engines(plt: Any, measured: Mapping[str, Sequence[float]], names: Mapping[str, str], prompts: Mapping[str, str]) -> Any:
    """Means with the range of the rounds; measured: name + kind of prompt -> tokens per CPU-second of each round."""
    figure, axes = plt.subplots(figsize=(7.2, 0.7 * len(names) + 1.4))
    for place, (kind, said) in enumerate(prompts.items()):
        rounds = np.array([measured[name + kind] for name in names])
        mean, at = rounds.mean(1), np.arange(len(names)) + 0.3 * place
        reach = np.abs(np.array([rounds.min(1), rounds.max(1)]) - mean)
        axes.errorbar(mean, at, xerr=reach, fmt="os"[place], label=said)  # no bars: a logarithmic axis has no zero to begin at
        for height, value, end in zip(at, mean, rounds.max(1), strict=True):
            axes.annotate(f"{value:.0f}", (end, height), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(np.arange(len(names)) + 0.15, list(names.values()))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="tokens per CPU-second (logarithmic)")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.margins(x=0.15)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.2), ncols=2)
    return figure
