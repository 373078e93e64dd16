"""What the parts of the recipe are worth: rank, end sign, fused layers, what the loss counts, and QLoRA against LoRA and full.

Judged on the validation rows, whose forms and themes do not train either; the test rows are kept for the final comparison.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared import runlog
from shared.report import write_atomically

from . import adapter, measures, recipe, snippets, tuning, twin
from .recipe import Recipe
from .snippets import Snippet

SEEDS = 3  # of the published ones, the first: there are many variants


@dataclass(frozen=True)
class Variant:
    """key: of its metrics. says: what differs from the recipe of the published run."""

    key: str
    says: str
    changes: dict[str, Any]
    fused: bool = False  # on the twin with Phi-3's module names


VARIANTS = (
    Variant("published", "the recipe as it is", {}),
    Variant("no_end_sign", "the training rows without their end sign", {"end_sign": False}),
    Variant("whole_text", "the loss counts the prompt too", {"completion_only": False}),
    *(Variant(f"rank_{rank}", f"rank {rank}", {"rank": rank, "alpha": 2 * rank}) for rank in (4, 8, 32)),
    Variant("lora", "LoRA on the base as stored, not in 4 bit", {"method": "lora"}),
    Variant("full", "every weight is tuned, at a tenth of the learning rate", {"method": "full"}),
    Variant("fused_reached", "Phi-3's module names, every linear layer reached", {}, fused=True),
    Variant("fused_missed", "Phi-3's module names, the original's list of names", {"targets": "original"}, fused=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one tuned model gave. loss: with, loss_before_end: without the end sign. megabytes: of what is kept, the adapter in
    float32 or the whole model in bf16."""

    loss: float
    loss_before_end: float
    ended: list[bool]
    seconds_per_epoch: float
    megabytes: float


def outcome(args: Any, run: runlog.Run, base: Path, setting: Recipe, variant: Variant, rows: Sequence[Snippet]) -> Outcome:
    """Tune once, and measure it on the validation rows."""
    chosen = replace(setting, **variant.changes)
    if chosen.method == "full":
        chosen = replace(chosen, learning_rate=setting.learning_rate / 10)
    model = str(twin.make(base)) if variant.fused else args.model
    tuned = tuning.tune(model, run.device, chosen, rows, base / variant.key, keep=False)
    loaded, validation = tuned.loaded, snippets.split(rows, "validation")
    whole, short = (
        [snippets.encode(loaded.tokenizer, loaded.stop_ids, row, end=end) for row in validation] for end in (True, False)
    )
    asked = [snippets.chat(row) for row in (validation[:2] if args.smoke else validation)]
    written = measures.write(loaded, asked, 8 if args.smoke else measures.NEW_TOKENS, setting.seed)
    return Outcome(
        measures.per_token(measures.losses(loaded, whole)),
        measures.per_token(measures.losses(loaded, short)),
        [one.ended for one in written],
        tuned.course.seconds / len(tuned.course.history),
        (2 if chosen.method == "full" else 4) * tuned.course.trainable / 1e6,
    )


def kept(file: Path, known: dict[str, Any], make: Callable[[], Outcome]) -> Outcome:
    """The outcome of an earlier run of what is `known`, or a new one: what was measured is not measured again."""
    if file.is_file():
        old = json.loads(file.read_text())
        if old.pop("of") == known:
            return Outcome(**old)
    found = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(asdict(found) | {"of": known}).encode())
    return found


