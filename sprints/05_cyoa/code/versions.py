"""Versions of the scenarios: a sha256 over every cell, the content behind it in MLflow, and what differs between two.

MLflow's own digest of a table leaves out columns of lists, columns with a missing value and the rows after the first 10,000, so a
changed choice or ending would keep it. Ours is over canonical bytes; 36 of its characters fit into MLflow's field, a tag has all.
"""

import json
import logging
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.data import digest
from shared.errors import UserError, line
from shared.sprints import ROOT
from shared.tracking import veiled

from .scenarios import DATA, FLAT, Scenario, flat_rows

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.data.pandas_dataset import PandasDataset

NAME = "cyoa-scenarios"
EXPERIMENT = DATA.parents[1].name  # the name of the sprint's folder, as of all its runs
RAW = "raw/scenarios.jsonl"
TAG = "data_version"
RUN = "data "  # how the name of a run begins that logs a version
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def canonical(scenarios: Sequence[Scenario]) -> bytes:
    """One line of JSON per scenario, ordered by id, keys sorted: equal bytes for equal cells only."""
    return encode([asdict(scenario) for scenario in sorted(scenarios, key=lambda scenario: scenario.id)])


def encode(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Canonical bytes of scenarios that are dicts already."""
    return "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows).encode()


def version(scenarios: Sequence[Scenario]) -> str:
    """sha256 (hex) of the canonical bytes."""
    return digest(canonical(scenarios))


def cells(value: Any, where: str = "") -> dict[str, str]:
    """The leaves of a tree of dicts and lists by their place, such as `scenes.gate.choices.0.text`."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = (cells(item, f"{where}.{key}" if where else str(key)) for key, item in items)
        return {place: text for part in found for place, text in part.items()}
    return {where: json.dumps(value)}


def difference(old: bytes, new: bytes) -> list[str]:
    """What changed from one version's canonical bytes to another's, one line per scenario or cell."""
    before, after = ({row["id"]: row for row in map(json.loads, content.splitlines())} for content in (old, new))
    lines = [f"- {name} ({len(before[name]['scenes'])} scenes)" for name in before if name not in after]
    lines += [f"+ {name} ({len(after[name]['scenes'])} scenes)" for name in after if name not in before]
    for name in sorted(before.keys() & after.keys()):
        was, now = cells(before[name]), cells(after[name])
        changed = [place for place in sorted(was.keys() | now.keys()) if was.get(place) != now.get(place)]
        lines += [f"~ {name} {place}: {_changed(was.get(place), now.get(place))}" for place in changed]
    return lines


def _changed(was: str | None, now: str | None, around: int = 20) -> str:
    """Both texts where they begin to differ."""
    if was is None or now is None:
        return f"only {'before' if now is None else 'now'}: {(was or now or '')[: 4 * around]}"
    same = next((at for at, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    start = max(same - around, 0)
    return " -> ".join(f"{'...' if start else ''}{text[start : start + 3 * around]}" for text in (was, now))


def dataset(scenarios: Sequence[Scenario]) -> "PandasDataset":
    """The flat table of the scenarios as a dataset of MLflow, its digest the beginning of our version."""
    import pandas as pd
    from mlflow.data import pandas_dataset
    from mlflow.data.code_dataset_source import CodeDatasetSource

    frame = pd.DataFrame([row for scenario in scenarios for row in flat_rows(scenario)], columns=list(FLAT))
    source = CodeDatasetSource({"mlflow.source.name": DATA.relative_to(ROOT).as_posix()})
    return pandas_dataset.from_pandas(frame, source=source, name=NAME, targets="response", digest=version(scenarios)[:36])


def scene_table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """One row per scene of the canonical rows, choices as lists: the table whose changes MLflow's digest is tried on."""
    import pandas as pd

    keys = ("id", "title", "family", "genre", "rating", "summary", "start")
    return pd.DataFrame(
        [
            {key: row[key] for key in keys}
            | {"hero": row["hero"]["name"], "pronouns": row["hero"]["pronouns"], "role": row["hero"]["role"]}
            | {"cast": [list(person.values()) for person in row["cast"]], "scene": scene["id"], "text": scene["text"]}
            | {"choices": [list(choice.values()) for choice in scene["choices"]], "ending": scene["ending"]}
            for row in rows
            for scene in row["scenes"].values()
        ]
    )


def changes_seen(scenarios: Sequence[Scenario], count: int, seed: int) -> Iterator[tuple[bool, bool]]:
    """Change one letter of one cell `count` times, each kind of cell in turn, and undo it: did each mark change?"""
    from mlflow.data import pandas_dataset
    from mlflow.data.code_dataset_source import CodeDatasetSource

    rng = random.Random(seed)
    rows = [json.loads(line) for line in canonical(scenarios).splitlines()]
    kinds: defaultdict[str, list[tuple[dict, str]]] = defaultdict(list)  # kind of cell -> dicts that hold one, and its key
    for row in rows:
        scenes = row["scenes"].values()
        groups = {"": [row], "hero": [row["hero"]], "cast": row["cast"], "scene": scenes}
        groups["choice"] = [choice for scene in scenes for choice in scene["choices"]]
        for group, holders in groups.items():
            for holder in holders:
                for key in (key for key, cell in holder.items() if isinstance(cell, str) and cell):
                    kinds[f"{group} {key}"].append((holder, key))

    def marks() -> tuple[str, str]:
        return digest(encode(rows)), pandas_dataset.from_pandas(scene_table(rows), source=CodeDatasetSource({})).digest

    before, names = marks(), sorted(kinds)
    for turn in range(count):
        holder, key = rng.choice(kinds[names[turn % len(names)]])
        kept = holder[key]
        at = rng.randrange(len(kept))
        holder[key] = f"{kept[:at]}{'x' if kept[at] != 'x' else 'y'}{kept[at + 1 :]}"
        ours, theirs = marks()
        holder[key] = kept
        yield ours != before[0], theirs != before[1]


class Store:
    """The versions in one MLflow tracking store. Raises UserError where the store cannot be used."""

    def __init__(self, uri: str | None = None, artifacts: str | None = None):
        """`uri` None is MLFLOW_TRACKING_URI, or the file mlflow.db; `artifacts` is where a new experiment keeps its files."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        for name in ("alembic", "mlflow"):  # alembic prints every table it creates
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        try:
            self.client = MlflowClient(tracking_uri=self.uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            self.experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifacts)
        except Exception as error:  # the store may be a file, a database or a server: each has its own errors
            raise self._unusable(error) from error

    @property
    def place(self) -> str:
        """Which store this is, in words for reports and messages."""
        return veiled(self.uri)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Say in one line what MLflow raises in the block."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> UserError:
        what = veiled(f"cannot use the MLflow store {self.uri} ({line(error)})")
        return UserError(f"{what}: set MLFLOW_TRACKING_URI, or pass --no-mlflow")

    def log(
        self, scenarios: Sequence[Scenario], files: Mapping[str, bytes], params: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> str:
        """Log one version: the dataset with its whole sha256, the raw cells and `files` as artifacts. Returns the run's id."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        content, now = canonical(scenarios), int(time.time() * 1000)
        sha256 = digest(content)
        try:
            run = self.client.create_run(self.experiment, run_name=f"{RUN}{sha256[:12]}", tags={TAG: sha256}).info.run_id
            source = DatasetInput(
                Dataset(**dataset(scenarios).to_dict()), [InputTag("sha256", sha256), InputTag("mlflow.data.context", "training")]
            )
            self.client.log_inputs(run, datasets=[source])
            self.client.log_batch(
                run,
                metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
                params=[Param(key, str(value)) for key, value in params.items()],
                tags=[RunTag("mlflow.note.content", f"The scenarios at version {sha256}.")],
            )
            with tempfile.TemporaryDirectory() as folder:
                for name, data in {RAW: content, **files}.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                self.client.log_artifacts(run, folder)
            self.client.set_terminated(run)
        except Exception as error:
            raise self._unusable(error) from error
        return run

    def recall(self, reference: str = "last") -> tuple[str, bytes] | None:
        """The version that `reference` begins, or the newest one, and its canonical bytes; None where none was logged yet.

        Raises UserError for an unknown version, and where the stored bytes are not those of their version."""
        logged = f"tags.{TAG} != '' and status = 'FINISHED' and attributes.run_name LIKE '{RUN}%'"  # trainings have the tag too
        runs = self.client.search_runs([self.experiment], logged, order_by=["start_time DESC"])
        known = {run.data.tags[TAG]: run.info.run_id for run in reversed(runs)}
        if not known and reference == "last":
            return None
        matching = [runs[0].data.tags[TAG]] if reference == "last" else [sha for sha in known if sha.startswith(reference)]
        if len(matching) != 1 or not reference:
            shown = ", ".join(sha[:12] for sha in reversed(known)) or "none"
            raise UserError(f"{len(matching)} versions begin with {reference!r}: the versions in {self.place} are {shown}")
        (sha256,) = matching
        with tempfile.TemporaryDirectory() as folder:
            try:
                content = Path(self.client.download_artifacts(known[sha256], RAW, folder)).read_bytes()
            except Exception as error:
                raise self._unusable(error) from error
        if digest(content) != sha256:
            raise UserError(f"the stored bytes of version {sha256[:12]} have another sha256: do not trust run {known[sha256]}")
        return sha256, content
