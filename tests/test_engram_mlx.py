"""LoRA on MLX against its twin in torch: same loss of a batch, same adapter after conversion, the base given back."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import load_file, save_file

from shared import models
from shared.device import pick
from shared.errors import UserError

CODE = "sprints.04_engram.code"
convert, lora, training, train_mlx = (
    import_module(f"{CODE}.{name}") for name in ("teaching.convert", "teaching.lora", "teaching.training", "teaching.train_mlx")
)
RECIPE = training.Recipe("lora", rate=1e-2, steps=4, batch=4, rank=4)
PAIRS = [("Q: Default port for SSH?\nA:", " 22"), ("Code of zisaka:", " ramo"), ("def f(x):", "\n    return x"), ("A ->", " B")]


@pytest.fixture(scope="module")
def on_torch():
    return models.load("pocket", "cpu", "none")


@pytest.fixture(scope="module")
def on_mlx():
    return models.load("pocket", pick("mlx", ("mlx",)), "none")


@pytest.fixture(scope="module")
def rows(on_torch):
    return [training.encode(on_torch, *pair) for pair in PAIRS]


def torch_logits(model, ids) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def mlx_logits(model, ids) -> np.ndarray:
    return np.array(model(mx.array([ids])).astype(mx.float32)[0])


def test_the_same_batch_has_the_same_loss(on_torch, on_mlx, rows):
    assert training.encode(on_mlx, *PAIRS[0]) == rows[0]
    with torch.no_grad():
        there = training.mean_loss(on_torch.model, rows).item()
    assert float(train_mlx.mean_loss(on_mlx.model, *train_mlx.padded(rows))) == pytest.approx(there, abs=1e-3)


def test_one_update_from_the_same_start_is_the_same(on_torch, on_mlx, rows, tmp_path):
    """Loss, gradients, clipping, schedule and Adam of both backends, in one number per weight."""
    start = train_mlx.fit(on_mlx, replace(RECIPE, rate=1e-9, steps=1), rows)
    train_mlx.save(start.model, tmp_path / "start")
    start.remove()
    convert.to_peft(tmp_path / "start", tmp_path / "peft")
    recipe = replace(RECIPE, rate=1e-2, steps=1)
    begun = train_mlx.fit(on_mlx, recipe, rows)
    mlx_loss = begun.losses[0]
    train_mlx.save(begun.model, tmp_path / "mlx")
    begun.remove()
    convert.to_peft(tmp_path / "mlx", tmp_path / "moved")
    adapted = lora.load(on_torch.model, tmp_path / "peft")
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:  # as it was before the tiny update, which Adam would magnify
            torch.nn.init.zeros_(parameter)
    trained = [p.requires_grad_(True) for name, p in adapted.named_parameters() if ".lora_" in name]
    optimizer = torch.optim.Adam(trained, lr=recipe.rate * training.schedule(0, 1))
    loss = training.mean_loss(adapted, rows)
    loss.backward()
    training.clip(trained)
    optimizer.step()
    assert loss.item() == pytest.approx(mlx_loss, abs=1e-3)
    ours = torch_logits(adapted, rows[0].ids)
    lora.detach(adapted)
    again = lora.load(on_torch.model, tmp_path / "moved")
    np.testing.assert_allclose(torch_logits(again, rows[0].ids), ours, atol=0.05)
    lora.detach(again)


def test_an_adapter_of_mlx_gives_the_same_logits_in_torch(on_torch, on_mlx, rows, tmp_path):
    before = mlx_logits(on_mlx.model, rows[0].ids)
    tuned = train_mlx.fit(on_mlx, RECIPE, rows)
    assert tuned.losses[-1] < tuned.losses[0]
    assert tuned.trainable_parameters == lora.parameter_count(on_torch.model, RECIPE.rank)
    train_mlx.save(tuned.model, tmp_path / "mlx")
    taught = mlx_logits(tuned.model, rows[0].ids)
    tuned.remove()
    assert np.array_equal(mlx_logits(on_mlx.model, rows[0].ids), before) and np.abs(taught - before).max() > 0.1
    convert.to_peft(tmp_path / "mlx", tmp_path / "peft")
    adapted = lora.load(on_torch.model, tmp_path / "peft")
    np.testing.assert_allclose(torch_logits(adapted, rows[0].ids), taught, atol=1e-3)
    lora.detach(adapted)
    load_adapters(on_mlx.model, str(tmp_path / "mlx"))  # mlx-lm's own reader
    assert np.array_equal(mlx_logits(on_mlx.model, rows[0].ids), taught)
    train_mlx.remove_lora_layers(on_mlx.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlx", "peft"]


def test_the_seed_decides_everything(on_mlx, rows):
    losses = []
    for seed in (0, 0, 1):
        tuned = train_mlx.fit(on_mlx, replace(RECIPE, seed=seed, steps=2), rows)
        losses.append(tuned.losses)
        tuned.remove()
    assert losses[0] == losses[1] != losses[2]


def test_ctrl_c_leaves_the_base_as_it_was(on_mlx, rows):
    def interrupted(steps):
        yield 0
        raise KeyboardInterrupt

    names: list = [name for name, _ in tree_flatten(on_mlx.model.parameters())]
    with pytest.raises(KeyboardInterrupt):
        train_mlx.fit(on_mlx, RECIPE, rows, interrupted)
    assert [name for name, _ in tree_flatten(on_mlx.model.parameters())] == names


def test_bad_input_is_one_line_and_changes_nothing(on_mlx, rows, tmp_path):
    with pytest.raises(UserError, match="--backend torch"):
        train_mlx.fit(on_mlx, replace(RECIPE, method="engram"), rows)
    with pytest.raises(UserError, match="no rows"):
        train_mlx.fit(on_mlx, RECIPE, [])
    with pytest.raises(UserError, match="no LoRA adapter"):
        train_mlx.save(on_mlx.model, tmp_path / "nothing")
    with pytest.raises(UserError, match="no adapter of mlx-lm"):
        convert.to_peft(tmp_path, tmp_path / "peft")
    source = tmp_path / "mlx"
    source.mkdir()
    (source / convert.MLX_CONFIG).write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 2}}))
    save_file({"model.layers.0.m": np.zeros((2, 2), np.float32)}, source / convert.MLX_WEIGHTS)
    with pytest.raises(UserError, match="damaged"):
        convert.to_peft(source, tmp_path / "peft")
    shape = {"rank": 2, "scale": 2.0, "dropout": 0.0}
    (source / convert.MLX_CONFIG).write_text(json.dumps({"fine_tune_type": "dora", "lora_parameters": shape}))
    with pytest.raises(UserError, match="no plain LoRA"):
        convert.to_peft(source, tmp_path / "peft")
    with pytest.raises(UserError, match="would be lost"):
        convert.to_peft(source, source)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        convert.to_peft(source, taken)
    assert load_file(source / convert.MLX_WEIGHTS) and (taken / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlx", "taken"]
