"""Capacity: how many private facts fit into a budget, for LoRA and for the guarded memory (S6).

Called by evaluate.py. Every method has a learning rate for each budget and number of facts, tuned with keys and a seed of their
own; all methods of one size get the same passes over the facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from shared import models, runlog, stats
from shared.report import AIM

from ..teaching import lora
from ..teaching.training import Recipe
from . import figures_bench, regimes
from .jobs import Job, run_jobs

Method = Literal["lora", "engram"]
Rates = Mapping[tuple[Method, int, int], float]  # method, budget, facts
METHODS: dict[Method, str] = {"lora": "LoRA", "engram": "guarded Engram"}
BUDGETS = (1, 4, 16)  # times the parameters of LoRA of rank 8
BATCH = 32
GOAL = 0.95  # exact match
MIB = 2**20
TUNING_SEED = 200
TUNED = 1_000  # facts; larger sizes take the rates of this one
RATES: dict[Method, tuple[float, ...]] = {"lora": (3e-3, 1e-2, 1e-3, 3e-4), "engram": (1e-2, 3e-3, 3e-2)}  # the first: untuned


@dataclass(frozen=True)
class Size:
    """So many facts, read so often. seeds: how many of the published ones, per method and budget; those not named do not run."""

    count: int
    passes: int
    seeds: Mapping[tuple[Method, int], int]


def every(seeds: int) -> dict[tuple[Method, int], int]:
    return {(method, budget): seeds for method in METHODS for budget in BUDGETS}


SIZES = (  # of the largest only what can answer: LoRA is asked with its largest budget, once
    Size(100, 20, every(3)),
    Size(1_000, 8, every(2)),
    Size(10_000, 5, {("lora", 16): 1, ("engram", 1): 1, ("engram", 4): 2, ("engram", 16): 5}),
)
QUICK = (Size(100, 20, every(1)), Size(1_000, 8, {("lora", 4): 1, ("engram", 4): 1}))
SMOKE = (Size(8, 2, {("lora", 1): 1, ("engram", 1): 2}),)


@dataclass(frozen=True)
class Point:
    """What one method kept of one number of facts with one budget; results: of regimes.facts, one per seed."""

    method: Method
    budget: int
    size: Size
    results: list[dict[str, Any]]

    @property
    def key(self) -> str:
        return f"{self.method}_x{self.budget}_{self.size.count}"

    @property
    def shares(self) -> np.ndarray:
        """(seeds,) exact match."""
        return np.array([one["hits"] for one in self.results]) / self.size.count

    @property
    def interval(self) -> tuple[float, float]:
        return over_keys([one["hits"] for one in self.results], self.size.count)

    @property
    def megabytes(self) -> float:
        """Of everything that is stored, the guard's keys included."""
        return self.results[0]["stored_bytes"] / MIB


def over_keys(hits: Sequence[int], count: int, draws: int = 4000) -> tuple[float, float]:
    """95 % interval of the share of `hits` among `count` keys per seed: a bootstrap over seeds, then over the keys of each.

    Never narrower than Wilson's over all keys: a bootstrap has no width where no key is missed, or all are.
    """
    generator = np.random.default_rng(0)
    drawn = generator.choice(np.array(hits), (draws, len(hits)))
    low, high = np.quantile(generator.binomial(count, drawn / count).mean(1) / count, (0.025, 0.975))
    least, most = stats.wilson_interval(sum(hits), count * len(hits))
    return min(float(low), least), max(float(high), most)


def unit() -> int:
    """Trainable parameters of LoRA of rank 8: the budget of the comparison."""
    return lora.parameter_count(models.load("pocket", "cpu").model, Recipe("lora", 1.0).rank)


def job(method: Method, rate: float, budget: int, parameters: int, count: int, passes: int, seed: int) -> Job:
    """Teach `count` facts in `passes` passes with budget x parameters."""
    steps = max(1, round(passes * count / BATCH))
    recipe = Recipe(method, rate, steps, BATCH, budget=budget * parameters, seed=seed)
    name = f"{method} x{budget} {count} facts {rate:g} seed {seed}"
    return Job(name, regimes.facts, {"recipe": asdict(recipe), "count": count})


