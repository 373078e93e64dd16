"""What each part of the guarded memory is worth: one change at a time, the same budget, rows and steps.

Called by evaluate.py. Every variant has a learning rate of its own, chosen on the dev patterns: at one rate for all, most of what
is seen is how far that rate is from a variant's best. Half of the comparison's steps: after all of them most variants know it all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from shared import runlog

from ..patterns import Group
from ..teaching.training import Recipe
from . import figures_bench, regimes, significance
from .comparison import RATES, TUNING_SEEDS, beyond
from .jobs import Job, run_jobs

SEEDS = 3
GRID = [RATES.index(rate) for rate in (1e-3, 3e-3, 1e-2)]  # of every variant at first
MEASURES = {
    "recall": "exact match, S1 and S2",
    "perplexity": "perplexity of unrelated text / base",
    "equal": "positions with bit-equal logits",
}


@dataclass(frozen=True)
class Variant:
    """key: of its metrics. says: what differs from the default. changes: of the EngramConfig."""

    key: str
    says: str
    changes: Mapping[str, Any]


VARIANTS = (
    Variant("default", "as it is: orders 3, 4, 6, 8, 4 heads, layer 1", {}),
    Variant("no_guard", "no guard", {"guard": False}),
    Variant("orders_2", "order 2 alone", {"orders": (2,)}),
    Variant("orders_2_3", "orders 2, 3", {"orders": (2, 3)}),
    Variant("orders_2_3_5_8", "orders 2, 3, 5, 8", {"orders": (2, 3, 5, 8)}),
    Variant("orders_3_5_8", "orders 3, 5, 8", {"orders": (3, 5, 8)}),
    Variant("orders_8", "order 8 alone", {"orders": (8,)}),
    Variant("heads_1", "1 head", {"heads": 1}),
    Variant("heads_8", "8 heads", {"heads": 8}),
    Variant("zero_value", "random table, values from zero", {"init": "zero_value"}),
    Variant("sigmoid", "the paper's gate", {"gate": "sigmoid"}),
    Variant("no_gate", "no gate", {"gate": "off"}),
    Variant("convolution", "with the convolution", {"convolution": True}),
    Variant("layer_0", "layer 0", {"layers": (0,)}),
    Variant("layer_3", "layer 3", {"layers": (3,)}),
    Variant("layer_5", "layer 5, the last", {"layers": (5,)}),
    Variant("layers_1_3", "layers 1 and 3", {"layers": (1, 3)}),
    Variant("table_rate_5", "the paper's rate of the table, 5 times the rest", {"table_rate": 5.0}),
    Variant("no_compression", "no compression of the vocabulary", {"compress": False}),
)
SMOKE = ("default", "no_guard", "convolution")
QUICK = ("default", "no_guard", "orders_2_3", "layer_3")


def job(args: Any, recipe: Recipe, variant: Variant, rate: float, seed: int, group: Group) -> Job:
    engram = replace(recipe.engram, **variant.changes)
    changed = replace(recipe, rate=rate, steps=steps(recipe), engram=engram, seed=seed)
    arguments = {"recipe": asdict(changed), "group": group, "toy": args.smoke}
    return Job(f"{variant.key} {rate:g} {group} {seed}", regimes.variant, arguments)


def steps(recipe: Recipe) -> int:
    return max(1, recipe.steps // 2)


def rates(args: Any, recipe: Recipe, variants: Sequence[Variant]) -> dict[str, float]:
    """The rate of every variant: the best on the dev patterns; a grid whose best is at an edge grows once."""
    found: dict[str, dict[float, float]] = {variant.key: {} for variant in variants}
    if args.smoke or args.quick:
        return {key: recipe.rate for key in found}
    grids = {key: GRID for key in found}
    for _ in range(2):
        wanted = {
            (variant.key, rate): job(args, recipe, variant, rate, TUNING_SEEDS[0], "dev")
            for variant in variants
            for rate in (RATES[place] for place in grids[variant.key])
        }
        done = run_jobs(list(wanted.values()), args.jobs_folder(), args.jobs, "rates of the variants")
        for (key, rate), one in wanted.items():
            found[key][rate] = float(recall([done[one.name]]).mean())
        best = {key: max(of_rates, key=of_rates.__getitem__) for key, of_rates in found.items()}
        grids = {key: beyond(GRID, RATES.index(rate)) for key, rate in best.items()}
    return best


def run(args: Any, recipe: Recipe) -> dict:
    """Every variant of the comparison's guarded `recipe`, recorded as experiment `ablations`; returns the report."""
    keys = SMOKE if args.smoke else QUICK if args.quick else [variant.key for variant in VARIANTS]
    variants = [variant for variant in VARIANTS if variant.key in keys]
    setup = {
        "variants": "one change each to the guarded memory; trainable parameters, rows and batches stay the same",
        "training": f"{steps(recipe)} updates of {recipe.batch} rows, half of the comparison's; the rate of every variant is the "
        "best of three on the dev patterns, of four where the best was at an edge",
        "measured": "test patterns under trained and unseen lead-ins (S1, S2), which chose no rate; the unrelated text",
    }
    title, objective = "Ablations", "Which parts of the memory matter?"
    seeds = args.seeds[: 1 if args.quick or args.smoke else SEEDS]
    with runlog.Run(args, __file__, "ablations", title=title, objective=objective, setup=setup, seeds=seeds) as recorded:
        chosen = rates(args, recipe, variants)
        wanted = {one.key: [job(args, recipe, one, chosen[one.key], seed, "test") for seed in seeds] for one in variants}
        done = run_jobs([one for group in wanted.values() for one in group], args.jobs_folder(), args.jobs, "ablations")
        found = {key: [done[one.name] for one in group] for key, group in wanted.items()}
        for variant in variants:
            record(recorded, variant, found[variant.key])
            meaning = f"learning rate chosen on the dev patterns: {variant.says}"
            recorded.metric(f"ablation_rate_{variant.key}", chosen[variant.key], meaning=meaning)
        for variant in variants[1:]:
            compare(recorded, variant, found)
        tell(recorded, variants)
    return recorded.report


