"""The steps that `make demo` runs: which, whether an earlier call has done them, how long they should take."""

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.text import Text

from shared.data import digest
from shared.environment import describe_machine
from shared.models import POCKET
from shared.report import write_atomically
from shared.sprints import ROOT, Sprint, call, discover

SECONDS = "demo.json"  # in results/: what each step took when `make demo ARGS=--record` ran last


@dataclass
class Job:
    """One step of one sprint's demo. `expected` is None where no demo was recorded."""

    sprint: Sprint
    step: str
    command: list[str]
    folder: Path
    expected: float | None = None
    state: Literal["waiting", "running", "done", "kept", "failed", "stopped", "left out"] = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    result: str = ""  # one line: the newest conclusion, or what went wrong

    @property
    def name(self) -> str:
        return f"{self.sprint.name}-{self.step}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.step}.log"

    @property
    def mark(self) -> Path:
        """Stands beside the log when the step is done."""
        return self.folder / f"{self.step}.done"

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began if self.state == "running" else self.seconds

    def fingerprint(self) -> str:
        """Changes with the command, and with any file that may decide what it gives; not with a registry of models."""
        skipped = {"results", "docs", "__pycache__", "README.md"}
        code = [path.relative_to(ROOT) for top in (ROOT / "shared", self.sprint.folder) for path in sorted(top.rglob("*"))]
        code = [path for path in code if not skipped & set(path.parts)]
        weights = [path.relative_to(ROOT) for top in (POCKET, self.sprint.folder / "results" / "model") for path in top.glob("*")]
        files = [path for path in (*code, *sorted(weights), Path("requirements.lock")) if (ROOT / path).is_file()]
        return digest([" ".join(self.command).encode(), *((path.as_posix().encode(), ROOT / path) for path in files)])

    def recall(self) -> bool:
        """Whether an earlier call has done this very step."""
        try:
            known = json.loads(self.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if known["fingerprint"] != self.fingerprint():
            return False
        self.state, self.seconds, self.result = "kept", known["seconds"], newest(self.sprint, self.folder)
        return True

    def run(self) -> None:
        """Run it with its output in the log. Raises KeyboardInterrupt when it, or this process, was told to stop."""
        self.mark.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.fingerprint()  # of the code that runs, should it be edited meanwhile
        self.state, self.began = "running", time.perf_counter()
        try:
            with self.log.open("wb") as log:
                code = call(self.command, log)
        except KeyboardInterrupt:
            self.seconds, self.state = self.elapsed, "stopped"
            raise
        self.seconds = self.elapsed
        if code:
            why = f"ended by signal {-code}" if code < 0 else last_line(self.log) or f"exit code {code}"
            self.state, self.result = "failed", why
            return
        self.state, self.result = "done", newest(self.sprint, self.folder)
        write_atomically(self.mark, json.dumps({"fingerprint": before, "seconds": self.seconds}).encode())


def plan(out: Path, device: str, arguments: Sequence[str]) -> list[list[Job]]:
    """The jobs of each sprint, those that are done already as "kept"; a sprint that starts anew loses its folder in `out`."""
    every = []
    for sprint in discover():
        folder, recorded = ROOT / out / sprint.folder.name, sprint.folder / "results" / SECONDS
        expected = json.loads(recorded.read_text(encoding="utf-8")).get(out.name, {}) if recorded.is_file() else {}
        usable = device if device in ("auto", *sprint.devices) else "auto"  # a NumPy sprint has no use for a GPU
        options = ["--out", str(out), "--device", usable, *arguments]
        jobs = [
            Job(sprint, step, sprint.command(step, *own, *options), folder, expected.get("seconds", {}).get(step))
            for step, own in sprint.demo_steps()
        ]
        for job in jobs:
            if not job.recall():  # what follows builds on it
                break
        if jobs and jobs[0].state == "waiting":
            shutil.rmtree(folder, ignore_errors=True)
        every += [jobs] if jobs else []
    return every


def newest(sprint: Sprint, folder: Path) -> str:
    """The conclusion that was drawn last."""
    found = sprint.reports(folder)
    return max(found.values(), key=lambda report: report["started"])["conclusion"] if found else ""


def last_line(log: Path) -> str:
    """What a program said last, without colours; of a line that was drawn over again the newest state."""
    try:
        with log.open("rb") as file:
            file.seek(-min(log.stat().st_size, 4096), 2)
            tail = file.read().decode("utf-8", "replace")
    except OSError:  # nothing was said yet
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", tail) if line.strip()]
    return Text.from_ansi(lines[-1]).plain if lines else ""


def record(every: list[list[Job]], key: str) -> None:
    """Keep what the steps took in the sprints' results/, as what the next demo expects."""
    machine = describe_machine()
    for jobs in every:
        path = jobs[0].sprint.folder / "results" / SECONDS
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        seconds = {job.step: round(job.seconds, 1) for job in jobs}
        known[key] = {"machine": f"{machine['cpu']}, {machine['logical_cores']} cores", "seconds": seconds}
        write_atomically(path, (json.dumps(known, indent=1) + "\n").encode())
