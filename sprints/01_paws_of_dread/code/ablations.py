"""What the parts of the recipe are worth: rank, end sign, fused layers, what the loss counts, and QLoRA against LoRA and full.

Judged on the validation rows, whose forms and themes do not train either; the test rows are kept for the final comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared import runlog

from . import measures, snippets, tuning, twin
from .recipe import Recipe
from .snippets import Snippet

NEW_TOKENS = 120


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


@dataclass
class Outcome:
    """What one tuned model gave. megabytes: of what is kept, the adapter in float32 or the whole model in bf16."""

    loss: float
    ended: list[bool]
    seconds: float
    megabytes: float


def outcome(args: Any, run: runlog.Run, base: Path, setting: Recipe, variant: Variant, rows: Sequence[Snippet]) -> Outcome:
    """Tune once, and measure it on the validation rows."""
    chosen = replace(setting, **variant.changes)
    if chosen.method == "full":
        chosen = replace(chosen, learning_rate=setting.learning_rate / 10)
    model = str(twin.make(base)) if variant.fused else args.model
    tuned = tuning.tune(model, run.device, chosen, rows, base / variant.key, keep=False)
    loaded, validation = tuned.loaded, snippets.split(rows, "validation")
    encoded = [snippets.encode(loaded.tokenizer, loaded.stop_ids, row) for row in validation]
    asked = [snippets.chat(row) for row in (validation[:2] if args.smoke else validation)]
    written = measures.write(loaded, asked, 8 if args.smoke else NEW_TOKENS, setting.seed)
    return Outcome(
        measures.per_token(measures.losses(loaded, encoded)),
        [one.ended for one in written],
        tuned.course.seconds,
        (2 if chosen.method == "full" else 4) * tuned.course.trainable / 1e6,
    )


def ablations(args: Any, setting: Recipe, base: Path) -> dict:
    """Every variant with every seed; differences to the published recipe are paired by seed."""
    rows = snippets.read(args.data)
    variants = [variant for variant in VARIANTS if not args.smoke or variant.key in ("published", "fused_missed")]
    setup = {
        "variants": "one change each; the same rows, seeds and epochs at most",
        "judged on": "the validation rows, whose themes or forms never train",
        "texts": f"one answer to every validation prompt per seed, at most {NEW_TOKENS} tokens",
    }
    title, objective = "Ablations", "Which parts of the recipe matter?"
    seeds = args.seeds[:3]
    with runlog.Run(args, __file__, "ablations", title=title, objective=objective, setup=setup, seeds=seeds) as run:
        found: dict[str, list[Outcome]] = {}
        for variant in run.track(variants, "variants"):
            mine = [outcome(args, run, base, replace(setting, seed=seed), variant, rows) for seed in seeds]
            found[variant.key] = mine
            down: dict[str, Any] = {"higher_is_better": False}
            meaning = f"validation loss per token: {variant.says}"
            run.metric(f"ablation_loss_{variant.key}", [one.loss for one in mine], unit="nats", **down, meaning=meaning)
            ended = np.concatenate([one.ended for one in mine])
            meaning = f"answers that end by themselves: {variant.says}"
            run.metric(f"ablation_termination_{variant.key}", ended, unit="fraction", higher_is_better=True, meaning=meaning)
            meaning = f"time to tune: {variant.says}"
            run.metric(f"ablation_seconds_{variant.key}", [one.seconds for one in mine], unit="s", **down, meaning=meaning)
            meaning = f"bytes to keep: {variant.says}"
            run.metric(f"ablation_megabytes_{variant.key}", mine[0].megabytes, unit="MB", **down, meaning=meaning)
        for variant in variants:
            against = "fused_reached" if variant.key == "fused_missed" and "fused_reached" in found else "published"
            if variant.key != against:
                pair = ([one.loss for one in found[key]] for key in (variant.key, against))
                run.compare("validation loss", *pair, names=(variant.key, against), unit="nats")
        figure_of(run, variants)
    return run.report


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
            shows="Validation loss and share of ended answers for each variant, with 95 % intervals over three seeds.",
            matters="A change whose interval overlaps the recipe's has not shown that it matters.",
        )
