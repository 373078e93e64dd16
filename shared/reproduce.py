"""Run every recorded experiment again and hold its headlines against the committed reports: what `make reproduce` runs.

python -m shared.reproduce                        everything (hours); stopped, the same command goes on
python -m shared.reproduce --only logreg cats     some sprints; the table has what is known of all
python -m shared.reproduce --at-most 15           leave out what takes more minutes
python -m shared.reproduce --again                from the start, on the newest commit

Everything runs in a clone of the last commit, runs/reproduce: nothing that an earlier run left behind is read, and no registry of
models but its own is touched. The table goes to runs/reproduce.md, and with --write to docs/reproduction.md. The exit code is 1
where a command failed, or a headline that no clock decides is outside.
"""

import argparse
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from shared.errors import UserError
from shared.report import Reports, replaced, value, write_atomically
from shared.sprints import ROOT, Sprint, call, discover

TREE = ROOT / "runs" / "reproduce"  # the clone
OUT = Path("runs", "again")  # in it
START = 60.0  # seconds that a program takes at most beside its recorded work, such as imports
CLOCK = {"s", "ms", "us", "min", "minutes", "h", "hours", "tokens/s", "GB/s", "GFLOP/s"}  # units that another machine changes
TIMING = re.compile(r"\b(?:time|seconds) of\b|\btokens/s\b|\bper CPU-second\b")  # in what a ratio means: not in a perplexity's
HEAD = """# The headlines, run a second time

Written by `make reproduce ARGS=--write`: the recorded commands ran again, in a clone of the commits named below.

- *same*: equal to the last digit
- *inside*: the new value lies in the published interval, or the intervals overlap; without an interval, a thousandth apart at most
- *clock*: a time or a ratio of times beyond that, which another load or machine explains
- *outside*: to be explained
- *not run*: what makes it was left out, takes longer than was asked for, or failed

Means and their intervals; where an answer in the README is a median, it is another number of the same report. What a program reads
from the repository, as the model of sprint 00 that took hours to train, was read, not made again.

"""


def commands(reports: Reports) -> dict[str, list[str]]:
    """Command of a sprint's reports, in their order -> the experiments that it made."""
    found: dict[str, list[str]] = {}
    for experiment, report in reports.items():
        found.setdefault(report["command"], []).append(experiment)
    return found


def timed(metric: dict) -> bool:
    """Whether a clock decides this metric: it is a time, a rate, or a ratio of such by its meaning."""
    return metric["unit"] in CLOCK or (metric["unit"] in ("", "x") and bool(TIMING.search(metric["meaning"])))


def verdict(old: dict, new: dict | None) -> str:
    """What the second measurement says of the first."""
    if new is None:
        return "not run"
    if old["mean"] == new["mean"]:
        return "same"
    low, high = old["ci95"] or (old["mean"], old["mean"])
    other_low, other_high = new["ci95"] or (new["mean"], new["mean"])
    if (other_low <= high and low <= other_high) or math.isclose(old["mean"], new["mean"], rel_tol=1e-3):
        return "inside"
    return "clock" if timed(old) else "outside"


def compare(sprint: Sprint, old: Reports, new: Reports) -> list[tuple[str, str, str, str, str]]:
    """(sprint, headline, published, again, verdict) of every headline that is published."""
    again = {key: metric for report in new.values() for key, metric in report["metrics"].items()}
    published = {key: metric for report in old.values() for key, metric in report["metrics"].items() if key in sprint.headlines}
    return [
        (
            sprint.title,
            key,
            value(metric, "interval"),
            value(again[key], "interval") if key in again else "",
            verdict(metric, again.get(key)),
        )
        for key, metric in published.items()
    ]


def table(rows: list[tuple[str, str, str, str, str]], new: list[dict]) -> str:
    """The rows in Markdown, with the machine and the commits of the new reports."""
    made = dict.fromkeys(f"{one['machine']['cpu']}, commit `{one['git']}`, {one['started'][:10]}" for one in new)
    where = f"\nMade on {'; '.join(made)}.\n" if made else ""
    count = Counter(row[-1] for row in rows)
    said = ", ".join(f"{count[one]} {one}" for one in ("same", "inside", "clock", "outside", "not run") if count[one])
    lines = [f"{len(rows) - count['not run']} of {len(rows)} headlines have a second run: {said}.\n"] * bool(rows)
    lines += ["| sprint | headline | published mean | again | verdict |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n" + where


def clone() -> None:
    """The last commit, in TREE. Raises UserError where this is no git repository."""
    if not shutil.which("git"):
        raise UserError("git is not installed: reproduce clones the last commit with it")
    with replaced(TREE) as part:
        made = subprocess.run(["git", "clone", "--quiet", str(ROOT), str(part)], capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"the last commit cannot be cloned ({made.stderr.strip().splitlines()[-1]}): reproduce needs git")


def repeat(command: str, device: str, minutes: float) -> bool:
    """Run a recorded command again, on the kind of device that it ran on; whether it came to its end within its time."""
    try:
        limit = None if minutes == float("inf") else 60 * minutes + START
        again = [sys.executable, *shlex.split(command)[1:], "--device", device, "--out", str(OUT)]
        return call(again, folder=TREE, limit=limit) == 0
    except subprocess.TimeoutExpired:
        return True  # left out, as was asked for


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shared.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [sprint.name for sprint in discover()]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="sprints (all when not given)")
    parser.add_argument(
        "--at-most", type=float, default=float("inf"), metavar="MINUTES", help="leave out, or stop, what takes longer"
    )
    parser.add_argument("--again", action="store_true", help="forget what an earlier call has done")
    parser.add_argument("--write", action="store_true", help="write docs/reproduction.md too")
    args = parser.parse_args(argv)
    console, failed, rows, made, text = Console(markup=False), [], [], [], ""
    if args.again or not TREE.is_dir():
        clone()
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the clone has a store of its own
    for sprint in discover(TREE):
        old, place = sprint.reports(), TREE / OUT / sprint.folder.name
        for command, experiments in commands(old).items():
            slow = sum(old[one]["seconds"] for one in experiments) > 60 * args.at_most
            if sprint.name not in args.only or slow or set(experiments) <= set(sprint.reports(place)):
                continue
            console.rule(command)
            if not repeat(command, old[experiments[0]]["device"]["kind"], args.at_most):
                failed.append(command)
        new = sprint.reports(place)
        rows, made = rows + compare(sprint, old, new), [*made, *new.values()]
        text = table(rows, made)
        write_atomically(TREE.with_suffix(".md"), text.encode())
    if args.write:
        write_atomically(ROOT / "docs" / "reproduction.md", (HEAD + text).encode())
    console.print(text)
    for command in failed:
        console.print(f"failed: {command}", style="bold red")
    return 1 if failed or any(row[-1] == "outside" for row in rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
