"""Every method on the same patterns at the same budget: the plan, the learning rates, the outcomes.

The rate of a method is chosen on the dev patterns with a seed of its own; only then the published seeds run, and only the test
patterns are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..patterns import Patterns, load
from ..teaching.training import Recipe
from . import trial
from .jobs import Job, run_jobs

TUNING_SEEDS = (100,)
RATES = [float(f"{digit}e{exponent}") for exponent in range(-6, 1) for digit in (1, 3)]
GRID = 4  # rates that every method is tuned over at first
TIE = 0.01  # recall within it counts as equal: then the better kept base decides
GROWTH = 2  # times that a grid grows at an edge


@dataclass(frozen=True)
class Method:
    """key: of its metrics. start: the lowest of the GRID rates it is tuned over. like: the method whose rate it takes."""

    key: str
    label: str
    recipe: dict[str, Any]
    start: float = 0.0
    like: str = ""


METHODS = (
    Method("lora", "LoRA, rank 8", {"method": "lora"}, 1e-3),
    Method("lora_r2", "LoRA, rank 2", {"method": "lora", "rank": 2}, 1e-3),
    Method("lora_r32", "LoRA, rank 32", {"method": "lora", "rank": 32}, 3e-4),
    Method("random_label", "LoRA, random labels", {"method": "random_label_lora"}, like="lora"),
    Method("full", "full fine-tuning", {"method": "full"}, 1e-4),
    Method("engram", "Engram, guarded", {"method": "engram"}, 3e-4),
    Method("engram_unguarded", "Engram, no guard", {"method": "engram_unguarded"}, 3e-4),
    Method("unigram", "unigram memory", {"method": "unigram"}, 3e-4),
    Method("lora_engram", "LoRA + Engram", {"method": "lora_engram"}, 1e-3),
)
BASELINES = {
    "base": "base",
    "few_shot": "examples in the prompt",
    "dictionary": "dictionary + prompt",
    "ngram_cache": "n-gram cache",
}
LABELS = BASELINES | {method.key: method.label for method in METHODS}
QUICK = ("lora", "engram")  # the trained methods of --quick
CACHE_WEIGHTS, CACHE_SHORTEST = (0.25, 0.5, 0.75, 0.9, 0.99), (2, 3, 5)
Tuning = dict[float, list[dict[str, Any]]]  # rate -> result per tuning seed


def plan(args: Any) -> list[Method]:
    return [method for method in METHODS if not (args.quick or args.smoke) or method.key in QUICK]


def recipe(args: Any, method: Method, rate: float, seed: int = 0) -> Recipe:
    """The recipe of a method at a rate; the steps and the batch are the same for all."""
    return Recipe(**method.recipe, rate=rate, steps=args.steps, batch=args.batch, seed=seed)


def job(args: Any, chosen: Recipe, group: Literal["test", "dev"]) -> Job:
    arguments = {"recipe": asdict(chosen), "group": group, "toy": args.smoke}
    return Job(f"{chosen.method} r{chosen.rank} {chosen.rate:g} {group} {chosen.seed}", trial.measure, arguments)


def tuned(args: Any) -> dict[str, Tuning]:
    """Every tuned method at every rate of its grid; a grid whose best rate is at its edge grows."""
    methods = {method.key: method for method in plan(args) if method.start}
    count = 1 if args.quick or args.smoke else GRID
    grids = {key: [*range(at := RATES.index(method.start) + 2 * (count == 1), at + count)] for key, method in methods.items()}
    found: dict[str, Tuning] = {key: {} for key in methods}
    for _ in range(GROWTH + 1):
        new = [(key, rate) for key, places in grids.items() for place in places if (rate := RATES[place]) not in found[key]]
        wanted = {
            (key, rate, seed): job(args, recipe(args, methods[key], rate, seed), "dev")
            for key, rate in new
            for seed in TUNING_SEEDS
        }
        results = run_jobs(list(wanted.values()), args.jobs_folder(), args.jobs, "learning rates")
        for (key, rate, _), one in wanted.items():
            found[key].setdefault(rate, []).append(results[one.name])
        if count == 1:  # one rate is no grid
            break
        for key, places in grids.items():
            places += beyond(places, RATES.index(best_rate(found[key])))
    return found


def beyond(places: Sequence[int], best: int) -> list[int]:
    """What a grid grows by when its best place is at an edge."""
    return [best - 1] if best == min(places) else [best + 1] if best == max(places) else []


def recall(result: Mapping[str, Any]) -> float:
    """Share of the S1 and S2 rows that are answered right."""
    return float(np.mean([right for part in ("S1", "S2") for right in result["parts"][part]["exact"]]))


def log_ratio(result: Mapping[str, Any], text: str = "unrelated") -> np.ndarray:
    """(blocks,) log of the perplexity against the base's."""
    kept = result["retention"][text]
    return np.array(kept["nll"]) - np.array(kept["base_nll"])


