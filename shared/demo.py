"""The main path of every sprint at its embedded default, with one live table: what `make demo` runs.

make demo                       minutes; writes to runs/demo, the committed results stay as they are
make demo FAST=1                toy size, to runs/demo-smoke: that everything runs, and no number that means anything
make demo ARGS=--no-open        flags that are not its own reach every program

Ctrl-C stops it, and the same command goes on with the step that was stopped; after a failure it runs again what failed. A step that
is done is kept until all of them are, and only for the same arguments and the same code of its sprint and of shared/.
"""

import argparse
import os
import sys
import time
import webbrowser
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from shared import gallery
from shared.demo_steps import SECONDS, Job, last_line, plan, record
from shared.device import DeviceName
from shared.report import NOT_RUN, Reports, fill
from shared.sprints import ROOT, Sprint

STEADY = 60.0  # seconds at the recorded pace that are added to what was measured: the start of one program says little of the rest
STYLES = {"done": "green", "kept": "green", "failed": "bold red", "stopped": "yellow"}


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:05."""
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


class Screen:
    """A row for each sprint, `every` being the jobs of each; draws them as they are now."""

    def __init__(self, every: list[list[Job]]):
        self.every, self.start = every, time.perf_counter()
        self.spinner = Spinner("dots")

    @property
    def jobs(self) -> list[Job]:
        return [job for jobs in self.every for job in jobs]

    def pace(self) -> float:
        """Time here over recorded time, of the steps that are done."""
        done = [job for job in self.jobs if job.state in ("done", "kept") and job.expected is not None]
        return (STEADY + sum(job.seconds for job in done)) / (STEADY + sum(job.expected or 0 for job in done))

    def part(self, job: Job) -> float:
        """The seconds of its expected ones that are over; a step that takes longer than expected stays just short of its end."""
        expected = job.expected or 0
        if job.state == "running":
            return min(job.elapsed / self.pace(), 0.98 * expected)
        return 0 if job.state == "waiting" else expected

    def progress(self) -> str:
        """Steps done, time since the start, and what is left by the recorded times and the pace so far."""
        jobs = self.jobs
        ended = sum(job.state not in ("waiting", "running", "stopped") for job in jobs)
        text = f"{ended} of {len(jobs)} steps, {clock(time.perf_counter() - self.start)} so far"
        left = self.pace() * sum((job.expected or 0) - self.part(job) for job in jobs)
        untimed = sum(job.state in ("waiting", "running") and job.expected is None for job in jobs)
        text += f", about {clock(left)} left" if left else ""
        return text + (f", {untimed} without a recorded time" if untimed else "")

    def table(self) -> RenderableType:
        table = Table(expand=True)
        table.add_column("sprint", max_width=26, no_wrap=True)
        for name in ("step", "", "time"):
            table.add_column(name, no_wrap=True)
        table.add_column("result", ratio=1, no_wrap=True)
        for jobs in self.every:
            table.add_row(
                jobs[0].sprint.title, self.state(jobs), self.bar(jobs), clock(sum(job.elapsed for job in jobs)), shown(jobs)
            )
        running = next((job for job in self.jobs if job.state == "running"), None)
        said = Text(f"{running.name}: {last_line(running.log)}" if running else "", "dim", no_wrap=True, overflow="ellipsis")
        return Group(table, self.progress(), said)

    def state(self, jobs: list[Job]) -> RenderableType:
        for job in jobs:
            if job.state == "running":
                self.spinner.update(text=f"{job.step} ({jobs.index(job) + 1} of {len(jobs)})")
                return self.spinner
            if job.state in ("failed", "stopped"):
                return Text(f"{job.state}: {job.step}", STYLES[job.state])
        last = jobs[-1].state
        return Text("done before" if last == "kept" else last, STYLES.get(last, "dim"))

    def bar(self, jobs: list[Job]) -> ProgressBar:
        unknown = any(job.state == "running" and job.expected is None for job in jobs)
        ended = jobs[-1].state in ("done", "kept")
        total = sum(job.expected or 0 for job in jobs)
        return ProgressBar(total or 1, sum(map(self.part, jobs)) if total else float(ended), width=12, pulse=unknown)


def shown(jobs: list[Job]) -> Text:
    """The result of the last job that has one."""
    job = next((job for job in reversed(jobs) if job.result), jobs[0])
    return Text(job.result, "red" if job.state == "failed" else "")


def run(every: list[list[Job]], console: Console) -> None:
    """Run what waits; what fails takes with it the rest of its own sprint, which builds on it, and no other."""
    screen = Screen(every)
    live = Live(get_renderable=screen.table, console=console, refresh_per_second=8) if console.is_interactive else nullcontext()
    with live:
        for jobs in every:
            for job in jobs:
                if any(earlier.state == "failed" for earlier in jobs):
                    job.state = "left out"
                elif job.state == "waiting":
                    if not console.is_interactive:
                        expected = f", about {clock(job.expected)}" if job.expected is not None else ""
                        console.print(f"{job.name}: started{expected}; {job.log.relative_to(ROOT)}")
                    job.run()
                if not console.is_interactive:
                    console.print(f"{job.name}: {job.state}, {clock(job.seconds)}; {screen.progress()}")


def findings(sprint: Sprint, found: Reports) -> list[str]:
    """The sprint's answer and its baseline where this run measured all that they speak of, else what its reports conclude."""
    answers = [fill(sprint.answer, [found]), f"Baseline: {fill(sprint.baseline, [found])}"]
    if found and not any(NOT_RUN in text for text in answers):
        return answers
    return [report["conclusion"] for report in found.values() if report["conclusion"]]


