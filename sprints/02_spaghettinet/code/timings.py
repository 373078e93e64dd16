"""The metrics, sentences and figures of the timings."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from shared import runlog

from .contenders import BUNDLE, CSR, HALF, LINEAR, LOCAL, MASKED, ONEDNN, PACKED, RANDOM, SCIPY, SPARSELINEAR, TORCH, Case
from .figures import write_into_cells

Table = Mapping[tuple[Case, str], Mapping[str, np.ndarray]]  # case and mode -> layer -> seconds of each round
ORDER = (MASKED, CSR, SCIPY, SPARSELINEAR, TORCH, RANDOM, BUNDLE, LOCAL, PACKED, HALF, ONEDNN)
WORDS = {"forward": "infer", "training": "train", "adam": "adam"}  # in keys
SAYS = {"forward": "forward", "training": "forward and backward", "adam": "forward, backward and Adam"}
HELD = {"speedup_infer_b1_s90_784x1024": 10, "speedup_infer_b1_s90_4096": 25, "speedup_train_b256_s90_1024_vs_linear": 5}
HELD |= {"speedup_train_b256_s90_1024_vs_onednn": 2.5}  # what was aimed at


def word(name: str) -> str:
    """A layer's name in a key."""
    return re.sub(r"\W+", "_", name.removeprefix("ours, ")).strip("_")


def fastest(case: Case, mode: str, times: Mapping[str, np.ndarray]) -> str:
    """Our entry in a cell: of the float32 ones the layer made for it, a packed bundle for one row and a bundle else."""
    wanted = PACKED if case.batch == 1 and mode == "forward" else BUNDLE
    return wanted if wanted in times else TORCH


def record(run: runlog.Run, table: Table) -> None:
    prefix = "cuda_" if run.device.kind == "cuda" else ""
    for (case, mode), times in table.items():
        cell = f"{WORDS[mode]}_b{case.batch}_s{100 * case.sparsity:g}_{case.shape}"
        ours = {"": fastest(case, mode, times)}
        ours |= {mark: name for mark, name in (("random_", RANDOM), ("local_", LOCAL)) if mode == "training" and name in times}
        ours |= {"bf16_": HALF} if case.batch == 1 and HALF in times else {}
        for mark, name in ours.items():
            for rival, tail in ((LINEAR, "" if mode == "forward" and case.batch == 1 else "_vs_linear"), (ONEDNN, "_vs_onednn")):
                if rival in times:
                    meaning = f"{case}: time of {rival} / time of {name}, {SAYS[mode]}"
                    ratio = times[rival] / times[name]
                    run.metric(f"{prefix}speedup_{mark}{cell}{tail}", ratio, unit="x", higher_is_better=True, meaning=meaning)
    if any(SPARSELINEAR in times for times in table.values()):
        run.observe(f"The package sparselinear is {version('sparselinear')}; above 1024 x 1024 its steps take too long to repeat.")
    else:
        run.observe("The package sparselinear: not run here (it is not installed).")
    sentences(run, table)
    with runlog.style() as plt:
        for mode, label in SAYS.items():
            cells = {f"{case}": times for (case, which), times in table.items() if which == mode}
            if cells:
                run.figure(
                    shades(plt, cells, f"{label}: times as fast as nn.Linear"),
                    f"speed_{WORDS[mode]}",
                    shows=f"{label.capitalize()}: speed of each layer / speed of nn.Linear, medians of the rounds; blue: faster.",
                    matters="Where oneDNN's column is blue, nn.Linear is not the dense layer to beat.",
                )


def sentences(run: runlog.Run, table: Table) -> None:
    """What the table says: who loses to the dense layers, who wins, and what was aimed at."""
    losers = []
    for name in (MASKED, CSR, SCIPY, SPARSELINEAR, TORCH, RANDOM, BUNDLE, LOCAL):
        ratios = [
            np.median(times[name] / np.minimum(times[LINEAR], times.get(ONEDNN, times[LINEAR])))
            for (case, _), times in table.items()
            if name in times and case.batch > 1
        ]
        if ratios:
            losers.append(f"{name} in {sum(ratio < 1 for ratio in ratios)} of {len(ratios)}")
    if losers:
        run.observe(f"Faster than the faster dense layer, of the cells with more than one row: {', '.join(losers)}.")
    metrics = run.report["metrics"]
    for key, target in HELD.items():
        if key in metrics:
            got = metrics[key].get("median", metrics[key]["mean"])
            run.observe(f"{key}: {got:.1f} x, aimed at {target:g} x: {'reached' if got >= target else 'missed'}.")
    one = {case: times for (case, mode), times in table.items() if case.batch == 1 and HALF in times}
    if one:
        gain = [np.median(times[PACKED] / times[HALF]) for times in one.values()]
        run.observe(f"One row with bfloat16 instead of float32 weights: {min(gain):.2f} to {max(gain):.2f} times as fast.")
    train = {case: times for (case, mode), times in table.items() if mode == "training"}
    if train:
        case, times = max(train.items(), key=lambda item: (-abs(item[0].sparsity - 0.9), item[0].batch))
        name = fastest(case, "training", times)
        against = [
            f"{np.median(times[rival] / times[name]):.1f} times as fast as {rival}" for rival in (LINEAR, ONEDNN) if rival in times
        ]
        run.conclude(f"Training at {case}: {name} is {' and '.join(against)}.")
    else:
        run.conclude(f"{len(table)} cells were timed.")