def tuned(args: Any, sizes: Sequence[Size], parameters: int) -> Rates:
    """The rate with the most exact matches; equal ones go to the lower loss."""
    plans: list[tuple[Method, int, Size]] = [(method, budget, size) for size in sizes for method, budget in size.seeds]
    if args.smoke or args.quick:
        return {(method, budget, size.count): RATES[method][0] for method, budget, size in plans}
    wanted = {
        (method, budget, size.count, rate): job(method, rate, budget, parameters, size.count, size.passes, TUNING_SEED)
        for method, budget, size in plans
        for rate in RATES[method]
        if size.count <= TUNED
    }
    found = run_jobs(list(wanted.values()), args.jobs_folder(), args.jobs, "capacity: rates")

    def best(method: Method, budget: int, count: int) -> float:
        results = {rate: found[wanted[method, budget, min(count, TUNED), rate].name] for rate in RATES[method]}
        return max(results, key=lambda rate: (results[rate]["hits"], -results[rate]["nll"]))

    return {(method, budget, size.count): best(method, budget, size.count) for method, budget, size in plans}


def points(args: Any, sizes: Sequence[Size], rates: Rates, parameters: int) -> list[Point]:
    """Every measured point, the largest jobs first: the processes then end together."""

    def seeded(method: Method, budget: int, size: Size, seeds: Sequence[int]) -> list[Job]:
        rate = rates[method, budget, size.count]
        return [job(method, rate, budget, parameters, size.count, size.passes, seed) for seed in seeds]

    plans: list[tuple[Method, int, Size, list[Job]]] = [
        (method, budget, size, seeded(method, budget, size, args.seeds[:n]))
        for size in sizes
        for (method, budget), n in size.seeds.items()
    ]
    jobs = [one for plan in sorted(plans, key=lambda plan: -plan[2].count * plan[2].passes) for one in plan[3]]
    found = run_jobs(jobs, args.jobs_folder(), args.jobs, "capacity")
    return [Point(method, budget, size, [found[one.name] for one in jobs]) for method, budget, size, jobs in plans]


def run(args: Any) -> dict:
    """Exact match against the number of facts at fixed budgets, recorded as experiment `capacity`; returns the report."""
    sizes = SMOKE if args.smoke else QUICK if args.quick else SIZES
    parameters = unit()
    shown = ", ".join(f"{size.count:,} facts: {size.passes} passes" for size in sizes)
    setup = {
        "facts": "an invented key -> an invented value, drawn anew for every seed; asked by the taught prompt",
        "budgets": f"{', '.join(f'x{budget}' for budget in BUDGETS)} of {parameters:,} trainable parameters (LoRA of rank 8)",
        "training": f"{shown}; batches of {BATCH}; the same for both methods",
        "rates": f"by exact match on as many other facts (seed {TUNING_SEED}), for every method, budget and size; beyond {TUNED:,} "
        f"facts that of {TUNED:,}",
        "interval": "bootstrap over seeds and keys, at least Wilson's over keys",
    }
    title, objective = "Capacity", "How many private facts does a budget hold?"
    with runlog.Run(args, __file__, "capacity", title=title, objective=objective, setup=setup, seeds=args.seeds) as recorded:
        rates = tuned(args, sizes, parameters)
        found = points(args, sizes, rates, parameters)
        record(recorded, found, rates)
    return recorded.report


