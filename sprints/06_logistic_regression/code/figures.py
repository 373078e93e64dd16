"""The pictures of this sprint: arrays in, matplotlib figures out. `plt` comes from shared.runlog.style."""

import numpy as np

from shared.stats import summary, wilson_interval

from .problems import parse

Array = np.ndarray


def loss_curve(plt, curves: Array, zero: float):
    """Training loss per epoch over replays (replays, epochs + 1): median and band."""
    figure, axes = plt.subplots()
    _band(axes, curves, "C0", "median and 5 to 95 % of replays")
    axes.axhline(zero, color="C1", linestyle="--", linewidth=1.2)
    axes.annotate('below this it prints as "0.0000"', (0.02, zero), xycoords=("axes fraction", "data"), va="bottom", color="C1")
    axes.set(yscale="log", xlabel="epoch", ylabel="mean cross-entropy (nats)", title="The loss is small, and it is not zero")
    axes.legend(loc="upper right")
    return figure


def decision_boundary(plt, model, X: Array, y: Array, test: Array):
    figure, axes = plt.subplots(figsize=(6, 5))
    low, high = X.min(axis=0) - 1, X.max(axis=0) + 1
    first, second = np.meshgrid(np.linspace(low[0], high[0], 300), np.linspace(low[1], high[1], 300))
    p = model.predict_proba(np.column_stack([first.ravel(), second.ravel()]))[:, 1].reshape(first.shape)
    shade = axes.contourf(first, second, p, levels=np.linspace(0, 1, 21), cmap="RdBu_r", alpha=0.55, vmin=0, vmax=1)
    axes.contour(first, second, p, levels=[0.5], colors="black", linewidths=1.5)
    held_out = np.isin(np.arange(len(y)), test)
    for label, marker, color in ((0, "o", "C0"), (1, "s", "C1")):
        for rows, edge, name in ((~held_out, "white", "train"), (held_out, "black", "test")):
            pick = rows & (y == label)
            axes.scatter(
                *X[pick].T, marker=marker, color=color, edgecolor=edge, s=42, linewidth=1.3, label=f"class {label}, {name}"
            )
    figure.colorbar(shade, ax=axes, label="P(class 1)", ticks=[0, 0.25, 0.5, 0.75, 1])
    axes.grid(False)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title="Decision boundary of replay 0")
    axes.legend(fontsize=8, loc="upper left", frameon=True)
    return figure


def learning_rates(plt, by_rate: dict[float, Array], zero: float):
    figure, axes = plt.subplots()
    for index, (rate, curves) in enumerate(by_rate.items()):
        _band(axes, curves, f"C{index}", f"step {rate:g}")
    axes.axhline(zero, color="black", linestyle="--", linewidth=1)
    axes.annotate('prints as "0.0000" below', (0.02, zero), xycoords=("axes fraction", "data"), va="bottom")
    axes.set(yscale="log", xlabel="epoch", ylabel="mean cross-entropy (nats)", title="Learning-rate ablation", ylim=(None, 4))
    axes.legend(loc="upper center", ncols=len(by_rate))
    return figure


def confusion(plt, one: Array, pooled: Array):
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.5))
    for axes, table, title in (
        (panels[0], one, f"replay 0 (n = {one.sum()})"),
        (panels[1], pooled, f"all replays (n = {pooled.sum():,})"),
    ):
        share = table / table.sum(axis=1, keepdims=True)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1.2)
        for row in (0, 1):
            for column in (0, 1):
                color = "white" if share[row, column] > 0.6 else "black"
                axes.text(column, row, f"{table[row, column]:,}\n{share[row, column]:.2%}", ha="center", va="center", color=color)
        axes.set(xticks=[0, 1], yticks=[0, 1], xlabel="predicted", ylabel="true", title=title)
        axes.grid(False)
    figure.tight_layout()
    return figure


