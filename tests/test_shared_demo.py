"""`make demo` as a user meets it: real programs of small sprints in a repository of their own, on a terminal and in a pipe."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module

import pytest
import tyro

from shared import sprints
from shared.demo_steps import SECONDS

ROOT = sprints.ROOT
LIMITS = {"demo": 12 * 60, "demo-smoke": 4 * 60}  # seconds
PROGRAM = """
import argparse, json, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path)
parser.add_argument("--smoke", action="store_true")
parser.add_argument("--score", type=float, default=0.5)
args, _ = parser.parse_known_args()
sprint, step = Path(__file__).parts[-3], Path(__file__).stem
with open("ran", "a") as ran:
    print(f"{sprint[3:]}-{step}", file=ran)
if Path(f"{sprint[3:]}-{step} fails").exists():
    print("reading\\rread")
    sys.exit("error: the oven is cold")
try:
    print("half way", flush=True)
    while Path(f"{sprint[3:]}-{step} waits").exists():
        time.sleep(0.05)
except KeyboardInterrupt:
    Path("cleaned").touch()
    sys.exit(130)
metric = {"mean": args.score, "ci95": None, "values": [args.score], "n": 1, "unit": "points", "meaning": "m", "higher_is_better": True}
report = {"sprint": sprint, "experiment": step, "title": step, "objective": "o", "setup": {}, "seeds": [0], "device": {"kind": "cpu"},
          "command": f"python -m sprints.{sprint}.code.{step}", "started": f"2026-01-01T00:00:{len(Path('ran').read_text().split()):02}",
          "seconds": 1.0, "conclusion": f"{step} concludes.", "metrics": {f"{sprint[3:]}_{step}": metric}, "smoke": args.smoke,
          "machine": {"cpu": "a cpu", "logical_cores": 2, "memory_gib": 4, "os": "an os"}, "versions": {}, "git": "abc", "data": {},
          "peak_memory_mib": 1.0, "comparisons": [], "figures": [], "claims": [], "observations": []}
