"""Experiments beside the main comparison: learning rates, skips, longer training; and the tangle, measured and drawn."""

import numpy as np
import torch

from shared import runlog

from . import comparisons, figures, learning, noodles, study, tangle, wiring
from .comparisons import LABELS, LONGER, REWIRE_P, SHORT, TITLES, Accuracy
from .images import load
from .learning import LOCAL, Job
from .spaghettinet import SpaghettiLayer
from .study import Args
from .train import record_data, setup

WIRED = ("constant_fan_in", "bundle", "local_bundle", "small_world", "variance")  # arms whose wiring is fixed
DRAWN = {"random: al dente": "random", "bundle": "bundle", "small world": "small_world", "local bundle": "local_bundle"}
STRANDS = 8  # noodles of a neuron in the picture: with more it is a cloud
CHOSEN = ("singular_value", "clustering", "path_length", "degree_spread")  # of the measures, to draw accuracy against


def ablations(args: Args, name: str, known: Accuracy) -> dict:
    """The learning rate's rule, skip noodles in a deep net, and longer training."""
    title, objective = (
        f"Rates, skips and epochs on {TITLES[name]}",
        "What do the density in the learning rate, skips and time give?",
    )
    what = setup(args, name) | {
        "Rates": "the same net with one rate for all weights, with rate / density for the sparse layer, and the small dense net",
        "Skips": "a NoodleDAG: each connection reads the level before, or with some probability any earlier neuron or pixel; "
        "equal parameters, a rate tuned for each",
        "Epochs": f"{LONGER} times as many, with rates tuned for them",
    }
    with runlog.Run(
        args, __file__, f"ablations_{name}", title=title, objective=objective, setup=what, seeds=study.seeds(args, name)
    ) as run:
        record_data(run, name)
        measure = study.measured(run, args, name)
        sayings = [rates(run, args, name, known, measure), skips(run, args, name, measure), longer(run, args, name, known, measure)]
        run.conclude(" ".join(sayings))
    return run.report


def rates(run: runlog.Run, args: Args, name: str, known: Accuracy, measure: study.Measure) -> str:
    few, lines = SHORT[name], comparisons.rates(args, name, measure, known)
    used = known.dense.job.rate
    at_used = {label: next(one for one in line if one.job.rate == used).values("test") for label, line in lines.items()}
    small, shared, scaled = at_used.values()
    for key, values, label in (
        ("dense_small", small, "dense, small"),
        ("one_rate", shared, "sparse, one rate"),
        ("scaled", scaled, "sparse, rate / density"),
    ):
        meaning = f"test accuracy at the dense net's rate {used:g}: {label}"
        run.metric(f"{few}_dense_rate_{key}", values, unit="%", higher_is_better=True, meaning=meaning)
    names = [f"{label} (rate {used:g})" for label in lines]
    run.compare("one rate for all", shared, small, names=(names[1], names[0]), unit="points")
    run.compare("rate / density", scaled, small, names=(names[2], names[0]), unit="points")
    one, other = (c["ci95"] for c in run.report["comparisons"][-2:])  # before the one of the best rates
    flips = one[1] < 0 < other[0]
    run.observe(
        f"At the dense net's rate of {used:g} the sparse net is {shared.mean() - small.mean():+.2f} points from the small dense "
        f"one, with rate / density {scaled.mean() - small.mean():+.2f}."
    )
    best = {label: max(line, key=lambda one: one.values("validation").mean()) for label, line in lines.items()}
    for key, (label, one) in zip(("dense_small", "one_rate", "scaled"), best.items(), strict=True):
        meaning = f"test accuracy at its own best of {len(lines[label])} rates, {one.job.rate:g} (validation rows): {label}"
        run.metric(f"{few}_best_rate_{key}", one.values("test"), unit="%", higher_is_better=True, meaning=meaning)
    own = {label: (f"{label} (its best rate, {one.job.rate:g})", one.values("test")) for label, one in best.items()}
    (_, _), (one_name, one_rate), (rule_name, rule) = own.values()
    run.compare("rate / density - one rate, each at its best", rule, one_rate, names=(rule_name, one_name), unit="points")
    run.observe(
        "Each at its own best rate: "
        + ", ".join(f"{label} {one.values('test').mean():.2f} % ({one.job.rate:g})" for label, one in best.items())
        + "."
    )
    with runlog.style() as plt:
        run.figure(
            figures.rates(plt, lines, known.dense.job.rate),
            "rates",
            shows="Test accuracy against the learning rate, with 95 % intervals: a small dense net, and a sparse one of as many "
            "parameters with and without the density in its rate.",
            matters="Where the lines cross, the rate decides who wins.",
        )
    if flips:
        return "At the dense net's learning rate the sparse net loses to the small dense one, with rate / density it wins."
    tuned = rule.mean() - one_rate.mean()
    return (
        f"At the dense net's learning rate the density in the rate is worth {scaled.mean() - shared.mean():+.2f} points, with each "
        f"rate tuned {tuned:+.2f}."
    )


