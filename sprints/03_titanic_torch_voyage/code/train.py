"""The net, scored under the protocol: folds, fresh folds, unseen families, tuned in nested folds, and kept for `predict`.

$ make titanic-train                                       the embedded 891 passengers, no tickets: a few minutes
$ make titanic-train ARGS="--only k891 t1309 hold_out"     with Kaggle's files and titanic3 at hand (data/README.md): an hour
$ make titanic-train ARGS="--storage postgresql://..."     trials of the tuning in a database that several machines share
$ make titanic-train ARGS=--smoke                          toy nets, two folds, seconds

Folds that are done are kept under runs/titanic, so an interrupted run goes on where it was.
"""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared import runlog, tracking
from shared.errors import UserError
from shared.sprints import ROOT

from . import checkpoint, figures, protocol, tuning
from .baselines import published
from .cross_validation import TABLES, TOY, TUNED, cross_validate, passengers_of
from .hold_out import hold_out
from .preprocess_data import Table
from .protocol import Result
from .titanic_model import voyage

NAMES = {
    "net": "TabM, Gaussian process and linear model, mean of logits (the published net)",
    "tabm": "TabM, 32 members, companion dropout",
    "tabm_all_companions": "TabM without companion dropout",
    "gaussian_process": "Gaussian process with a ticket kernel",
    "gaussian_process_no_tickets": "Gaussian process without it",
    "embedding_nets": "16 entity-embedding nets",
    "linear_model": "linear model in torch",
    "one_net": "one entity-embedding net",
    "net_groups": "the published net with the fate of companions, without the features of tickets",
    "net_tempered": "the published net with a temperature from inner folds",
}
PEERS = ("logistic_regression_raw", "catboost_engineered", "blend_of_trees")  # scored beside the net on fresh and family folds
SLOW = ("net_groups", "net_tempered", "gaussian_process_no_tickets", "tabm_all_companions")  # left out for the embedded table
FRESH = (1001, 1002)  # fold seeds that nothing was chosen on
TARGETS = {"k891": (0.853, 0.903, 0.357), "t1309": (0.844, 0.899, 0.369)}


@dataclass
class Args(runlog.Args):
    """What is scored, and how often."""

    aside: ClassVar[tuple[str, ...]] = ("jobs", "storage")

    only: tuple[str, ...] = ()
    """Which experiments: embedded (the default), k891, t1309 (need the full tables), hold_out (needs both)."""
    repeats: int = 5
    """Repeats of the five folds."""
    storage: str = "sqlite:///runs/titanic/optuna.db"
    """URL of Optuna's storage: any database that SQLAlchemy knows; machines with one share its trials. Without a password."""
    jobs: int = 0
    """Processes; 0 for one per core."""


def main(args: Args) -> dict:
    runlog.check_only(args.only, (*TABLES, "hold_out"))
    if args.repeats < 1 or args.jobs < 0:
        raise UserError("--repeats must be at least 1, --jobs at least 0")
    storage_of(args.storage)
    return {name: hold_out(args) if name == "hold_out" else score(args, name) for name in args.only or ("embedded",)}


