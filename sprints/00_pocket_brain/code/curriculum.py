"""How a small model learns which value belongs to which subject: questions alone, or bare pairs first.

Both arms train on as many tokens about the same relations and names; "questions" sees sentences and questions about them, "recall"
also pairs that are told again and pairs that are asked for by their subject alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from shared import runlog

from . import gates
from .batches import Settings
from .export import restored
from .text import corpus, task_lookup, tasks, tokenizer

ARMS = {"questions": ("recall_quiz",), "recall": ("recall", "recall_short", "recall_quiz")}  # kinds of the group recall
MEGABYTES = 14
FACTS = 3


def write_shards(folder: Path, kinds: Sequence[str], brain: PreTrainedTokenizerFast, megabytes: float) -> None:
    """The texts of these kinds as the one source `recall` of a corpus, if they do not stand there already."""
    if (folder / "recall.heldout.bin").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for side, size in (("train", megabytes), ("heldout", 0.05)):  # the held-out side last: it says that all is there
        rng = random.Random(f"{kinds} {side}")
        made = (tasks.task(rng, group="recall") for _ in iter(int, 1))
        texts = (tokenizer.render(sample, rng) for sample in made if sample.family.split("/")[0] in kinds)
        corpus.encode(brain, corpus.limited(texts, size))[0].tofile(folder / f"recall.{side}.bin")


def questions(count: int) -> list[gates.Sample]:
    """Questions about one of FACTS facts of the same relation on reserved names, so that only the subject tells which is meant."""
    rng, layouts = random.Random(5), len(task_lookup.read(task_lookup.FILE)["layouts"])
    found: list[gates.Sample] = []
    while len(found) < count:
        sample = task_lookup.quiz(rng.randrange(layouts), rng, "test")
        if len(sample.turns) == 2 * FACTS:
            found.append(gates.Sample(sample.family, sample.turns[:2]))
    return found


def arms(
    run: runlog.Run, base: Path, brain: PreTrainedTokenizerFast, settings: Settings, train: Callable[[Path, Settings], object]
) -> None:
    """Train every arm with every seed of the run, and ask. `settings` name no corpus yet."""
    smoke = run.args.smoke
    asked = questions(4 if smoke else 200)
    prompts, shares = gates.split_prompts(asked, brain), {}
    for name, kinds in run.track(ARMS.items(), "arms"):
        write_shards(base / name / "corpus", kinds, brain, 0.2 if smoke else MEGABYTES)
        shares[name] = []
        for seed in run.report["seeds"]:
            folder = base / name / f"seed_{seed}"
            train(folder, replace(settings, corpus=str(base / name / "corpus"), seed=seed))
            model: Any = restored(folder / "checkpoint.safetensors", settings.size, brain).float().eval()
            right = gates.exact(gates.complete(model, brain, prompts, 16), asked)
            shares[name].append(right.mean())
        meaning = f"questions about one of {FACTS} facts of one relation, after {settings.tokens / 1e6:g} million tokens: {name}"
        run.metric(f"binding_{name}", shares[name], unit="fraction", higher_is_better=True, meaning=meaning)
    run.compare("share of right answers", shares["recall"], shares["questions"], names=("recall", "questions"), unit="fraction")
    run.observe(f"Of {FACTS} values of the right kind, {1 / FACTS:.0%} would be right by chance.")
    right, wrong = (np.mean(shares[name]) for name in ("recall", "questions"))
    run.conclude(f"With bare pairs {right:.0%} of the answers are right, with questions alone {wrong:.0%}.")
