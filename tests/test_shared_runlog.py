"""A recorded run, and its mirror in a real MLflow store and on a real MLflow server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

import numpy as np
import pytest

from shared import data, runlog, tracking
from shared.errors import UserError

PROGRAM = runlog.ROOT / "sprints" / "06_logistic_regression" / "code" / "train.py"  # any sprint will do


@dataclass
class Args(runlog.Args):
    seeds: int = 6


@pytest.fixture
def args(tmp_path):
    return Args(out=tmp_path, mlflow=False)


def record(args, experiment="trial", fail=None, program=PROGRAM):
    """A small run with one of everything."""
    with runlog.Run(
        args, str(program), experiment, title="A trial", objective="Does it record?", setup={"Model": "none"}, seeds=range(6)
    ) as run:
        run.data("numbers", data.digest(np.arange(6)), rows=6, source="generated")
        run.metric("score", np.arange(6), unit="points", higher_is_better=True, meaning="a score")
        run.compare("difference", np.arange(6), np.zeros(6), names=("a", "b"))
        run.claim("it is 7", source="them", protocol="one run", ours="2.5", honest="2.5", verdict="not reproduced")
        with runlog.style() as plt:
            figure, axes = plt.subplots()
            axes.plot(np.arange(6))
            run.figure(figure, "line", shows="A line.", matters="It rises.")
        run.file("sheet.md", f"fails: {fail}\n")
        if fail:
            raise fail
        run.observe("It rises.")
        run.conclude("It works.")
    return run


# -- the run ----------------------------------------------------------------------------------------------------------------


def test_report_holds_what_was_said(args, tmp_path):
    run = record(args)
    report = json.loads((run.folder / "report.json").read_text())
    assert run.folder == tmp_path / "06_logistic_regression" / "trial"
    assert report["metrics"]["score"] | {"meaning": ""} == {
        "mean": 2.5, "ci95": pytest.approx([0.5367, 4.4633], abs=1e-4), "values": [0, 1, 2, 3, 4, 5], "n": 6, "median": 2.5,
        "median_ci95": [0, 5], "unit": "points", "higher_is_better": True, "meaning": "",
    }  # fmt: skip
    assert report["seeds"] == [0, 1, 2, 3, 4, 5]
    assert report["device"]["kind"] == "cpu" and report["seconds"] >= 0 and report["peak_memory_mib"] > 10
    assert report["versions"]["numpy"] == np.__version__
    assert (run.folder / "line.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("fail", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_the_previous_results(args, fail):
    before = record(args)
    kept = {path.name: path.read_bytes() for path in before.folder.iterdir()}
    with pytest.raises(type(fail)):
        record(args, fail=fail)
    assert {path.name: path.read_bytes() for path in before.folder.iterdir()} == kept


def test_figures_of_an_earlier_run_go(args):
    run = record(args)
    (run.folder / "old.png").write_bytes(b"\x89PNG")
    record(args)
    assert sorted(path.name for path in run.folder.iterdir()) == ["line.png", "report.json", "sheet.md"]


def test_the_report_of_an_equal_published_result_stands(tmp_path):
    """So that a fresh clone in which a step was run has nothing to commit."""
    shutil.copy(runlog.ROOT / "docs" / "sprint_template" / "sprint.toml", tmp_path)
    args, program = runlog.Args(mlflow=False), tmp_path / "code" / "train.py"
    place = record(args, program=program).folder / "report.json"
    assert place.parent == tmp_path / "results" / "trial"
    report = json.loads(place.read_text()) | {"git": "the first", "seconds": 7.0}
    place.write_text(json.dumps(report))
    assert record(args, program=program).report["git"] != "the first" and json.loads(place.read_text()) == report
    place.write_text(json.dumps(report | {"conclusion": "Another."}))
    record(args, program=program)
    assert json.loads(place.read_text())["conclusion"] == "It works."
    place.write_text(json.dumps(report))
    (place.parent / "line.png").write_bytes(b"torn")
    record(args, program=program)
    assert (place.parent / "line.png").read_bytes().startswith(b"\x89PNG") and json.loads(place.read_text())["git"] != "the first"


def test_smoke_and_default_write_to_different_places():
    smoke = runlog.Run(runlog.Args(smoke=True), str(PROGRAM), "x", title="", objective="", setup={})
    default = runlog.Run(runlog.Args(), str(PROGRAM), "x", title="", objective="", setup={})
    custom = runlog.Run(Args(seeds=7), str(PROGRAM), "x", title="", objective="", setup={})
    assert custom.folder == runlog.ROOT / "runs" / "custom" / "06_logistic_regression" / "x"  # results/ is for the defaults
    assert smoke.folder == runlog.ROOT / "runs" / "smoke" / "06_logistic_regression" / "x"
    assert default.folder == PROGRAM.parents[1] / "results" / "x"


def test_a_program_may_compute_elsewhere_than_its_sprint():
    pytest.importorskip("mlx.core")

    class Wide(runlog.Args):
        devices = ("cpu", "mlx")

    wide, narrow = Wide(smoke=True, device="mlx"), runlog.Args(smoke=True, device="mlx")
    assert runlog.Run(wide, str(PROGRAM), "x", title="", objective="", setup={}).report["device"]["kind"] == "mlx"
    with pytest.raises(UserError, match="runs on cpu"):
        runlog.Run(narrow, str(PROGRAM), "x", title="", objective="", setup={})


def test_a_metric_is_recorded_once_and_finite(args):
    run = runlog.Run(args, str(PROGRAM), "x", title="", objective="", setup={})
    run.metric("score", [1.0, 2.0], meaning="a score")
    with pytest.raises(ValueError, match="twice"):
        run.metric("score", [1.0], meaning="a score")
    with pytest.raises(ValueError, match="finite"):
        run.metric("other", [1.0, float("nan")], meaning="a score")
    with pytest.raises(ValueError, match="verdict must be one of"):
        run.claim("", source="", protocol="", ours="", honest="", verdict="maybe")


PROGRAM_TEXT = '''"""A program for tests."""
import signal, sys, time
from dataclasses import dataclass
from shared import runlog
from shared.errors import UserError

@dataclass
class Args(runlog.Args):
    mode: str = "mend"
    """What goes wrong."""

def main(args):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background has it ignored
    print("started", flush=True)
    if args.mode == "mend":
        raise UserError("put the file there")
    if args.mode == "disk":
        raise OSError(28, "No space left on device", "report.json")
    if args.mode == "bug":
        raise ZeroDivisionError("a bug")
    time.sleep(30)

if __name__ == "__main__":
    runlog.launch(main, Args)
'''


@pytest.mark.parametrize(("mode", "code", "text"), [("mend", 1, "error: put the file there"), ("bug", 1, "ZeroDivisionError"),
                                                    ("disk", 1, "error: No space left on device: report.json")])  # fmt: skip
def test_errors_to_mend_are_one_line_and_bugs_keep_their_trace(tmp_path, mode, code, text):
    (tmp_path / "program.py").write_text(PROGRAM_TEXT)
    environment = os.environ | {"PYTHONPATH": str(runlog.ROOT)}
    ran = subprocess.run([sys.executable, tmp_path / "program.py", "--mode", mode], capture_output=True, text=True, env=environment)
    assert ran.returncode == code and text in ran.stderr
    assert (ran.stderr.count("\n") == 1) == (mode != "bug")


def test_interrupt_is_one_line(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM_TEXT)
    environment = os.environ | {"PYTHONPATH": str(runlog.ROOT)}
    command = [sys.executable, str(tmp_path / "program.py"), "--mode", "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted" in out and not err


def test_interrupt_while_libraries_are_imported_is_one_line():
    for error, text in (("KeyboardInterrupt", "interrupted\n"), ("ZeroDivisionError", "Traceback (most recent call last):")):
        ran = subprocess.run(
            [sys.executable, "-c", f"import shared; raise {error}"], capture_output=True, text=True, cwd=runlog.ROOT
        )
        assert ran.stderr.startswith(text) and ran.returncode and (error in ran.stderr) == (error != "KeyboardInterrupt")


# -- MLflow -----------------------------------------------------------------------------------------------------------------


def check_mirror(uri: str, report: dict) -> None:
    """What stands in the store is what stands in the report."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(report["sprint"])
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "trial"
    assert run.data.metrics["score"] == 2.5
    assert run.data.metrics["score_low"] == pytest.approx(report["metrics"]["score"]["ci95"][0])
    assert run.data.params["device"] == "auto" and run.data.params["seeds"] == "6" and run.data.tags["conclusion"] == "It works."
    assert run.inputs
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == report["data"]["numbers"]["sha256"][:36]
    assert [tag.value for tag in dataset.tags] == [report["data"]["numbers"]["sha256"]]
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"line.png", "report.json", "sheet.md"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real MLflow tracking server on a free port of this machine, with its own store and artifact folder."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as process:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the MLflow server did not start within a minute")
        yield uri
        os.killpg(process.pid, signal.SIGTERM)


def test_mirror_in_a_local_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = record(Args(out=tmp_path / "out"))  # mlflow=True: the path that users take
    check_mirror(f"sqlite:///{tmp_path}/mlflow.db", run.report)


def test_mirror_on_a_server(tmp_path, monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = record(Args(out=tmp_path))
    check_mirror(server, run.report)


def test_a_tracker_that_is_down_loses_nothing(tmp_path, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    start = time.perf_counter()
    run = record(Args(out=tmp_path))
    assert time.perf_counter() - start < 30
    assert json.loads((run.folder / "report.json").read_text())["conclusion"] == "It works."
    assert "not mirrored" in capsys.readouterr().out


def test_mirror_says_why_not(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    assert "not mirrored to nonsense://x" in tracking.mirror({"sprint": "s", "experiment": "e"}, {})


@pytest.mark.parametrize("uri", ["nonsense://me:secret@host/x", "nonsense://host/x?user=me&password=secret"])
def test_mirror_keeps_the_password_of_the_store_to_itself(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = tracking.mirror({"sprint": "s", "experiment": "e"}, {})
    assert "not mirrored to nonsense://" in said and "***" in said and "secret" not in said