def shades(plt, cells: Mapping[str, Mapping[str, np.ndarray]], title: str):
    """A table: rows are cells, columns layers, a number and a colour for the speed over that of nn.Linear."""
    names = [name for name in ORDER if any(name in times for times in cells.values())]
    ratio = np.full((len(cells), len(names)), np.nan)
    for row, times in enumerate(cells.values()):
        for column, name in enumerate(names):
            if name in times:
                ratio[row, column] = np.median(times[LINEAR] / times[name])
    figure, axes = plt.subplots(figsize=(3.2 + 0.85 * len(names), 1.6 + 0.27 * len(cells)))
    image = axes.imshow(np.log2(ratio), cmap="RdBu", vmin=-4, vmax=4, aspect="auto")
    write_into_cells(image, ratio, lambda value: f"{value:.2g}" if value < 10 else f"{value:.0f}", 8)
    axes.set(yticks=range(len(cells)), xticks=range(len(names)), title=title)
    axes.set_yticklabels(list(cells), fontsize=8)
    axes.set_xticklabels(names, fontsize=8, rotation=35, ha="right")
    axes.grid(False)
    return figure


def crossings(run: runlog.Run, lines: Mapping[Case, Mapping[float, Mapping[str, np.ndarray]]]) -> None:
    """Record and draw where the time of our layer falls below that of the dense ones."""
    found = {}
    for case, by_sparsity in lines.items():
        sparsities = sorted(by_sparsity)
        for rival, tail in ((LINEAR, "vs_linear"), (ONEDNN, "vs_onednn")):
            for name in (BUNDLE, RANDOM, TORCH):
                if rival not in by_sparsity[sparsities[0]] or name not in by_sparsity[sparsities[0]]:
                    continue
                excess = np.array([by_sparsity[s][name] - by_sparsity[s][rival] for s in sparsities])
                places = np.array([crossing(sparsities, column) for column in excess.T])
                key = f"crossover_b{case.batch}_{case.shape}_{word(name)}_{tail}"
                meaning = f"{case.shape}, batch {case.batch}: sparsity from which {name} trains faster than {rival} "
                bounds = f"(looked for between {sparsities[0]:g} and {sparsities[-1]:g})"
                run.metric(key, places, higher_is_better=False, meaning=meaning + bounds)
                found[case, name, rival] = float(np.median(places))
    told = [
        f"{name} at {case.shape}, batch {case.batch}: {place:.0%}"
        for (case, name, rival), place in found.items()
        if rival == ONEDNN
    ]
    run.observe("Crossover against oneDNN: " + ("; ".join(told) or "not run here") + ".")
    ours = [place for (_, name, rival), place in found.items() if name == BUNDLE and rival == ONEDNN]
    run.conclude(
        f"A bundle trains faster than oneDNN's dense layer from {min(ours):.0%} to {max(ours):.0%} sparsity on, by shape."
        if ours
        else "No crossover was looked for."
    )
    with runlog.style() as plt:
        columns = min(3, len(lines))
        rows = -(-len(lines) // columns)
        figure, panels = plt.subplots(rows, columns, figsize=(1 + 3.1 * columns, 3.6 * rows), squeeze=False)
        for spare in panels.flat[len(lines) :]:
            spare.remove()
        for axes, (case, by_sparsity) in zip(panels.flat, lines.items(), strict=False):
            for number, name in enumerate((LINEAR, ONEDNN, RANDOM, BUNDLE, TORCH)):
                if name in by_sparsity[min(by_sparsity)]:
                    middle = [1e3 * np.median(by_sparsity[s][name]) for s in sorted(by_sparsity)]
                    color = ("black", "0.55", "C0", "C1", "C2")[number]
                    axes.plot(sorted(by_sparsity), middle, color=color, marker="o", markersize=3, label=name)
            axes.set(xlabel="sparsity", title=f"{case.shape}, batch {case.batch}", ylim=(0, None))
        for axes in panels[:, 0]:
            axes.set_ylabel("milliseconds, forward and backward")
        panels[0, 0].legend(fontsize=8, loc="lower left")
        figure.tight_layout()
        shows = "Time of a forward and a backward pass against sparsity, medians of the rounds."
        run.figure(
            figure, "crossover", shows=shows, matters="Sparsity pays to the right of where our line falls below the grey one."
        )


def crossing(sparsities: Sequence[float], excess: np.ndarray) -> float:
    """Where a line through (sparsity, excess) falls to 0; the first sparsity if it starts there, the last if it never does."""
    below = np.flatnonzero(excess <= 0)
    if not len(below):
        return sparsities[-1]
    place = int(below[0])
    if place == 0:
        return sparsities[0]
    before, after = excess[place - 1], excess[place]
    return sparsities[place - 1] + (sparsities[place] - sparsities[place - 1]) * before / (before - after)
