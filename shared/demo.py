"""Every sprint's embedded default experiment, then one table and one results page: what `make demo` runs.

python -m shared.demo             minutes; writes to runs/demo, the committed results stay as they are
python -m shared.demo --smoke     seconds, to runs/demo-smoke; other flags reach every program
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from shared import gallery
from shared.device import DeviceName
from shared.report import fill
from shared.sprints import ROOT, call, discover


def main(argv: list[str] | None = None) -> int:
    """Run every sprint's embedded default experiments into runs/demo (committed results stay untouched), then show them."""
    parser = argparse.ArgumentParser(
        prog="python -m shared.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", choices=get_args(DeviceName), help="for the sprints that can use it")
    args, arguments = parser.parse_known_args(argv)
    console, out = Console(markup=False), Path("runs", "demo-smoke" if "--smoke" in arguments else "demo")
    table = Table(
        "sprint",
        "question",
        "answer",
        "baseline",
        "seconds",
        title="Toy size: these numbers mean nothing" if "--smoke" in arguments else "Measured on this machine",
        show_lines=True,
    )
    failed, all_reports = [], {}
    for sprint in discover():
        start, target = time.perf_counter(), ROOT / out / sprint.folder.name
        shutil.rmtree(target, ignore_errors=True)
        usable = args.device if args.device in ("auto", *sprint.devices) else "auto"  # a NumPy sprint has no use for a GPU
        options = ["--out", str(out), "--device", usable, *arguments]
        broken = [step for step in sprint.demo if call(sprint.command(step, *options))]
        failed += [f"{sprint.name}-{step}" for step in broken]
        found = all_reports[sprint.folder.name] = sprint.reports(target)
        answer = f"FAILED: {', '.join(broken)}" if broken else fill(sprint.answer, [found])
        baseline = fill(sprint.baseline, [found])
        table.add_row(sprint.title, sprint.question, answer, baseline, f"{time.perf_counter() - start:.0f}")
    page = gallery.write(ROOT / out, all_reports)
    console.print(table)
    console.print(f"results page: {page.relative_to(ROOT)}   (open it in a browser)")
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
