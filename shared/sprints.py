"""The sprints of this repository: find them, run their steps, start a new one.

    python -m shared.sprints list                       every sprint and its steps
    python -m shared.sprints run logreg train --smoke   what `make logreg-train ARGS=--smoke` calls
    python -m shared.sprints new my_sprint              sprints/NN_my_sprint from docs/sprint_template

A sprint is a folder of sprints/ that holds a sprint.toml; nothing else lists them. Only the standard library is imported at the
top, so that `make help` works before `make setup`.
"""

import argparse
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.report import Reports, read_all

ROOT = Path(__file__).resolve().parents[1]
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a program that was told to stop
GRACE = 30.0  # seconds to clean up in; one that was started in the background may ignore Ctrl-C altogether
STEPS = ("data", "eda", "train", "sweep", "eval", "generate", "predict", "demo", "bench", "serve", "load")


@dataclass(frozen=True)
class Sprint:
    """What a sprint.toml says. `steps` maps a step to its program in code/, `demo` lists the steps that `make demo` runs,
    with arguments where their default takes too long for it, `headlines` the metrics that this sprint answers for,
    `figure` the one on its card in the gallery (experiment/file.png), where the rule of shared/gallery.py picks another, `original`
    the address of the project that it repeats."""

    folder: Path
    name: str
    title: str
    milestone: str
    question: str
    goal: str
    answer: str
    baseline: str
    devices: list[str]
    headlines: list[str]
    steps: dict[str, str]
    demo: list[str]
    figure: str = ""
    original: str = ""

    def reports(self, folder: Path | None = None) -> Reports:
        """The reports in results/ (or in `folder`) by experiment, in the order of the steps that made them."""
        order = {self.module(step): place for place, step in enumerate(self.steps)}
        found = read_all(folder or self.folder / "results")
        return dict(sorted(found.items(), key=lambda item: (order.get(item[1]["command"].split()[2], len(order)), item[0])))

    def demo_steps(self) -> list[tuple[str, list[str]]]:
        """Step and arguments of each line of `demo`."""
        return [(step, arguments) for step, *arguments in map(shlex.split, self.demo)]

    def module(self, step: str) -> str:
        return f"sprints.{self.folder.name}.code.{self.steps[step]}"

    def command(self, step: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", self.module(step), *arguments]


def discover(root: Path = ROOT) -> list[Sprint]:
    """Every sprint, in the order of its number."""
    return [load(path.parent) for path in sorted(root.glob("sprints/*/sprint.toml"))]


def load(folder: Path) -> Sprint:
    """The sprint in `folder`; raises ValueError where its sprint.toml misses a field or has an unknown one."""
    path = folder / "sprint.toml"
    try:
        return Sprint(folder=folder, **tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def call(command: list[str], output: IO[bytes] | None = None, folder: Path = ROOT, limit: float | None = None) -> int:
    """Run a command in `folder` with the console attached, or with all it says in `output`. Ctrl-C reaches it too: wait for it to
    clean up, instead of killing it. A signal to end reaches only this process: it is passed on.

    Returns its exit code. Raises KeyboardInterrupt when it, or this process, was told to stop, and TimeoutExpired when it was still
    at work after `limit` seconds: then it is asked to stop, as by Ctrl-C, and GRACE seconds later ended.
    """
    process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT if output else None)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait(limit)
        if code in STOPPED:
            raise KeyboardInterrupt
        return code
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE)
        raise
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        if process.poll() is None:  # Ctrl-C again, or none heard: nothing goes on unseen
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, before)


def run(sprint: Sprint, step: str, arguments: list[str]) -> int:
    """Run one step with the console attached; a step that wrote into results/ is followed by a fresh rendering of the docs."""
    before = written(sprint)
    rendered = 0
    try:
        code = call(sprint.command(step, *arguments))
    finally:
        if written(sprint) != before:
            rendered = call([sys.executable, "-m", "shared.docs"])
    return code or rendered


def written(sprint: Sprint) -> dict[Path, int]:
    """Every file of its results, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in (sprint.folder / "results").rglob("*")}


def new(name: str, root: Path = ROOT) -> Path:
    """A new sprint folder, numbered after the last, copied from docs/sprint_template; passes the repository's tests as it is."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SystemExit(f"error: NAME must be lower-case letters, digits and underscores, starting with a letter; got {name!r}")
    present = {path.name[3:] for path in root.glob("sprints/[0-9][0-9]_*")} | {sprint.name for sprint in discover(root)}
    test = root / "tests" / f"test_{name}.py"
    if name in present or name == "all" or test.exists():
        raise SystemExit(f"error: the name {name} is taken")
    number = 1 + max((int(path.name[:2]) for path in root.glob("sprints/[0-9][0-9]_*")), default=-1)
    folder = root / "sprints" / f"{number:02d}_{name}"
    shutil.copytree(root / "docs" / "sprint_template", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "test_sprint.py").rename(test)
    for path in [*folder.rglob("*.*"), test]:
        if path.is_file() and path.suffix in (".py", ".md", ".toml"):
            text = path.read_text(encoding="utf-8").replace("NN_template", folder.name).replace("template_name", name)
            text = text.replace("Template_name", name.replace("_", " ").capitalize())
            path.write_text(text, encoding="utf-8")
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shared.sprints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every sprint and its steps")
    runner = commands.add_parser("run", help="run one step of one sprint, or of all that have it", add_help=False)
    runner.add_argument("name")
    runner.add_argument("step", choices=STEPS)
    commands.add_parser("new", help="start a sprint from the template").add_argument("name")
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    sprints = {sprint.name: sprint for sprint in discover()}
    if args.command == "list":
        for sprint in sprints.values():
            print(f"  {' '.join(f'{sprint.name}-{step}' for step in sprint.steps):<58} {sprint.title}")
    elif args.command == "new":
        folder = new(args.name).relative_to(ROOT)
        print(f"made {folder}: edit its sprint.toml and code/train.py, then `make {args.name}-train` and `make test`")
    elif args.name == "all":
        codes = [run(sprint, args.step, rest) for sprint in sprints.values() if args.step in sprint.steps]
        return next(filter(None, codes), 0)
    elif args.name not in sprints:
        raise SystemExit(f"error: there is no sprint called {args.name}; there is: {', '.join(sprints)}")
    elif args.step not in sprints[args.name].steps:
        raise SystemExit(f"error: {args.name} has no step {args.step}; it has: {', '.join(sprints[args.name].steps)}")
    else:
        return run(sprints[args.name], args.step, rest)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
