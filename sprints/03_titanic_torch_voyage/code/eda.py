"""Data report: who was aboard, what is unknown, and what goes with survival; four figures.

$ make titanic-eda                                   the embedded 891 passengers, seconds
$ make titanic-eda ARGS="--table titanic3"           1 309 passengers, tickets included
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from shared import runlog

from . import figures
from .features import CompanionFate
from .people import CHILD, people
from .preprocess_data import FACTS, embedded, kaggle_train
from .protocol import families, record_data, subgroups
from .titanic3 import titanic3

TABLES = {"embedded": embedded, "kaggle": kaggle_train, "titanic3": titanic3}


@dataclass
class Args(runlog.Args):
    """What is described."""

    table: Literal["embedded", "kaggle", "titanic3"] = "embedded"
    """`embedded` is data/titanic.csv; the other two are read from $SPRINTS_DATA/titanic or the cache."""


def main(args: Args) -> dict:
    with runlog.Run(
        args,
        __file__,
        "data_report",
        title="The passengers",
        objective="Who was aboard, which facts are unknown, and what goes with survival?",
        setup={"Model": "none: counts of the whole table", "Data": args.table, "Optimisation": "none"},
    ) as run:
        X, y = passengers = TABLES[args.table]()
        P = people(X)
        record_data(run, args.table, passengers)
        groups = subgroups(X)
        run.metric("share_survived", y.astype(bool), meaning="passengers who survived")
        for name, mask in groups.items():
            run.metric(f"share_survived_{name}", y[mask].astype(bool), meaning=f"{name.replace('_', ' ')} who survived")
        blank = {name: X[name].isna().to_numpy() for name in FACTS if name in X and X[name].isna().to_numpy().any()}
        for name, mask in blank.items():
            run.metric(f"share_unknown_{name}", mask, meaning=f"passengers whose {name} is unknown")
        fates = by_verdict(P, y)
        size = np.bincount(families(X))
        aboard = f"{len(X)} passengers in {len(size)} parties, {np.mean(size == 1):.0%} of the parties are one person"
        run.observe(f"{aboard}; the largest has {size.max()}.")
        run.observe(f"Children are those under {CHILD}; {groups['children'].sum()} are known to be.")
        for name, mask in blank.items():
            with_, without = y[~mask].mean(), y[mask].mean()
            run.observe(f"{name} is unknown for {mask.mean():.1%}: {without:.0%} of them survived, {with_:.0%} of the others.")
        weak = {verdict: np.mean(lived) for verdict, lived in fates["women and children"].items()}
        run.conclude(
            f"By sex and class: {y[groups['women_class_1']].mean():.0%} of the women in first class lived, "
            f"{y[groups['men_class_3']].mean():.0%} of the men in third. By companions: of women and children "
            f"{weak['all lived']:.0%} lived where those with them did, {weak['all died']:.0%} where those died."
        )
        with runlog.style() as plt:
            draw(run, plt, groups, P, y, blank, fates)
    return run.report


def draw(run: runlog.Run, plt, groups: dict, P: pd.DataFrame, y: np.ndarray, blank: dict, fates: dict) -> None:
    cells = {name: y[mask] for name, mask in groups.items()}
    run.figure(
        figures.bars(plt, cells, "Survival by sex and class"),
        "sex_and_class",
        shows="Share of survivors by sex and class and of the known children, with 95 % intervals and the number of passengers.",
        matters="Sex and class are known of everybody: a rule on them is the first baseline.",
    )
    run.figure(
        figures.ages(plt, P["age"].to_numpy(), P["male"].to_numpy(), y),
        "ages",
        shows="Ages of women and men, survivors in front.",
        matters="Where the survivors' share changes with age in one panel only, a model needs age and sex together.",
    )
    run.figure(
        figures.unknown(plt, {name: (mask[y == 1], mask[y == 0]) for name, mask in blank.items()}),
        "unknown",
        shows="Share of passengers whose field is blank, survivors beside the others.",
        matters="Where the bars differ, that a field is unknown tells something, and dropping its rows would bias.",
    )
    run.figure(
        figures.companions(plt, fates),
        "companions",
        shows="Share of survivors by the fate of the women and children among a passenger's companions, the passenger excluded.",
        matters="Information beyond sex and class that is made of labels: it leaks unless it is fitted in the fold.",
    )


def by_verdict(P: pd.DataFrame, y: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Who -> fate of the women and children among the companions -> labels."""
    fate = CompanionFate().fit(P, y).transform(P)
    verdicts = {
        "all lived": fate["verdict"] == 1,
        "mixed": (fate["verdict"] == 0) & (fate["women_children"] > 0),
        "all died": fate["verdict"] == -1,
        "none known": fate["women_children"] == 0,
    }
    who = {"women and children": P["woman_child"], "men": ~P["woman_child"]}
    return {name: {label: y[(mask & rows).to_numpy()] for label, rows in verdicts.items()} for name, mask in who.items()}


if __name__ == "__main__":
    runlog.launch(main, Args)
