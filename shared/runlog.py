"""A recorded run: console, progress, metrics with intervals, figures, report.json, and a mirror in MLflow.

    @dataclass
    class Args(runlog.Args):
        replays: int = 1000

    def main(args: Args) -> dict:
        with runlog.Run(args, __file__, "m1_original", title="...", objective="...") as run:
            for seed in run.track(range(args.replays), "replays"):
                ...
            run.metric("bce", values, unit="nats", higher_is_better=False, meaning="training loss after 200 epochs")
        return run.report

    if __name__ == "__main__":
        runlog.launch(main, Args)

report.json is written when the block ends well, all at once: an interrupted run leaves the previous report as it was.
"""

import contextlib
import io
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tyro
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from shared import stats, tracking
from shared.device import Device, DeviceName, pick
from shared.environment import command, describe_machine, git_commit, peak_memory_mib, versions
from shared.errors import UserError
from shared.report import VERDICTS, interval, same_result, value, write_run
from shared.sprints import ROOT, load

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "torch", "transformers", "peft", "trl", "mlflow", "matplotlib")
console = Console(markup=False, highlight=False)


@dataclass
class Args:
    """The flags that every program has; `aside` names those of a program that change no number, only where or how fast it runs.
    `devices` is where it can compute, if that is not what its sprint.toml says."""

    aside: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ()

    device: DeviceName = "auto"
    """Where to compute. `auto` takes the best one the machine has, and says why."""
    smoke: bool = False
    """The same code at toy size (it sets the sizes), in seconds. Writes to runs/smoke, is not mirrored to MLflow."""
    out: Path | None = None
    """Folder for the results. When not given: the sprint's results/ for the default settings, runs/custom for others."""
    mlflow: bool = True
    """Mirror the run to MLflow (MLFLOW_TRACKING_URI, or sqlite:///mlflow.db)."""

    @property
    def toys(self) -> Path:
        """Where a smoke run puts its reports, and its models and data: never where those of a full run are."""
        return self.out or ROOT / "runs" / "smoke"


def launch(main: Callable, args_type: type[Args]) -> None:
    """Parse the command line into `args_type` and call `main`. Ctrl-C is one line, as a UserError is by itself."""
    module = sys.modules[main.__module__]
    args = tyro.cli(args_type, description=module.__doc__, prog=f"python -m {module.__spec__.name}" if module.__spec__ else None)
    if not console.is_terminal:  # in a log the bars of the libraries are noise
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        if transformers := sys.modules.get("transformers"):
            transformers.utils.logging.disable_progress_bar()
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"  # a line of our source helps nobody
    warnings.simplefilter("ignore", FutureWarning)  # of one library about another
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        main(args)
    except KeyboardInterrupt:
        console.print("\ninterrupted: nothing is half-written, earlier results stand; run the same command again")
        raise SystemExit(130) from None


