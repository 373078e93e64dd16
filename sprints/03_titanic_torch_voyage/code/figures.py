"""The pictures of this sprint: arrays in, matplotlib figures out. `plt` comes from shared.runlog.style."""

import numpy as np

from shared.stats import wilson_interval

Array = np.ndarray
SEX = {"women": "C1", "men": "C0"}  # in every picture


def bars(plt, cells: dict[str, Array], title: str):
    """Share of survivors of each group (labels per group), with Wilson's interval and the number of passengers."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    names = [name.replace("_", " ") for name in cells]
    colors = [SEX.get(name.split()[0], "C2") for name in names]
    _shares(axes, np.arange(len(cells)), list(cells.values()), colors, 0.7)
    axes.set(xticks=range(len(cells)), ylabel="share of survivors", ylim=(0, 1.08), title=title)
    axes.set_xticklabels([name.replace(" class", "\nclass") for name in names])
    return figure


def ages(plt, age: Array, male: Array, y: Array):
    """Histograms of known ages, everybody behind the survivors, for women and for men."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    edges = np.arange(0, 85, 5)
    for axes, mask, name, color in (
        (panels[0], ~male, "women and girls", SEX["women"]),
        (panels[1], male, "men and boys", SEX["men"]),
    ):
        axes.hist(age[mask], edges, color="0.85", label="all")
        axes.hist(age[mask & (y == 1)], edges, color=color, label="survived")
        axes.set(xlabel="age (years)", title=name)
        axes.legend()
    panels[0].set_ylabel("passengers")
    figure.tight_layout()
    return figure


def unknown(plt, shares: dict[str, tuple[Array, Array]]):
    """Share of blanks per field, of survivors and of the dead."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for side, (label, color) in enumerate((("survived", "C2"), ("died", "0.5"))):
        place = np.arange(len(shares)) + 0.36 * side - 0.18
        axes.bar(place, [pair[side].mean() for pair in shares.values()], 0.34, color=color, label=label)
    axes.set(xticks=range(len(shares)), ylabel="share unknown", ylim=(0, 1), title="What is unknown, and of whom")
    axes.set_xticklabels(list(shares))
    axes.legend()
    return figure


def companions(plt, fates: dict[str, dict[str, Array]]):
    """Share of survivors by the fate of companions, one group of bars for each kind of passenger."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    for place, (name, color) in enumerate(zip(fates, SEX.values(), strict=True)):
        at = np.arange(len(fates[name])) + 0.4 * place - 0.2
        _shares(axes, at, list(fates[name].values()), [color] * len(at), 0.38, label=name)
    labels = list(next(iter(fates.values())))
    axes.set(
        xticks=range(len(labels)), xlabel="women and children among the companions", ylabel="share of survivors", ylim=(0, 1.08)
    )
    axes.set_xticklabels(labels)
    axes.set_title("The fate of companions")
    axes.legend(loc=(0.46, 0.84))
    return figure


def _shares(axes, place: Array, groups: list[Array], colors: list[str], width: float, label: str | None = None) -> None:
    share = np.array([group.mean() if len(group) else 0.0 for group in groups])
    ends = np.array([wilson_interval(int(group.sum()), len(group)) if len(group) else (0.0, 0.0) for group in groups]).T
    axes.bar(place, share, width, color=colors, label=label)
    axes.errorbar(place, share, [share - ends[0], ends[1] - share], fmt="none", color="black", linewidth=1.2)
    for at, group, top in zip(place, groups, ends[1], strict=True):
        axes.annotate(f"{len(group)}", (at, top), ha="center", va="bottom", fontsize=8, color="0.35")


def reliability(plt, models: dict[str, tuple[Array, Array]]):
    """Observed share against predicted probability, for each model its labels and probabilities."""
    from .protocol import reliability as bins

    figure, axes = plt.subplots(figsize=(5.2, 4.6))
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, (y, p) in models.items():
        mean, share, _, error = bins(y, p)
        axes.plot(mean, share, marker="o", label=f"{name} (error {error:.3f})")
    axes.set(xlabel="predicted probability of survival", ylabel="observed share of survivors", title="Calibration, out of fold")
    axes.legend(loc="upper left", fontsize=9)
    return figure


Span = tuple[float, float, float]  # mean and the ends of its interval


def ranked(plt, values: dict[str, dict[str, Span]], label: str, title: str, base: float | None = None):
    """One line per name, on it one dot and its interval per series; `base` is a value to compare with."""
    figure, axes = plt.subplots(figsize=(7.4, 0.34 * len(values) + 1.2))
    series = sorted({name for row in values.values() for name in row})  # a series keeps its color from picture to picture
    for i, name in enumerate(series):
        rows = [(place, row[name], len(row)) for place, row in enumerate(values.values()) if name in row]
        height = [place + (0.26 * (i - (len(series) - 1) / 2) if several > 1 else 0) for place, _, several in rows]
        mean, low, high = np.array([span for _, span, _ in rows]).T
        axes.errorbar(mean, height, xerr=[mean - low, high - mean], fmt="o", markersize=5, color=f"C{i}", capsize=2, label=name)
    if len(series) > 1:
        axes.legend()
    if base is not None:
        axes.axvline(base, color="0.5", linestyle="--", linewidth=1)
    axes.set(yticks=range(len(values)), xlabel=label, title=title)
    axes.set_yticklabels(list(values))
    axes.invert_yaxis()
    return figure


def curves(plt, lines: dict[str, dict[str, tuple[Array, Array]]], y_label: str):
    """One panel per feature; in each, per name, probability against the feature's value."""
    figure, panels = plt.subplots(1, len(lines), figsize=(3.2 * len(lines), 3.4), sharey=True, squeeze=False)
    for axes, (feature, found) in zip(panels[0], lines.items(), strict=True):
        for name, (x, p) in found.items():
            few = len(x) < 9
            axes.plot(x, p, color=SEX.get(name), marker="o" if few else None, label=name)
            if few:
                axes.set_xticks(x)
        axes.set(xlabel=feature.replace("_", " "), ylim=(0, 1))
    panels[0, 0].set_ylabel(y_label)
    names, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(names, labels, loc="upper center", ncols=len(labels), fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    return figure
