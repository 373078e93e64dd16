"""Search the settings of the training: method, learning rate, batch. Several machines share one search through a database.

make cyoa-sweep                                                          a sqlite file in runs/cyoa
make cyoa-sweep ARGS="--storage postgresql+psycopg://host/sweeps"        the same command on every machine
make cyoa-sweep ARGS=--smoke                                             two trials, seconds

A trial that is worse than the middle of the others after an epoch stops; one whose machine died is run again. Only validation
scenarios decide, the test scenarios are never looked at.
"""

import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from shared import models, runlog, tracking
from shared.data import digest
from shared.errors import UserError, line
from shared.sprints import ROOT

from . import encoding, registry, scenarios, train, tuning

ALIVE = 60  # seconds between signs of life of a trial


@dataclass
class Args(runlog.Args):
    """The size of the search."""

    devices: ClassVar[tuple[str, ...]] = train.TORCH
    aside: ClassVar[tuple[str, ...]] = ("storage",)

    base: str = "pocket"
    """As for the training."""
    trials: int = 8
    """Of all machines together, those that stopped early with them."""
    epochs: int = 3
    """Of a trial, at most."""
    seed: int = 0
    """Of the search and of the trainings."""
    storage: str | None = None
    """URL of the database that the machines share, without a password; a sqlite file in runs/cyoa when not given."""


def suggest(trial: Any, epochs: int, seed: int) -> tuning.Recipe:
    method = trial.suggest_categorical("method", ["full", "lora"])
    low, high = {"full": (3e-5, 1e-3), "lora": (3e-4, 1e-2)}[method]
    return tuning.Recipe(
        method=method,
        learning_rate=trial.suggest_float(f"{method}_learning_rate", low, high, log=True),
        rank=trial.suggest_categorical("rank", [8, 32]) if method == "lora" else 16,
        batch=trial.suggest_categorical("batch", [8, 16, 32]),
        epochs=epochs,
        seed=seed,
    )


def pruning(trial: Any) -> Any:
    """Reports every epoch to the search, and stops where it says so."""
    from transformers import TrainerCallback

    class Pruning(TrainerCallback):
        pruned = False

        def on_evaluate(self, args, state, control, **kwargs):
            trial.report(state.log_history[-1]["eval_loss"], round(state.epoch or 0))
            self.pruned = bool(trial.should_prune())  # numpy's own cannot be written to a checkpoint
            control.should_training_stop |= self.pruned

    return Pruning()


