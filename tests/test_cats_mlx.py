"""Sprint 01 with MLX: what it tunes, on which loss, and when it stops; on tiny models with the module names of Phi-3 and Llama."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM, get_cosine_schedule_with_warmup

from shared import models
from shared.errors import UserError
from tests.test_shared_models import CPU, MLX, build

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRALinear

CODE = "sprints.01_paws_of_dread.code"
recipe, tune_mlx = (import_module(f"{CODE}.{name}") for name in ("recipe", "tune_mlx"))
Encoded = import_module(f"{CODE}.snippets").Encoded

PHI3: Any = {"kind": (Phi3ForCausalLM, Phi3Config), "attention_dropout": 0.0}
LINEAR = {
    "phi3": {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"},
    "llama": {f"self_attn.{side}_proj" for side in "qkvo"} | {f"mlp.{side}_proj" for side in ("gate", "up", "down")},
}
RECIPE = recipe.Recipe(rank=4, alpha=12, dropout=0.0, learning_rate=0.02, epochs=2, batch=4)
every_base = pytest.mark.parametrize("kind", ["phi3", "llama"])
every_precision = pytest.mark.parametrize("bits", ["none", "mlx4"])


def rows(count: int, seed: int = 0) -> list:
    """Rows of unequal length; token 0, with which batches are padded, stands in their completions too."""
    rng = np.random.default_rng(seed)
    return [Encoded([*rng.integers(6, 250, length).tolist(), 0], int(length) // 2) for length in rng.integers(6, 40, count)]


TRAIN, VALIDATION = rows(6), rows(5, seed=1)


def both_bases(folder: Path) -> dict[str, Path]:
    return {"phi3": build(folder / "phi3", **PHI3), "llama": build(folder / "llama")}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    return both_bases(tmp_path_factory.mktemp("bases"))


def load(folder: Path, bits: Any = "none", dtype: str = "float32") -> models.LoadedModel:
    return models.load(str(folder), replace(MLX, dtype=dtype), bits)


def logits(model: Any) -> np.ndarray:
    """Of all rows; one by one, so that no row is padded."""
    return np.concatenate([np.asarray(model(mx.array([row.ids]))[0].astype(mx.float32)) for row in TRAIN])


def torch_loss(model: Any, encoded: list, completion_only: bool = True) -> torch.Tensor:
    """As trl counts it: labels of -100 before the completion; each row alone, so that there is no padding."""
    total, count = torch.zeros(()), 0
    for row in encoded:
        labels = torch.tensor([[-100] * row.start + row.ids[row.start :] if completion_only else row.ids])
        tokens = int((labels[:, 1:] != -100).sum())
        total = total + model(torch.tensor([row.ids]), labels=labels).loss * tokens
        count += tokens
    return total / count


def twin(folder: Path, model: Any) -> Any:
    """A torch model of the weights that an MLX model computes with, out of their 4 bit where they are in it."""
    state = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
            state[f"{path}.weight"] = torch.from_numpy(np.array(weight))
    made = models.load(str(folder), CPU).model
    assert not made.load_state_dict(state, strict=False).unexpected_keys
    return made


def flat(weights: Any) -> dict[str, Any]:
    return dict(tree_flatten(weights))


def adapted(model: Any) -> dict[str, Any]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def tuned(folder: Path, bits: str = "none", train: list = TRAIN, validation: list = VALIDATION, **changes: Any) -> Any:
    return tune_mlx.tune(load(folder, bits), replace(RECIPE, **changes), train, validation)


def line(call: Callable) -> str:
    """The message of the UserError that a call ends with."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is tuned ---------------------------------------------------------------------------------------------------------------


