"""The charts of this sprint: results in, matplotlib figures out. `plt` comes from shared.runlog.style."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from shared.stats import mean_interval

from .comparisons import LABELS, LONGER, TITLES, Accuracy, Trained

COLORS = {
    "dense": "black",
    "dense_small": "0.55",
    "erdos_renyi": "#CC79A7",
    "constant_fan_in": "#0072B2",
    "bundle": "#56B4E9",
    "local_bundle": "#D55E00",
    "small_world": "#E69F00",
    "variance": "#009E73",
    "set": "#8C6BB1",
    "rigl": "#7A5230",
}
MARKERS = dict(zip(COLORS, "*sXoD^vP<>", strict=True))  # for those who do not tell the colours apart


def curves(plt, trained: Mapping[str, Trained], title: str):
    """Training loss and validation accuracy per epoch, mean over seeds, a line per arm."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2))
    for arm, one in trained.items():
        losses, curve = (np.mean([result[name] for result in one.results], axis=0) for name in ("losses", "curve"))
        epochs = np.arange(1, len(curve) + 1)
        style = {"color": COLORS[arm], "marker": MARKERS[arm], "label": LABELS[arm], "linewidth": 1.4, "markersize": 5}
        left.plot(epochs, losses, **style, markevery=-(-len(epochs) // 6))
        right.plot(epochs, curve, **style, markevery=-(-len(epochs) // 6))
    late = np.concatenate([one.results[0]["curve"][len(one.results[0]["curve"]) // 4 :] for one in trained.values()])
    ticks = np.unique(np.linspace(1, len(epochs), min(6, len(epochs))).astype(int))
    right.set(xlabel="epoch", xticks=ticks, ylabel="accuracy (%), validation rows", ylim=(late.min() - 0.5, None))
    left.set(xlabel="epoch", xticks=ticks, ylabel="cross-entropy (nats), training rows", yscale="log", title=title)
    right.legend(fontsize=8, ncols=2, loc="lower right")
    figure.tight_layout()
    return figure


def rate_table(plt, known: Accuracy, sparsities: Sequence[float]):
    """The tuned learning rate of every arm and sparsity, as a shaded table."""
    rows = [arm for arm in LABELS if arm != "dense"]
    table = np.array([[known.plain[arm, sparsity].job.rate for sparsity in sparsities] for arm in rows])
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(sparsities), 4))
    write_into_cells(axes.imshow(np.log2(table), cmap="YlOrBr", aspect="auto"), table, lambda rate: f"{1000 * rate:g}", 9)
    axes.set(
        xticks=range(len(sparsities)), xticklabels=[f"{s:.0%}" for s in sparsities], yticks=range(len(rows)), xlabel="sparsity"
    )
    axes.set_yticklabels([LABELS[arm] for arm in rows])
    axes.set_title(f"{_set(known.dense)}: rate / 0.001 (dense: {1000 * known.dense.job.rate:g})")
    axes.grid(False)
    return figure


def write_into_cells(image, table: np.ndarray, text: Callable[[float], str], size: float) -> None:
    """Write each number of `table` (rows, columns) into its cell of `image`, in black or white, whichever stands out."""
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(image.get_array())[row, column]
            color = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            image.axes.text(column, row, text(value), ha="center", va="center", fontsize=size, color=color)


def against_sparsity(plt, known: Accuracy, sparsities: Sequence[float], title: str):
    """Test accuracy of each arm against sparsity; left the pixels as they are, right the control with permuted pixels."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True)
    places = np.arange(len(sparsities))
    for axes, source in ((panels[0], known.plain), (panels[1], known.plain | known.permuted)):
        _level(axes, known.dense)
        arms = [arm for arm in LABELS if (arm, sparsities[0]) in source]
        if axes is panels[1]:
            arms = ["dense_small", "constant_fan_in", *{arm: None for arm, _ in known.permuted}]
        for number, arm in enumerate(arms):
            values = np.array([source[arm, sparsity].values("test") for sparsity in sparsities])
            shift = 0.03 * (number - len(arms) / 2)
            style = {**BARS, "marker": MARKERS[arm], "markersize": 6, "color": COLORS[arm], "label": LABELS[arm]}
            axes.errorbar(places + shift, values.mean(1), yerr=_half(values), **style)
        axes.set(xticks=places, xticklabels=[f"{sparsity:.0%}" for sparsity in sparsities], xlabel="sparsity")
    panels[0].set(ylabel="test accuracy (%)", title=title)
    panels[1].set_title(f"{title}: local wirings on permuted pixels")
    panels[0].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def against_time(plt, known: Accuracy, sparsities: Sequence[float]):
    """Test accuracy against processor seconds of the training loop and against parameters; a line per arm over the sparsities."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axes, name in ((panels[0], "seconds"), (panels[1], "parameters")):
        for arm in LABELS:
            line = [known.dense] if arm == "dense" else [known.plain[arm, sparsity] for sparsity in sparsities]
            x, y = ([one.values(which).mean() for one in line] for which in (name, "test"))
            size = 13 if arm == "dense" else 6
            axes.plot(x, y, color=COLORS[arm], marker=MARKERS[arm], markersize=size, linewidth=1.3, label=LABELS[arm])
        axes.set(xscale="log")
        _plain_ticks(axes)
    panels[0].set(xlabel="processor seconds of a training", ylabel="test accuracy (%)", title=_set(known.dense))
    panels[1].set(xlabel="parameters")
    panels[1].legend(fontsize=8, loc="lower right", markerscale=0.8)
    figure.tight_layout()
    return figure


def rates(plt, lines: Mapping[str, Sequence[Trained]], used: float):
    """Test accuracy against the learning rate, a line per way to set it; `used` is the dense net's own rate."""
    figure, axes = plt.subplots()
    for number, (label, line) in enumerate(lines.items()):
        values = np.array([one.values("test") for one in line])
        color = ("0.55", "#CC79A7", "#0072B2")[number]
        axes.errorbar([one.job.rate for one in line], values.mean(1), yerr=_half(values), color=color, label=label, **BARS)
    axes.axvline(used, color="black", linestyle=":", linewidth=1.2)
    title = f"{_set(next(iter(lines.values()))[0])}: one rate for all, or rate / density"
    axes.set(xscale="log", xlabel="learning rate", ylabel="test accuracy (%)", title=title)
    side = "right" if used > np.sqrt(np.prod(axes.get_xlim())) else "left"  # of the text's ends, the one at the line
    axes.annotate("  the dense net's own  ", (used, axes.get_ylim()[0]), ha=side, va="bottom", fontsize=9)
    _plain_ticks(axes)
    axes.legend(fontsize=9)
    return figure


def skips(plt, trained: Mapping[float, Trained]):
    """Validation accuracy per epoch of deep nets with ever more skips, a line per seed, and the test accuracies."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(2, 1))
    for number, (skip, one) in enumerate(trained.items()):
        for seed, result in enumerate(one.results):
            label = f"{skip:.0%} of the noodles skip" if seed == 0 else None
            epochs = range(1, len(result["curve"]) + 1)
            left.plot(epochs, result["curve"], color=f"C{number}", linewidth=1, alpha=0.7, label=label)
        values = one.values("test")
        right.scatter(np.full(len(values), number), values, color=f"C{number}", alpha=0.5, s=22)
        right.scatter([number], [values.mean()], color=f"C{number}", marker="_", s=500)
    first = next(iter(trained.values()))
    title = f"{_set(first)}: {first.job.depth} levels"
    left.set(xlabel="epoch", xticks=epochs, ylabel="accuracy (%), validation rows", title=title)
    left.legend(fontsize=9)
    labels = [f"{skip:.0%}" for skip in trained]
    right.set(xticks=range(len(trained)), xticklabels=labels, xlim=(-0.5, len(trained) - 0.5))
    right.set(xlabel="share of the noodles that skip", ylabel="test accuracy (%)")
    figure.tight_layout()
    return figure


def locality(plt, lines: Mapping[bool, Sequence[Trained]], dense: Trained):
    """Test accuracy against the share of connections that go anywhere, on pixels as they are and permuted."""
    figure, axes = plt.subplots()
    _level(axes, dense)
    for permuted, line in lines.items():
        values = np.array([one.values("test") for one in line])
        label, color = ("pixels permuted", "0.45") if permuted else ("pixels as they are", "#E69F00")
        axes.errorbar(range(len(line)), values.mean(1), yerr=_half(values), color=color, label=label, **BARS)
        axes.set(xticks=range(len(line)), xticklabels=[f"{one.job.rewire_p:g}" for one in line])
    title = f"{_set(dense)}: from neighbours to tangle"
    axes.set(xlabel="share of connections that go anywhere (rewire_p)", ylabel="test accuracy (%)", title=title)
    axes.legend(fontsize=9)
    return figure


def tangles(plt, points: Sequence[tuple[str, float, Mapping[str, float], float]], names: Mapping[str, str], title: str):
    """Test accuracy against each measure: points (arm, sparsity, measures, accuracy), the size of a point is its density."""
    figure, panels = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.8), sharey=True)
    for axes, (name, label) in zip(panels, names.items(), strict=True):
        for arm in dict.fromkeys(point[0] for point in points):
            of_arm = [point for point in points if point[0] == arm]
            x, y = [point[2][name] for point in of_arm], [point[3] for point in of_arm]
            axes.plot(x, y, color=COLORS[arm], linewidth=0.6, alpha=0.5)
            sizes, style = [12 + 220 * (1 - point[1]) for point in of_arm], {"color": COLORS[arm], "marker": MARKERS[arm]}
            axes.scatter(x, y, s=sizes, label=LABELS[arm], alpha=0.85, **style)
        axes.set_xlabel(label)
    panels[0].set(ylabel="test accuracy (%)", title=title)
    panels[-1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.tight_layout()
    return figure


def longer(plt, few: Mapping[str, Trained], many: Mapping[str, Trained]):
    """Test accuracy after few and after more epochs, a line per arm."""
    figure, axes = plt.subplots(figsize=(7.2, 0.9 + 0.45 * len(many)))
    for row, arm in enumerate(many):
        start, end = few[arm].values("test").mean(), many[arm].values("test")
        axes.plot([start, end.mean()], [row, row], color=COLORS[arm], linewidth=2, alpha=0.5)
        axes.scatter(end, np.full(len(end), row), color=COLORS[arm], s=14, alpha=0.6)
        axes.scatter(start, row, color=COLORS[arm], marker="|", s=120)
    epochs = next(iter(many.values())).job.epochs
    axes.set(
        yticks=range(len(many)), xlabel="test accuracy (%)", title=f"{_set(few[arm])}: from {epochs // LONGER} to {epochs} epochs"
    )
    axes.set_yticklabels([LABELS[arm] for arm in many])
    axes.invert_yaxis()
    return figure


def original(plt, rows: Mapping[str, Trained], labels: Mapping[str, str], claimed: float):
    """Test accuracy of each net under the original's protocol, a dot per seed."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for row, (name, one) in enumerate(rows.items()):
        values, color = one.values("test"), "C1" if name == "original" else "C0"
        axes.scatter(values, np.full(len(values), row), color=color, alpha=0.5, s=24)
        axes.scatter([values.mean()], [row], color=color, marker="|", s=400)
    axes.axvline(claimed, color="black", linestyle=":", linewidth=1.2)
    axes.annotate(" claimed", (claimed, -0.5), fontsize=9, va="top")
    title = f"{_set(rows['original'])}: the original's protocol"
    axes.set(yticks=range(len(rows)), xlabel="test accuracy (%)", title=title, ylim=(len(rows) - 0.5, -0.6))
    axes.set_yticklabels(
        [f"{labels[name]} ({one.results[0]['parameters']:,} parameters)" for name, one in rows.items()], fontsize=9
    )
    return figure


BARS = {"marker": "o", "markersize": 4, "linewidth": 1.3, "elinewidth": 1}


def _set(one: Trained) -> str:
    """The set that a net was trained on, as titles have it."""
    return TITLES[one.job.data]


def _plain_ticks(axes) -> None:
    """A logarithmic axis with numbers as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _level(axes, dense: Trained) -> None:
    """The dense net, which has no sparsity, as a line with its 95 % interval."""
    values = dense.values("test")
    axes.axhline(values.mean(), color="black", linestyle="--", linewidth=1.2, label=LABELS["dense"])
    half = _half(values[None])[0]
    axes.axhspan(values.mean() - half, values.mean() + half, color="black", alpha=0.08, linewidth=0)


def _half(values: np.ndarray) -> np.ndarray:
    """Half the 95 % interval of the mean of each row."""
    return np.ptp(np.array([mean_interval(row) for row in values], dtype=float), axis=1) / 2