def check_only(only: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError where --only names what is not there."""
    if unknown := set(only) - set(known):
        raise UserError(f"--only: there is no {', '.join(sorted(unknown))}; there is: {', '.join(known)}")


def changed(args: Args) -> list[str]:
    """The settings that are not those of the published run."""
    defaults = asdict(type(args)())
    aside = {*asdict(Args()), "only", *args.aside}  # `only` picks among the experiments, changes none
    return [key for key, value in asdict(args).items() if key not in aside and value != defaults[key]]


def home(args: Args, sprint: Path) -> Path:
    """The folder of a sprint's reports: results/ for the published run, that is, for the defaults, or what --out says."""
    if args.out or args.smoke or changed(args):
        return (args.toys if args.smoke else args.out or ROOT / "runs" / "custom") / sprint.name
    return sprint / "results"


class Run:
    """One experiment of one sprint, from its question to its report (docs/architecture.md, "the life of a run")."""

    def __init__(
        self,
        args: Args,
        program: str,
        experiment: str,
        *,
        title: str,
        objective: str,
        setup: dict[str, str],
        seeds: Sequence[int] = (),
        device: Device | None = None,
    ):
        """`program` is the caller's __file__, `setup` tells of model and data, `device` is one that is picked already."""
        self.args, self.experiment = args, experiment
        self.sprint = next(folder for folder in Path(program).resolve().parents if (folder / "sprint.toml").is_file())
        self.device = device or pick(args.device, args.devices or load(self.sprint).devices)
        self.folder = home(args, self.sprint) / experiment
        if not (args.out or args.smoke) and (names := changed(args)):
            console.print(f"not the published settings ({', '.join(names)}): the results go to runs/custom")
        self._files: dict[str, bytes] = {}
        self.report: dict = {
            "sprint": self.sprint.name,
            "experiment": experiment,
            "title": title,
            "objective": objective,
            "setup": setup,
            "command": command(),
            "args": _plain(asdict(args)),
            "seeds": list(seeds),
            "device": asdict(self.device),
            "machine": describe_machine(),
            "versions": versions(PACKAGES),
            "git": git_commit(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "smoke": args.smoke,
            "data": {},
            "metrics": {},
            "comparisons": [],
            "claims": [],
            "figures": [],
            "observations": [],
            "conclusion": "",
        }

    def __enter__(self):
        console.rule(Text(f"{self.report['title']}  ({self.sprint.name}/{self.experiment})", style="bold"))
        console.print(f"device: {self.device}")
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self._finish()

    # -- what a program says -------------------------------------------------------------------------------------------------

    def track(self, items: Iterable, label: str, total: int | None = None) -> Iterable:
        """Iterate with a progress bar (quiet where the output is no terminal)."""
        return track(items, label, total=total, console=console, disable=not console.is_terminal, transient=True)

    def data(self, name: str, digest: str, *, rows: int, source: str) -> None:
        """Record a data set by its sha256 (shared.data.digest)."""
        self.report["data"][name] = {"sha256": digest, "rows": rows, "source": source}

    def metric(
        self,
        key: str,
        values,
        *,
        meaning: str,
        unit: str = "",
        higher_is_better: bool | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Record a number per seed (or one number). The interval is Student's t over the values unless one is given."""
        if key in self.report["metrics"]:
            raise ValueError(f"metric {key!r} is recorded twice")
        said = {"unit": unit, "higher_is_better": higher_is_better, "meaning": meaning}
        self.report["metrics"][key] = stats.summary(values, interval) | said

    def compare(
        self, key: str, a: ArrayLike, b: ArrayLike, *, names: tuple[str, str], unit: str = "", test_over_train: float = 0.0
    ) -> None:
        """Record the paired difference a - b over seeds, or over folds (then with test_over_train, see stats.paired)."""
        self.report["comparisons"].append(
            {"key": key, "a": names[0], "b": names[1], "unit": unit} | stats.paired(a, b, test_over_train)
        )

    def claim(self, text: str, *, source: str, protocol: str, ours: str, honest: str, verdict: str) -> None:
        """Record a claim of the original: what they said, what their protocol gives here, what an honest one gives."""
        if verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}")
        self.report["claims"].append(
            {"claim": text, "source": source, "protocol": protocol, "ours": ours, "honest": honest, "verdict": verdict}
        )

    def figure(self, figure, name: str, *, shows: str, matters: str) -> None:
        """Keep a matplotlib figure as `name`.png, with what it shows and why it matters; closes the figure."""
        import matplotlib.pyplot as plt

        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        plt.close(figure)
        self._files[f"{name}.png"] = png.getvalue()
        self.report["figures"].append({"file": f"{name}.png", "shows": shows, "matters": matters})

    def file(self, name: str, text: str) -> None:
        """Keep a text as a file beside the report."""
        self._files[name] = text.encode()

    def observe(self, text: str) -> None:
        """Note something seen: behaviour, failure modes, surprises; numbers in it come from the run's variables."""
        self.report["observations"].append(text)

    def conclude(self, text: str) -> None:
        """The one-sentence takeaway."""
        self.report["conclusion"] = text

    # -- the end -------------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self.report["seconds"] = round(time.perf_counter() - self._start, 2)
        self.report["peak_memory_mib"] = peak_memory_mib()
        self.report = _plain(self.report)
        text = json.dumps(self.report, indent=1, allow_nan=False) + "\n"
        text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)  # a list of numbers on one line
        files = self._files | {"report.json": text.encode()}
        if not self._is_published():
            write_run(self.folder, files)
        console.print(_metric_table(self.report))
        if self.report["conclusion"]:
            console.print(self.report["conclusion"], style="bold")
        shown = self.folder.relative_to(ROOT) if self.folder.is_relative_to(ROOT) else self.folder
        console.print(f"{self.report['seconds']:.1f} s, report: {shown}/report.json")
        if self.args.mlflow and not self.args.smoke:
            console.print(tracking.mirror(self.report, files), style="dim")

    def _is_published(self) -> bool:
        """results/ holds this very result: the report of the run that measured it first stands, and git sees no change."""
        with contextlib.suppress(OSError, ValueError):
            kept = all((self.folder / name).read_bytes() == content for name, content in self._files.items())
            before = json.loads((self.folder / "report.json").read_bytes())
            return self.folder.is_relative_to(self.sprint) and kept and same_result(before, self.report)
        return False


@contextlib.contextmanager
def style():
    """The look of every figure: colour-blind safe, readable at README size. Imports matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(Path(__file__).with_name("figures.mplstyle")):
        yield plt


def _metric_table(report: dict) -> Table:
    table = Table("metric", "value", "95 % interval", "n", box=None, header_style="bold")
    for key, metric in report["metrics"].items():
        table.add_row(key, value(metric, "unit"), interval(metric), str(metric["n"]))
    return table


def _plain(value) -> Any:
    """JSON-ready: paths relative to the repository, numpy numbers as Python's, fractions to 7 digits, infinities as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_relative_to(ROOT) else value.name
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        if value.is_integer():
            return float(value)
        return float(f"{value:.7g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