def recall(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(patterns, seeds) share of the rows that are right."""
    exact = np.array([one["exact"] for one in results], dtype=float).T
    return significance.per_unit(results[0]["patterns"], exact)


def record(run: runlog.Run, variant: Variant, results: Sequence[Mapping[str, Any]]) -> None:
    """Recall, perplexity and bit-equal share; intervals over patterns (blocks of text) and seeds."""
    logs, equal = (np.array([one[name] for one in results]).T for name in ("log_ratio", "equal"))
    bounds = significance.interval((1, logs))
    values: dict[str, tuple[np.ndarray, tuple[float, float], str, bool]] = {
        "recall": (recall(results).mean(0), significance.interval((1, recall(results))), "fraction", True),
        "perplexity": (np.exp(logs.mean(0)), (float(np.exp(bounds[0])), float(np.exp(bounds[1]))), "x", False),
        "equal": (equal.mean(0), significance.interval((1, equal)), "fraction", True),
    }
    for name, (numbers, (low, high), unit, better) in values.items():
        mean = float(numbers.mean())
        run.metric(
            f"ablation_{name}_{variant.key}",
            numbers,
            unit=unit,
            higher_is_better=better,
            meaning=f"{MEASURES[name]}: {variant.says}",
            interval=(min(low, mean), max(high, mean)),
        )


def compare(run: runlog.Run, variant: Variant, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Difference in recall to the default, paired by pattern and seed; p is McNemar's on the majority of the seeds."""
    a, b = recall(found[variant.key]), recall(found["default"])
    low, high = significance.interval((1, a), (-1, b))
    difference = float(a.mean() - b.mean())
    p = significance.mcnemar(significance.majority(a), significance.majority(b))
    run.report["comparisons"].append(
        {"key": "exact match on S1 and S2 (McNemar on majority outcomes)", "a": variant.says, "b": "default", "unit": "fraction"}
        | {"difference": difference, "ci95": (min(low, difference), max(high, difference)), "p": p, "n": len(a)}
    )


def tell(run: runlog.Run, variants: Sequence[Variant]) -> None:
    metrics = run.report["metrics"]
    rows = [(one.says, {name: metrics[f"ablation_{name}_{one.key}"] for name in MEASURES}) for one in variants]
    with runlog.style() as plt:
        figure = figures_bench.ablations(plt, rows, MEASURES)
        shows = "Recall, perplexity of unrelated text and bit-equal positions of each variant, with intervals; orange: the default."
        run.figure(figure, "ablations", shows=shows, matters="One change each at the same budget, at the best rate of each.")
    apart = [one for one in run.report["comparisons"] if one["ci95"][0] * one["ci95"][1] > 0]
    apart.sort(key=lambda one: one["difference"])
    said = ", ".join(f"{one['a']} ({100 * one['difference']:+.1f} points)" for one in apart) or "none"
    run.observe(
        f"Variants whose difference in recall to the default excludes zero ({len(variants) - 1} tests, not corrected): {said}."
    )
    ratio = {one.key: metrics[f"ablation_perplexity_{one.key}"]["mean"] for one in variants}
    worst = max(variants, key=lambda one: ratio[one.key])
    run.observe(
        f"The variant that disturbs unrelated text most: {worst.says} (x{ratio[worst.key]:.2f}, default x{ratio['default']:.2f})."
    )
    guard = f"without the guard the perplexity of unrelated text is x{ratio['no_guard']:.2f}, with it x{ratio['default']:.2f}"
    run.conclude(f"{len(apart)} of {len(variants) - 1} changes move the recall beyond noise; {guard}.")
