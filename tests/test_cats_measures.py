"""Sprint 01: losses, intervals, texts and word order, which the comparison of base, few-shot and tuned model rests on."""

from importlib import import_module

import numpy as np
import pytest
import torch

from shared import models, streaming
from tests.test_shared_models import CPU, build

CODE = "sprints.01_paws_of_dread.code"
measures = import_module(f"{CODE}.measures")
snippets = import_module(f"{CODE}.snippets")


@pytest.fixture(scope="module")
def pocket():
    return models.load("pocket", "cpu", "none")


@pytest.fixture(scope="module")
def rows():
    return snippets.split(snippets.read(), "test")[:5]


def test_losses_are_those_of_transformers_one_row_at_a_time(pocket, rows, monkeypatch):
    monkeypatch.setattr(measures, "BATCH", 3)
    encoded = [snippets.encode(pocket.tokenizer, pocket.stop_ids, row) for row in rows]
    found = measures.losses(pocket, encoded)
    for one, (nats, tokens) in zip(encoded, found, strict=True):
        ids = torch.tensor([one.ids])
        labels = ids.masked_fill(torch.arange(len(one.ids)) < one.start, -100)
        with torch.no_grad():
            expected = pocket.model(input_ids=ids, labels=labels).loss.item()
        assert tokens == len(one.ids) - one.start and nats / tokens == pytest.approx(expected, rel=1e-4)
    assert measures.per_token(found) == pytest.approx(found[:, 0].sum() / found[:, 1].sum())


def test_mlx_gives_the_same_losses_and_says_when_it_stopped(tmp_path):
    pytest.importorskip("mlx.core", reason="mlx-lm is not installed")
    from shared.device import pick

    folder = build(tmp_path / "base")
    torch_side, mlx_side = models.load(str(folder), CPU, "none"), models.load(str(folder), pick("mlx", ("mlx",)), "none")
    encoded = [snippets.Encoded(list(range(6, 6 + length)), 3) for length in (9, 17, 12)]
    np.testing.assert_allclose(measures.losses(mlx_side, encoded), measures.losses(torch_side, encoded), rtol=2e-3)
    chats = [[{"role": "user", "content": "Why?"}]]
    (cut,) = measures.write(mlx_side, chats, 5, seed=0)
    mlx_side.stop_ids = list(range(len(mlx_side.tokenizer)))  # whatever comes first ends it
    (ended,) = measures.write(mlx_side, chats, 5, seed=0)
    assert not cut.ended and ended.ended and ended.text == ""


def test_texts_are_those_of_the_stream_and_may_quote_the_prompt(pocket, monkeypatch):
    """At a temperature near zero both follow the likeliest token; answers of this base repeat words of a long prompt."""
    monkeypatch.setattr(measures, "TEMPERATURE", 1e-3)
    monkeypatch.setattr(measures, "NO_REPEAT", 1)
    chats = [[{"role": "user", "content": text}] for text in ("What is the opposite of hot?", "Is hot the opposite of cold? " * 4)]
    texts = measures.write(pocket, chats, 12, seed=0)
    for messages, one in zip(chats, texts, strict=True):
        text, ended = streaming.whole(measures.stream(pocket, messages, 12, 0))
        assert one == measures.Written(text.strip(), ended)
    assert "cold" in texts[1].text


def test_a_text_has_ended_only_by_an_end_sign(pocket):
    chats = [[{"role": "user", "content": "What is the opposite of hot?"}], [{"role": "user", "content": "Write a story."}]]
    texts = measures.write(pocket, chats, 3, seed=0)
    assert not texts[1].ended and all("<|" not in one.text for one in texts)
    assert measures.write(pocket, chats, 3, seed=0) == texts
    assert all(one.ended or len(one.text.split()) > 20 for one in measures.write(pocket, chats, 60, seed=0))


def test_the_interval_covers_the_truth_and_is_paired():
    rng, hits, widths = np.random.default_rng(0), 0, []
    for _ in range(60):
        rows = rng.normal(3, 1, 40)
        base = [np.stack([10 * rows, np.full(40, 10.0)], 1)] * 3
        tuned = [np.stack([10 * (rows - 0.5 + rng.normal(0, 0.05, 40)), np.full(40, 10.0)], 1) for _ in range(3)]
        low, high = measures.interval((1, base), draws=400)
        hits += low <= 3 <= high
        widths.append((high - low, np.ptp(measures.interval((1, tuned), (-1, base), draws=400))))
    assert 50 <= hits <= 60
    assert all(difference < single / 4 for single, difference in widths)  # the rows' own spread is gone


def test_the_order_of_words_is_worth_something_in_text_and_nothing_in_a_heap(pocket):
    some = snippets.split(snippets.read(), "test")[::8]
    real = [row.completion for row in some]
    heaps = [snippets.shuffled(row, 1).completion for row in some]
    gains, of_heaps = measures.order_gain(pocket, real), measures.order_gain(pocket, heaps)
    assert gains.mean() > 1 > abs(of_heaps.mean())
    assert (measures.order_gain(pocket, ["", "Meow."]) == 0).all()
    assert np.array_equal(gains, measures.order_gain(pocket, real))


def test_few_shot_examples_train_and_depend_on_the_prompt(rows):
    every = snippets.read()
    first, second = measures.examples(every, 0, "a"), measures.examples(every, 0, "b")
    assert len(first) == measures.SHOTS and first != second and first == measures.examples(every, 0, "a")
    assert all(row.split == "train" for row in first + second)