def study(args: Args, base: Path, version: str) -> Any:
    """The search over one version of the data. Raises UserError where its database cannot be used."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    base.mkdir(parents=True, exist_ok=True)
    url = args.storage or f"sqlite:///{base / 'sweep.db'}"
    code = digest([Path(__file__).with_name(part) for part in (*tuning.PARTS, "train.py", "sweep.py")])
    # losses of other rows, rates or recipes belong to another search
    name = f"{args.base}-{args.epochs}-{version[:12]}-{code[:12]}"
    try:
        try:
            return _open(url, name, args)
        except (IntegrityError, ProgrammingError):  # another machine creates the same tables at this moment
            time.sleep(3)
            return _open(url, name, args)
    except Exception as error:  # a wrong URL, a driver that is not installed, a server that is down
        raise UserError(f"--storage {url}: this database cannot be used ({line(error)})") from error


def _open(url: str, name: str, args: Args) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2)
    search = optuna.create_study(
        study_name=name,
        storage=optuna.storages.RDBStorage(url, heartbeat_interval=ALIVE, heartbeat_stale_trial_callback=again),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        direction="minimize",
        load_if_exists=True,
    )
    seed = None if args.storage else args.seed + len(search.trials)  # neither machines nor a search that goes on try the same again
    search.sampler = optuna.samplers.TPESampler(seed=seed)
    return search


def main(args: Args) -> dict:
    base = registry.RUNS
    if args.smoke:
        args.trials, args.epochs = 2, 1
        base = args.toys / "cyoa_sweep"
        shutil.rmtree(base, ignore_errors=True)
    if args.trials < 1 or args.epochs < 1:
        raise UserError("--trials and --epochs must be at least 1")
    tracking.without_password(args.storage or "", "--storage")
    title, objective = "Sweep", "Which method, learning rate and batch reach the lowest validation loss."
    setup = {
        "Model": f"{args.base}, tuned whole or by LoRA",
        "Data": "training and validation scenarios, as for the training",
        "Optimisation": f"{args.trials} trials of at most {args.epochs} epochs, TPE, median pruning",
    }
    with runlog.Run(args, __file__, "sweep", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        data = train.examples(models.load(args.base, run.device, "none").tokenizer, args.smoke)
        run.data("scenarios", data.version, rows=len(data.scenarios), source=scenarios.DATA.relative_to(ROOT).as_posix())
        search = study(args, base, data.version)
        explore(search, args, run.device, data, base / "trials")
        record(run, search)
    return run.report


def explore(search: Any, args: Args, place: Any, data: train.Examples, folder: Path) -> None:
    import optuna
    from optuna.trial import TrialState

    def objective(trial: Any) -> float:
        recipe = suggest(trial, args.epochs, args.seed)
        loaded = models.load(args.base, place, "none" if recipe.method == "full" else None)
        train_rows, validation = (encoding.encode(loaded, part) for part in (data.train, data.validation))
        home, watch = folder / str(trial.number), pruning(trial)
        try:
            course = tuning.tune(loaded, recipe, train_rows, validation, home, [watch])
        except UserError as error:  # a learning rate or a batch that is too large for this trial, not for the next
            runlog.console.print(f"trial {trial.number}: {error} {trial.params}")
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(home, ignore_errors=True)
        runlog.console.print(f"trial {trial.number}: {course.best['validation_loss']:.3f} {trial.params}")
        if watch.pruned:
            raise optuna.TrialPruned
        return course.best["validation_loss"]

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    if len(search.get_trials(states=ended)) < args.trials:
        search.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(args.trials, states=ended)], gc_after_trial=True)


def record(run: runlog.Run, search: Any) -> None:
    from optuna.trial import TrialState

    down: dict[str, Any] = {"unit": "nats", "higher_is_better": False}
    whole, pruned = (search.get_trials(states=(state,)) for state in (TrialState.COMPLETE, TrialState.PRUNED))
    if not whole:
        raise UserError("no trial of the sweep came to its end: give it more --trials")
    best = search.best_trial
    run.metric("sweep_best_validation_loss", best.value, **down, meaning="per token of the answers, of the best trial")
    run.metric("sweep_trials", len(whole) + len(pruned), meaning="trials, those that were stopped early with them")
    run.metric("sweep_pruned_trials", len(pruned), meaning="trials stopped early: others were better by then, or it failed")
    minutes = sum((trial.duration.total_seconds() for trial in (*whole, *pruned)), 0.0) / 60
    run.metric("sweep_minutes", minutes, unit="minutes", higher_is_better=False, meaning="of all trials together, on any machine")
    for method in ("full", "lora"):
        if losses := [trial.value for trial in whole if trial.params["method"] == method]:
            run.metric(f"sweep_{method}_validation_loss", min(losses), **down, meaning=f"of the best {method} trial")
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.8))
        for color, method in enumerate(("full", "lora")):
            for trials, marker, what in ((whole, "o", "to its end"), (pruned, "x", "stopped early")):
                found = [t for t in trials if t.params["method"] == method and t.intermediate_values]
                rates = [trial.params[f"{method}_learning_rate"] for trial in found]
                losses = [min(trial.intermediate_values.values()) for trial in found]
                axes.plot(rates, losses, marker, color=f"C{color}", label=f"{method}, {what}" if found else None)
        axes.set(xscale="log", xlabel="peak learning rate", ylabel="validation loss, nats per token")
        axes.legend()
        run.figure(
            figure,
            "trials",
            shows="Every trial of the search: its learning rate, and its lowest validation loss.",
            matters="Where the best trials lie at the end of the range of rates, higher ones may be better still.",
        )
    settings = ", ".join(
        f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in best.params.items()
    )
    run.observe(f"The best trial: {settings}.")
    run.conclude(f"The lowest validation loss of {len(whole) + len(pruned)} trials is {best.value:.2f} nats per token.")


if __name__ == "__main__":
    runlog.launch(main, Args)
