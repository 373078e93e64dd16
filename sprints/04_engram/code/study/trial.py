"""The jobs of the comparison: teach one base once, by one recipe or one baseline, and measure everything on it.

Everything here decides results and is part of the key of a job (jobs.py); what tells of them stands elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import torch

from shared import models
from shared.errors import UserError

from ..engram.memory import EngramConfig
from ..patterns import Group, Part, Pattern, Patterns, Row, load, retention_text
from ..teaching.training import Encoded, Recipe, encode, fit
from . import baselines, scores

PARTS: tuple[Part, ...] = ("S1", "S2", "S3", "S4", "S5")
Text = Literal["unrelated", "near_domain"]
TEXTS: tuple[Text, ...] = get_args(Text)
MOST = 32  # blocks of a text, evenly spaced
SHOWN = 24  # tokens of a text whose gates are shown
TOY = 6  # taught patterns of each group at smoke size
Asked = Callable[[Sequence[Row]], Sequence[Row]]


@dataclass(frozen=True)
class Bench:
    """The base and everything it is taught and asked."""

    loaded: models.LoadedModel
    patterns: Patterns
    taught: list[Encoded]
    texts: dict[Text, Any]  # name -> (blocks, logits of the base)

    @property
    def taught_patterns(self) -> list[Pattern]:
        return [*self.patterns.test, *self.patterns.dev]

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return [encode(self.loaded, row.prompt, row.completion) for row in rows]


@cache
def bench(toy: bool) -> Bench:
    """Made once per process: every job leaves the base as it was, bit for bit."""
    loaded = models.load("pocket", "cpu")
    patterns = subset(load()) if toy else load()
    texts = {}
    for name in TEXTS:
        ids = loaded.tokenizer(retention_text(name), add_special_tokens=False, verbose=False)["input_ids"]
        blocks = scores.blocks(ids, 1 if toy else MOST)
        texts[name] = blocks, scores.reference(loaded.model, blocks)
    taught = [encode(loaded, row.prompt, row.completion) for row in patterns.training_rows()]
    return Bench(loaded, patterns, taught, texts)


def subset(patterns: Patterns) -> Patterns:
    """A few patterns of every group, for runs of seconds."""
    parts = [group[:: max(1, len(group) // TOY)][:TOY] for group in (patterns.test, patterns.dev, patterns.held_out)]
    return Patterns(tuple(p for part in parts for p in part), patterns.leads, *parts)


def measure(recipe: dict[str, Any], group: Group, toy: bool = False) -> dict[str, Any]:
    """Teach by a recipe (its fields, as JSON has them), then measure; `group` test measures every part, dev only recall."""
    given = bench(toy)
    try:
        tuned = fit(given.loaded, recipe_of(recipe), given.taught)
    except UserError:
        if group == "test":
            raise
        return _measured(given, Diverged(given.loaded.model), group)
    try:
        found = _measured(given, tuned.model, group)
    finally:
        tuned.remove()
    cost = {"trainable": tuned.trainable_parameters, "stored_bytes": tuned.stored_bytes, "seconds": tuned.seconds}
    return found | cost | {"loss": float(np.mean(tuned.losses[-20:]))}


class Diverged:
    """Stands for a model whose training had no end, at a rate that is too high: every token is as likely as any other."""

    def __init__(self, base: Any):
        self.device, self._base = base.device, base

    def __call__(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros_like(self._base(**inputs).logits))


def baseline(
    name: Literal["base", "few_shot", "dictionary", "ngram_cache"], group: Group, toy: bool = False, **options: Any
) -> dict:
    """Measure what trains nothing; `options` are those of the n-gram cache."""
    given = bench(toy)
    change: dict[str, Asked] = {
        "few_shot": lambda rows: baselines.few_shot(rows, given.taught_patterns),
        "dictionary": lambda rows: baselines.dictionary(rows, given.taught_patterns),
    }
    model, stored = given.loaded.model, 0
    if name == "ngram_cache":
        model = baselines.NgramCache(model, given.taught, **options)
        stored = model.stored_bytes
    return _measured(given, model, group, change.get(name, list)) | {"trainable": 0, "stored_bytes": stored, "seconds": 0.0}


def recipe_of(fields_of_it: dict[str, Any]) -> Recipe:
    """A recipe from the JSON of its fields."""
    values: dict[str, Any] = {**fields_of_it, "engram": EngramConfig(**fields_of_it.get("engram", {}))}
    return Recipe(**values)


def _measured(given: Bench, model: Any, group: Group, asked: Asked = list) -> dict[str, Any]:
    parts = {}
    for part in PARTS if group == "test" else ("S1", "S2"):
        found = scores.score(model, given.encode(asked(given.patterns.rows(part, group))))
        parts[part] = {one.name: getattr(found, one.name).tolist() for one in fields(found)}
    result: dict[str, Any] = {"parts": parts, "retention": {}}
    for name, (blocks, before) in given.texts.items():
        kept = scores.retention(model, blocks, before)
        result["retention"][name] = {one.name: getattr(kept, one.name).tolist() for one in fields(kept)}
    if group == "test":
        result["over"] = _over(given, model, asked(given.patterns.rows("S5", group)))
    return result


def _over(given: Bench, model: Any, misses: Sequence[Row]) -> list[bool]:
    """Whether the answer to each near miss is the completion of a taught pattern, of any."""
    tokenizer, completions = given.loaded.tokenizer, {pattern.completion.strip() for pattern in given.taught_patterns}
    rows = given.encode(misses)
    longest = max(len(row.ids) - row.start for row in given.taught)
    said = scores.answers(model, [row.ids[: row.start] for row in rows], given.loaded.stop_ids, longest)
    return [tokenizer.decode(ids).strip() in completions for ids in said]


def gates(recipe: dict[str, Any], toy: bool = False) -> list[dict[str, Any]]:
    """Teach, then read the gate at every token of some texts: {title, tokens, gates}, a gate is None where nothing is known."""
    given = bench(toy)
    tuned = fit(given.loaded, recipe_of(recipe), given.taught)
    pattern = next(one for one in given.patterns.test if one.category == "facts")
    lead = given.patterns.leads[pattern.category].test
    prose = " ".join(retention_text("unrelated").split()[:SHOWN])
    texts = {
        "taught": pattern.prompt + pattern.completion,
        "unseen lead-in": lead + pattern.prompt + pattern.completion,
        "unseen tail": pattern.tails[0] + pattern.completion,
        "near miss": pattern.near_miss,
        "unrelated text": prose,
    }
    tokenizer, lines = given.loaded.tokenizer, []
    for title, text in texts.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:SHOWN]
        found = [float(np.mean(one.gates)) if one.gates else None for one in tuned.adapter.inspect(ids)]
        lines.append({"title": title, "tokens": [tokenizer.decode([token]) for token in ids], "gates": found})
    tuned.remove()
    return lines