def roc(plt, false_positive: Array, true_positive: Array, area: float):
    figure, axes = plt.subplots(figsize=(5.4, 4.2))
    axes.plot(false_positive, true_positive, drawstyle="steps-post", label=f"all replays, 1 - AUC = {1 - area:.1e}")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        title="ROC on the test points, upper left corner",
        xlim=(-0.0005, 0.02),
        xticks=[0, 0.005, 0.01, 0.015, 0.02],
        ylim=(0.97, 1.001),
    )
    axes.legend(loc="lower right")
    return figure


def l2_path(plt, strengths: Array, path: Array):
    figure, axes = plt.subplots()
    for index in range(path.shape[1]):
        axes.plot(strengths, path[:, index], label=f"$w_{index + 1}$")
    axes.plot(strengths, np.linalg.norm(path, axis=1), color="black", linestyle="--", label="norm")
    axes.set(xscale="log", xlabel="L2 strength (1 / C in scikit-learn)", ylabel="coefficient", title="The penalty decides the size")
    axes.legend()
    return figure


def separation(plt, steps: Array, norms: Array, angles: Array, slope: float, losses: Array, zero: float):
    """Gradient descent on separable data: norm, loss and signed angle to the max-margin direction, (seeds, steps) each."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8))
    for values, axes, color in ((norms, panels[0], "C0"), (losses, panels[1], "C1"), (angles, panels[2], "C2")):
        axes.plot(steps, values.T, color=color, alpha=0.5, linewidth=1.2)
    late = steps >= steps[-1] / 100
    anchor = np.median(norms[:, -1]) + slope * np.log(steps[late] / steps[-1])
    panels[0].plot(steps[late], anchor, color="black", linestyle="--", linewidth=1.5, label="theory: slope 1 / margin")
    panels[0].legend()
    panels[1].axhline(zero, color="black", linestyle="--", linewidth=1)
    panels[1].annotate('prints as "0.0000" below', (0.02, zero), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    panels[2].axhline(0, color="black", linestyle="--", linewidth=1.5, label="max margin")
    panels[2].legend()
    furthest = np.abs(angles[:, -1]).max()
    for axes, title, label, scale in (
        (panels[0], "the norm grows like log t", "norm of the coefficients", "linear"),
        (panels[1], "the loss falls like 1 / t", "mean cross-entropy (nats)", "log"),
        (panels[2], f"in the end up to {furthest:.1f} degrees apart", "angle (degrees)", "linear"),
    ):
        axes.set(xscale="log", yscale=scale, xlabel="gradient step t", ylabel=label, title=title)
    figure.tight_layout()
    return figure


def bayes_gap(plt, sizes: Array, gaps: dict[tuple[float, float], Array]):
    """Distance to the best possible accuracy (percentage points) against the training rows: mean and its interval over seeds.

    `gaps` has (seeds, sizes) per best accuracy and penalty; penalties other than 1 are dashed."""
    figure, axes = plt.subplots()
    colors = {accuracy: f"C{index}" for index, accuracy in enumerate(dict.fromkeys(accuracy for accuracy, _ in gaps))}
    for (accuracy, l2), values in gaps.items():
        color, dashes, note = colors[accuracy], *(("-", "") if l2 == 1 else ("--", f", l2 = {l2:g}"))
        axes.plot(sizes, values.mean(axis=0), dashes, color=color, marker="o", label=f"best possible {accuracy:.2%}{note}")
        axes.fill_between(sizes, *np.transpose([summary(at)["ci95"] for at in values.T]), color=color, alpha=0.2, linewidth=0)
    reference = next(iter(gaps.values())).mean(axis=0)
    axes.plot(sizes, reference[-1] * sizes[-1] / sizes, color="grey", linestyle=":", linewidth=1.2, label="proportional to 1 / n")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training rows n",
        ylabel="distance to the best accuracy (points)",
        title="How far from the best possible classifier",
    )
    axes.legend(fontsize=9)
    return figure


def step_size(plt, multiples: Array, outcomes: Array, measured: Array, local: Array):
    """Left: final loss against the step in units of 2 / L. Right: measured divergence point against theory."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    panels[0].plot(multiples, outcomes.T, color="C0", alpha=0.35, linewidth=1)
    panels[0].axvline(1, color="C1", linestyle="--", label="guaranteed: 2 / L")
    panels[0].set(
        xlabel="step / (2 / L)",
        ylabel="loss above the optimum (nats)",
        yscale="log",
        xscale="log",
        title="Final loss against the step",
    )
    panels[0].legend()
    panels[1].scatter(local, measured, color="C0", zorder=3)
    limits = [0.9 * min(local.min(), measured.min()), 1.1 * max(local.max(), measured.max())]
    panels[1].plot(limits, limits, color="black", linestyle="--", linewidth=1.2, label="equal")
    panels[1].set(
        xlabel="2 / largest curvature at the optimum",
        ylabel="largest step that converges",
        title="Where it really diverges",
        xlim=limits,
        ylim=limits,
    )
    panels[1].legend()
    figure.tight_layout()
    return figure


