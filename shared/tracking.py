"""The mirror of a finished run in MLflow. The report on disk is the record; a tracking server that is down loses nothing."""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from shared.errors import UserError, line


def without_password(url: str, flag: str) -> str:
    """The URL that `flag` gives, for a report may name it. Raises UserError where it holds a password."""
    if re.search(r"://[^/@:]*:[^@]*@|[?&]password=", url):
        raise UserError(f"{flag}: leave the password out, reports name the URL; PGPASSWORD or ~/.pgpass can hold it")
    return url


def veiled(text: str) -> str:
    """A text for reports and messages: stars for the passwords of the URLs in it."""
    return re.sub(r"(://[^/@:\s]*:)[^@\s]*(?=@)|([?&]password=)[^&\s]*", lambda found: f"{found[1] or found[2]}***", text)


def mirror(report: dict, files: Mapping[str, bytes]) -> str:
    """Log parameters, metrics, data digests and `files` (figures, report.json); returns one line that says where, or why not."""
    # A server that does not answer must not hold up the end of a run: MLflow's own default is minutes of retries.
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return veiled(f"MLflow: run {_log(uri, report, files)} at {uri}")
    except Exception as error:  # whatever MLflow or its server does, the report is safe
        return veiled(f"MLflow: not mirrored to {uri} ({type(error).__name__}: {line(error)})")


def _log(uri: str, report: dict, files: Mapping[str, bytes]) -> str:
    for name in ("alembic", "mlflow"):  # alembic prints every table it creates
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(report["sprint"])
    experiment_id = found.experiment_id if found else client.create_experiment(report["sprint"])
    run = client.create_run(experiment_id, run_name=report["experiment"])
    try:
        _fill(client, run.info.run_id, int(run.info.start_time), report, files)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)
    return run.info.run_id


def _fill(client, run_id: str, now: int, report: dict, files: Mapping[str, bytes]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    metrics = []
    for key, metric in report["metrics"].items():
        values = {"": metric["mean"]} | dict(zip(("_low", "_high"), metric["ci95"] or (), strict=False))
        metrics += [Metric(key + suffix, float(value), now, 0) for suffix, value in values.items()]
    settings = {**report["args"], "run_seeds": report["seeds"]}
    params = [Param(key, str(value)[:500]) for key, value in settings.items()]
    tags = [RunTag(key, str(report[key])[:500]) for key in ("title", "objective", "command", "git", "conclusion")]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    datasets = [  # MLflow keeps 36 characters of a digest; the whole of it goes into a tag
        DatasetInput(Dataset(name, entry["sha256"][:36], "code", entry["source"]), [InputTag("sha256", entry["sha256"])])
        for name, entry in report["data"].items()
    ]
    client.log_inputs(run_id, datasets=datasets)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        client.log_artifacts(run_id, folder)
