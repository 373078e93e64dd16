"""Base, prompts, caches, LoRA and Engram memory at one budget of trainable parameters: what each learned, and what each broke.

$ make engram-eval                             comparison, ablations, capacity, the original's protocol: about an hour on two cores
$ make engram-eval ARGS=--quick                LoRA against Engram with two seeds, minutes
$ make engram-eval ARGS="--only comparison"    one of the four
$ make engram-eval ARGS=--smoke                toy size, seconds
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from shared import data, runlog
from shared.errors import UserError
from shared.report import read_all, write_atomically
from shared.sprints import ROOT

from .patterns import DATA
from .study import ablations, capacity, comparison, figures, findings, original, report_page, trial
from .study.comparison import LABELS
from .study.jobs import Job, run_jobs
from .teaching.training import Recipe

JOBS = ROOT / "runs" / "engram" / "jobs"


@dataclass
class Args(runlog.Args):
    """What is compared, and how long each method trains."""

    aside = ("jobs",)
    devices = ("cpu",)  # whose numbers do not depend on how many jobs run at a time

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Published seeds: start of the adapter, hash, order of the rows."""
    steps: int = 400
    """Updates of every trained method."""
    batch: int = 16
    """Rows per update."""
    quick: bool = False
    """LoRA and Engram with two seeds at one learning rate, the other experiments with one seed."""
    jobs: int = 2
    """Jobs at a time, one thread each."""
    only: tuple[str, ...] = ()
    """Which experiments: comparison, ablations, capacity, original (all when not given)."""

    def jobs_folder(self) -> Path:
        """Where finished jobs are kept; those of a smoke run beside its results."""
        return self.toys / "jobs" if self.smoke else JOBS


def compare(args: Args) -> tuple[dict, dict[str, Recipe]]:
    """The comparison's report, and the tuned recipes, which the other experiments start from."""
    setup = {
        "base": "the Pocket Brain in float32, its weights frozen but for full fine-tuning",
        "data": "patterns split by id; test and dev patterns are taught to every method, only test patterns are scored",
        "budget": "the trainable parameters of LoRA of rank 8 on every linear layer, but for the other ranks and full fine-tuning",
        "optimisation": f"{args.steps} updates of {args.batch} rows, the same batches for all; the loss counts the completion "
        "and its end; the learning rate of each method is the best of a grid on dev patterns (another seed; of rates within "
        f"{comparison.TIE:g} of the best recall, the one that moves the unrelated text least); "
        "random labels take that of LoRA",
        "intervals": f"bootstrap over patterns (blocks of a text) and seeds, {findings.significance.DRAWS} draws",
    }
    title, objective = "Comparison", "At equal trainable parameters: what is recalled, what is forgotten?"
    with runlog.Run(args, __file__, "comparison", title=title, objective=objective, setup=setup, seeds=args.seeds) as run:
        tuning = comparison.tuned(args)
        recipes = comparison.chosen(args, tuning)
        found = comparison.outcomes(args, recipes)
        files = sorted(path for path in DATA.iterdir() if path.suffix in (".yaml", ".txt"))
        digest = data.digest(files)
        run.data("patterns", digest, rows=len(found.patterns.patterns), source="data/*.yaml and two texts, written for this sprint")
        findings.record(run, found, recipes)
        findings.compare(run, found)
        figures.pareto(run, tuning, found)
        figures.parts(run, found)
        show = Job("gates", trial.gates, {"recipe": asdict(recipes["engram"]), "toy": args.smoke})
        figures.gates(run, run_jobs([show], args.jobs_folder(), 1)["gates"])
        findings.claims(run, found)
        findings.observe(run, found, tuning)
    return run.report, recipes


def recipes_of(args: Args) -> dict[str, Recipe]:
    """The recipes of the comparison: at the rates of its report where there is one, else tuned now."""
    report = read_all(runlog.home(args, DATA.parent)).get("comparison")
    if report is None or any(report["args"][name] != getattr(args, name) for name in ("steps", "batch")):
        return comparison.chosen(args, comparison.tuned(args))
    return {
        method.key: comparison.recipe(args, method, report["metrics"][f"rate_{method.key}"]["mean"])
        for method in comparison.plan(args)
        if f"rate_{method.key}" in report["metrics"]
    }


EXPERIMENTS = ("comparison", "ablations", "capacity", "original")


def main(args: Args) -> dict[str, dict]:
    chosen = args.only or EXPERIMENTS
    runlog.check_only(chosen, EXPERIMENTS)
    if len(args.seeds) < 2 or len(set(args.seeds)) < len(args.seeds):
        raise UserError("--seeds needs at least two different seeds")
    if min(args.steps, args.batch, args.jobs) < 1:
        raise UserError("--steps, --batch and --jobs must be at least 1")
    if args.smoke:
        args.seeds, args.steps, args.batch, args.jobs = args.seeds[:2], 4, 4, 1
    elif args.quick:
        args.seeds = args.seeds[:2]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    reports: dict[str, dict] = {}
    recipes: dict[str, Recipe] = {}
    if "comparison" in chosen:
        reports["comparison"], recipes = compare(args)
    elif {"ablations", "original"} & set(chosen):
        recipes = recipes_of(args)
    if "ablations" in chosen:
        reports["ablations"] = ablations.run(args, recipes["engram"])
    if "capacity" in chosen:
        reports["capacity"] = capacity.run(args)
    if "original" in chosen:
        reports["original"] = original.run(args, recipes["lora"])
    write_page(args)
    return reports


def page_of(folder: Path) -> str:
    found = read_all(folder)
    return report_page.page({name: found[name] for name in EXPERIMENTS if name in found}, LABELS)


def write_page(args: Args) -> None:
    """evaluation_report.md beside the reports, of those of this program that are there."""
    folder = runlog.home(args, DATA.parent)
    write_atomically(folder / "evaluation_report.md", page_of(folder).encode())


if __name__ == "__main__":
    runlog.launch(main, Args)