def skips(run: runlog.Run, args: Args, name: str, measure: study.Measure) -> str:
    few, deep = SHORT[name], comparisons.skips(args, name, measure)
    depth = deep[0.0].job.depth
    for skip, one in deep.items():
        meaning = f"test accuracy, {depth} levels, {skip:.0%} of the connections skip, {one.results[0]['parameters']:,} parameters"
        run.metric(f"{few}_skip_{100 * skip:.0f}", one.values("test"), unit="%", higher_is_better=True, meaning=meaning)
    plain = deep[0.0].values("test")
    for skip, one in list(deep.items())[1:]:
        run.compare(f"skip {skip:.0%} - none", one.values("test"), plain, names=(f"{skip:.0%} skip", "none skips"), unit="points")
    best = max(deep, key=lambda skip: deep[skip].values("validation").mean())
    gain = deep[best].values("test").mean() - plain.mean()
    with runlog.style() as plt:
        run.figure(
            figures.skips(plt, deep),
            "skips",
            shows=f"Nets of {depth} levels with equally many connections, some of which skip levels: validation accuracy over the "
            "epochs, a line per seed, and test accuracy.",
            matters="Spaghetti between levels: the number of noodles is the same, only their ends move.",
        )
    run.observe(
        f"With {depth} levels the best share of skips is {best:.0%} (validation rows): {gain:+.2f} points on the test rows."
    )
    return f"In {depth} levels skip noodles give {gain:+.2f} points at equal parameters."


def longer(run: runlog.Run, args: Args, name: str, known: Accuracy, measure: study.Measure) -> str:
    few, many = SHORT[name], comparisons.longer(args, name, measure, known)
    sparsity, epochs = comparisons.higher_sparsity(args), known.dense.job.epochs
    short = {arm: known.dense if arm == "dense" else known.plain[arm, sparsity] for arm in many}
    for arm, one in many.items():
        label = LABELS[arm] + (f" at {sparsity:.0%} sparsity" if arm != "dense" else "")
        meaning = f"test accuracy after {LONGER * epochs} epochs, {label}, {one.results[0]['parameters']:,} parameters"
        run.metric(f"{few}_longer_{arm}", one.values("test"), unit="%", higher_is_better=True, meaning=meaning)
    for arm in ("set", "rigl", *LOCAL):
        for other in ("constant_fan_in", "dense") if arm in LOCAL else ("constant_fan_in",):
            names = f"{LABELS[arm]}, {LONGER * epochs} epochs", f"{LABELS[other]}, {LONGER * epochs} epochs"
            run.compare(
                f"{arm} - {other}, longer", many[arm].values("test"), many[other].values("test"), names=names, unit="points"
            )
    gains = {arm: many[arm].values("test").mean() - short[arm].values("test").mean() for arm in many}
    run.observe(
        f"{LONGER * epochs} instead of {epochs} epochs give "
        + ", ".join(f"{LABELS[a]} {g:+.2f}" for a, g in gains.items())
        + " points."
    )
    explored = {arm: many[arm].values("explored").mean() for arm in ("set", "rigl")}
    run.observe(f"In that time SET ever had {explored['set']:.0%} of all connections, RigL {explored['rigl']:.0%}.")
    best = max(many, key=lambda arm: many[arm].values("validation").mean())
    with runlog.style() as plt:
        run.figure(
            figures.longer(plt, short, many),
            "longer",
            shows=f"Test accuracy after {epochs} epochs (tick) and after {LONGER * epochs} (dots: seeds), each with a rate of its "
            f"own, {sparsity:.0%} sparsity.",
            matters="Whether rewiring only wanted more time.",
        )
    reached = many[best].values("test").mean()
    return f"After {LONGER * epochs} epochs {LABELS[best]} is best on the validation rows ({reached:.2f} % on the test rows)."