def results(every: list[list[Job]], title: str) -> Table:
    table = Table(title=title, show_lines=True)
    table.add_column("sprint", max_width=36)
    table.add_column("what this run found")
    table.add_column("time")
    for jobs in every:
        sprint, text = jobs[0].sprint, []
        text += [Text(line) for line in findings(sprint, sprint.reports(jobs[0].folder))]
        text += [Text(f"FAILED: {job.step}: {job.result}", "bold red") for job in jobs if job.state == "failed"]
        asked = Text.assemble((sprint.title, "bold"), "\n", (sprint.question, "italic"))
        table.add_row(asked, Text("\n").join(text), clock(sum(job.seconds for job in jobs)))
    return table


def has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def main(argv: list[str] | None = None) -> int:
    """Run every sprint's demo, then show what came out; returns the exit code: 1 where a step failed, 130 when stopped."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=get_args(DeviceName), help="for the sprints that can use it")
    parser.add_argument("--smoke", action="store_true", help="toy size")
    parser.add_argument("--no-open", action="store_true", help="only say where the results page is")
    parser.add_argument("--record", action="store_true", help=f"keep what each step took as results/{SECONDS} of its sprint")
    args, arguments = parser.parse_known_args(argv)
    os.environ["PYTHONUNBUFFERED"] = "1"  # a log shows at once what its program says
    console, out = Console(markup=False, highlight=False), Path("runs", "demo-smoke" if args.smoke else "demo")
    title = "Toy size: these numbers mean nothing" if args.smoke else "Measured on this machine"
    console.rule(title)
    every = plan(out, args.device, [*["--smoke"] * args.smoke, *arguments])
    if args.record and (arguments or args.device != "auto" or any(job.state == "kept" for jobs in every for job in jobs)):
        parser.error("--record keeps the times of a whole demo as it is: give it no other flags, and `make clean` first")
    try:
        run(every, console)
    except KeyboardInterrupt:
        left = [job.name for jobs in every for job in jobs if job.state in ("stopped", "running", "waiting")]
        console.print(f"stopped{' at ' + left[0] if left else ''}: the same command goes on there")
        return 130
    page = gallery.write(ROOT / out, {jobs[0].sprint.folder.name: jobs[0].sprint.reports(jobs[0].folder) for jobs in every})
    jobs = [job for jobs in every for job in jobs]
    failed = [job for job in jobs if job.state == "failed"]
    console.print(results(every, title))
    console.print(f"{len(jobs)} steps, {clock(sum(job.seconds for job in jobs))} altogether")
    for job in failed:
        console.print(f"failed: {job.name}: {job.result}; all it said: {job.log.relative_to(ROOT)}", style="bold red")
    console.print(f"results page: {page.relative_to(ROOT)}")
    if console.is_interactive and has_display() and not args.no_open:
        webbrowser.open(page.as_uri())
    if failed:
        return 1
    if args.record:
        record(every, out.name)
    for job in jobs:
        job.mark.unlink()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
