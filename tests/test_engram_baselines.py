"""What trains nothing: examples and dictionary in the prompt, n-gram cache."""

from importlib import import_module

import pytest
import torch

baselines = import_module("sprints.04_engram.code.study.baselines")
patterns = import_module("sprints.04_engram.code.patterns")
scores = import_module("sprints.04_engram.code.study.scores")
training = import_module("sprints.04_engram.code.teaching.training")


@pytest.fixture(scope="module")
def given():
    return patterns.load()


def test_few_shot_puts_the_nearest_patterns_before_the_prompt(given):
    taught = [*given.test, *given.dev]
    rows = given.rows("S1", "test")[:40]
    for row, asked in zip(rows, baselines.few_shot(rows, taught), strict=True):
        own = next(pattern for pattern in taught if pattern.id == row.pattern)
        assert asked.prompt.endswith(row.prompt) and asked.prompt.count("\n\n") >= baselines.SHOTS
        assert f"{own.prompt}{own.completion}\n\n" in asked.prompt
        assert (asked.completion, asked.pattern, asked.part) == (row.completion, row.pattern, row.part)


def test_few_shot_fits_into_the_context_of_the_base(given, loaded):
    rows = baselines.few_shot([row for part in ("S1", "S2", "S3", "S5") for row in given.rows(part)], given.patterns)
    assert max(len(training.encode(loaded, row.prompt, row.completion).ids) for row in rows) <= loaded.context


def test_dictionary_finds_what_a_prompt_ends_with_and_nothing_else(given):
    taught = [*given.test, *given.dev]
    for row, asked in zip(given.rows("S2"), baselines.dictionary(given.rows("S2"), taught), strict=True):
        assert f"{row.completion}\n\n" in asked.prompt and asked.prompt.endswith(row.prompt)
    for part in ("S4", "S5"):
        rows = given.rows(part)
        assert baselines.dictionary(rows, taught) == rows


@pytest.fixture(scope="module")
def cache(given, loaded):
    rows = [training.encode(loaded, row.prompt, row.completion) for row in given.rows("S1", "dev")]
    return baselines.NgramCache(loaded.model, rows, weight=0.9), rows


@torch.no_grad()
def test_cache_mixes_where_it_knows_the_suffix_and_nowhere_else(cache, loaded):
    model, rows = cache
    row = rows[3]
    ids = torch.tensor([row.ids])
    before, after = loaded.model(input_ids=ids).logits[0], model(input_ids=ids).logits[0]
    same = (before == after).all(-1)
    assert not same[row.start - 1 : -1].any(), "every token of a taught completion is known"
    known = next(model.counts[tuple(row.ids[row.start - n : row.start])] for n in model.orders if row.start >= n)
    expected = 0.1 * before[row.start - 1].softmax(-1)
    for token, count in known.items():
        expected[token] += 0.9 * count / known.total()
    assert torch.allclose(after[row.start - 1].softmax(-1), expected, atol=1e-6)
    strange = torch.randint(3000, 4000, (1, 60), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.model(input_ids=strange).logits, model(input_ids=strange).logits)


def test_cache_recalls_what_it_was_given_and_decodes_like_it_scores(cache, loaded):
    model, rows = cache
    assert scores.exact_match(model, rows[:48]).mean() > 0.9
    right = [row for row, exact in zip(rows[:6], scores.exact_match(model, rows[:6]), strict=True) if exact]
    said = scores.answers(model, [row.ids[: row.start] for row in right], loaded.stop_ids, 24)
    assert said == [row.ids[row.start : -1] for row in right]
    assert scores.exact_match(loaded.model, rows[:48]).mean() < 0.2, "the base itself stays as it was"
    assert model.stored_bytes > 16 * len(model.counts) - 1
