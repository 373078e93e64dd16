"""Candidates for the published net, scored on development folds: the published folds stay untouched by the choice.

$ make titanic-sweep                           all candidates on both full tables (data/README.md): fold seeds 7 to 11
$ make titanic-sweep ARGS="--only k891"         one table
$ make titanic-sweep ARGS="--models net tabm_and_gp"       some candidates
$ make titanic-sweep ARGS=--smoke               toy nets on the embedded table, seconds

Folds that are done are kept under runs/titanic: an interrupted run goes on, and a member is scored once for all blends.
"""

from dataclasses import dataclass
from typing import ClassVar

from shared import runlog
from shared.errors import UserError

from . import protocol
from .cross_validation import TABLES, cross_validate, passengers_of
from .train import FRESH

FORBIDDEN = (protocol.SEED, *FRESH)  # the published folds and the fresh ones: nothing is chosen there
CANDIDATES = (
    *("net", "tabm_and_gp", "tabm_and_linear_model", "tabm_all_companions_and_gp", "embedding_nets_and_gp"),
    *("tabm", "tabm_all_companions", "embedding_nets", "gaussian_process", "gaussian_process_no_tickets", "linear_model"),
)  # the net as it stands, blends of two, and members alone
TOYS = ("net", "tabm_and_gp", "linear_model")


@dataclass
class Args(runlog.Args):
    """What is scored."""

    aside: ClassVar[tuple[str, ...]] = ("jobs",)

    only: tuple[str, ...] = ("k891", "t1309")
    """Which tables."""
    seeds: tuple[int, ...] = (7, 8, 9, 10, 11)
    """Fold seeds, five folds each; those of the published and of the fresh folds are refused."""
    models: tuple[str, ...] = ()
    """Candidates, blends and members; all when not given."""
    jobs: int = 0
    """Processes; 0 for one per core."""


def main(args: Args) -> dict:
    if used := set(args.seeds) & set(FORBIDDEN):
        raise UserError(f"--seeds: {', '.join(map(str, sorted(used)))} make published folds, nothing may be chosen there")
    runlog.check_only(args.only, TABLES)
    if unknown := set(args.models) - set(CANDIDATES):
        raise UserError(f"--models: there is no {', '.join(sorted(unknown))}; there is: {', '.join(CANDIDATES)}")
    if not args.seeds or args.jobs < 0:
        raise UserError("--seeds needs one seed at least, --jobs must be at least 0")
    return {name: score(args, name) for name in (("embedded",) if args.smoke else args.only)}


def score(args: Args, name: str) -> dict:
    passengers = passengers_of(name, args.smoke)
    y = passengers.y
    with runlog.Run(
        args,
        __file__,
        f"choice_{name}",
        title=f"Candidates for the net on {len(y)} passengers ({name}), development folds",
        objective="Which members, with which settings, should the published net have?",
        setup={
            "Model": "blends of TabM, Gaussian processes, embedding nets and a linear model, and these alone",
            "Data": f"{len(y)} passengers ({name}), stratified 5-fold, fold seeds {', '.join(map(str, args.seeds))}",
            "Optimisation": "each candidate's own; the published folds and those of fresh seeds are refused",
        },
        seeds=args.seeds,
    ) as run:
        protocol.record_data(run, name, passengers)
        chosen = list(args.models or (TOYS if args.smoke else CANDIDATES))
        folds = [
            protocol.folds(y, seed, splits=2 if args.smoke else 5, repeats=1) for seed in args.seeds[: 1 if args.smoke else None]
        ]
        splits = [split for of_seed in folds for split in of_seed]
        results = cross_validate(run, name, chosen, splits, jobs=args.jobs, toy=args.smoke)
        for model, result in results.items():
            protocol.record(run, model, model.replace("_", " "), result, f"choice_{name}")
            if model != "net" and "net" in results:
                protocol.compare(run, results, model, "net")
        order = sorted(results, key=lambda model: results[model].scores["log_loss"].mean())
        for model in order:
            means = [results[model].scores[metric].mean() for metric in ("accuracy", "roc_auc", "log_loss")]
            run.observe("{}: accuracy {:.4f}, ROC-AUC {:.4f}, log-loss {:.4f}.".format(model.replace("_", " "), *means))
        run.conclude(f"Lowest log-loss on the development folds ({name}): {', '.join(order[:3]).replace('_', ' ')}.")
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
