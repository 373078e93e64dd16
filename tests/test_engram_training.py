"""Teaching by LoRA, memory, both, and full tuning: gradients, budgets, determinism, and the base given back bit for bit."""

from dataclasses import replace
from importlib import import_module
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UserError

CODE = "sprints.04_engram.code"
lora, scores, training = (import_module(f"{CODE}.{name}") for name in ("teaching.lora", "study.scores", "teaching.training"))
Encoded, Recipe = training.Encoded, training.Recipe
METHODS = ("lora", "random_label_lora", "full", "engram", "engram_unguarded", "unigram", "lora_engram")
PAIRS = [("Q: Default port for SSH?\nA:", " 22"), ("Code of zisaka:", " ramo"), ("def f(x):", "\n    return x"), ("A ->", " B")]


@pytest.fixture(scope="module")
def rows(loaded):
    return [training.encode(loaded, *pair) for pair in PAIRS]


def recipe(method: str, **changes):
    return replace(Recipe(method, rate=1e-4 if method == "full" else 1e-2, steps=3, batch=2), **changes)


def fit(loaded, rows, method: str, **changes):
    return training.fit(loaded, recipe(method, **changes), rows)


def logits(model, ids=tuple(range(40, 64))) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_prompt_and_completion_are_tokenised_apart_and_end(loaded):
    row = training.encode(loaded, "Q: port?\nA:", " 22")
    assert loaded.tokenizer.decode(row.ids[: row.start]) == "Q: port?\nA:"
    assert loaded.tokenizer.decode(row.ids[row.start : -1]) == " 22"
    assert row.ids[-1] in loaded.stop_ids
    for empty in (("", " 22"), ("Q:", "")):
        with pytest.raises(UserError, match="at least one token"):
            training.encode(loaded, *empty)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_gives_the_base_back_bit_for_bit(loaded, rows, method):
    before, weights, trains = logits(loaded.model), tensors(loaded.model), [p.requires_grad for p in loaded.model.parameters()]
    tuned = fit(loaded, rows, method, steps=4, batch=4)
    ids = tuple(rows[0].ids)
    changed = logits(tuned.model, ids)
    assert len(tuned.losses) == 4 and tuned.seconds > 0 and tuned.stored_bytes >= 4 * tuned.trainable_parameters
    if method != "random_label_lora":
        assert tuned.losses[-1] < tuned.losses[0]
    tuned.remove()
    assert not torch.equal(logits(loaded.model, ids), changed)
    assert torch.equal(logits(loaded.model), before)
    after = loaded.model.state_dict()
    assert list(after) == list(weights) and all(torch.equal(after[name], weights[name]) for name in weights)
    assert [p.requires_grad for p in loaded.model.parameters()] == trains
    assert all(p.grad is None for p in loaded.model.parameters())


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("full", "random_label_lora")])
def test_budgets_are_equal_within_one_percent(loaded, rows, method):
    budget = lora.parameter_count(loaded.model, 8)
    for given_budget, wanted in ((None, budget), (4 * budget, 4 * budget)):
        tuned = fit(loaded, rows, method, steps=1, budget=given_budget)
        tuned.remove()
        assert 0.99 * wanted <= tuned.trainable_parameters <= wanted


def test_gradients_reach_the_adapter_and_only_it(loaded, rows):
    model, memory, optimizers, remove, _ = training._prepare(loaded, recipe("lora_engram"), rows)
    training.mean_loss(model, rows).backward()
    reached = {name for name, p in memory.memory.named_parameters() if p.grad is not None and float(p.grad.norm()) > 0}
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    remove()
    assert reached == {"table"}, "through the value projection, while the table is zero"
    assert trained and all(".lora_" in name for name in trained), "nothing of the base"
    assert len(optimizers) == 2


def test_rows_that_were_not_addressed_stay_zero(loaded, rows):
    tuned = fit(loaded, rows, "engram")
    table = tuned.adapter.memory.table.detach()
    moved = int((table != 0).any(-1).sum())
    assert 0 < moved < len(table) / 4
    unknown = tuple(loaded.tokenizer("Grey geese flew over the harbour")["input_ids"])
    with tuned.adapter.disabled():
        bare = logits(tuned.model, unknown)
    assert torch.equal(logits(tuned.model, unknown), bare)
    tuned.remove()


@pytest.mark.parametrize("method", ["lora", "engram", "full"])
def test_the_seed_decides_everything(loaded, rows, method):
    found = []
    for seed in (0, 0, 1):
        tuned = fit(loaded, rows, method, seed=seed)
        found.append((tuned.losses, logits(tuned.model, tuple(rows[0].ids))))
        tuned.remove()
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_the_control_differs_in_nothing_but_its_labels(rows):
    mixed = training.random_labels(rows, seed=3)
    assert [row.ids[: row.start] for row in mixed] == [row.ids[: row.start] for row in rows]
    labels, own = ([tuple(row.ids[row.start :]) for row in part] for part in (mixed, rows))
    assert sorted(labels) == sorted(own) and all(a != b for a, b in zip(labels, own, strict=True))
    assert training.random_labels(rows, seed=3) == mixed


