"""Which nets are compared, and the trainings behind it: tuned on validation rows, each stored, so that a stopped study goes on.

Every training is a file runs/spaghetti/<set>/<job>-<digest of the job and the data>.json. It is used whatever code wrote it, but a
report says how many were written by another version of what is trained: delete the folder, and they are trained anew.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shared import data, runlog
from shared.environment import usable_cpus
from shared.errors import UserError
from shared.processes import spread
from shared.report import write_atomically
from shared.sprints import ROOT

from . import images, learning
from .kernels import SOURCES
from .learning import LOCAL, Job

HOME = ROOT / "runs" / "spaghetti"
DENSE = "dense"
SPARSE = ("erdos_renyi", "constant_fan_in", "bundle", "local_bundle", "small_world", "variance", "set", "rigl")
TUNING_SEED = 100  # from here on: trainings that choose a learning rate; those that are reported have the seeds 0, 1, ...
WIDENED = 3  # times that the learning rates are extended where the best one lies at the edge
PYTHON = ("learning", "images", "spaghettinet", "wiring", "rewire", "structure", "engines")
Results = dict[Job, dict[str, Any]]
Measure = Callable[[Sequence[Job]], Results]


class Size(NamedTuple):
    """What a set is trained with."""

    hidden: int
    epochs: int
    batch: int
    deep: tuple[int, int, float]  # a noodle_dag: levels, neurons of each, sparsity that gives the fan-in
    seeds: int  # trainings of every net with its tuned rate
    trials: int  # trainings of every net with every rate that is tried, from which the rate is chosen


SIZES = {
    "digits": Size(256, 16, 64, (10, 64, 7 / 8), 10, 4),
    "mnist": Size(1024, 5, 128, (10, 256, 1 - 16 / 784), 5, 2),
    "fashion_mnist": Size(1024, 5, 128, (10, 256, 1 - 16 / 784), 5, 2),
}


@dataclass
class Args(runlog.Args):
    """What is compared. The same for train and eval: eval reads what train has stored, and trains what is missing."""

    aside = ("jobs",)

    only: tuple[str, ...] = ()
    """Which sets: digits, mnist, fashion_mnist. Naming a set downloads it. When none is named: those that are on this machine,
    with --out the digits alone."""
    sparsities: tuple[float, ...] = (0.7, 0.9, 0.95, 0.99)
    """Shares of absent connections."""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    """Learning rates, ascending, that every net is tuned over, on validation rows; more where the best is the first or last."""
    seeds: int = 0
    """Trainings of every net with its tuned rate; 0: ten of the digits, each with another split, five of a large set."""
    jobs: int = 0
    """Trainings at a time, each on one thread; 0: as many as this process may use cores (1 on a GPU)."""


def prepare(args: Args) -> list[str]:
    """Check the settings, make them small where --smoke asks for it, and say which sets are compared."""
    runlog.check_only(args.only, images.SETS)
    if args.seeds < 0 or args.seeds == 1 or args.jobs < 0:
        raise UserError("--seeds must be 0 or at least 2, --jobs at least 0")
    if not args.sparsities or not all(0 < sparsity < 1 for sparsity in args.sparsities):
        raise UserError("--sparsities must be between 0 and 1, at least one of them")
    if len(args.rates) < 2 or not all(0 < rate < 1 for rate in args.rates) or sorted(set(args.rates)) != list(args.rates):
        raise UserError("--rates must be at least two numbers between 0 and 1, ascending")
    if args.smoke:
        args.sparsities, args.rates, args.seeds, args.jobs = (0.9,), (4e-3, 8e-3), 2, 1
    if args.only:
        for name in args.only:
            images.pixels(name)  # downloads it now, or says that it cannot
        return list(args.only)
    chosen = ["digits"]
    for name in images.SETS[1:]:
        if args.out is None and not args.smoke and images.at_hand(name):
            chosen.append(name)
        else:
            reason = "--out and --smoke take the digits" if args.out or args.smoke else "its files are not on this machine"
            runlog.console.print(f"{name}: left out, {reason}; --only {name} includes it, its committed reports stay as they are")
    return chosen


def job(args: Args, name: str, arm: str, sparsity: float = 0.0, **changes: Any) -> Job:
    """A training at the size of its set, its rate and seed those of a first try."""
    size = SIZES[name]
    if args.smoke:
        size = SIZES[name]._replace(hidden=32, epochs=1, batch=16, deep=(2, 16, 7 / 8))
        changes["rows"] = 64
    return replace(Job(name, arm, sparsity, args.rates[0], 0, size.hidden, size.epochs, size.batch), **changes)


def arms(args: Args, name: str) -> list[Job]:
    """The comparison at equal non-zeros: the dense net, and for each sparsity the rest; local wirings also on permuted pixels."""
    made = [job(args, name, DENSE)]
    for sparsity in args.sparsities:
        made += [job(args, name, arm, sparsity) for arm in ("dense_small", *SPARSE)]
        made += [job(args, name, arm, sparsity, permuted=True) for arm in LOCAL]
    return made


def deep(args: Args, name: str, skip: float) -> Job:
    """A net of many levels, whose connections skip levels with probability `skip`. All weights learn with the same rate."""
    levels, width, sparsity = SIZES[name].deep
    levels, width = (3, 16) if args.smoke else (levels, width)
    return job(args, name, "noodle_dag", sparsity, hidden=width, depth=levels, skip=skip, scaled=False)


def seeds(args: Args, name: str) -> range:
    """The seeds that are reported of a set."""
    return range(args.seeds or SIZES[name].seeds)


def seeded(args: Args, made: Job) -> list[Job]:
    """The job with each of the seeds that are reported."""
    return [replace(made, seed=seed) for seed in seeds(args, made.data)]


def trials(one: Job, rate: float) -> list[Job]:
    """The job with a rate that is tried, for each seed of the tuning."""
    return [replace(one, rate=rate, seed=TUNING_SEED + number) for number in range(SIZES[one.data].trials)]


def tune(args: Args, made: Sequence[Job], measure: Measure) -> dict[Job, Job]:
    """Each job -> the job with the rate that is best on the validation rows, in the mean of trainings with seeds of their own."""
    tried = {one: {rate: trials(one, rate) for rate in args.rates} for one in made}
    for again in range(WIDENED + 1):
        found = measure([trial for rates in tried.values() for some in rates.values() for trial in some])

        def score(some: list[Job], found: Results = found) -> float:
            return sum(found[trial]["validation"] for trial in some) / len(some)

        best = {one: max(rates, key=lambda rate, rates=rates: score(rates[rate])) for one, rates in tried.items()}
        edge = {one: rate for one, rate in best.items() if rate in (min(tried[one]), max(tried[one]))}
        if not edge or again == WIDENED or args.smoke:
            break
        for one, rate in edge.items():
            further = rate / 2 if rate == min(tried[one]) else rate * 2
            tried[one][further] = trials(one, further)
    return {one: replace(one, rate=best[one]) for one in made}


def measured(run: runlog.Run, args: Args, label: str) -> Measure:
    """A function that gives the results of jobs: those stored, and the others after training them (and storing them at once)."""
    home = None if args.smoke else HOME
    digests: dict[str, str] = {}
    older: set[Job] = set()

    def path(one: Job) -> Path | None:
        if home is None:
            return None
        if one.data not in digests:
            digests[one.data] = data.digest(list(images.pixels(one.data)))
        content = json.dumps([asdict(one), digests[one.data], run.device.kind], sort_keys=True).encode()
        return home / one.data / f"{one.name}-{data.digest(content)[:10]}.json"

    def measure(jobs: Sequence[Job]) -> Results:
        places = {one: path(one) for one in dict.fromkeys(jobs)}
        missing = [one for one, place in places.items() if place is None or not place.is_file()]
        if home and missing:
            runlog.console.print(
                f"{label}: {len(places) - len(missing)} of {len(places)} trainings are stored, {len(missing)} to do"
            )
        made = train_all(run, args, missing, places, label)
        stored = {one: json.loads(place.read_text()) for one, place in places.items() if place is not None and one not in made}
        if new := {one for one, found in stored.items() if found.get("code") != code()} - older:
            older.update(new)
            run.observe(f"Stored by another version of the code than this one: {len(new)} of {len(places)} trainings.")
        return {one: made[one] if one in made else stored[one] for one in places}

    return measure


@functools.cache
def code() -> str:
    """The digest of everything that decides what a training gives."""
    return data.digest([*(Path(__file__).with_name(f"{part}.py") for part in PYTHON), *SOURCES])


def train_all(run: runlog.Run, args: Args, jobs: list[Job], places: dict[Job, Path | None], label: str) -> Results:
    """Train the jobs, the longest first, in as many processes as --jobs says."""
    workers = args.jobs or (1 if run.device.kind == "cuda" else len(usable_cpus()))
    jobs = sorted(jobs, key=lambda one: (one.arm not in (DENSE, "erdos_renyi", "noodle_dag"), -one.epochs, one.sparsity))
    todo, before = {one: (one, places[one], run.device.kind) for one in jobs}, torch.get_num_threads()
    try:
        found = dict(run.track(spread(train_one, todo, workers), label, total=len(jobs)))
    finally:
        torch.set_num_threads(before)
    return {one: found[one] for one in jobs}


def train_one(one: Job, place: Path | None, device: str) -> dict[str, Any]:
    """The result of a training by one thread, stored as JSON where there is a place for it."""
    torch.set_num_threads(1)
    _, found = learning.learn(one, device)
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps({"job": asdict(one), "code": code()} | found, indent=1).encode())
    return found
