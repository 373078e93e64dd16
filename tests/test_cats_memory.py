"""What fine-tuning holds in memory: the formula against real tensors, at pocket size and at Phi-3's full width."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Phi3Config

from shared import models, runlog

memory = import_module("sprints.01_paws_of_dread.code.memory")

TINY: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 4, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
TINY |= {"max_position_embeddings": 64, "original_max_position_embeddings": 64}
TOLERANCE = {"weights": 1e-3, "gradients": 1e-3, "optimizer": 1e-3, "activations": 1e-3, "recomputed": 0.01}


def agree(config: Any, got: Any, rows: int, length: int, rank: int) -> None:
    computed = next(one for one in memory.table(config, rows, length, rank) if one.method == got.method)
    assert computed.trainable == got.trainable
    for part, tolerance in TOLERANCE.items():
        assert getattr(computed, part) == pytest.approx(getattr(got, part), rel=tolerance), part


def test_phi3_mini_has_its_published_size():
    config = memory.phi3_mini_config()
    model = memory.skeleton(config)
    assert sum(one.numel() for one in model.parameters()) == 3_821_079_552
    assert {one.device.type for one in model.parameters()} == {"meta"}
    full, lora, qlora = memory.table(config, 8, 256, 16)
    assert full.weights + full.gradients + full.optimizer == 16 * 3_821_079_552
    assert lora.trainable == qlora.trainable == 16 * 32 * (3072 + 9216 + 3072 + 3072 + 3072 + 16384 + 8192 + 3072)
    assert lora.weights == 2 * 3_821_079_552 + 4 * lora.trainable and lora.activations == qlora.activations
    assert 8 * memory.nf4(2**24) / 2**24 == pytest.approx(4.127, abs=1e-3)  # Dettmers et al. 2023: 0.127 bits for the constants
    assert qlora.total(checkpointing=True) < qlora.total() < lora.total() < full.total(checkpointing=True) < full.total()


@pytest.mark.parametrize("method", memory.METHODS)
def test_computed_is_what_the_pocket_model_holds(method):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    base = models.load("pocket", "cpu", "nf4" if method == "qlora" else "none").model
    model = memory.prepared(base.bfloat16() if method == "lora" else base, method, rank=8)
    agree(base.config, memory.measured(model, method, rows=2, length=48), rows=2, length=48, rank=8)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_computed_is_what_phi3_holds_at_full_width(method):
    """Two layers of fake tensors: every operation of the real model, none of its bytes."""
    config = memory.phi3_mini_config()
    config.num_hidden_layers = 2
    dtype = torch.float32 if method == "full" else torch.bfloat16
    model = memory.prepared(memory.skeleton(config, dtype), method, rank=16)
    with FakeTensorMode():  # meta tensors know no autocast, fake ones on the CPU do
        for module in model.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(one.shape, dtype=one.dtype), one.requires_grad)
            for name, one in module._buffers.items():
                module._buffers[name] = None if one is None else torch.empty(one.shape, dtype=one.dtype)
        got = memory.measured(model, method, rows=8, length=256)
    agree(config, got, rows=8, length=256, rank=16)


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "trl"])
def test_peak_of_a_random_4_bit_model(ours):
    pytest.importorskip("bitsandbytes")
    peak, speed = memory.cuda_peak(Phi3Config(**TINY), "qlora", "cpu", ours=ours, rows=2, length=16, steps=2)
    assert peak > 0.1 and speed > 0


def test_random_models_are_as_large_as_computed():
    pytest.importorskip("bitsandbytes")
    config = Phi3Config(**TINY)
    for four_bit, entry in zip((False, True), memory.table(config, 1, 16, 4)[1:], strict=True):
        model = memory.random_model(config, "cpu", four_bit)
        assert sum(one.nbytes for one in memory.stored(model)) == entry.weights - 4 * entry.trainable
        assert torch.isfinite(model(torch.ones(1, 4, dtype=torch.long)).logits).all()


@pytest.fixture
def stubbed(monkeypatch):
    """A run on CUDA that keeps what it is told, and `memory` without the work."""
    entry = memory.table(Phi3Config(**TINY), 8, 256, 16)[0]
    monkeypatch.setattr(memory, "measured", lambda *_: entry)
    monkeypatch.setattr(memory, "prepared", lambda *_: None)
    loaded = SimpleNamespace(model=SimpleNamespace(config=Phi3Config(**TINY), bfloat16=lambda: None))
    monkeypatch.setattr(memory.models, "load", lambda *_: loaded)
    run = SimpleNamespace(device=SimpleNamespace(kind="cuda"), kept={}, said=[])
    run.metric = lambda key, value, **_: run.kept.update({key: value})
    run.observe = run.said.append
    return run


def test_record(stubbed):
    stubbed.device.kind = "cpu"
    entries = memory.record(stubbed)
    kept = stubbed.kept
    assert kept["memory_phi3_full_gib"] > 56.9 and kept["memory_phi3_qlora_weights_gib"] < 2.3 and not stubbed.said
    assert {f"memory_pocket_{method}_error" for method in memory.METHODS} < set(kept)
    with runlog.style() as plt:
        bars = memory.figure(plt, entries, "").axes[0].patches
        assert len(bars) == 24 and sum(bar.get_width() for bar in bars[::6]) == pytest.approx(kept["memory_phi3_full_gib"])
        plt.close("all")


def test_too_little_memory_is_a_cell_of_the_report(stubbed, monkeypatch):
    def peak(_, method, *, ours, **sizes):
        assert sizes == {"rows": 8, "length": 256}
        if method == "lora" and not ours:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7 GiB")
        return 5.0, 100.0

    monkeypatch.setattr(memory, "cuda_peak", peak)
    memory.record(stubbed)
    assert {key for key in stubbed.kept if key.startswith("peak_")} == {
        f"peak_phi3_{arm}_gib" for arm in ("lora_ours", "qlora_ours", "qlora_trl")
    }
    assert stubbed.said == ["OOM: phi3_lora_trl, 8 rows of 256 tokens: CUDA out of memory. Tried to allocate 2.00 GiB."]
