"""Train the nets of the comparison: ten arms with equal non-zeros, tuned on validation rows, several seeds each.

$ make spaghetti-train                           the digits, two minutes; MNIST and Fashion-MNIST where their files are, 45 each
$ make spaghetti-train ARGS="--only mnist"       one set, downloaded where it is not there
$ make spaghetti-train ARGS=--smoke              toy size, seconds

A run that was stopped goes on where it was: every training is stored in runs/spaghetti.
"""

import numpy as np

from shared import data, runlog

from . import comparisons, figures, images, study
from .comparisons import LABELS, SHORT, TITLES, Accuracy
from .study import SIZES, Args


def setup(args: Args, name: str) -> dict[str, str]:
    """What a report says of the nets and their training."""
    net, seeds = study.job(args, name, study.DENSE), len(study.seeds(args, name))
    validating = "others validate with each seed" if name == "digits" else "the last training rows validate"
    return {
        "Model": f"one hidden layer of {net.hidden} ReLU units, its weights sparse, and a dense readout; dense-small has fewer "
        "units, so that it has as many parameters",
        "Data": f"{TITLES[name]}, pixels standardised with one mean and deviation of the training rows; the same test rows always, "
        f"{validating}",
        "Optimisation": f"Adam, {net.epochs} epochs, batch {net.batch}, warm-up and cosine, no augmentation; sparse layers learn "
        f"with rate / density; every rate chosen on validation rows with {SIZES[name].trials} seeds of its own, {seeds} others "
        "reported",
    }


def record_data(run: runlog.Run, name: str) -> None:
    """Digest, number and source of the images."""
    shown, labels = images.pixels(name)
    source = "scikit-learn, load_digits" if name == "digits" else "raw idx files, sha256 of each checked"
    run.data(name, data.digest([shown, labels]), rows=len(labels), source=source)


def training(args: Args, name: str) -> dict:
    title, objective = f"Training on {TITLES[name]}", "Which learning rate does each wiring want, and how do the nets learn?"
    what = setup(args, name)
    with runlog.Run(
        args, __file__, f"training_{name}", title=title, objective=objective, setup=what, seeds=study.seeds(args, name)
    ) as run:
        record_data(run, name)
        known = comparisons.everything(args, name, study.measured(run, args, name))
        record(run, args, name, known)
    return run.report


def record(run: runlog.Run, args: Args, name: str, known: Accuracy) -> None:
    short, sparsity = SHORT[name], comparisons.main_sparsity(args)
    trained = [*known.plain.values(), *known.permuted.values()]
    seconds = sum(float(one.values("seconds").sum()) for one in trained)
    meaning = "processor time of the trainings with tuned rates, without tuning and evaluation"
    run.metric(f"{short}_training_hours", seconds / 3600, unit="h", meaning=meaning)
    shown = {arm: known.plain[arm, sparsity] for arm in LABELS if (arm, sparsity) in known.plain} | {"dense": known.dense}
    for arm, one in shown.items():
        what = f"tuned learning rate, {LABELS[arm]}" + (f" at {sparsity:.0%} sparsity" if arm != "dense" else "")
        run.metric(f"{short}_rate_{arm}", one.job.rate, meaning=what)
        what = "validation accuracy after the first epoch: " + what.removeprefix("tuned learning rate, ")
        first = [result["curve"][0] for result in one.results]
        run.metric(f"{short}_first_epoch_{arm}", first, unit="%", higher_is_better=True, meaning=what)
    for arm in ("set", "rigl"):
        what = f"share of all connections that {LABELS[arm]} ever had, at {sparsity:.0%} sparsity"
        run.metric(f"{short}_explored_{arm}", 100 * known.plain[arm, sparsity].values("explored"), unit="%", meaning=what)
    spread = [one.job.rate for one in shown.values()]
    ends = {arm: float(np.mean([result["curve"][0] for result in one.results])) for arm, one in shown.items()}
    quickest = max(ends, key=ends.__getitem__)
    run.observe(f"The tuned rates at {sparsity:.0%} sparsity lie between {min(spread):g} and {max(spread):g}.")
    run.observe(f"After one epoch {LABELS[quickest]} is ahead with {ends[quickest]:.2f} % on the validation rows.")
    dst = {arm: known.plain[arm, sparsity].values("explored").mean() for arm in ("set", "rigl")}
    run.observe(f"SET ever had {dst['set']:.0%} of all connections, RigL {dst['rigl']:.0%}.")
    run.conclude(
        f"{len(trained)} nets with {len(known.dense.results)} seeds each took {seconds / 3600:.2f} hours of processor time; tuned "
        f"rates differ by a factor of {max(spread) / min(spread):.0f} between arms, although a sparse layer's already follows the "
        "density."
    )
    with runlog.style() as plt:
        run.figure(
            figures.curves(plt, shown, TITLES[name]),
            "training_curves",
            shows=f"Loss on the training rows and accuracy on the validation rows over the epochs, mean over seeds, {sparsity:.0%} "
            "sparsity.",
            matters="Where the lines part, and whether they come together again, is what a wiring changes.",
        )
        run.figure(
            figures.rate_table(plt, known, args.sparsities),
            "rates",
            shows="The learning rate that each arm was given, chosen on the validation rows.",
            matters="A comparison with one rate for all would compare rates.",
        )


def main(args: Args) -> dict:
    return {name: training(args, name) for name in study.prepare(args)}


if __name__ == "__main__":
    runlog.launch(main, Args)
