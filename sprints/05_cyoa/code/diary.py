"""A training run in MLflow while it lasts: parameters, losses, what the machine does. A server that is down stops no training."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import line
from shared.report import write_atomically
from shared.runlog import console

from . import versions
from .scenarios import Scenario

SECONDS = 10  # between two looks at the machine
RUN_FILE = "mlflow.json"  # in the folder of a training: which run of MLflow it is


@dataclass(frozen=True)
class Diary:
    """`run` is MLflow's id, None where nothing is logged; `callbacks` are for the trainer."""

    run: str | None
    callbacks: Sequence[Any]


@contextmanager
def diary(folder: Path, params: Mapping[str, Any], scenarios: Sequence[Scenario], store: versions.Store | None) -> Iterator[Diary]:
    """Log the training in `folder` to `store` (None: nowhere). A run that was killed is the same run of MLflow when it goes on."""
    if store is None:
        yield Diary(None, [])
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    run = _begin(folder, params, scenarios, store)
    monitor = SystemMetricsMonitor(run, sampling_interval=SECONDS, resume_logging=True, tracking_uri=store.uri)
    monitor.start()
    status = "FAILED"
    try:
        yield Diary(run, [_callback(store, run)])
        status = "FINISHED"
    finally:
        monitor.finish()
        _quietly(lambda: store.client.set_terminated(run, status))


def _begin(folder: Path, params: Mapping[str, Any], scenarios: Sequence[Scenario], store: versions.Store) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    known = folder / RUN_FILE
    if known.is_file() and (kept := json.loads(known.read_text()))["uri"] == store.place:
        return kept["run"]
    sha256 = versions.version(scenarios)
    run = store.client.create_run(store.experiment, run_name=folder.name, tags={versions.TAG: sha256}).info.run_id
    store.client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
    tags = [InputTag("sha256", sha256), InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(run, datasets=[DatasetInput(Dataset(**versions.dataset(scenarios).to_dict()), tags)])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(known, json.dumps({"uri": store.place, "run": run}).encode())
    return run


def _callback(store: versions.Store, run: str) -> Any:
    from mlflow.entities import Metric
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            now = int(time.time() * 1000)
            numbers = {key: float(value) for key, value in (logs or {}).items() if isinstance(value, int | float)}
            metrics = [Metric(key, value, now, state.global_step) for key, value in numbers.items()]
            _quietly(lambda: store.client.log_batch(run, metrics=metrics))

    return Log()


def _quietly(log: Any) -> None:
    try:
        log()
    except Exception as error:  # whatever the tracking server does, the training is worth more
        console.print(f"warning: MLflow logged nothing ({line(error)})")
