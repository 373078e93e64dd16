"""A net that tunes itself: Optuna inside `fit`, so inside the training fold, with early stopping on inner folds.

TunedNet(trials=12, storage="sqlite:///optuna.db").fit(X, y)

A trial trains on inner folds, looks at the rows left out every few steps, and is worth the lowest point of the mean curve; the net
is trained again on all rows with the best trial's settings, up to that step. The study is named after its training rows, the code
and the packages: a search that was cut off goes on where it was, a changed one starts anew, and machines with one storage URL
share its trials.
"""

from typing import Any, Self

import numpy as np
import optuna
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from shared import data
from shared.errors import UserError, line

from .features import Level
from .preprocess_data import fingerprint
from .recipe import recipe
from .titanic_model import EntityNet, log_loss, tabm

FAST = {"members": 8}  # of a trial; the net that is kept has the published number
PREFIX = "titanic-"  # of the studies' names: a storage may hold those of others
FINISHED = (optuna.trial.TrialState.COMPLETE,)
TAG = "mlflow"  # user attribute of a trial that has been mirrored


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space, around the published settings."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 2e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "dropout": trial.suggest_float("dropout", 0.1, 0.6),
        "input_dropout": trial.suggest_float("input_dropout", 0.0, 0.3),
        "companion_dropout": trial.suggest_float("companion_dropout", 0.0, 0.5),
        "width": trial.suggest_categorical("width", [32, 64, 128]),
    }


class TunedNet(ClassifierMixin, BaseEstimator):
    """TabM with settings found by `trials` of Optuna's TPE on `folds` inner folds; `storage` None keeps the trials in memory."""

    level: Level

    def __init__(
        self,
        level: Level = "tickets",
        trials: int = 12,
        folds: int = 3,
        storage: str | None = None,
        toy: bool = False,
        seed: int = 0,
    ):
        self.level = level
        self.trials = trials
        self.folds = folds
        self.storage = storage
        self.toy = toy
        self.seed = seed

    def fit(self, X: pd.DataFrame, y) -> Self:
        y = np.asarray(y)
        self.study_ = open_study(self._name(X, y), self.storage)
        while len(self.study_.get_trials(deepcopy=False, states=FINISHED)) < self.trials:  # those of other machines count too
            trial = self.study_.ask()
            self.study_.sampler = sampler(self.seed + trial.number)  # with one seed for all, resuming would draw the first anew
            self.study_.tell(trial, self._value(trial, X, y))
        best = self.study_.best_trial
        self.model_ = self._net(best.params, stop=best.user_attrs["stop"]).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """(n, 2): P(died) and P(survived)."""
        check_is_fitted(self)
        return self.model_.predict_proba(X)

    def _name(self, X: pd.DataFrame, y: np.ndarray) -> str:
        """By the rows and whatever else decides a trial: a search of other code or settings is another study."""
        key = f"{recipe(type(self))} {fingerprint(X, y)} {self.level} {self.folds} {self.toy} {self.seed}"
        return PREFIX + data.digest(key.encode())[:24]

    def _net(self, settings: dict, **fixed: Any) -> EntityNet:
        toy: dict[str, Any] = {"members": 2, "steps": 20} if self.toy else {}
        merged: dict[str, Any] = settings | fixed | toy
        return tabm(self.level, self.seed, **merged)

    def _value(self, trial: optuna.Trial, X: pd.DataFrame, y: np.ndarray) -> float:
        """Log-loss at the best step of the mean curve over inner folds."""
        settings, curves = suggest(trial), []
        inner = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        for learn, watch in inner.split(np.zeros(len(y)), y):
            seen = self._net(settings, **FAST).curve(X.iloc[learn], y[learn], X.iloc[watch])
            curves.append({step: log_loss(y[watch], p) for step, p in seen.items()})
        mean = {step: float(np.mean([curve[step] for curve in curves])) for step in curves[0]}
        trial.set_user_attr("stop", min(mean, key=lambda step: mean[step]))
        return min(mean.values())


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Each setting by itself, so that all are drawn after a trial has its number; half of the few trials at random."""
    return optuna.samplers.TPESampler(n_startup_trials=6, multivariate=False, seed=seed)


def reach(storage: str) -> None:
    """Make the tables of a storage that has none; raises UserError where it cannot be reached."""
    try:
        optuna.storages.RDBStorage(storage)
    except Exception as error:  # whatever the database's driver raises
        raise UserError(f"--storage {storage}: the trials cannot be kept there ({type(error).__name__}: {line(error)})") from error


def open_study(name: str, storage: str | None) -> optuna.Study:
    """The study of that name, made where it does not exist."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name=name, storage=storage, load_if_exists=True)


def mirror(storage: str, uri: str, experiment: str) -> int:
    """One MLflow run for each finished trial of the storage that has none yet; returns how many."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    place, mirrored = found.experiment_id if found else client.create_experiment(experiment), 0
    for summary in optuna.get_all_study_summaries(storage):
        if not summary.study_name.startswith(PREFIX):
            continue
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        done = set(study.user_attrs.get(TAG, []))
        new = [trial for trial in study.get_trials(states=FINISHED) if trial.number not in done]
        for trial in new:
            run = client.create_run(place, run_name=f"{study.study_name}-{trial.number}")
            settings = trial.params | trial.user_attrs
            now = int(run.info.start_time)
            parameters = [Param(name, str(value)) for name, value in settings.items()]
            client.log_batch(
                run.info.run_id, metrics=[Metric("inner_log_loss", float(trial.value or 0.0), now, 0)], params=parameters
            )
            client.set_terminated(run.info.run_id)
        if new:
            study.set_user_attr(TAG, sorted(done | {trial.number for trial in new}))
        mirrored += len(new)
    return mirrored
