"""Sprint 01: adapters of torch models on disk, and files that are foreign, damaged or never to be loaded."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from shared import models
from shared.errors import UserError
from tests.test_shared_models import CPU, build, needs_nf4

adapter = import_module("sprints.01_paws_of_dread.code.adapter")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
IDS = torch.arange(6, 46)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("base"))


def load(base: Path, bits: Any = "none") -> models.LoadedModel:
    return models.load(str(base), CPU, bits)


def adapted(base: Path, bits: str = "none", **options: Any) -> models.LoadedModel:
    """A model with an adapter of random numbers in place."""
    loaded = load(base, bits)
    torch.manual_seed(0)
    lora = LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", init_lora_weights=False, **options)
    loaded.model = get_peft_model(loaded.model, lora).eval()
    return loaded


def logits(loaded: models.LoadedModel) -> np.ndarray:
    assert not loaded.model.training
    with torch.no_grad():
        return loaded.model(IDS).logits.float().numpy()


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    adapter.save(adapted(base), folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """An adapter to change."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def line(base: Path, folder: Path, start: str) -> str:
    """The rest of the one line that loading an adapter ends with."""
    loaded = load(base)
    before = loaded.model
    with pytest.raises(UserError) as caught:
        adapter.load(loaded, folder)
    message = str(caught.value)
    assert message.startswith(start) and "\n" not in message and len(message) < 500
    assert loaded.model is before and not any(".lora_" in name for name, _ in before.named_modules())
    return message.removeprefix(start)


@pytest.mark.parametrize("bits", ["none", pytest.param("nf4", marks=needs_nf4)])
def test_a_saved_adapter_comes_back_as_it_was(base, tmp_path, bits):
    made = adapted(base, bits, lora_dropout=0.5)
    adapter.save(made, tmp_path / "adapter")
    assert {path.name for path in tmp_path.rglob("*")} == {"adapter", WEIGHTS, CONFIG, "base.json"}
    plain = logits(load(base, bits))
    again = adapter.load(load(base, bits), tmp_path / "adapter")
    np.testing.assert_array_equal(logits(again), logits(made))
    assert abs(logits(again) - plain).max() > 0.1
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(base) and config["r"] == 3


def test_a_new_adapter_takes_the_place_of_the_old_one_as_a_whole(base, copy):
    (copy / "stale.json").write_text("{}")
    part = copy.with_name(f".{copy.name}.part")  # of a save that was killed
    part.mkdir()
    (part / "torn.json").write_text("{")
    before = (copy / WEIGHTS).read_bytes()
    made = adapted(base)
    made.model.base_model.model.model.layers[0].mlp.up_proj.lora_B["default"].weight.data.zero_()
    adapter.save(made, copy)
    assert {path.name for path in copy.iterdir()} == {WEIGHTS, CONFIG, "base.json"} and not part.exists()
    assert (copy / WEIGHTS).read_bytes() != before
    np.testing.assert_array_equal(logits(adapter.load(load(base), copy)), logits(made))


