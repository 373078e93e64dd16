"""Sprint 05 with the team's set-up: an MLflow server on PostgreSQL that hands out the artifacts. Runs with `make cyoa-team-test`."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import optuna
import pytest

from shared import models, sprints

pytestmark = pytest.mark.skipif(
    os.environ.get("CYOA_TEAM_TEST") != "1", reason="starts PostgreSQL and a server: make cyoa-team-test"
)
CODE = "sprints.05_cyoa.code"
diary, promote, registry, scenarios, sweep, train, versions = (
    import_module(f"{CODE}.{name}") for name in ("diary", "promote", "registry", "scenarios", "sweep", "train", "versions")
)
BINARIES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path(shutil.which("initdb") or "/nowhere/x").parent]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command, ready, seconds=120, **options):
    process = subprocess.Popen(command, **options)
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, f"{command[0]} did not start"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def postgres():
    """The address of a PostgreSQL of its own. It refuses to run as root, so then it runs as its own user."""
    binaries = next((path for path in BINARIES if (path / "initdb").exists()), None)
    assert binaries, "PostgreSQL is not installed (on Debian: apt-get install postgresql)"
    folder, port = Path(tempfile.mkdtemp(prefix="cyoa_pg_")), free_port()
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    start = [*user, str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "cyoa", "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(start, check=True, capture_output=True, cwd="/")
    serve = [*user, str(binaries / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-p", str(port), "-F"]
    ask = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        with running(
            serve, lambda: subprocess.run(ask).returncode == 0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        ):
            create = ["-h", "127.0.0.1", "-p", str(port), "-U", "cyoa"]
            for name in ("mlflow", "sweeps"):
                subprocess.run([str(binaries / "createdb"), *create, name], check=True)
            yield f"postgresql+psycopg://cyoa@127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"{postgres}/mlflow", "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | versions.QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def answers():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
        except OSError:
            return False

    with (folder / "log").open("wb") as log, running(command, answers, 300, stdout=log, stderr=log, cwd=folder, env=environment):
        yield f"http://127.0.0.1:{port}"


def model(folder, change):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models.POCKET, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += change
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    version = versions.version(scenarios.load())
    train.write_card(folder, {"data_version": version, "method": "full", "base": "pocket"})
    promote.write_panel(folder, version, {"bits": {"values": {"a": 1.5 - change, "b": 1.4 - change}, "better": "lower"}})
    return folder


def test_versions_travel_through_the_server(server, tmp_path, monkeypatch):
    """One machine trains and promotes, another, which shares no disk with it, plays and rolls back."""
    store, every = versions.Store(server), scenarios.load()
    store.log(every, {}, {"split_seed": 0}, {"scenarios": len(every)})
    assert store.recall() == (versions.version(every), versions.canonical(every))
    with diary.diary(tmp_path / "full_1", {"epochs": 1}, every, store) as log:
        log.callbacks[0].on_log(None, type("State", (), {"global_step": 1})(), None, {"loss": 2.0})
        time.sleep(diary.SECONDS + 2)
    run = store.client.get_run(log.run)
    assert run.info.status == "FINISHED" and "system/cpu_utilization_percentage" in run.data.metrics
    folders = [model(tmp_path / f"model{change}", change) for change in (0.0, 0.5)]
    decisions = [promote.promote(folder, store, tmp_path / "here") for folder in folders]
    assert [decision.promoted for decision in decisions] == [True, True], decisions
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    there = registry.champion(downloads=tmp_path / "there")
    assert there.name == f"cyoa-story/{decisions[1].version}" and registry.weights(there.folder) == registry.weights(folders[1])
    start = time.perf_counter()
    assert promote.rollback(downloads=tmp_path / "there") == decisions[0].version
    assert time.perf_counter() - start < 10
    again = registry.champion(downloads=tmp_path / "there")
    assert again.name == f"cyoa-story/{decisions[0].version}" and registry.weights(again.folder) == registry.weights(folders[0])


def test_machines_share_a_search(postgres, tmp_path):
    code = (
        f"import sys, optuna; from importlib import import_module as i; from pathlib import Path; s = i('{CODE}.sweep')\n"
        "search = s.study(s.Args(storage=sys.argv[1]), Path(sys.argv[2]), 'v')\n"
        "until = optuna.study.MaxTrialsCallback(6)\n"
        "search.optimize(lambda trial: s.suggest(trial, 1, 0).learning_rate, n_trials=4, callbacks=[until])\n"
    )
    command = [sys.executable, "-c", code, f"{postgres}/sweeps", str(tmp_path)]
    for process in [subprocess.Popen(command, cwd=sprints.ROOT) for _ in range(2)]:
        assert process.wait(300) == 0
    search = sweep.study(sweep.Args(storage=f"{postgres}/sweeps"), tmp_path, "v")
    assert 6 <= len(search.trials) <= 8 and {trial.state for trial in search.trials} == {optuna.trial.TrialState.COMPLETE}
    assert sorted(trial.number for trial in search.trials) == list(range(len(search.trials)))