def test_the_loss_is_that_of_transformers_on_the_completions_alone(loaded, rows):
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[1] * (longest - len(row.ids))] for row in rows])
    labels = torch.tensor([[*[-100] * row.start, *row.ids[row.start :], *[-100] * (longest - len(row.ids))] for row in rows])
    with torch.no_grad():
        whole = loaded.model(input_ids=ids, attention_mask=(labels != -100).long() | 1, labels=labels).loss
        assert training.mean_loss(loaded.model, rows).item() == pytest.approx(whole.item(), abs=1e-5)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5))
def test_every_pass_holds_every_row_once(count, size, seed):
    rows = [Encoded([place] * (1 + place % 7), 0) for place in range(count)]
    per_pass = sum(-(-min(size * training.WINDOW, count - at) // size) for at in range(0, count, size * training.WINDOW))
    made = list(training.batches(rows, size, 2 * per_pass, seed))
    assert len(made) == 2 * per_pass and all(1 <= len(batch) <= size for batch in made)
    for half in (made[:per_pass], made[per_pass:]):
        assert sorted(row.ids[0] for batch in half for row in batch) == list(range(count))
    assert made == list(training.batches(rows, size, 2 * per_pass, seed))


def test_rows_of_like_length_share_a_batch():
    generator = np.random.default_rng(0)
    rows = [Encoded([0] * int(length), 0) for length in generator.integers(5, 60, 256)]
    padding = [
        max(len(row.ids) for row in batch) * len(batch) - sum(len(row.ids) for row in batch)
        for batch in islice(training.batches(rows, 16, 16, 0), 16)
    ]
    assert sum(padding) < 0.2 * sum(len(row.ids) for row in rows)


def test_schedule_warms_up_then_decays():
    rates = [training.schedule(step, 100) for step in range(100)]
    assert max(rates) == 1.0 and rates.index(1.0) == 4 and rates[0] == 0.2
    assert all(a > b for a, b in pairwise(rates[4:])) and 0 < rates[-1] < 0.02
    assert training.schedule(0, 1) > 0


def test_clipping_scales_dense_and_sparse_gradients_together():
    dense, table = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(5, 2))
    dense.grad = torch.tensor([3.0, 0.0, 0.0])
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]]), (5, 2))  # twice row 1
    training.clip([dense, table])
    assert dense.grad.tolist() == pytest.approx([0.6, 0, 0])
    assert table.grad.to_dense()[1].tolist() == pytest.approx([0.8, 0])
    small = torch.nn.Parameter(torch.zeros(1))
    small.grad = torch.tensor([0.5])
    training.clip([small])
    assert small.grad.item() == 0.5


def test_ctrl_c_leaves_the_base_as_it_was(loaded, rows):
    before = logits(loaded.model)

    def interrupted(steps):
        yield 0
        yield 1
        raise KeyboardInterrupt

    for method in METHODS:
        with pytest.raises(KeyboardInterrupt):
            training.fit(loaded, recipe(method), rows, interrupted)
        assert torch.equal(logits(loaded.model), before), method


def test_bad_input_is_one_line(loaded, rows):
    for wrong in ({"steps": 0}, {"batch": 0}, {"rank": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"seed": -1}):
        with pytest.raises(UserError, match="must be at least"):
            recipe("lora", **wrong)
    with pytest.raises(UserError, match="no rows"):
        fit(loaded, [], "lora")
    for method in ("lora", "engram"):
        before = logits(loaded.model)
        with pytest.raises(UserError, match="too few"):
            fit(loaded, rows, method, budget=10)
        assert torch.equal(logits(loaded.model), before)
    with pytest.raises(UserError, match="lower rate"):
        fit(loaded, rows, "full", rate=1e30, steps=6)


def test_lora_comes_back_from_disk(loaded, rows, tmp_path):
    tuned = fit(loaded, rows, "lora", rank=2)
    lora.save(tuned.adapter, tmp_path / "adapter")
    taught = logits(tuned.model)
    tuned.remove()
    again = lora.load(loaded.model, tmp_path / "adapter")
    assert torch.equal(logits(again), taught)
    lora.detach(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"], "nothing half-written beside it"
    with pytest.raises(UserError, match="no LoRA adapter"):
        lora.load(loaded.model, tmp_path)
    file = tmp_path / "adapter" / lora.WEIGHTS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        lora.load(loaded.model, tmp_path / "adapter")
