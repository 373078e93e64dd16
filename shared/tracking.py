"""The mirror of a finished run in MLflow. The report on disk is the record; a tracking server that is down loses nothing."""

import os
import warnings
from collections.abc import Mapping


def mirror(report: dict, figures: Mapping[str, bytes]) -> str:
    """Log parameters, metrics, data digests, figures and report.json; returns one line that says where, or why not."""
    # A server that does not answer must not hold up the end of a run: MLflow's own default is minutes of retries.
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f"MLflow: run {_log(uri, report, figures)} at {uri}"
    except Exception as error:  # whatever MLflow or its server does, the report is safe
        return f"MLflow: not mirrored to {uri} ({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''})"


def _log(uri: str, report: dict, figures: Mapping[str, bytes]) -> str:
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it prints every table it creates
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(report["sprint"])
    experiment_id = found.experiment_id if found else client.create_experiment(report["sprint"])
    run_id = client.create_run(experiment_id, run_name=report["experiment"]).info.run_id
    now = int(client.get_run(run_id).info.start_time)
    metrics = []
    for key, metric in report["metrics"].items():
        values = {"": metric["mean"]} | dict(zip(("_low", "_high"), metric["ci95"] or (), strict=False))
        metrics += [Metric(key + suffix, float(value), now, 0) for suffix, value in values.items()]
    params = [Param(key, str(value)[:500]) for key, value in report["args"].items()]
    params.append(Param("seeds", str(report["seeds"])[:500]))
    tags = [RunTag(key, str(report[key])[:500]) for key in ("title", "objective", "command", "git", "conclusion")]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    client.log_inputs(
        run_id,
        datasets=[  # MLflow keeps 36 characters of a digest; the whole of it goes into a tag
            DatasetInput(Dataset(name, entry["sha256"][:36], "code", entry["source"]), [InputTag("sha256", entry["sha256"])])
            for name, entry in report["data"].items()
        ],
    )
    client.log_dict(run_id, report, "report.json")
    for name, png in figures.items():
        _log_bytes(client, run_id, png, name)
    client.set_terminated(run_id)
    return run_id


def _log_bytes(client, run_id: str, content: bytes, name: str) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        client.log_artifact(run_id, str(path))