def tangled(args: Args, name: str, known: Accuracy) -> dict:
    """Measures of the wirings against accuracy, the way from neighbours to tangle, and the pictures."""
    title, objective = f"The tangle on {TITLES[name]}", "Does a measure of the wiring foretell its accuracy?"
    what = setup(args, name) | {"Measures": "of the wiring of seed 0: " + "; ".join(f"{k}: {v}" for k, v in tangle_names().items())}
    with runlog.Run(
        args, __file__, f"tangle_{name}", title=title, objective=objective, setup=what, seeds=study.seeds(args, name)
    ) as run:
        record_data(run, name)
        with runlog.style() as plt:
            draw(run, plt, args, name, known)
        measures(run, args, name, known)
        sweep = comparisons.locality(args, name, study.measured(run, args, name), known)
        few, sparsity = SHORT[name], comparisons.higher_sparsity(args)
        for permuted, line in sweep.items():
            for one in line:
                where = "permuted_" if permuted else ""
                meaning = (
                    f"test accuracy, small world at {sparsity:.0%} sparsity, rewire_p {one.job.rewire_p:g}"
                    + ", permuted" * permuted
                )
                key = f"{few}_sweep_{where}{100 * one.job.rewire_p:.0f}"
                run.metric(key, one.values("test"), unit="%", higher_is_better=True, meaning=meaning)
        drops = {permuted: line[0].values("test") - line[-1].values("test") for permuted, line in sweep.items()}
        ends = f"from rewire_p {REWIRE_P[-1]:g} to {REWIRE_P[0]:g}"
        run.observe(f"Locality ({ends}) is worth {drops[False].mean():+.2f} points, on permuted pixels {drops[True].mean():+.2f}.")
        run.compare(
            "p = 0 - p = 1",
            sweep[False][0].values("test"),
            sweep[False][-1].values("test"),
            names=("all near", "all random"),
            unit="points",
        )
        names = "all near, permuted", "all random, permuted"
        run.compare("the same, permuted", sweep[True][0].values("test"), sweep[True][-1].values("test"), names=names, unit="points")
        with runlog.style() as plt:
            run.figure(
                figures.locality(plt, sweep, known.dense),
                "locality",
                shows=f"Test accuracy of the small world against the share of connections that go anywhere, {sparsity:.0%} "
                "sparsity, 95 % intervals; dashed: the dense net.",
                matters="If it falls on images and not on permuted pixels, the wiring knew what lies beside what.",
            )
        gains = [f"{c['difference']:+.2f} points [{c['ci95'][0]:.2f}, {c['ci95'][1]:.2f}]" for c in run.report["comparisons"]]
        run.conclude(f"All near instead of all random is worth {gains[0]}, on permuted pixels {gains[1]}: " + verdict(run))
    return run.report


def verdict(run: runlog.Run) -> str:
    """What the two ends of the sweep say, on pixels as they are and permuted."""
    plain, permuted = (c["ci95"] for c in run.report["comparisons"])
    if plain[0] <= 0:
        return "locality does not clearly pay."
    return "it is the locality of images that pays." if permuted[0] <= 0 else "part of the gain is not locality."


def tangle_names() -> dict[str, str]:
    return {name.replace("_", " "): meaning for name, meaning in tangle.MEANINGS.items()}


def table(one: Job) -> torch.Tensor:
    """The wiring that the job's net starts with."""
    net = learning.build(one, load(one.data, split=one.seed if one.data == "digits" else 0, permuted=one.permuted, rows=one.rows))
    layer = next(module for module in net.modules() if isinstance(module, SpaghettiLayer))
    return layer.indices


