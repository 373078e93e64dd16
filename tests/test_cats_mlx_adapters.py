"""Sprint 01: adapters that MLX and PEFT read alike, and those that MLX refuses; on the tiny models of test_cats_mlx.py."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from shared import models
from shared.errors import UserError
from tests.test_shared_models import CPU, build

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
from tests.test_cats_mlx import (
    LINEAR,
    PHI3,
    TRAIN,
    adapted,
    both_bases,
    every_base,
    every_precision,
    load,
    logits,
    tuned,
    twin,
)

adapter, tune_mlx = (import_module(f"sprints.01_paws_of_dread.code.{name}") for name in ("adapter", "tune_mlx"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    return both_bases(tmp_path_factory.mktemp("bases"))


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model.eval()(torch.tensor([row.ids])).logits[0].numpy() for row in TRAIN])


@every_precision
@every_base
def test_an_adapter_is_the_same_on_mlx_and_in_peft(bases, tmp_path, kind, bits):
    made = tuned(bases[kind], bits, dropout=0.05)
    adapter.save(made.loaded, tmp_path / "first")
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 12 and config["lora_dropout"] == 0.05
    assert config["target_modules"] == sorted(name.split(".")[1] for name in LINEAR[kind])
    fresh = load(bases[kind], bits)
    on_torch, plain = twin(bases[kind], fresh.model), logits(fresh.model)
    again = adapter.load(fresh, tmp_path / "first")
    np.testing.assert_array_equal(logits(again.model), logits(made.loaded.model))
    assert abs(logits(again.model) - plain).max() > 1
    peft = PeftModel.from_pretrained(on_torch, str(tmp_path / "first"))
    np.testing.assert_allclose(torch_logits(peft), logits(again.model), atol=2e-4)
    adapter.save(again, tmp_path / "second")
    for file in ("adapter_model.safetensors", "adapter_config.json", "base.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.fixture(scope="module")
def foreign(bases, tmp_path_factory) -> Callable:
    """Makes an adapter with PEFT, for a base or a variant of it."""

    def make(kind: str, more: dict | None = None, **options: Any) -> tuple[Path, Any]:
        base = build(tmp_path_factory.mktemp("base"), **(PHI3 if kind == "phi3" else {}), **(more or {}))
        lora = LoraConfig(
            **{"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "init_lora_weights": False, "lora_dropout": 0.5} | options
        )
        torch.manual_seed(0)
        model = get_peft_model(models.load(str(base), CPU).model, lora)
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        return folder, model

    return make


@every_base
def test_an_adapter_of_peft_on_mlx(bases, foreign, tmp_path, kind):
    folder, model = foreign(kind, lora_alpha=7.5)
    loaded = load(bases[kind])
    plain = logits(loaded.model)
    adapter.load(loaded, folder)
    np.testing.assert_allclose(logits(loaded.model), torch_logits(model), atol=5e-4)
    assert abs(logits(loaded.model) - plain).max() > 0.1
    tune_mlx.save_adapter(loaded.model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 7.5


OTHERS: Any = [
    (
        "other shapes",
        "phi3",
        {"more": {"intermediate_size": 64}},
        r"mlp\.down_proj\.lora_A is \(3, 64\), here it is \(3, 128\)",
    ),
    ("other names", "llama", {}, r"mlp\.gate_proj\.lora_A is \(3, 64\), here it is absent"),
    (
        "fewer layers",
        "phi3",
        {"more": {"num_hidden_layers": 1}},
        r"layers\.1\.mlp\.down_proj\.lora_A is absent, here it is \(3, 128",
    ),
    (
        "more layers",
        "phi3",
        {"more": {"num_hidden_layers": 3}},
        r"layers\.2\.mlp\.down_proj\.lora_A is \(3, 128\), here it is absent",
    ),
    ("other ranks", "phi3", {"rank_pattern": {"o_proj": 2}}, "uses rank_pattern: only plain LoRA"),
    ("DoRA", "phi3", {"use_dora": True}, "uses use_dora: only plain LoRA"),
    ("head", "phi3", {"modules_to_save": ["lm_head"]}, "uses modules_to_save: only plain LoRA"),
]


@pytest.mark.parametrize(("kind", "options", "message"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_a_foreign_adapter_is_refused_and_the_model_stays(bases, foreign, kind, options, message):
    folder, _ = foreign(kind, **options)
    loaded = load(bases["phi3"], "mlx4")
    with pytest.raises(UserError, match=rf"^the adapter in {folder} .*{message}"):
        adapter.load(loaded, folder)
    assert not adapted(loaded.model)
