"""What the comparison found, as metrics, planned comparisons and verdicts on claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared import runlog
from shared.report import AIM, verdict

from ..teaching.training import Recipe
from . import significance
from .comparison import LABELS, Outcomes, Tuning, log_ratio, recall
from .trial import TEXTS

PARTS = {
    "s1": "trained prompts",
    "s2": "trained prompts under an unseen lead-in",
    "s3": "unseen wordings of the tail",
    "s4": "patterns that were never taught",
}
RECALL = ("S1", "S2")
WORDINGS = {"consistency": RECALL, "consistency_with_s3": (*RECALL, "S3")}
SEED = "seed 002 (softwarewrighter/engram-poc), targets"


@dataclass(frozen=True)
class Planned:
    """A comparison that was planned before the run: difference of `what` between two methods."""

    what: str
    parts: tuple[str, ...]  # none: answers to near misses
    a: str
    b: str


PLANNED = (
    Planned("exact match on S1 and S2", RECALL, "engram", "lora"),
    Planned("exact match on S2", ("S2",), "engram", "base"),
    Planned("exact match on S2", ("S2",), "lora", "base"),
    Planned("exact match on S3", ("S3",), "engram", "lora"),
    Planned("exact match on S4", ("S4",), "engram", "lora"),
    Planned("over-triggering on S5", (), "engram", "lora"),
    Planned("exact match on S1 and S2", RECALL, "engram", "ngram_cache"),
    Planned("exact match on S1 and S2", RECALL, "engram", "unigram"),
    Planned("exact match on S1 and S2", RECALL, "engram", "full"),
    Planned("exact match on S1 and S2", RECALL, "lora_engram", "lora"),
)


def units(found: Outcomes, key: str, parts: Sequence[str], what: str = "exact") -> np.ndarray:
    """(patterns, seeds) means over the rows of each pattern; without parts: whether its near miss was answered with a completion
    that was taught."""
    if not parts:
        return np.array([one["over"] for one in found.results[key]], dtype=float).T
    return significance.per_unit(*found.matrix(key, parts, what))


def agreeing(found: Outcomes, key: str) -> np.ndarray:
    """(patterns, seeds): all wordings of S1, S2 and S3 get the same answer, as far as its first wrong token."""
    names, said = found.matrix(key, ("S1", "S2", "S3"), "departure")
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    return np.array([(said[places] == said[places[0]]).all(0) for places in groups.values()], dtype=float)


def record(run: runlog.Run, found: Outcomes, recipes: Mapping[str, Recipe]) -> None:
    """The metrics of every method."""

    def share(key: str, matrix: np.ndarray, meaning: str, better: bool | None = True) -> None:
        put(run, key, matrix, f"{meaning}; interval over patterns and seeds", unit="fraction", higher_is_better=better)

    for key in found.results:
        who, seedless = LABELS[key], len(found.results[key]) == 1
        share(f"recall_{key}", units(found, key, RECALL), f"exact match on S1 and S2 together, {who}")
        for part, what in PARTS.items():
            share(f"{part}_{key}", units(found, key, (part.upper(),)), f"exact match on {what}, {who}")
        share(f"s2_startswith_{key}", units(found, key, ("S2",), "begins"), f"S2 by the original's rule (startswith), {who}")
        meaning = f"near misses (S5) answered with a taught completion, {who}"
        share(f"over_triggering_{key}", units(found, key, ()), meaning, better=False)
        for name, parts in WORDINGS.items():
            right = (units(found, key, parts) == 1).astype(float)
            share(f"{name}_{key}", right, f"patterns with every wording of {', '.join(parts)} right, {who}")
        meaning = f"patterns whose wordings all get the same answer (up to its first wrong token), {who}"
        share(f"same_answer_{key}", agreeing(found, key), meaning, better=None)
        for part in ("s2", "s3"):
            meaning = f"loss per token of the completions of {part.upper()}, {who}; interval over patterns and seeds"
            put(run, f"nll_{part}_{key}", units(found, key, (part.upper(),), "nll"), meaning, unit="nats", higher_is_better=False)
        retention(run, found, key, who)
        if not seedless:
            results = found.results[key]
            run.metric(f"fit_seconds_{key}", [one["seconds"] for one in results], unit="s", meaning=f"training, one thread, {who}")
            run.metric(f"trainable_{key}", results[0]["trainable"], unit="parameters", meaning=f"trained, {who}")
            run.metric(f"rate_{key}", recipes[key].rate, meaning=f"learning rate chosen on the dev patterns, {who}")
        stored = found.results[key][0]["stored_bytes"]
        run.metric(f"stored_bytes_{key}", stored, unit="bytes", higher_is_better=False, meaning=f"kept beside the base, {who}")


def retention(run: runlog.Run, found: Outcomes, key: str, who: str) -> None:
    """How far a method moved the base on both texts."""
    for text in TEXTS:
        short, what = ("perplexity_ratio", "unrelated text") if text == "unrelated" else ("near_ratio", "near-domain text")
        logs = np.array([log_ratio(one, text) for one in found.results[key]]).T  # (blocks, seeds)
        bounds = np.exp(significance.interval((1, logs)))
        values = np.exp(logs.mean(0))
        meaning = f"perplexity of {what} over the base's, {who}; interval over blocks and seeds"
        mean = float(values.mean())
        interval = (min(float(bounds[0]), mean), max(float(bounds[1]), mean))
        run.metric(f"{short}_{key}", values, unit="x", higher_is_better=False, meaning=meaning, interval=interval)
        for name, better, means in (
            ("kl", False, f"KL divergence from the base per position of {what}"),
            ("equal", True, f"positions of {what} with bit-equal logits"),
        ):
            matrix = np.array([one["retention"][text][name] for one in found.results[key]]).T
            unit = "fraction" if name == "equal" else "nats"
            put(run, f"{name}_{text}_{key}", matrix, f"{means}, {who}", unit=unit, higher_is_better=better)


def put(run: runlog.Run, key: str, matrix: np.ndarray, meaning: str, **of_it: Any) -> None:
    """A metric from (units, seeds): a value per seed, the interval over units and seeds."""
    low, high = significance.interval((1, matrix))
    values, mean = matrix.mean(0), float(matrix.mean(0).mean())
    run.metric(key, values, meaning=meaning, interval=(min(low, mean), max(high, mean)), **of_it)


def compare(run: runlog.Run, found: Outcomes) -> None:
    """The planned comparisons that this run has both sides of; p is McNemar's on majority outcomes, after Holm's correction."""
    planned = [one for one in PLANNED if {one.a, one.b} <= set(found.results)]
    pairs = [(units(found, one.a, one.parts), units(found, one.b, one.parts)) for one in planned]
    tests = significance.holm([significance.mcnemar(significance.majority(a), significance.majority(b)) for a, b in pairs])
    for one, (a, b), p in zip(planned, pairs, tests, strict=True):
        low, high = significance.interval((1, a), (-1, b))
        difference = float(a.mean() - b.mean())
        run.report["comparisons"].append(
            {"key": f"{one.what} (McNemar on majority outcomes, Holm over {len(planned)})", "a": LABELS[one.a], "b": LABELS[one.b]}
            | {"unit": "fraction", "difference": difference, "ci95": (min(low, difference), max(high, difference))}
            | {"p": p, "n": len(a)}
        )


def gain(found: Outcomes, a: str, b: str, parts: Sequence[str], *, whole: bool = False) -> tuple[float, float, float]:
    """Difference between two methods and its interval; `whole`: of the share of patterns with all rows right."""
    sides = [units(found, key, parts) for key in (a, b)]
    one, other = [(side == 1).astype(float) for side in sides] if whole else sides
    low, high = significance.interval((1, one), (-1, other))
    return float(one.mean() - other.mean()), low, high


def claims(run: runlog.Run, found: Outcomes) -> None:
    """The targets of the seed, and ours."""
    metrics = run.report["metrics"]

    def points(values: tuple[float, float, float]) -> str:
        return "{:+.1f} points [{:.1f}, {:.1f}]".format(*(100 * value for value in values))

    gains = {key: gain(found, key, "base", ("S2",)) for key in ("lora", "engram")}
    run.claim(
        "accuracy rises by at least 10 points over the base",
        source=SEED,
        protocol="one run, startswith, prompts that trained: +2.9",
        ours="the original's protocol has a report of its own",
        honest="exact match on S2: " + ", ".join(f"{LABELS[key]} {points(values)}" for key, values in gains.items()),
        verdict=verdict(*(low >= 0.10 for _, low, _ in gains.values())),
    )
    whole = {parts: {key: gain(found, key, "base", parts, whole=True) for key in gains} for parts in WORDINGS.values()}
    run.claim(
        "consistency rises by at least 20 points",
        source=SEED,
        protocol="one prompt, greedy, three times: always 100 %",
        ours="the original's protocol has a report of its own",
        honest="; ".join(
            f"every wording of {', '.join(parts)} right: " + ", ".join(f"{LABELS[key]} {points(one)}" for key, one in of.items())
            for parts, of in whole.items()
        ),
        verdict=verdict(*(low >= 0.20 for of in whole.values() for _, low, _ in of.values())),
    )
    seconds = {key: max(metrics[f"fit_seconds_{key}"]["values"]) for key in ("lora", "engram")}
    run.claim(
        "training takes less than 5 minutes",
        source=SEED,
        protocol="10 s for 100 iterations on Apple silicon",
        ours="not timed there",
        honest="slowest seed, one thread: " + ", ".join(f"{LABELS[key]} {value:.0f} s" for key, value in seconds.items()),
        verdict=verdict(*(value < 300 for value in seconds.values())),
    )
    close = gain(found, "engram", "lora", RECALL)
    rises = {key: [bound - 1 for bound in metrics[f"perplexity_ratio_{key}"]["ci95"]] for key in ("lora", "engram")}
    run.claim(
        "guarded Engram is within 2 points of LoRA's recall (S1 and S2) at equal trainable parameters",
        source=AIM,
        protocol="none",
        ours="none",
        honest=f"Engram minus LoRA: {points(close)}",
        verdict=verdict(close[1] >= -0.02),
    )
    run.claim(
        "and raises the perplexity of unrelated text by at most a tenth of LoRA's rise",
        source=AIM,
        protocol="none",
        ours="none",
        honest=", ".join(f"{LABELS[key]} {100 * low:+.1f} % to {100 * high:+.1f} %" for key, (low, high) in rises.items()),
        verdict=verdict(rises["engram"][1] <= 0.1 * rises["lora"][0]),
    )


def observe(run: runlog.Run, found: Outcomes, tuning: Mapping[str, Tuning]) -> None:
    """What it cost, what was seen beside the planned, and the answer in one sentence."""
    fits = [one for of_rates in tuning.values() for results in of_rates.values() for one in results]
    fits += [one for key, results in found.results.items() if f"rate_{key}" in run.report["metrics"] for one in results]
    minutes, meaning = (
        sum(one["seconds"] for one in fits) / 60,
        f"training of all {len(fits)} fits, rates included, one thread each",
    )
    run.metric("comparison_fit_minutes", minutes, unit="min", higher_is_better=False, meaning=meaning)
    metrics = run.report["metrics"]
    mean = {key: metric["mean"] for key, metric in metrics.items()}
    rates = ", ".join(f"{LABELS[key]} {mean[f'rate_{key}']:g} (of {len(of_rates)})" for key, of_rates in tuning.items())
    run.observe(f"Learning rates, chosen on the dev patterns: {rates}.")
    setting = ", ".join(f"{name} {value:g}" for name, value in found.cache.items())
    run.observe(f"The n-gram cache, tuned on the dev patterns too: {setting}.")
    kept = {rate: np.mean([np.exp(log_ratio(one).mean()) for one in results]) for rate, results in tuning["lora"].items()}
    best = {rate: np.mean([recall(one) for one in results]) for rate, results in tuning["lora"].items()}
    points = ", ".join(f"{rate:g}: {100 * best[rate]:.0f} % at x{kept[rate]:.2f}" for rate in sorted(best))
    run.observe(f"LoRA's curve (learning rate: recall on dev patterns at the perplexity ratio of unrelated text): {points}.")
    for part, what in (("s3", "unseen wordings (S3)"), ("s4", "held-out patterns (S4)")):
        trained = [key for key in found.results if f"rate_{key}" in mean]
        first = max(trained, key=lambda key: mean[f"{part}_{key}"])
        run.observe(
            f"On {what} the best trained method is {LABELS[first]} with {100 * mean[f'{part}_{first}']:.1f} %; "
            f"Engram has {100 * mean[f'{part}_engram']:.1f} %, the base {100 * mean[f'{part}_base']:.1f} %."
        )
    run.conclude(
        f"Exact match on taught patterns (S1 and S2): guarded Engram {100 * mean['recall_engram']:.1f} %, LoRA "
        f"{100 * mean['recall_lora']:.1f} % at the same {mean['trainable_lora']:,.0f} trainable parameters; perplexity of "
        f"unrelated text against the base: x{mean['perplexity_ratio_engram']:.2f} and x{mean['perplexity_ratio_lora']:.2f}; on "
        f"unseen wordings {100 * mean['s3_engram']:.1f} % and {100 * mean['s3_lora']:.1f} %."
    )