def score(args: Args, name: str) -> dict:
    X, y = passengers = passengers_of(name, args.smoke)
    tickets = "ticket" in X
    setup = {
        "Model": NAMES["net"] + ("" if tickets else "; no tickets in this table, so the kernel and features of tickets are off"),
        "Data": f"{len(y)} passengers ({name}), stratified 5-fold, {args.repeats} repeats, fold seed {protocol.SEED}, file order",
        "Optimisation": "AdamW, cosine schedule; evidence of the Gaussian process by Adam; no setting looks at a test fold",
    }
    title = f"The net on {len(y)} passengers ({name})"
    objective = "How well does an honest net foretell who survived, and how much do folds, seeds, families and tuning matter?"
    with runlog.Run(args, __file__, f"net_{name}", title=title, objective=objective, setup=setup, seeds=[protocol.SEED]) as run:
        protocol.record_data(run, name, passengers)
        full, one = (1, 1) if args.smoke else (args.repeats, 1 if name == "embedded" else args.repeats)
        splits = protocol.folds(y, splits=2 if args.smoke else 5, repeats=full)
        some = splits[: len(splits) // full * one]
        options = {"jobs": args.jobs, "toy": args.smoke, "storage": None if args.smoke else storage_of(args.storage)}
        chosen = [model for model in NAMES if name != "embedded" or model not in SLOW]
        results = cross_validate(run, name, chosen, splits, **options)
        seeds = cross_validate(run, name, ["net", "net_seed_1", "net_seed_2"], some, **options)
        fresh = [protocol.folds(y, seed, splits=2 if args.smoke else 5, repeats=one) for seed in FRESH[: 1 if args.smoke else None]]
        peers = [peer for peer in PEERS[: 1 if args.smoke else None] if peer in published()]
        fresh_results = cross_validate(run, name, ["net", *peers], [split for splits_ in fresh for split in splits_], **options)
        cold = protocol.family_folds(X, y, splits=2 if args.smoke else 5, repeats=min(one, 3))
        cold_results = cross_validate(run, name, ["net", *peers], cold, **options)
        first = splits[: len(splits) // full]
        search = "tabm_tuned_briefly" if name == "embedded" else "tabm_tuned"
        tuned = cross_validate(run, name, [search, "tabm"], first, **options)
        tuned = {"tabm_tuned": tuned[search], "tabm": tuned["tabm"]}
        for model, result in results.items():
            protocol.record(run, model, NAMES[model], result, name)
        elsewhere(run, name, "fresh", f"folds of fresh seeds {FRESH}", fresh_results)
        elsewhere(run, name, "cold", "families and tickets kept together in a fold", cold_results)
        protocol.record(
            run,
            "tabm_tuned",
            f"TabM tuned by Optuna ({TUNED[search]} trials) in nested folds, first repeat",
            tuned["tabm_tuned"],
            name,
        )
        means = [float(result.scores["accuracy"].mean()) for result in seeds.values()]
        run.metric(f"net_seed_spread_{name}", max(means) - min(means), meaning="largest minus smallest accuracy of three net seeds")
        for other in chosen[1:]:
            protocol.compare(run, results, "net", other)
        protocol.compare(run, tuned, "tabm_tuned", "tabm")
        if "net_groups" in results:
            for metric in ("accuracy", "log_loss"):
                protocol.difference(run, f"net_minus_net_groups_{metric}_{name}", results, "net", "net_groups", metric)
        if "net_tempered" in results:
            protocol.record_calibration(run, "net_tempered", results["net_tempered"], name)
        observe(run, name, results, fresh_results, cold_results, tuned, means)
        with runlog.style() as plt:
            run.figure(
                figures.reliability(
                    plt,
                    {
                        "net": results["net"].pooled(),
                        "unseen families": cold_results["net"].pooled(),
                    },
                ),
                "calibration",
                shows="Observed share of survivors against the predicted probability, in bins, out of fold.",
                matters="On the diagonal a probability means what it says; the gap to it is the calibration error.",
            )
        if name == "embedded":
            keep(run, args, passengers)
        mirror_trials(run, args)
    return run.report


def changed(gain: float) -> str:
    """What a gain in log-loss does to it: a loss is no gain."""
    return "lower" if gain > 0 else "raise"


def elsewhere(run: runlog.Run, table: str, label: str, where: str, results: dict[str, Result]) -> None:
    """The net and its rivals on other folds than the published ones, keyed {model}_{label}, and compared."""
    named = {f"{model}_{label}": result for model, result in results.items()}
    for model, result in results.items():
        name = "the published net" if model == "net" else model.replace("_", " ")
        protocol.record(run, f"{model}_{label}", f"{name}, {where}", result, table)
        if model != "net":
            protocol.compare(run, named, f"net_{label}", f"{model}_{label}")


def observe(
    run: runlog.Run,
    name: str,
    results: dict[str, Result],
    fresh: dict[str, Result],
    cold: dict[str, Result],
    tuned: dict[str, Result],
    means: list[float],
) -> None:
    def said(result: Result) -> str:
        values = (result.scores[metric].mean() for metric in ("accuracy", "roc_auc", "log_loss"))
        return "accuracy {:.4f}, ROC-AUC {:.4f}, log-loss {:.4f}".format(*values)

    net = results["net"]
    _, low, high = net.span("accuracy")
    run.observe(f"The published folds give {said(net)}; folds of fresh seeds {said(fresh['net'])}.")
    run.observe(f"The 95 % interval of the accuracy is {100 * (high - low):.1f} points wide.")
    for model, result in cold.items():
        run.observe(f"Families that the training rows do not know, {model.replace('_', ' ')}: {said(result)}.")
    gain = tuned["tabm"].scores["log_loss"].mean() - tuned["tabm_tuned"].scores["log_loss"].mean()
    run.observe(f"Tuning in nested folds {changed(gain)}s TabM's log-loss by {abs(gain):.4f} against settings by hand.")
    run.observe(f"Three seeds of the net differ by {100 * (max(means) - min(means)):.2f} points of accuracy.")
    single = results["one_net"].scores["log_loss"].mean() - results["embedding_nets"].scores["log_loss"].mean()
    run.observe(f"Sixteen nets instead of one {changed(single)} the log-loss by {abs(single):.4f}.")
    seconds = float(np.mean(net.cpu_seconds))
    if name in TARGETS:
        goal = TARGETS[name]
        values = [float(net.scores[metric].mean()) for metric in ("accuracy", "roc_auc", "log_loss")]
        met = [values[0] >= goal[0], values[1] >= goal[1], values[2] <= goal[2]]
        words = ("accuracy", "ROC-AUC", "log-loss")
        run.observe(
            "; ".join(f"target {w} {g}: {'met' if m else 'missed'}" for w, g, m in zip(words, goal, met, strict=True)) + "."
        )
    run.conclude(f"The net reaches {said(net)} ({name}), with {seconds:.1f} CPU seconds per fold.")


@protocol.one_thread()
def keep(run: runlog.Run, args: Args, passengers: Table) -> None:
    """The net that `predict` uses: fitted on all passengers of the embedded table."""
    model = voyage(**(TOY if args.smoke else {})).fit(passengers.X, passengers.y)
    checkpoint.write(run.folder / "voyage.safetensors", model, passengers.X, passengers.y)
    size = (run.folder / "voyage.safetensors").stat().st_size
    run.metric(
        "checkpoint_kilobytes",
        size / 1000,
        unit="kB",
        higher_is_better=False,
        meaning="the published net with all it knows, one file",
    )


def storage_of(url: str) -> str:
    """The URL; the folder of a SQLite file is made, relative to the repository. Raises UserError for a URL with a password."""
    if not tracking.without_password(url, "--storage").startswith("sqlite:///"):
        return url
    path = ROOT / url.removeprefix("sqlite:///")
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def mirror_trials(run: runlog.Run, args: Args) -> None:
    """Each trial as a run of MLflow; a server that is down loses nothing, the trials are in the storage."""
    if args.smoke or not args.mlflow:
        return
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    try:
        count = tuning.mirror(storage_of(args.storage), uri, f"{run.sprint.name}-trials")
        runlog.console.print(f"MLflow: {count} trials at {uri}", style="dim")
    except Exception as error:
        runlog.console.print(f"MLflow: trials not mirrored to {uri} ({type(error).__name__})", style="dim")


if __name__ == "__main__":
    runlog.launch(main, Args)
