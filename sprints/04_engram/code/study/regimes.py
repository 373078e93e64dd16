"""The jobs of the smaller experiments: private facts, the original's protocol, variants of the memory. Each teaches one recipe.

Reports and figures stand elsewhere: an edit of them does not touch what is cached.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared import models

from ..patterns import Group, Row, load, original_rows, private_facts, retention_text
from ..teaching.training import Encoded, Tuned, encode, fit
from . import scores
from .trial import TOY, recipe_of, subset

BLOCKS = 12  # of the unrelated text, evenly spaced
CONSISTENCY = 20  # test prompts that the original asked again and again
REPEATS = 3  # how often
NEW_TOKENS = 24  # longest answer; no completion comes near


def facts(recipe: dict[str, Any], count: int) -> dict[str, Any]:
    """Teach `count` private facts, drawn by the recipe's seed, and ask for each of them. hits: exact matches."""
    chosen = recipe_of(recipe)
    loaded = models.load("pocket", "cpu")
    rows = _encode(loaded, private_facts(count, chosen.seed))
    unrelated = _unrelated(loaded)
    tuned = fit(loaded, chosen, rows)
    found = scores.score(tuned.model, rows)
    return {"hits": int(found.exact.sum()), "nll": float(found.nll.mean())} | _kept(tuned, unrelated) | _cost(tuned)


def variant(recipe: dict[str, Any], group: Group, toy: bool = False) -> dict[str, Any]:
    """Teach the patterns, and measure exact match per row of a group's patterns (S1, S2) and what is left of the base."""
    loaded, patterns = models.load("pocket", "cpu"), subset(load()) if toy else load()
    unrelated = _unrelated(loaded, 1 if toy else BLOCKS)
    tuned = fit(loaded, recipe_of(recipe), _encode(loaded, patterns.training_rows()))
    asked = [*patterns.rows("S1", group), *patterns.rows("S2", group)]
    right = scores.exact_match(tuned.model, _encode(loaded, asked))
    return {"patterns": [row.pattern for row in asked], "exact": right.tolist()} | _kept(tuned, unrelated) | _cost(tuned)


def original(recipe: dict[str, Any], whole_text: bool, toy: bool = False) -> dict[str, Any]:
    """The original's protocol for one seed of its random split: before and after tuning, by what it measured.

    `whole_text` puts the loss on the prompt too, as the original trained. Answers are compared as it did: stripped, and right if
    they start with the completion. `unseen`: the same for patterns that are not among its 131.
    """
    chosen, patterns = recipe_of(recipe), load()
    split = original_rows(patterns, 42 + chosen.seed)
    train, valid, test = (part[:TOY] if toy else part for part in split)
    unseen = [Row(p.id, "original", p.prompt, p.completion) for p in patterns.patterns if not p.original_shape]
    unseen = unseen[:: max(1, len(unseen) // len(test))]  # about as many
    loaded = models.load("pocket", "cpu")
    taught = _encode(loaded, train)
    asked = {"test": test, "unseen": unseen}
    before = {name: said(loaded, rows) for name, rows in asked.items()}
    losses = [_losses(loaded.model, _encode(loaded, valid))]
    tuned = fit(loaded, chosen, [Encoded(row.ids, 1) for row in taught] if whole_text else taught)
    loaded.model = tuned.model
    after = {name: said(loaded, rows) for name, rows in asked.items()}
    losses.append(_losses(tuned.model, _encode(loaded, valid)))
    again = [said(loaded, test[:CONSISTENCY]) for _ in range(REPEATS)]
    return {
        "base": {name: begins(rows, before[name]) for name, rows in asked.items()},
        "tuned": {name: begins(rows, after[name]) for name, rows in asked.items()},
        "patterns": {name: [row.pattern for row in rows] for name, rows in asked.items()},
        "exact": [answer == row.completion.strip() for row, answer in zip(test, after["test"], strict=True)],
        "losses": losses,
        "same": float(np.mean([len(set(answers)) == 1 for answers in zip(*again, strict=True)])),
        "leak": leak(train, valid, test),
    } | _cost(tuned)


def said(loaded: models.LoadedModel, rows: Sequence[Row]) -> list[str]:
    """The greedy answers, stripped."""
    prompts = [row.ids[: row.start] for row in _encode(loaded, rows)]
    answers = scores.answers(loaded.model, prompts, loaded.stop_ids, NEW_TOKENS)
    return [loaded.tokenizer.decode(answer).strip() for answer in answers]


def begins(rows: Sequence[Row], answers: Sequence[str]) -> list[bool]:
    """The original's accuracy, row by row: the answer starts with the completion."""
    return [answer.startswith(row.completion.strip()) for row, answer in zip(rows, answers, strict=True)]


def leak(train: Sequence[Row], valid: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Shares of the test prompts: verbatim in the training rows, there or in the validation rows, with a wording in training."""
    trained, seen = {row.prompt for row in train}, {row.prompt for row in [*train, *valid]}
    patterns = {row.pattern for row in train}
    return {
        "in_train": float(np.mean([row.prompt in trained for row in test])),
        "in_train_or_valid": float(np.mean([row.prompt in seen for row in test])),
        "wording_in_train": float(np.mean([row.pattern in patterns for row in test])),
    }


def _encode(loaded: models.LoadedModel, rows: Sequence[Row]) -> list[Encoded]:
    return [encode(loaded, row.prompt, row.completion) for row in rows]


def _losses(model: Any, rows: Sequence[Encoded]) -> dict[str, float]:
    """Nats per token of the completions, and of whole texts (from their second token on)."""

    def mean(rows: Sequence[Encoded]) -> float:
        return float(np.average(scores.nll(model, rows), weights=[len(row.ids) - row.start for row in rows]))

    return {"completion": mean(rows), "whole_text": mean([Encoded(row.ids, 1) for row in rows])}


def _unrelated(loaded: models.LoadedModel, count: int = BLOCKS) -> tuple[Any, Any]:
    """So many blocks of the unrelated text, and the base's logits on them."""
    ids = loaded.tokenizer(retention_text("unrelated"), add_special_tokens=False, verbose=False)["input_ids"]
    blocks = scores.blocks(ids)
    blocks = blocks[:: max(1, len(blocks) // count)][:count]
    return blocks, scores.reference(loaded.model, blocks)


def _kept(tuned: Tuned, unrelated: tuple[Any, Any]) -> dict[str, Any]:
    kept = scores.retention(tuned.model, *unrelated)
    return {"log_ratio": (kept.nll - kept.base_nll).tolist(), "equal": kept.equal.tolist()}


def _cost(tuned: Tuned) -> dict[str, Any]:
    return {"trainable": tuned.trainable_parameters, "stored_bytes": tuned.stored_bytes, "seconds": tuned.seconds}
