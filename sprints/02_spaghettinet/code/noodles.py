"""Pictures of wirings: noodles from pixels to neurons, and what a trained neuron looks at."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from torch import Tensor

PASTA = ("#E8B23A", "#D98E2B", "#F2CF6B", "#C96F2E", "#B5522C", "#8DA04A", "#D9A441", "#A33B2E")  # semolina, tomato, basil
PLATE, SAUCE = "#FBF6EA", "#7A2E1F"
BEND = 24  # points of a noodle


def plate(plt, wirings: Mapping[str, Tensor], image: np.ndarray, neurons: int = 26):
    """A panel per wiring: from the pixels of an image (height, width) curves lead to some hidden neurons, one colour per neuron.

    The neurons stand in a column in the order of their numbers, so that neighbours are neighbours.
    """
    figure, panels = plt.subplots(2, 2, figsize=(6.6, 6.3), facecolor=PLATE)
    for axes, (title, indices) in zip(panels.flat, wirings.items(), strict=True):
        strands(axes, indices, image, neurons)
        axes.set_title(title, color=SAUCE, fontsize=12, pad=3)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.01, wspace=0.03, hspace=0.08)
    return figure


def strands(axes, indices: Tensor, image: np.ndarray, neurons: int) -> None:
    """The noodles of evenly chosen neurons of a wiring (out, k)."""
    height, width = image.shape
    generator = np.random.default_rng(0)
    chosen = np.linspace(0, len(indices) - 1, min(neurons, len(indices))).round().astype(int)
    axes.imshow(image, cmap="YlOrBr", extent=(0, 1, 0, 1), alpha=0.75, zorder=0, interpolation="nearest")
    t = np.linspace(0, 1, BEND)[:, None]
    for place, neuron in enumerate(chosen):
        read = indices[neuron].cpu().numpy()
        start = np.stack([(read % width + 0.5) / width, 1 - (read // width + 0.5) / height], 1)
        end = np.array([2.45, 1 - (place + 0.5) / len(chosen)])
        sway = generator.normal(0, 0.06, (len(read), 2, 2))
        first = start + [0.55, 0] + sway[:, 0]
        second = end - [0.75, 0] + sway[:, 1]
        control = np.stack([start, first, second, np.broadcast_to(end, start.shape)], 1)[:, :, None]  # (noodles, 4, 1, 2)
        weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])  # (4, points, 1)
        lines = (control * weights).sum(1)
        color = PASTA[place % len(PASTA)]
        axes.add_collection(
            LineCollection(list(lines), colors=color, linewidths=0.8, alpha=min(0.8, 0.22 + 6 / len(read)), zorder=1)
        )
        axes.scatter(*end, s=60, color=SAUCE, edgecolor="#4A1A12", linewidth=0.8, zorder=3)  # a meatball
        axes.scatter(end[0] - 0.004, end[1] + 0.006, s=7, color="#C9796A", zorder=4, linewidth=0)
    axes.set(xlim=(-0.03, 2.53), ylim=(-0.03, 1.03), xticks=[], yticks=[], facecolor=PLATE)
    axes.set_aspect("auto")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def fields(plt, layers: Mapping[str, tuple[np.ndarray, np.ndarray]], grid: tuple[int, int], columns: int = 12):
    """Receptive fields: a block of rows per net, with the weights (neurons, in) and which of them are there (neurons, in).

    Neurons are given in the order in which they are to be shown. Grey: no connection; blue and red: negative and positive.
    """
    rows = 2
    figure, axes = plt.subplots(len(layers) * rows, columns, figsize=(0.82 * columns, 0.9 * rows * len(layers)))
    blank = plt.get_cmap("RdBu_r").with_extremes(bad="0.85")
    for block, (title, (weight, present)) in enumerate(layers.items()):
        for place in range(rows * columns):
            one = axes[block * rows + place // columns, place % columns]
            one.axis("off")
            if place < len(weight):
                shown = np.ma.masked_array(weight[place], ~present[place]).reshape(grid)
                limit = np.abs(shown).max() or 1.0
                one.imshow(shown, cmap=blank, vmin=-limit, vmax=limit, interpolation="nearest")
        axes[block * rows, 0].set_title(title, fontsize=10, pad=3)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.01, wspace=0.06, hspace=0.25)
    return figure


def most_used(weight: np.ndarray, readout: np.ndarray, count: int) -> Sequence[int]:
    """Neurons that matter most to the readout (classes, neurons): largest outgoing norm times incoming norm."""
    return np.argsort(-np.linalg.norm(readout, axis=0) * np.linalg.norm(weight, axis=1))[:count].tolist()
