"""What the features do to the honest net: permutation importance and one-feature curves, on rows that it has not seen."""

import numpy as np

from shared import runlog
from shared.processes import spread

from . import explain, figures, protocol
from .cross_validation import TOY, passengers_of
from .titanic_model import voyage

SEXES = {"women": "female", "men": "male"}


def effects(args) -> dict:
    """Permutation importance and one-feature curves of the net, on rows that it has not seen."""
    passengers = passengers_of("embedded", args.smoke)
    y = passengers.y
    with runlog.Run(
        args,
        __file__,
        "effects",
        title="What the features do",
        objective="On which facts does the honest net lean?",
        setup={
            "Model": "the published net, without tickets",
            "Data": f"{len(y)} passengers, the first five folds; each effect on the fold left out",
            "Optimisation": "as published",
        },
        seeds=[0],
    ) as run:
        protocol.record_data(run, "embedded", passengers)
        folds = range(2 if args.smoke else 5)
        jobs = {i: (i, args.smoke) for i in folds}
        found = dict(run.track(spread(of_fold, jobs, 1 if args.smoke else args.jobs), "folds", total=len(jobs)))
        rises = {what: [found[i][0][what] for i in folds] for what in explain.CHANGES}
        lines = {what: {who: [found[i][1][what, who] for i in folds] for who in SEXES} for what in ("age", "class")}
        for what, values in rises.items():
            run.metric(f"importance_{what}", values, unit="nats", meaning=f"rise of the log-loss when {what} is dealt out anew")
        order = sorted(rises, key=lambda what: -np.mean(rises[what]))
        run.observe("Most important first: " + ", ".join(f"{what} {np.mean(rises[what]):+.3f}" for what in order) + ".")
        run.conclude(f"The net leans on {order[0]} first, then on {order[1]} and {order[2]}.")
        draw_effects(run, {what: rises[what] for what in order}, lines, values_of(args.smoke))
    return run.report


def values_of(toy: bool) -> dict[str, tuple[float, ...]]:
    """What the curves try."""
    return {"age": tuple(range(2, 72, 10 if toy else 5)), "class": (1.0, 2.0, 3.0)}


@protocol.one_thread()
def of_fold(fold: int, toy: bool) -> tuple[dict[str, float], dict[tuple[str, str], np.ndarray]]:
    """On the rows of one fold, by a net fitted on the others: importance of each thing; curves of (thing, who)."""
    X, y = passengers_of("embedded", toy)
    train, test = protocol.folds(y, splits=2 if toy else 5, repeats=1)[fold]
    model = voyage(**(TOY if toy else {})).fit(X.iloc[train], y[train])
    rises = explain.importance(model, X.iloc[test], y[test], np.random.default_rng(fold), 1 if toy else 3)
    lines = {}
    for who, sex in SEXES.items():
        rows = X.iloc[test][X.iloc[test]["sex"] == sex]
        lines |= {(what, who): explain.curve(model, rows, what, values) for what, values in values_of(toy).items()}
    return rises, lines


def draw_effects(run: runlog.Run, rises: dict, lines: dict, values: dict) -> None:
    bars = {what: {"net": (float(np.mean(v)), float(np.min(v)), float(np.max(v)))} for what, v in rises.items()}
    mean = {
        what: {who: (np.array(values[what]), np.mean(found, axis=0)) for who, found in by_sex.items()}
        for what, by_sex in lines.items()
    }
    with runlog.style() as plt:
        run.figure(
            figures.ranked(plt, bars, "rise of the log-loss (nats), range of folds", "Permutation importance, unseen rows", 0.0),
            "importance",
            shows="Rise of the log-loss when one fact is dealt out anew among unseen rows: mean and range over folds.",
            matters="Near zero the net could do without; facts that say the same share their importance. Class, port "
            "and relatives also tell who is whose family: dealing them out tears families apart.",
        )
        run.figure(
            figures.curves(plt, mean, "mean P(survived)"),
            "curves",
            shows="Mean probability of unseen women and men if all of them had that age, or travelled in that class.",
            matters="Lines that are not parallel are interactions: no single coefficient can hold them.",
        )