def test_a_save_that_fails_leaves_the_old_adapter(base, copy, monkeypatch):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(adapter, "identity", lambda loaded: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapter.save(adapted(base), copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_no_adapter(base, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        rest = line(base, folder, f"there is no adapter in {folder}: run `make cats-train`, ")
        assert rest == f"or give --adapter a folder that has {WEIGHTS}"


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter.pt", "adapter.pkl"])
def test_a_pickle_is_never_loaded(base, copy, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (copy / WEIGHTS).unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb()))
    rest = line(base, copy, f"{copy} holds {name}: ")
    assert rest == "a pickle can run code, it is never loaded; convert it to safetensors" and not Path("exploded").exists()


def test_an_adapter_of_other_weights_or_of_another_base(base, copy, tmp_path):
    other = build(tmp_path / "other", initializer_range=0.1)
    start = f"the adapter in {copy} belongs to {base}, not to "
    assert line(other, copy, start) == f"{other}: load its base, or train it again"
    folder = Path(shutil.copytree(base, tmp_path / "same"))
    adapter.save(adapted(folder), copy)
    shutil.copy(other / "model.safetensors", folder)  # trained anew, in the same place
    start = f"the adapter in {copy} belongs to {folder}, not to "
    assert line(folder, copy, start) == "other weights of that name: load its base, or train it again"
    assert line(base, copy, start) == f"{base}: load its base, or train it again"


def test_a_hub_model_is_known_by_its_commit(base):
    loaded = load(base)
    loaded.name, loaded.revision = "org/name", "0123abc"
    assert adapter.identity(loaded) == {"base": "org/name", "revision": "0123abc"}


DAMAGE: Any = [
    ("truncated", WEIGHTS, lambda old: old[: len(old) // 2]),
    ("torn header", WEIGHTS, lambda old: old[:20]),
    ("no bytes", WEIGHTS, lambda old: b""),
    ("no safetensors", WEIGHTS, lambda old: pickle.dumps(Bomb())),
    ("torn config", CONFIG, lambda old: old[:30]),
    ("config without rank", CONFIG, lambda old: b"{}"),
    ("config that is a list", CONFIG, lambda old: b"[]"),
    ("config of another method", CONFIG, lambda old: old.replace(b'"LORA"', b'"IA3"')),
    ("config with no number for a rank", CONFIG, lambda old: old.replace(b'"r": 3', b'"r": null')),
    ("config with no number for a dropout", CONFIG, lambda old: re.sub(rb'"lora_dropout": [\d.]+', b'"lora_dropout": "abc"', old)),
    ("torn base", "base.json", lambda old: old[:9]),
    ("base that says nothing", "base.json", lambda old: b"{}"),
    ("config in another encoding", CONFIG, lambda old: b"\xff" + old),
    ("no config", CONFIG, lambda old: None),
]


@pytest.mark.parametrize(("name", "change"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_adapter_is_one_line(base, copy, name, change: Callable):
    new = change((copy / name).read_bytes())
    (copy / name).unlink() if new is None else (copy / name).write_bytes(new)
    assert line(base, copy, f"the adapter in {copy} is damaged (").endswith("): train it again")


SHAPES: Any = [
    ("wider", {"intermediate_size": 192}, r"model.layers.0.mlp.down_proj.lora_A is (3, 128), here it is (3, 192)"),
    ("fewer heads", {"num_key_value_heads": 1}, r"model.layers.0.self_attn.k_proj.lora_B is (32, 3), here it is (16, 3)"),
    ("fewer layers", {"num_hidden_layers": 1}, r"model.layers.1.mlp.down_proj.lora_A is (3, 128), here it is absent"),
]


@pytest.mark.parametrize(("sizes", "message"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_an_adapter_of_other_shapes(copy, tmp_path, sizes, message):
    (copy / "base.json").unlink()  # as of an adapter from elsewhere
    other = build(tmp_path / "other", **sizes)
    assert line(other, copy, f"the adapter in {copy} fits another base: its ") == message


def test_an_adapter_that_lacks_a_tensor_or_has_one_too_many(base, copy):
    weights = load_file(copy / WEIGHTS)
    lost = next(key for key in weights if "lora_B" in key)
    save_file({key: tensor for key, tensor in weights.items() if key != lost}, copy / WEIGHTS)
    name = lost.removeprefix("base_model.model.").removesuffix(".weight")
    start = f"the adapter in {copy} fits another base: its "
    assert line(base, copy, start).startswith(f"{name} is absent, here it is (")
    save_file(weights | {"base_model.model.lm_head.weight": torch.ones(2, 2)}, copy / WEIGHTS)
    assert line(base, copy, start) == "lm_head is (2, 2), here it is absent"
    save_file({}, copy / WEIGHTS)
    assert line(base, copy, f"the adapter in {copy} is damaged (").startswith("it is empty")


def test_an_adapter_from_elsewhere_that_fits_is_welcome(base, copy):
    (copy / "base.json").unlink()
    np.testing.assert_array_equal(logits(adapter.load(load(base), copy)), logits(adapted(base)))
