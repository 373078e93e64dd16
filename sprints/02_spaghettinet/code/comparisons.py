"""The questions that are asked of the trainings, one function each; train trains and stores what they need, eval reads it again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .learning import LOCAL, Job
from .study import DENSE, Args, Measure, arms, deep, job, seeded, tune

SHORT = {"digits": "digits", "mnist": "mnist", "fashion_mnist": "fashion"}  # in the keys of metrics
TITLES = {"digits": "digits", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
LABELS = {
    "dense": "dense",
    "dense_small": "dense, small",
    "erdos_renyi": "random, masked (the original's)",
    "constant_fan_in": "random, constant fan-in",
    "bundle": "bundle",
    "local_bundle": "local bundle",
    "small_world": "small world",
    "variance": "variance",
    "set": "SET",
    "rigl": "RigL",
}
SKIPS = (0.0, 0.3, 0.7)
REWIRE_P = (0.0, 0.03, 0.1, 0.3, 1.0)
LONGER = 4  # times the epochs
ORIGINAL = {"hidden": 128, "epochs": 5, "batch": 64, "rate": 1e-3, "original": True, "scaled": False}
ORIGINAL_SPARSITY = 0.7


class Trained(NamedTuple):
    """A net with its tuned rate, and the result of each seed."""

    job: Job
    results: list[dict[str, Any]]

    def values(self, name: str) -> np.ndarray:
        return np.array([result[name] for result in self.results], dtype=float)


class Accuracy(NamedTuple):
    """The comparison at equal non-zeros, by arm and sparsity (dense: 0), on the pixels as they are and permuted."""

    plain: dict[tuple[str, float], Trained]
    permuted: dict[tuple[str, float], Trained]

    @property
    def dense(self) -> Trained:
        return self.plain[DENSE, 0.0]


def repeated(args: Args, jobs: Sequence[Job], measure: Measure) -> list[Trained]:
    """Each job with all seeds."""
    found = measure([one for made in jobs for one in seeded(args, made)])
    return [Trained(made, [found[one] for one in seeded(args, made)]) for made in jobs]


def accuracy(args: Args, name: str, measure: Measure) -> Accuracy:
    """Every arm at every sparsity, each with its own learning rate."""
    trained = repeated(args, list(tune(args, arms(args, name), measure).values()), measure)
    by_place = [((one.job.arm, one.job.sparsity), one) for one in trained]
    return Accuracy(
        {place: one for place, one in by_place if not one.job.permuted}, {place: one for place, one in by_place if one.job.permuted}
    )


def main_sparsity(args: Args) -> float:
    """The sparsity of the headlines: the one nearest to 0.9."""
    return min(args.sparsities, key=lambda sparsity: abs(sparsity - 0.9))


def higher_sparsity(args: Args) -> float:
    """The one nearest to 0.95, where wirings differ more."""
    return min(args.sparsities, key=lambda sparsity: abs(sparsity - 0.95))


def rates(args: Args, name: str, measure: Measure, known: Accuracy) -> dict[str, list[Trained]]:
    """For each learning rate, the dense net's among them: a small dense net, and a sparse one with and without rate / density."""
    beyond = [args.rates[-1] * 2**power for power in (1, 2)]
    sparsity, tried = main_sparsity(args), sorted({*args.rates, *beyond, known.dense.job.rate})
    lines = {
        "dense, small": job(args, name, "dense_small", sparsity),
        "sparse, one rate for all": job(args, name, "constant_fan_in", sparsity, scaled=False),
        "sparse, rate / density": job(args, name, "constant_fan_in", sparsity),
    }
    return {label: repeated(args, [replace(one, rate=rate) for rate in tried], measure) for label, one in lines.items()}


def skips(args: Args, name: str, measure: Measure) -> dict[float, Trained]:
    """Deep nets whose connections skip levels with some probability; all have the same number of parameters."""
    made = tune(args, [deep(args, name, skip) for skip in SKIPS], measure)
    return dict(zip(SKIPS, repeated(args, list(made.values()), measure), strict=True))


def locality(args: Args, name: str, measure: Measure, known: Accuracy) -> dict[bool, list[Trained]]:
    """The small world with ever more connections that go anywhere, with its rate of p = 0.1; on permuted pixels (True) too."""
    place = "small_world", higher_sparsity(args)
    return {
        permuted: repeated(args, [replace(source[place].job, rewire_p=p) for p in REWIRE_P], measure)
        for permuted, source in ((False, known.plain), (True, known.permuted))
    }


def longer(args: Args, name: str, measure: Measure, known: Accuracy) -> dict[str, Trained]:
    """More epochs, with rates tuned for them."""
    chosen = ("dense_small", "constant_fan_in", "local_bundle", "small_world", "set", "rigl")
    jobs = [known.dense.job, *(known.plain[arm, higher_sparsity(args)].job for arm in chosen)]
    longer = [replace(one, epochs=LONGER * one.epochs, rate=args.rates[0]) for one in jobs]
    trained = repeated(args, list(tune(args, longer, measure).values()), measure)
    return {one.job.arm: one for one in trained}


def original(args: Args, measure: Measure) -> dict[str, Trained]:
    """The original's protocol on MNIST: its net, the two dense nets that it was never compared with, and one of ours."""
    changes = ORIGINAL | ({"epochs": 1, "rows": 256} if args.smoke else {})

    def made(arm: str, sparsity: float, **more: Any) -> Job:
        return replace(job(args, "mnist", arm, sparsity), **changes | more)

    hidden = 8 * ORIGINAL["hidden"]
    left = (1 - ORIGINAL_SPARSITY) * ORIGINAL["hidden"] * (784 + 10)  # weights of the original's net
    fan_in = round((left - 10 * hidden) / hidden)
    jobs = {
        "original": made("erdos_renyi", ORIGINAL_SPARSITY),
        "dense": made(DENSE, 0.0),
        "dense_small": made("dense_small", ORIGINAL_SPARSITY),
        "local_bundle": made("local_bundle", 1 - fan_in / 784, hidden=hidden, scaled=True),
    }
    return dict(zip(jobs, repeated(args, list(jobs.values()), measure), strict=True))


def best_local(known: Accuracy, sparsity: float) -> str:
    """The local wiring with the higher accuracy on the validation rows."""
    return max(LOCAL, key=lambda arm: known.plain[arm, sparsity].values("validation").mean())


def everything(args: Args, name: str, measure: Measure) -> Accuracy:
    """All of the above for a set."""
    known = accuracy(args, name, measure)
    rates(args, name, measure, known)
    skips(args, name, measure)
    locality(args, name, measure, known)
    longer(args, name, measure, known)
    if name == "mnist":
        original(args, measure)
    return known