def reliability(plt, groups: dict[str, tuple[Array, Array, Array]], repeats: int):
    """Observed share of positives against predicted probability, per model: (mean prediction, share, rows) of each bin.

    Every row was predicted `repeats` times; the intervals count it once."""
    figure, panels = plt.subplots(1, len(groups), figsize=(3.6 * len(groups), 3.9), sharey=True)
    for index, (axes, (name, (predicted, observed, rows))) in enumerate(zip(panels, groups.items(), strict=True)):
        once = np.maximum(rows // repeats, 1)
        low, high = np.transpose([wilson_interval(round(share * n), n) for share, n in zip(observed, once, strict=True)])
        error = np.maximum([observed - low, high - observed], 0)
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1.2)
        axes.errorbar(predicted, observed, yerr=error, fmt="none", color=f"C{index}", alpha=0.6, linewidth=1.2)
        axes.scatter(predicted, observed, s=10 + 160 * rows / rows.sum(), color=f"C{index}", zorder=3)
        axes.set(xlabel="predicted probability", title=f"reliability: {name}", xlim=(-0.05, 1.05), ylim=(-0.03, 1.03))
    panels[0].set_ylabel("observed share")
    figure.tight_layout()
    return figure


def race(plt, rows: dict[str, dict[str, Array]]):
    """Seconds to the tolerance per problem and solver: one panel per problem, one dot per repeat, the median as a line."""
    figure, panels = plt.subplots(len(rows), 1, figsize=(8.5, 1 + 2.6 * len(rows)), squeeze=False)
    for axes, (name, seconds) in zip(panels[:, 0], rows.items(), strict=True):
        n, d, condition = parse(name)
        title = f"{n:,} rows x {d} columns" + (f", condition number {condition}" if condition > 1 else "")
        for index, (solver, values) in enumerate(seconds.items()):
            color = "C1" if solver.startswith("ours") else "C0"
            axes.scatter(values, np.full(len(values), index), color=color, alpha=0.4, s=22)
            axes.scatter([np.median(values)], [index], color=color, marker="|", s=420, linewidth=2.5)
            axes.annotate(
                f" {np.median(values):.3f} s", (np.median(values), index), xytext=(0, 10), textcoords="offset points", fontsize=9
            )
        axes.set(yticks=range(len(seconds)), yticklabels=list(seconds), xscale="log", title=title, ylim=(-0.6, len(seconds) - 0.2))
        axes.invert_yaxis()
    panels[-1, 0].set_xlabel("seconds (log scale)")
    figure.tight_layout()
    return figure


def _band(axes, curves: Array, color: str, label: str) -> None:
    x = np.arange(curves.shape[1])
    low, median, high = np.percentile(curves, [5, 50, 95], axis=0)
    axes.plot(x, median, color=color, label=label)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