target = args.out / sprint / step / "report.json"
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(json.dumps(report))
"""


def small(root, number, name, demo, answer):
    folder = root / "sprints" / f"{number:02d}_{name}"
    for part in ("code", "results"):
        (folder / part).mkdir(parents=True)
    text = (ROOT / "docs" / "sprint_template" / "sprint.toml").read_text().split("[steps]")[0].replace("template_name", name)
    lines = [line for line in text.splitlines() if not line.startswith(("demo", "answer", "baseline"))]
    lines += [f"demo = {json.dumps(demo)}", f'answer = "{answer}"', 'baseline = "none"', "[steps]"]
    for step in (line.split()[0] for line in demo):
        lines.append(f'{step} = "{step}"')
        (folder / "code" / f"{step}.py").write_text(PROGRAM)
    (folder / "sprint.toml").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path):
    """Three sprints of two, two and one steps."""
    shutil.copytree(ROOT / "shared", tmp_path / "shared", ignore=shutil.ignore_patterns("__pycache__"))
    small(tmp_path, 0, "alpha", ["train --score 0.75", "eval"], "Alpha scores {alpha_train}.")
    small(tmp_path, 1, "beta", ["train", "eval"], "Beta needs {a_gpu}.")
    small(tmp_path, 2, "gamma", ["generate"], "Gamma scores {gamma_generate}.")
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "shared.demo", *arguments]


def environment(root):
    return os.environ | {"PYTHONPATH": str(root), "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}


def demo(root, *arguments):
    """Run it in a pipe: (exit code, what it says, which steps ran)."""
    (root / "ran").unlink(missing_ok=True)
    done = subprocess.run(command(*arguments), cwd=root, env=environment(root), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr, (root / "ran").read_text().split()


ALL = ["alpha-train", "alpha-eval", "beta-train", "beta-eval", "gamma-generate"]


def test_every_sprint_runs_and_the_next_call_starts_anew(root):
    stale = root / "runs" / "demo" / "01_beta" / "old" / "report.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("of another day")
    code, said, ran = demo(root)
    assert (code, ran) == (0, ALL) and not stale.exists()
    assert "beta-eval: done, 0:0" in said and "4 of 5 steps" in said and "\x1b[" not in said
    assert "Alpha scores 0.75 points" in said  # with the arguments of its sprint.toml
    assert "eval concludes." in said and "Beta needs" not in said  # what was not measured is not said
    assert "results page: runs/demo/index.html" in said and "train concludes." in (root / "runs/demo/index.html").read_text()
    assert (root / "runs/demo/00_alpha/train.log").read_text() == "half way\n"
    assert not list(root.glob("runs/demo/*/*.done"))
    assert demo(root)[2] == ALL


def test_a_failure_stops_its_own_sprint_only_and_is_run_again(root):
    (root / "beta-train fails").touch()
    code, said, ran = demo(root)
    assert (code, ran) == (1, ["alpha-train", "alpha-eval", "beta-train", "gamma-generate"])
    assert "failed: beta-train: error: the oven is cold; all it said: runs/demo/01_beta/train.log" in said.replace("\n", " ")
    assert "beta-eval: left out" in said and "Gamma scores 0.5 points" in said
    assert demo(root)[::2] == (1, ["beta-train"])
    (root / "beta-train fails").unlink()
    code, said, ran = demo(root)
    assert (code, ran) == (0, ["beta-train", "beta-eval"]) and "alpha-eval: kept" in said and "Alpha scores 0.75 points" in said


def test_other_code_or_other_arguments_run_again(root):
    (root / "beta-eval fails").touch()
    assert demo(root)[0] == 1
    (root / "sprints/01_beta/README.md").write_text("prose decides nothing")
    assert demo(root)[2] == ["beta-eval"]
    (root / "sprints/00_alpha/code/eval.py").write_text(PROGRAM + "\n")
    assert demo(root)[2] == ["alpha-train", "alpha-eval", "beta-eval"]
    assert demo(root, "--score", "0.25")[2] == ["alpha-train", "alpha-eval", "beta-train", "beta-eval", "gamma-generate"]
    (root / "shared/demo.py").write_text((root / "shared/demo.py").read_text() + "\n")
    assert demo(root, "--score", "0.25")[2] == ALL


def test_the_seconds_of_a_recorded_demo_are_expected_of_the_next(root):
    assert demo(root, "--record", "--smoke")[0] == 0
    kept = json.loads((root / "sprints/01_beta/results" / SECONDS).read_text())["demo-smoke"]
    assert set(kept["seconds"]) == {"train", "eval"} and kept["machine"]
    said = demo(root, "--smoke")[1]
    assert "beta-train: started, about 0:0" in said and "Toy size" in said
    assert "without a recorded time" not in said and "without a recorded time" in demo(root)[1]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a POSIX terminal")
def test_ctrl_c_on_a_terminal_and_going_on(root):
    """A real terminal: the live table shows what runs; Ctrl-C reaches the program, which cleans up; the same command goes on."""
    import fcntl
    import termios

    (root / "beta-train waits").touch()
    master, slave = os.openpty()

    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(command("--no-open"), cwd=root, env=environment(root), stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True, preexec_fn=own_terminal)  # fmt: skip
    os.close(slave)
    said, deadline = "", time.monotonic() + 30
    while "beta-train: half way" not in said and time.monotonic() < deadline:  # below the table, from its log
        said += os.read(master, 65536).decode()
    assert "train (1 of 2)" in said and "eval concludes." in said and "of 5 steps" in said
    os.write(master, b"\x03")
    try:
        while piece := os.read(master, 65536):
            said += piece.decode()
    except OSError:  # Linux says so when the last writer has closed
        pass
    os.close(master)
    assert process.wait(timeout=30) == 130 and (root / "cleaned").exists()
    assert "stopped at beta-train: the same command goes on there" in said and "Traceback" not in said
    assert sorted(path.name for path in (root / "runs/demo").rglob("*.done")) == ["eval.done", "train.done"]
    (root / "beta-train waits").unlink()
    code, said, ran = demo(root)
    assert (code, ran) == (0, ["beta-train", "beta-eval", "gamma-generate"]) and "alpha-train: kept" in said
    assert "Alpha scores 0.75 points" in said


@pytest.mark.parametrize("sprint", sprints.discover(), ids=lambda sprint: sprint.folder.name)
def test_the_demo_of_each_sprint_is_one_that_runs(sprint):
    steps = sprint.demo_steps()
    assert steps, "make demo shows every sprint"
    assert len({step for step, _ in steps}) == len(steps), "a step has one log"
    for step, arguments in steps:
        args = tyro.cli(import_module(sprint.module(step)).Args, args=arguments)  # exits, that is fails, on a wrong flag
        assert not args.devices or set(sprint.devices) <= set(args.devices), "make demo DEVICE=... asks sprint.toml alone"


@pytest.mark.parametrize(("key", "limit"), LIMITS.items())
def test_the_recorded_demo_kept_within_its_time(key, limit):
    """Written by `make clean demo ARGS=--record` on an idle machine, for each size: whole, or not yet for this size."""
    known = {
        one.name: (one, json.loads(path.read_text()))
        for one in sprints.discover()
        if (path := one.folder / "results" / SECONDS).is_file()
    }
    found = {name: (one, seconds[key]["seconds"]) for name, (one, seconds) in known.items() if key in seconds}
    assert found or key != "demo"  # a new sprint has none yet
    for one, seconds in found.values():
        assert list(seconds) == [step for step, _ in one.demo_steps()]
    assert sum(sum(seconds.values()) for _, seconds in found.values()) <= limit