def ablations(args: Any, setting: Recipe, base: Path) -> dict:
    """Every variant with every seed; differences to the published recipe are paired by seed."""
    rows = snippets.toy(snippets.read(args.data)) if args.smoke else snippets.read(args.data)
    setup = {
        "variants": "one change each; the same rows, seeds and epochs at most",
        "judged on": "the validation rows, whose themes or forms never train",
        "texts": f"one answer to every validation prompt per seed, at most {measures.NEW_TOKENS} tokens",
    }
    title, objective, seeds = "Ablations", "Which parts of the recipe matter?", args.seeds[:SEEDS]
    with runlog.Run(args, __file__, "ablations", title=title, objective=objective, setup=setup, seeds=seeds) as run:
        variants = [one for one in VARIANTS if run.device.kind == "cpu" or not (one.fused or one.key == "full")]
        if args.smoke:
            variants = [one for one in variants if one.key in ("published", "fused_reached", "fused_missed")]
        model = adapter.identity(recipe.base(args.model, run.device, "lora"))
        same = {"data": snippets.digest(rows), "code": tuning.code(), "device": run.device.kind} | model
        found: dict[str, list[Outcome]] = {}
        for variant in run.track(variants, "variants"):
            found[variant.key] = []
            for seed in seeds:
                mine, file = replace(setting, seed=seed), base / variant.key / f"outcome_{seed}.json"
                known = same | {"recipe": asdict(mine), "variant": asdict(variant)}
                one = kept(file, known, lambda mine=mine, variant=variant: outcome(args, run, base, mine, variant, rows))
                found[variant.key].append(one)
            record(run, variant, found[variant.key])
        for variant in variants:
            against = "fused_reached" if variant.key == "fused_missed" else "published"
            if variant.key != against:
                pair = ([one.loss for one in found[key]] for key in (variant.key, against))
                run.compare("validation loss", *pair, names=(variant.key, against), unit="nats")
        figure_of(run, variants)
        if "no_end_sign" in found:
            claim(run)
        apart = [one for one in run.report["comparisons"] if one["ci95"][0] * one["ci95"][1] > 0]
        shown = ", ".join(f"{one['a']} ({one['difference']:+.2f})" for one in apart) or "none"
        run.observe(f"Variants whose paired difference in validation loss excludes zero: {shown}.")
        run.conclude(f"{len(apart)} of {len(run.report['comparisons'])} changes move the validation loss beyond the seeds' noise.")
    return run.report


def record(run: runlog.Run, variant: Variant, mine: Sequence[Outcome]) -> None:
    down: dict[str, Any] = {"higher_is_better": False}
    values = {
        "loss": ([one.loss for one in mine], "nats", "validation loss per token"),
        "loss_before_end": ([one.loss_before_end for one in mine], "nats", "the same without the end sign"),
        "seconds_per_epoch": ([one.seconds_per_epoch for one in mine], "s", "time to tune, with its evaluation"),
        "megabytes": (mine[0].megabytes, "MB", "bytes to keep"),
    }
    for name, (value, unit, what) in values.items():
        run.metric(f"ablation_{name}_{variant.key}", value, unit=unit, **down, meaning=f"{what}: {variant.says}")
    ended = np.concatenate([one.ended for one in mine])
    meaning = f"answers that end by themselves: {variant.says}"
    run.metric(f"ablation_termination_{variant.key}", ended, unit="fraction", higher_is_better=True, meaning=meaning)


def claim(run: runlog.Run) -> None:
    """What the original says of the end sign."""
    mean = {key: metric["mean"] for key, metric in run.report["metrics"].items()}
    source = "leonvanbokhorst, sprints/01_paws_of_dread, README and docs"
    with_end, without = (mean[f"ablation_termination_{key}"] for key in ("published", "no_end_sign"))
    run.claim(
        "end-of-sequence tokens are crucial for termination",
        source=source,
        protocol="one adapter, looked at; its padding masks the end sign",
        ours=f"without the end sign in the labels {without:.0%} of the answers end by themselves",
        honest=f"with it {with_end:.0%}, all else equal",
        verdict="reproduced" if with_end - without > 0.5 else "not reproduced",
    )


def figure_of(run: runlog.Run, variants: Sequence[Variant]) -> None:
    metrics = run.report["metrics"]
    with runlog.style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
        labels = [variant.says for variant in variants]
        for axes, what in ((left, "loss"), (right, "termination")):
            every = [metrics[f"ablation_{what}_{variant.key}"] for variant in variants]
            for place, one in enumerate(every):
                low, high = one["ci95"] or (one["mean"], one["mean"])
                axes.plot([low, high], [place, place], color="0.6")
                axes.plot(one["mean"], place, "o", color="C0")
        left.set_yticks(range(len(labels)), labels)
        left.invert_yaxis()
        left.set(xlabel="validation loss, nats per token")
        right.set(xlabel="answers that end by themselves")
        run.figure(
            figure,
            "ablations",
            shows="Validation loss and share of ended answers for each variant, with 95 % intervals.",
            matters="The seeds are the same for all variants: the paired differences in the table say more than the intervals.",
        )