def record(run: runlog.Run, found: Sequence[Point], rates: Rates) -> None:
    for point in found:
        size = point.size
        what = f"{METHODS[point.method]}, budget x{point.budget}, {size.count:,} facts"
        run.metric(
            f"capacity_{point.key}",
            point.shares,
            unit="fraction",
            higher_is_better=True,
            meaning=f"exact match, {what}, {size.passes} passes",
            interval=point.interval,
        )
        down: dict[str, Any] = {"higher_is_better": False}
        meaning = f"stored beside the base, {what}"
        run.metric(f"capacity_stored_{point.key}", point.megabytes, unit="MiB", **down, meaning=meaning)
        logs = np.array([np.mean(one["log_ratio"]) for one in point.results])
        low, high = stats.mean_interval(logs) or (logs[0], logs[0])
        mean = float(np.exp(logs).mean())
        interval = (min(float(np.exp(low)), mean), max(float(np.exp(high)), mean)) if len(logs) > 1 else None
        meaning = f"perplexity of unrelated text over the base's, {what}; interval of its logarithm over seeds"
        run.metric(f"capacity_perplexity_{point.key}", np.exp(logs), unit="x", **down, meaning=meaning, interval=interval)
        rate = rates[point.method, point.budget, size.count]
        run.metric(f"capacity_rate_{point.key}", rate, meaning=f"learning rate chosen on other facts, {what}")
    seconds = [one["seconds"] for point in found for one in point.results]
    run.metric("capacity_fit_seconds", max(seconds), unit="s", higher_is_better=False, meaning="longest training, one thread")
    with runlog.style() as plt:
        figure = figures_bench.capacity(plt, found, METHODS, GOAL)
        shows = f"Exact match against the number of private facts at fixed budgets, 95 % intervals; dotted: our aim, {GOAL:.0%}."
        run.figure(
            figure,
            "capacity",
            shows=" ".join([shows, *left_out(found)]),
            matters="What does not fit shows as a fall; the budget moves it, and so does the method.",
        )
    tell(run, found)


def left_out(found: Sequence[Point]) -> list[str]:
    """One sentence on the methods and budgets that end before the largest size; none where all of them were run."""
    most = max(point.size.count for point in found)
    asked = {(point.method, point.budget) for point in found if point.size.count == most}
    missing = sorted({(METHODS[point.method], point.budget) for point in found if (point.method, point.budget) not in asked})
    names = ", ".join(f"{name} x{budget}" for name, budget in missing)
    return [f"Not run with {most:,} facts, to save time: {names}."] if missing else []


def tell(run: runlog.Run, found: Sequence[Point]) -> None:
    """What the points say, and the verdict on our aim."""
    most = max(point.size.count for point in found)
    memory = [point for point in found if point.method == "engram" and point.size.count == most]
    best = max(memory, key=lambda point: point.interval[0])
    low, high = (100 * bound for bound in best.interval)
    got = f"{100 * best.shares.mean():.2f} % [{low:.2f}, {high:.2f}] of {most:,} facts in {best.megabytes:.1f} MiB"
    over = f"{len(best.results)} seeds of {most:,} keys"
    run.claim(
        "10 000 private facts at 95 % exact match or more, within a stated table budget",
        source=AIM,
        protocol="none",
        ours="none",
        honest=f"guarded Engram, budget x{best.budget}: {got} ({over}, {best.size.passes} passes)",
        verdict="not run here" if most < 10_000 else "reproduced" if best.interval[0] >= GOAL else "not reproduced",
    )
    for method, name in METHODS.items():
        held = [point for point in found if point.method == method and point.interval[0] >= GOAL]
        largest = max(held, key=lambda point: (point.size.count, -point.budget), default=None)
        what = "none" if largest is None else f"{largest.size.count:,} at budget x{largest.budget} ({largest.megabytes:.1f} MiB)"
        run.observe(f"{name}: most facts that were kept at {GOAL:.0%} or more (lower end of the interval): {what}.")
    for sentence in left_out(found):
        run.observe(sentence)
    rivals = [point for point in found if point.method == "lora" and point.size.count == most]
    rival = max(rivals, key=lambda point: point.shares.mean()) if rivals else None
    against = f"; LoRA keeps {100 * rival.shares.mean():.1f} % at x{rival.budget}, with the same passes" if rival else ""
    run.conclude(f"The guarded memory keeps {got}{against}.")