def measures(run: runlog.Run, args: Args, name: str, known: Accuracy) -> None:
    """Every measure of every fixed wiring, and accuracy against some of them."""
    few, main, points = SHORT[name], comparisons.main_sparsity(args), []
    for arm in WIRED:
        for sparsity in args.sparsities:
            one = known.plain[arm, sparsity]
            of = tangle.measure(table(study.seeded(args, one.job)[0]), load(name).x.shape[1])
            points.append((arm, sparsity, of, one.values("test").mean()))
            if sparsity == main:
                for key, value in of.items():
                    meaning = f"{tangle.MEANINGS[key]}: {LABELS[arm]} at {sparsity:.0%} sparsity"
                    run.metric(f"{few}_tangle_{key}_{arm}", value, meaning=meaning)
    of_main = {point[0]: point[2] for point in points if point[1] == main}
    random = of_main["constant_fan_in"]
    run.observe(
        f"At {main:.0%} sparsity random wiring has a second singular value of {random['singular_value']:.3f}, the Ramanujan value "
        f"for large graphs is {random['best_singular_value']:.3f}; small world {of_main['small_world']['singular_value']:.3f}."
    )
    spread = [one["entropy"] for one in of_main.values()]
    run.observe(f"The entropy of the connections lies between {min(spread):.3f} and {max(spread):.3f} of its largest value.")
    with runlog.style() as plt:
        run.figure(
            figures.tangles(plt, points, {key: key.replace("_", " ") for key in CHOSEN}, TITLES[name]),
            "tangle",
            shows="Test accuracy against four measures of the wiring, a line per arm over the sparsities; a larger point "
            "is less sparse.",
            matters="Within one size of point: does the measure order the wirings as accuracy does?",
        )


def draw(run: runlog.Run, plt, args: Args, name: str, known: Accuracy) -> None:
    """Noodles of four wirings, and receptive fields of trained nets (seed 0, trained again: only results are stored)."""
    given = load(name)
    image = given.x[given.test[0]].reshape(given.grid).numpy()
    patches = image.size // wiring.PATCH**2
    hidden, n = known.dense.job.hidden, given.x.shape[1]
    tables = {
        title: wiring.draw(kind, n, hidden, min(STRANDS, n), torch.Generator().manual_seed(0), grid=given.grid)
        for title, kind in DRAWN.items()
    }
    run.figure(
        noodles.plate(plt, tables, image),
        "noodles",
        shows=f"Wirings with {STRANDS} connections per neuron: curves from the pixels of a test image to evenly chosen neurons.",
        matters="A tangle on top; below neighbours cook together, and a few noodles still go across the plate. A local bundle "
        f"takes at least four near patches of {wiring.PATCH} x {wiring.PATCH} pixels; where an image has no more (here {patches}), "
        "that is a tangle too.",
    )
    layers, sparsity = {}, comparisons.main_sparsity(args)
    for arm in ("dense", "constant_fan_in", *LOCAL):
        one = known.dense.job if arm == "dense" else known.plain[arm, sparsity].job
        net, _ = learning.learn(study.seeded(args, one)[0], run.device.kind)
        first, last = (module for module in net.cpu() if hasattr(module, "weight"))  # type: ignore[attr-defined]
        sparse = isinstance(first, SpaghettiLayer)
        weight = (first.to_dense() if sparse else first).weight.detach().numpy()
        present = learning.wired(net, given).numpy() if sparse else np.ones_like(weight, dtype=bool)
        chosen = noodles.most_used(weight, last.weight.detach().numpy(), 24)
        layers[LABELS[arm]] = weight[chosen], present[chosen]
    run.figure(
        noodles.fields(plt, layers, given.grid),
        "receptive_fields",
        shows=f"Weights of the 24 hidden neurons that matter most to the readout of a trained net, {sparsity:.0%} sparsity; "
        "grey: no connection; each field has its own scale of colours.",
        matters="What a neuron sees: whether strokes and edges, or a scatter.",
    )