@every_precision
@every_base
def test_every_linear_layer_but_the_head_is_tuned_and_nothing_else(bases, kind, bits):
    loaded = load(bases[kind], bits)
    before = flat(loaded.model.parameters())
    linear = {path: layer.weight.shape[0] for path, layer in tune_mlx.linears(loaded.model).items()}
    assert set(linear) == {f"model.layers.{number}.{name}" for number in (0, 1) for name in LINEAR[kind]}
    made = tune_mlx.tune(loaded, replace(RECIPE, epochs=1), TRAIN, VALIDATION)
    layers = adapted(loaded.model)
    kinds = {type(layer.linear) for layer in layers.values()}
    assert set(layers) == set(linear) and kinds == {nn.QuantizedLinear if bits == "mlx4" else nn.Linear}
    assert all(abs(layer.lora_b).max() > 0 and layer.scale == 3 for layer in layers.values())
    assert made.course.trainable == sum(layer.lora_a.size + layer.lora_b.size for layer in layers.values())
    after = {path.replace(".linear.", "."): weight for path, weight in flat(loaded.model.parameters()).items()}
    assert all(mx.array_equal(after[path], weight) for path, weight in before.items())
    assert set(after) - set(before) == {f"{path}.lora_{side}" for path in linear for side in "ab"}
    assert not loaded.model.training


@pytest.mark.parametrize(("kind", "reached"), [("phi3", {"self_attn.o_proj", "mlp.down_proj"}), ("llama", LINEAR["llama"])])
def test_the_original_targets_reach_only_half_of_phi3(bases, kind, reached, monkeypatch):
    made = tuned(bases[kind], epochs=1, targets="original")
    assert {path.split(".", 3)[3] for path in adapted(made.loaded.model)} == reached
    monkeypatch.setattr(tune_mlx, "ORIGINAL_TARGETS", ("c_attn",))
    message = line(lambda: tuned(bases[kind], targets="original"))
    assert message.startswith("this model has no linear layer of the wanted names; it has down_proj, ")


def test_full_tunes_every_weight_in_float32_and_no_4_bit(bases):
    loaded = load(bases["llama"], dtype="bfloat16")
    before = flat(loaded.model.parameters())
    made = tune_mlx.tune(loaded, replace(RECIPE, method="full", epochs=1), TRAIN, VALIDATION)
    after = flat(loaded.model.parameters())
    assert {weight.dtype for weight in after.values()} == {mx.float32}
    assert made.course.trainable == sum(weight.size for weight in after.values())
    assert not any(mx.array_equal(after[path], weight) for path, weight in before.items())
    assert "--method full cannot tune a model in 4 bit" in line(lambda: tuned(bases["llama"], "mlx4", method="full"))
    assert "has no adapter that could be saved" in line(lambda: tune_mlx.save_adapter(loaded.model, bases["llama"]))


def test_an_adapter_is_float32_on_a_bfloat16_base(bases):
    loaded = load(bases["phi3"], dtype="bfloat16")
    short = [Encoded([7, 8, 9], 1)]  # bfloat16 is slow on CPUs
    tune_mlx.tune(loaded, replace(RECIPE, epochs=1), short, short)
    kinds = {weight.dtype for weight in flat(loaded.model.trainable_parameters()).values()}
    assert kinds == {mx.float32} and loaded.model.model.norm.weight.dtype == mx.bfloat16


# -- the loss and the steps ------------------------------------------------------------------------------------------------------


@every_precision
@every_base
def test_the_loss_is_torchs_and_counts_no_padding(bases, kind, bits):
    model = load(bases[kind], bits).model
    on_torch = twin(bases[kind], model)
    for completion_only in (True, False):
        loss = tune_mlx.mean_loss(model, *tune_mlx.padded(TRAIN, completion_only)).item()
        assert loss == pytest.approx(torch_loss(on_torch, TRAIN, completion_only).item(), abs=1e-4)
    counted = sum(tune_mlx.padded(TRAIN, True)[1].sum(1).tolist())
    assert counted == sum(len(row.ids) - row.start for row in TRAIN)
    assert tune_mlx.evaluate(model, TRAIN, 4) == pytest.approx(torch_loss(on_torch, TRAIN).item(), abs=1e-4)


