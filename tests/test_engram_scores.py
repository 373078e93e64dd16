"""Scores against slow references; intervals and tests against what is known of them."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

scores = import_module("sprints.04_engram.code.study.scores")
significance = import_module("sprints.04_engram.code.study.significance")
training = import_module("sprints.04_engram.code.teaching.training")
TEXTS = [
    ("Once there was a", " small dog"),
    ("The cat", " sat down and looked"),
    ("Q: Default port for SSH?\nA:", " 22"),
    ("I", " am"),
]


@pytest.fixture(scope="module")
def rows(loaded):
    return [training.encode(loaded, prompt, completion) for prompt, completion in TEXTS]


def greedy(model, ids, count):
    """The next `count` tokens, one forward each, without cache, padding or batch."""
    said = list(ids)
    with torch.no_grad():
        for _ in range(count):
            said.append(int(model(input_ids=torch.tensor([said]), use_cache=False).logits[0, -1].argmax()))
    return said[len(ids) :]


def test_scores_are_those_of_greedy_decoding(loaded, rows):
    """Also for rows that greedy decoding gets wholly right, or right up to the end token."""
    own = [training.Encoded(row.ids[: row.start] + greedy(loaded.model, row.ids[: row.start], 4), row.start) for row in rows]
    no_end = [training.Encoded([*row.ids[:-1], (row.ids[-1] + 1) % 4096], row.start) for row in own]
    every = [*rows, *own, *no_end]
    found = scores.score(loaded.model, every)
    for place, row in enumerate(every):
        target = row.ids[row.start :]
        said = greedy(loaded.model, row.ids[: row.start], len(target))
        wrong = [n for n, (a, b) in enumerate(zip(said, target, strict=True)) if a != b]
        assert found.exact[place] == (not wrong)
        assert found.begins[place] == (said[:-1] == target[:-1])
        assert found.departure[place] == (wrong[0] * 2**32 + said[wrong[0]] if wrong else -1)
    assert found.exact.tolist() == [False] * 4 + [True] * 4 + [False] * 4 and found.begins[8:].all()
    assert (scores.exact_match(loaded.model, every) == found.exact).all()


def test_loss_does_not_depend_on_the_other_rows(loaded, rows):
    together = scores.nll(loaded.model, rows)
    for row, value in zip(rows, together, strict=True):
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
        assert value == pytest.approx(
            torch.nn.functional.cross_entropy(logits, torch.tensor(row.ids[row.start :])).item(), rel=1e-4
        )


def test_answers_of_a_batch_are_those_of_each_alone(loaded, rows):
    prompts = [row.ids[: row.start] for row in rows]
    free = [greedy(loaded.model, prompt, 6) for prompt in prompts]
    stop = [free[1][3], *loaded.stop_ids]  # a token that one of them says: there it ends
    ends = [next((n for n, token in enumerate(said) if token in stop), len(said)) for said in free]
    assert scores.answers(loaded.model, prompts, stop, 6) == [said[:end] for said, end in zip(free, ends, strict=True)]


def test_retention(loaded):
    ids = torch.randint(10, 4000, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    text = scores.blocks(ids)
    assert text.shape == (2, scores.BLOCK) and text.flatten().tolist() == ids[: 2 * scores.BLOCK]
    assert scores.blocks(ids, 1).tolist() == text[:1].tolist()
    before = scores.reference(loaded.model, text)
    same = scores.retention(loaded.model, text, before)
    assert same.perplexity_ratio == 1 and (same.kl == 0).all() and (same.equal == 1).all()

    class Bent:  # another model: the end of each block is told with flat logits
        device = loaded.model.device

        def __call__(self, **inputs):
            logits = loaded.model(**inputs).logits.clone()
            logits[:, 64:] = 0
            return SimpleNamespace(logits=logits)

    bent = scores.retention(Bent(), text, before)
    assert (bent.equal == 0.5).all() and (bent.kl > 0).all() and np.allclose(bent.base_nll, same.nll)
    first = torch.nn.functional.cross_entropy(before[0, :64], text[0, 1:65]).item()
    assert bent.nll[0] == pytest.approx((64 * first + 63 * np.log(4096)) / 127, rel=1e-5)
    p = before[0, 64:].log_softmax(-1)
    assert bent.kl[0] == pytest.approx((p.exp() * (p + np.log(4096))).sum(-1).sum().item() / 128, rel=1e-4)


def test_interval_over_units_and_seeds():
    generator = np.random.default_rng(1)
    matrix = generator.random((200, 5)) < 0.7
    low, high = significance.interval((1, matrix.astype(float)))
    assert low < matrix.mean() < high and 0.05 < high - low < 0.2
    assert significance.interval((1, matrix.astype(float)), (-1, matrix.astype(float))) == (0, 0)
    column = matrix[:, :1].astype(float)  # a method without seeds beside one with five
    low, high = significance.interval((1, np.ones((200, 5))), (-1, column))
    assert low < 1 - column.mean() < high


def test_interval_where_some_seeds_did_not_ask_some_units():
    matrix = (np.random.default_rng(2).random((200, 5)) < 0.7).astype(float)
    assert significance.interval_of_present(matrix) == pytest.approx(significance.interval((1, matrix)))
    alike = np.repeat((np.arange(40) % 2).astype(float)[:, None], 5, 1)  # a unit is always right or always wrong
    alike[::3, 0] = np.nan
    low, high = significance.interval_of_present(alike)
    assert high - low > 0.25, "40 units, not 200 answers"


def test_units_tests_and_corrections():
    values = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert significance.per_unit(["b", "a", "b"], values).tolist() == [[1, 0.5], [0, 0]]
    assert significance.majority(np.array([[1, 1, 0.5], [1, 0.9, 0.9], [0, 0, 0]])).tolist() == [True, False, False]
    a, b = np.array([True] * 9 + [False] * 3), np.array([False] * 8 + [True] * 2 + [False] * 2)
    assert significance.mcnemar(a, b) == pytest.approx(scipy_stats.binomtest(8, 9).pvalue)
    assert significance.mcnemar(a, a) == 1
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # Holm 1979


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lowers_no_p_and_keeps_their_order(p):
    adjusted = significance.holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])
