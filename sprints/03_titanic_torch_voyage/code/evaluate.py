"""The net against its baselines on the same folds, the original's claims, how much each leak would give, what the features do.

$ make titanic-eval                                         the embedded 891 passengers: a few minutes
$ make titanic-eval ARGS="--only k891 t1309"                every baseline, tuned ones too, on the full tables: half an hour
$ make titanic-eval ARGS=--smoke                            toy size, seconds

Folds of the net that `make titanic-train` has kept are not computed again.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared import runlog, stats
from shared.errors import UserError

from . import figures, protocol
from .baselines import absent, missing, published
from .claims import claims
from .cross_validation import TABLES, cross_validate, passengers_of
from .effects import effects
from .leak_ladder import leak_ladder
from .protocol import METRICS, Result

LIGHT = (
    *("sex_rule", "woman_child_group_rule", "logistic_regression_raw", "logistic_regression_engineered"),
    *("logistic_regression_groups_by_hand", "random_forest_groups", "extra_trees_groups_by_hand"),
    *("hist_gradient_boosting_groups_by_hand", "xgboost_groups_by_hand", "lightgbm_groups", "catboost_groups_by_hand"),
    *("blend_of_trees", "blend_of_scikit_learn_trees"),
)  # on the embedded table: one row per kind of model
TOYS = ("sex_rule", "logistic_regression_raw", "blend_of_scikit_learn_trees")
RIVALS = ("logistic_regression_raw", "logistic_regression_engineered", "logistic_regression_groups_by_hand")
RIVALS += ("logistic_regression_tickets_by_hand", "woman_child_group_rule", "catboost_groups_by_hand")
REFERENCES = ("sex_rule", "woman_child_group_rule", "logistic_regression_raw")
DRAWN = 10  # models in the picture, beside the net and the references
TREES = ("random_forest", "extra_trees", "hist_gradient_boosting", "xgboost", "lightgbm", "catboost", "blend_of")


@dataclass
class Args(runlog.Args):
    """What is compared."""

    aside: ClassVar[tuple[str, ...]] = ("jobs",)

    only: tuple[str, ...] = ()
    """Which experiments: embedded, claims, leaks, effects (these four when not given), k891, t1309 (need the full tables)."""
    repeats: int = 5
    """Repeats of the five folds."""
    jobs: int = 0
    """Processes; 0 for one per core."""


def main(args: Args) -> dict:
    others = {"claims": claims, "leaks": leak_ladder, "effects": effects}
    runlog.check_only(args.only, (*TABLES, *others))
    if args.repeats < 1 or args.jobs < 0:
        raise UserError("--repeats must be at least 1, --jobs at least 0")
    chosen = args.only or ("embedded", *others)
    return {name: others[name](args) if name in others else baselines(args, name) for name in chosen}


def baselines(args: Args, name: str) -> dict:
    if name != "embedded" and not args.smoke and "catboost" in missing():
        raise UserError(
            f"--only {name}: the net is compared with extra trees and CatBoost, which is not installed: pip install catboost"
        )
    X, y = passengers = passengers_of(name, args.smoke)
    wanted = TOYS if args.smoke else LIGHT if name == "embedded" else tuple(published())
    rows = [row for row in published() if row in wanted]
    setup = {
        "Model": f"{len(rows)} baselines and the published net",
        "Data": f"{len(y)} passengers ({name}), the net's folds: 5-fold, {args.repeats} repeats, seed {protocol.SEED}",
        "Optimisation": "defaults, settings by hand chosen on other folds, or a random search inside each training fold (tuned)",
    }
    with runlog.Run(
        args,
        __file__,
        f"baselines_{name}",
        title=f"The baselines on {len(y)} passengers ({name})",
        objective="Does the net beat rules, logistic regression and the best trees, on the same folds with the same information?",
        setup=setup,
        seeds=[protocol.SEED],
    ) as run:
        protocol.record_data(run, name, passengers)
        splits = protocol.folds(y, splits=2 if args.smoke else 5, repeats=1 if args.smoke else args.repeats)
        results = cross_validate(run, name, [*rows, "net"], splits, jobs=args.jobs, toy=args.smoke)
        for row in rows:
            protocol.record(run, row, row.replace("_", " "), results[row], name)
        best = "blend_of_trees" if "blend_of_trees" in results else "blend_of_scikit_learn_trees"
        for rival in dict.fromkeys([*RIVALS, best]):
            if rival in results:
                protocol.compare(run, results, "net", rival)
        protocol.difference(run, f"net_minus_logreg_accuracy_{name}", results, "net", "logistic_regression_raw", "accuracy")
        protocol.difference(run, f"net_minus_best_tree_log_loss_{name}", results, "net", best, "log_loss")
        if (same := "logistic_regression_tickets_by_hand") in results:
            for metric in ("accuracy", "log_loss"):
                protocol.difference(run, f"net_minus_logreg_tickets_{metric}_{name}", results, "net", same, metric)
        for model in ("net", "logistic_regression_raw", best):
            protocol.record_calibration(run, model, results[model], name)
        by_group(run, name, X, results)
        observe(run, results, best)
        draw(run, y, results, best)
    return run.report


def by_group(run: runlog.Run, name: str, X, results: dict[str, Result]) -> None:
    """Who is foretold rightly: accuracy in each group."""
    for model in ("net", "logistic_regression_raw"):
        for group, mask in protocol.subgroups(X).items():
            if len(right := results[model].accuracy_of(mask)):
                interval = results[model].interval(right)
                meaning = f"accuracy of {model.replace('_', ' ')} for {group.replace('_', ' ')}; one value per fold"
                run.metric(f"{model}_accuracy_{group}_{name}", right, interval=interval, higher_is_better=True, meaning=meaning)


def observe(run: runlog.Run, results: dict[str, Result], best: str) -> None:
    net = results["net"]
    for rival in ("logistic_regression_raw", best):
        words = []
        for metric, higher in METRICS.items():
            found = stats.paired(net.scores[metric], results[rival].scores[metric], net.test_over_train)
            ahead = (found["difference"] > 0) == higher
            words.append(
                f"{metric} {'better' if ahead else 'worse'} by {abs(found['difference']):.4f} (two-sided p {found['p']:.2g})"
            )
        run.observe(f"Against {rival.replace('_', ' ')}: {', '.join(words)}.")
    order = sorted(results, key=lambda row: results[row].scores["log_loss"].mean())
    lowest = next(row for row in order if row.startswith(TREES))
    gap = results[best].scores["log_loss"].mean() - results[lowest].scores["log_loss"].mean()
    chosen = f"The rival among the trees, {best.replace('_', ' ')}, was chosen beforehand"
    run.observe(
        f"{chosen}; it has the lowest log-loss of all trees here."
        if lowest == best
        else f"{chosen}; {lowest.replace('_', ' ')} has the lowest log-loss of the trees here, lower by {gap:.4f}."
    )
    run.observe(f"By log-loss: {', '.join(row.replace('_', ' ') for row in order[:5])} come first.")
    if packages := missing():
        run.observe(f"{', '.join(packages)}: not run here, not installed.")
    if foundations := absent():
        run.observe(f"{', '.join(foundations)}: not run here, the package or its weights are not at hand.")
    found = stats.paired(net.scores["log_loss"], results[best].scores["log_loss"], net.test_over_train)
    low, high = found["ci95"]
    points = 100 * (net.scores["accuracy"] - results["logistic_regression_raw"].scores["accuracy"]).mean()
    sure = "the interval excludes zero" if low > 0 or high < 0 else "zero is inside the interval: no proof either way"
    run.conclude(
        f"The net's log-loss is {abs(found['difference']):.4f} {'below' if found['difference'] < 0 else 'above'} that of the "
        f"{best.replace('_', ' ')} with the same information ({sure}); its accuracy is {abs(points):.1f} points "
        f"{'above' if points > 0 else 'below'} that of logistic regression on the raw facts."
    )


def draw(run: runlog.Run, y: np.ndarray, results: dict[str, Result], best: str) -> None:
    order = sorted(results, key=lambda row: results[row].scores["log_loss"].mean())
    ranked = {
        f"{'the ' * (row == 'net')}{row.replace('_', ' ')}": {"net" if row == "net" else "baselines": results[row].span("log_loss")}
        for place, row in enumerate(order)
        if place < DRAWN or row in ("net", *REFERENCES)
    }
    models = {row.replace("_", " "): results[row].pooled() for row in ("net", "logistic_regression_raw", best)}
    with runlog.style() as plt:
        run.figure(
            figures.ranked(plt, ranked, "log-loss (nats), lower is better", "The best models and the references, same folds"),
            "ranking",
            shows=f"Log-loss with its 95 % interval, which knows that folds overlap: the {min(DRAWN, len(order))} best models, the "
            "net, and as references two rules and logistic regression on raw facts. All others stand in the table of all numbers.",
            matters="Models are scored on the same folds: the paired differences tell them apart better than these intervals.",
        )
        run.figure(
            figures.reliability(plt, models),
            "calibration",
            shows="Observed share of survivors against predicted probability for the net, logistic regression and the best trees.",
            matters="A good log-loss needs probabilities that mean what they say. Bins in the middle hold few passengers: "
            "zigzags are noise.",
        )


if __name__ == "__main__":
    runlog.launch(main, Args)