def best_rate(results: Mapping[Any, Sequence[Mapping[str, Any]]]) -> Any:
    """The rate (or any setting) with the highest recall; among those within TIE of it, the one that keeps the base best."""
    recalls = {rate: np.mean([recall(one) for one in found]) for rate, found in results.items()}
    near = [rate for rate, value in recalls.items() if value >= max(recalls.values()) - TIE]
    return min(near, key=lambda rate: np.mean([log_ratio(one).mean() for one in results[rate]]))


def chosen(args: Any, tuning: Mapping[str, Tuning]) -> dict[str, Recipe]:
    """The published recipe of every method."""
    rates = {key: best_rate(found) for key, found in tuning.items()}
    return {method.key: recipe(args, method, rates[method.like or method.key]) for method in plan(args)}


@dataclass(frozen=True)
class Outcomes:
    """results: method -> result per seed (baselines: one); cache: the settings of the n-gram cache; patterns: what was asked."""

    results: dict[str, list[dict[str, Any]]]
    cache: dict[str, Any]
    patterns: Patterns

    def rows(self, part: str) -> list[str]:
        """The pattern of every row of a part."""
        return [row.pattern for row in self.patterns.rows(part, "test")]  # pyright: ignore[reportArgumentType]

    def matrix(self, key: str, parts: Sequence[str], what: str = "exact") -> tuple[list[str], np.ndarray]:
        """Pattern of every row of the parts, and (rows, seeds) of one score."""
        columns = [np.concatenate([one["parts"][part][what] for part in parts]) for one in self.results[key]]
        return [name for part in parts for name in self.rows(part)], np.array(columns, dtype=float).T


def outcomes(args: Any, recipes: Mapping[str, Recipe]) -> Outcomes:
    """Every method with every published seed, on the test patterns."""
    toy = {"toy": args.smoke}
    weights, shortest = (CACHE_WEIGHTS[2:3], CACHE_SHORTEST[:1]) if args.smoke else (CACHE_WEIGHTS, CACHE_SHORTEST)
    settings = [{"weight": weight, "shortest": n} for weight in weights for n in shortest]
    tries = [Job(f"cache {one}", trial.baseline, {"name": "ngram_cache", "group": "dev"} | toy | one) for one in settings]
    found = run_jobs(tries, args.jobs_folder(), args.jobs, "n-gram cache")
    best = best_rate({place: [found[one.name]] for place, one in enumerate(tries)})
    options = {key: settings[best] if key == "ngram_cache" else {} for key in BASELINES}
    wanted = {key: [Job(key, trial.baseline, {"name": key, "group": "test"} | toy | more)] for key, more in options.items()} | {
        key: [job(args, replace(one, seed=seed), "test") for seed in args.seeds] for key, one in recipes.items()
    }
    done = run_jobs([one for jobs in wanted.values() for one in jobs], args.jobs_folder(), args.jobs, "methods x seeds")
    results = {key: [done[one.name] for one in jobs] for key, jobs in wanted.items()}
    return Outcomes(results, settings[best], trial.subset(load()) if args.smoke else load())
