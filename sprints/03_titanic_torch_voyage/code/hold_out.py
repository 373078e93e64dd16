"""The hold-out: Kaggle's 418 passengers, one shot by the frozen net and its rivals, with intervals that know of families."""

import numpy as np

from shared import runlog

from . import protocol
from .baselines import published
from .cross_validation import TOY
from .preprocess_data import Table
from .protocol import METRICS
from .recipe import recipe
from .titanic_model import voyage

RIVALS = ("logistic_regression_raw", "blend_of_trees")
DRAWS = 1000  # of the bootstrap


def hold_out(args) -> dict:
    from .titanic3 import hold_out as tables

    train, test = tables()
    rivals = {name: model for name, model in published().items() if name in RIVALS}
    with runlog.Run(
        args,
        __file__,
        "hold_out",
        title="The hold-out: Kaggle's 418 passengers, one shot",
        objective="What does the net score on passengers of whom no row and no label is used in fitting it?",
        setup={
            "Model": f"the published net; {', '.join(name.replace('_', ' ') for name in rivals)} in the same shot",
            "Data": "891 passengers to train on, 418 to score, once; intervals by bootstrap over families of the 418",
            "Optimisation": f"as published, frozen: settings, code and packages {recipe(voyage(), protocol.fit_predict)[:12]}",
        },
        seeds=[0],
    ) as run:
        protocol.record_data(run, "kaggle_train", train)
        protocol.record_data(run, "kaggle_test_with_labels", test)
        known = Table(train.X.iloc[:100], train.y[:100]) if args.smoke else train
        models = {"net": voyage(**(TOY if args.smoke else {}))} | rivals
        p = {name: protocol.one_shot(model, known, test).p[0] for name, model in models.items()}
        p["sex_rule"] = np.where(test.X["sex"] == "female", 0.75, 0.25)  # only its accuracy means something
        samples = redrawn(protocol.families(test.X), 50 if args.smoke else DRAWS)
        found = {name: rescored(test.y, values, samples) for name, values in p.items()}
        whole = {name: protocol.scores(test.y, values) for name, values in p.items()}
        for name in models:
            key = "hold_out" if name == "net" else f"hold_out_{name}"
            for metric in METRICS:
                record(run, f"{key}_{metric}", metric, whole[name][metric], found[name][metric], f"{metric} on the 418, {name}")
        record(
            run, "hold_out_sex_rule_accuracy", "accuracy", whole["sex_rule"]["accuracy"], found["sex_rule"]["accuracy"], "sex rule"
        )
        for name in (*rivals, "sex_rule"):
            for metric in METRICS if name != "sex_rule" else ("accuracy",):
                gap = whole["net"][metric] - whole[name][metric]
                meaning = f"{metric} on the 418, net minus {name.replace('_', ' ')}, same bootstrap draws"
                record(run, f"hold_out_net_minus_{name}_{metric}", metric, gap, found["net"][metric] - found[name][metric], meaning)
        said = ", ".join(f"{name.replace('_', ' ')} {whole[name]['accuracy']:.1%}" for name in p)
        run.observe(f"Right on the 418: {said}.")
        run.observe("Settings were also tried on folds of the 1 309, which hold these passengers: not quite a clean check.")
        net = whole["net"]
        run.conclude(f"One shot at {len(test.y)} passengers: accuracy {net['accuracy']:.3f}, log-loss {net['log_loss']:.3f}.")
    return run.report


def redrawn(families: np.ndarray, draws: int) -> list[np.ndarray]:
    """Rows of `draws` samples of whole families with replacement: how one of a family ended tells of the others."""
    members = [np.flatnonzero(families == family) for family in np.unique(families)]
    random = np.random.default_rng(0)
    return [np.concatenate([members[i] for i in random.integers(len(members), size=len(members))]) for _ in range(draws)]


def rescored(y: np.ndarray, p: np.ndarray, samples: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Metric -> (samples,)."""
    rows = [protocol.scores(y[sample], p[sample]) for sample in samples]
    return {metric: np.array([row[metric] for row in rows]) for metric in METRICS}


def record(run: runlog.Run, key: str, metric: str, value: float, draws: np.ndarray, meaning: str) -> None:
    """One number with the middle 95 % of the bootstrap; nothing per passenger, which would spell out labels."""
    low, high = np.quantile(draws, (0.025, 0.975))
    ends = float(min(low, value)), float(max(high, value))
    run.metric(
        key, value, interval=ends, higher_is_better=METRICS[metric], meaning=f"{meaning.replace('_', ' ')}; bootstrap of families"
    )
