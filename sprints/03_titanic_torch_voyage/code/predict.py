"""Would you have survived? A probability for each passenger of a file, and what it hangs on.

$ make titanic-predict                       four invented passengers, by the net that `make titanic-train` has kept
$ make titanic-predict FILE=passengers.csv   yours: any of the columns class, name, sex, age, siblings_spouses,
                                             parents_children, fare, deck, port, ticket, or Kaggle's; fields may be
                                             missing, a column survived is not used
$ make titanic-predict ARGS="--only submission"   Kaggle's test.csv, into results/submission.csv (needs Kaggle's two files)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table as Shown

from shared import data, runlog
from shared.errors import UserError

from . import checkpoint, explain, figures, submission
from .preprocess_data import FACTS, embedded, fingerprint, new_passengers, passenger_key
from .protocol import one_thread
from .titanic_model import voyage

KEPT = Path(__file__).resolve().parents[1] / "results" / "net_embedded" / "voyage.safetensors"
INVENTED = pd.DataFrame(
    [
        {"name": "Quill, Mr. Tom", "class": 3.0, "sex": "male", "age": 24.0, "fare": 8.0, "port": "Southampton"},
        {"name": "Quill, Miss. Ada", "class": 1.0, "sex": "female", "age": 30.0, "fare": 80.0, "deck": "B", "port": "Cherbourg"},
        {"name": "Vane, Master. Ned", "class": 2.0, "sex": "male", "age": 6.0, "parents_children": 2.0, "fare": 26.0},
        {"name": "Nobody knows"},
    ]
).reindex(columns=list(FACTS))
TOY: dict[str, Any] = {"members": 2, "steps": 10}
CURVES: dict[str, tuple] = {"age": tuple(range(2, 72, 5)), "class": (1.0, 2.0, 3.0), "relatives": (0.0, 1.0, 2.0, 3.0, 5.0)}


@dataclass
class Args(runlog.Args):
    """Whose fate is foretold."""

    file: Path | None = None
    """A csv file of passengers; four invented ones when not given."""
    model: Path | None = None
    """A checkpoint; the one kept by `make titanic-train` when not given."""
    only: tuple[str, ...] = ()
    """passengers (the default), submission."""
    draws: int = 64
    """Other passengers whose facts are tried on each one."""


def main(args: Args) -> dict:
    runlog.check_only(args.only, ("passengers", "submission"))
    if args.draws < 1:
        raise UserError("--draws must be at least 1")
    if args.smoke:
        args.draws = 4
    return {what: submit(args) if what == "submission" else passengers(args) for what in args.only or ("passengers",)}


@one_thread()
def passengers(args: Args) -> dict:
    X = new_passengers(args.file) if args.file else INVENTED
    if not len(X):
        raise UserError(f"{args.file} holds no passengers")
    model, known, _ = toy() if args.smoke else checkpoint.read(args.model or KEPT)
    with runlog.Run(
        args,
        __file__,
        "passengers",
        title="Would you have survived?",
        objective="What does the net say about new passengers, and what does its answer hang on?",
        setup={"Model": "the kept net", "Data": args.file.name if args.file else "invented passengers", "Optimisation": "none"},
    ) as run:
        run.data("passengers", fingerprint(X), rows=len(X), source="file or invented")
        random = np.random.default_rng(0)
        p = model.predict_proba(X)[:, 1]
        shown = Shown("passenger", "P(survived)", "hangs on (mean change if it were someone else's)", box=None)
        first: dict[str, float] = {}
        for i in run.track(range(len(X)), "passengers"):
            hangs = explain.influence(model, X.iloc[[i]], known, random, args.draws)
            first = first or hangs
            words = ", ".join(f"{what} {change:.2f}" for what, change in list(hangs.items())[:3])
            shown.add_row(called(X, i), f"{p[i]:.2f}", words)
            if i < 20:  # in the report
                run.metric(f"p_survived_{i + 1}", p[i], meaning=f"probability that {called(X, i)} survives")
                run.observe(f"{called(X, i)}: {p[i]:.0%}; it hangs on {words}.")
        runlog.console.print(shown)
        if old := [called(X, i) for i, who in enumerate(passenger_key(X)) if who and who in set(passenger_key(known))]:
            warning = f"{', '.join(old[:5])}: among the passengers the net was fitted on, so it has seen how that ended."
            run.observe(warning)
            runlog.console.print(warning, style="yellow")
        best, worst = int(np.argmax(p)), int(np.argmin(p))
        ends = f"Likeliest to survive: {called(X, best)} ({p[best]:.0%}), least likely: {called(X, worst)} ({p[worst]:.0%}). "
        run.conclude(f"{ends * (len(X) > 1)}For {called(X, 0)} ({p[0]:.0%}) most hangs on {next(iter(first))}.")
        curves = {
            what: {called(X, i): (np.array(values), explain.curve(model, X.iloc[[i]], what, values)) for i in range(min(len(X), 4))}
            for what, values in CURVES.items()
        }
        with runlog.style() as plt:
            run.figure(
                figures.curves(plt, curves, "P(survived)"),
                "would_you_have_survived",
                shows="Probability of survival of the first passengers if one thing about them were otherwise.",
                matters="A steep curve is a fact that decides; the name, and so the title, stays. "
                "The curves are the model's, not history's.",
            )
    return run.report


def called(X: pd.DataFrame, i: int) -> str:
    name = X["name"].iloc[i]
    return name if isinstance(name, str) else f"passenger {i + 1}"


def toy() -> tuple[Any, pd.DataFrame, np.ndarray]:
    """A net of seconds, for --smoke."""
    X, y = embedded()
    X, y = X.iloc[:150], y[:150]
    return voyage(**TOY).fit(X, y), X, y


@one_thread()
def submit(args: Args) -> dict:
    """Kaggle's file by the frozen net, from this process, which cannot read the answers."""
    with runlog.Run(
        args,
        __file__,
        "submission",
        title="Kaggle's submission file",
        objective="What does the frozen net say of Kaggle's test passengers, without ever having been near their labels?",
        setup={"Model": "the published net", "Data": "Kaggle's train.csv and test.csv", "Optimisation": "as published, frozen"},
    ) as run:
        model: Any = voyage(**(TOY if args.smoke else {}))
        table = submission.write(model, run.folder.parent / "submission.csv")  # the published run's stands in results/
        lived = table["Survived"].to_numpy(bool)
        run.data("submission", data.digest(table.reset_index(drop=True)), rows=len(table), source="this run")
        run.metric("submission_share_survived", lived, meaning="test passengers foretold to survive")
        run.observe("The public score is left to the reader: submit the file.")
        run.conclude(f"{lived.sum()} of {len(lived)} test passengers are foretold to survive.")
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