def test_a_run_is_that_of_torch_step_by_step(bases):
    """AdamW, its schedule and its clipping against torch's, all weights from the same start; the batches hold every row."""
    count, peak = 6, 1e-3
    made = tuned(bases["llama"], method="full", epochs=count, batch=len(TRAIN), learning_rate=peak, patience=count)
    model = models.load(str(bases["llama"]), CPU).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.03 * count), count)
    for step, entry in enumerate(made.course.history, 1):
        loss = torch_loss(model, TRAIN)
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1.5  # else the clipping would not be seen
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            seen = {"epoch": step, "step": step, "train_loss": loss.item(), "validation_loss": torch_loss(model, VALIDATION).item()}
        assert entry == pytest.approx(seen, abs=2e-3)
    assert made.course.history[-1]["train_loss"] < made.course.history[0]["train_loss"] - 0.1


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_learning_rate_is_that_of_transformers(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.03 * steps), steps)
    for step in range(steps):
        assert tune_mlx.rate(step, steps, 0.5) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_batches_hold_every_row_once_beside_rows_of_its_length():
    many = rows(50)
    first, second, other = (list(tune_mlx.batches(many, 8, np.random.default_rng(seed))) for seed in (0, 0, 1))
    assert first == second != other and sorted(map(len, first)) == [2, *[8] * 6]
    assert sorted(row.ids for batch in first for row in batch) == sorted(row.ids for row in many)
    waste = [sum(max(len(r.ids) for r in batch) - len(row.ids) for batch in groups for row in batch) for groups in (first, [many])]
    assert waste[0] < 0.5 * waste[1]
    lengths = [max(len(row.ids) for row in batch) for batch in first]
    assert lengths != sorted(lengths)
    rng = np.random.default_rng(0)
    epochs = [{frozenset(map(id, batch)) for batch in tune_mlx.batches(many, 8, rng)} for _ in range(2)]
    assert epochs[0] != epochs[1]  # other neighbours too, not only another order


# -- a run -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "method"), [("mlx4", "qlora"), ("none", "lora")])
def test_training_lowers_the_loss_and_a_seed_gives_the_same_run_again(bases, bits, method):
    runs = [tuned(bases["phi3"], bits, method=method, epochs=4, patience=9, dropout=0.1, seed=seed) for seed in (0, 0, 1)]
    history = runs[0].course.history
    assert history == runs[1].course.history != runs[2].course.history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert [(entry["epoch"], entry["step"]) for entry in history] == [(1, 2), (2, 4), (3, 6), (4, 8)]
    assert runs[0].course.tokens == 4 * sum(len(row.ids) for row in TRAIN) and runs[0].course.seconds > 0
    assert json.loads(json.dumps(history)) == history


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_stops_when_patience_ends_and_the_best_epoch_stays(bases, method):
    """Rows of random tokens: whoever learns some of them grows worse at the others."""
    rate = {"lora": 0.05, "full": 0.02}[method]
    made = tuned(bases["phi3"], method=method, epochs=30, patience=2, learning_rate=rate)
    losses = [entry["validation_loss"] for entry in made.course.history]
    assert len(losses) == losses.index(min(losses)) + 3 < 30 and losses[-1] > min(losses) + 0.05
    assert tune_mlx.evaluate(made.loaded.model, VALIDATION, 4) == pytest.approx(made.course.best["validation_loss"], abs=1e-5)


def test_dropout_is_on_in_training_and_off_in_validation(bases, monkeypatch):
    seen, nats = [], tune_mlx.nats

    def watched(model: Any, *batch: Any) -> Any:
        seen.append({layer.dropout.training for layer in adapted(model).values()})
        return nats(model, *batch)

    monkeypatch.setattr(tune_mlx, "nats", watched)
    tuned(bases["phi3"], dropout=0.1)  # two batches of each side, two epochs
    assert seen == [{True}, {True}, {False}, {False}] * 2


def test_a_loss_that_is_no_number_is_one_line(bases):
    assert "lower --learning-rate" in line(lambda: tuned(bases["phi3"], learning_rate=1e38, epochs=3))
