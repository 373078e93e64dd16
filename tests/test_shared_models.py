"""Loading tiny models on torch and MLX, what is filled into their tokenizers, and folders that are not as they should be."""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from shared import models
from shared.device import Device
from shared.errors import UserError

CPU, MLX = Device("cpu", "float32", "tests"), Device("mlx", "float32", "tests")
needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
needs_nf4 = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
both = pytest.mark.parametrize("device", [CPU, pytest.param(MLX, marks=needs_mlx)], ids=lambda device: device.kind)

SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SIZES |= {"max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
THETA = {"rope_type": "default", "rope_theta": 5e5}  # not the default: both backends must read it
LLAMA3 = THETA | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SIZES["rope_parameters"] = THETA
HELLO = [{"role": "user", "content": "the void"}]
ANSWERED = [*HELLO, {"role": "assistant", "content": "meow"}]
LONG = "the cat stares into the void " * 20


def build(folder: Path, special: list[str] = SPECIAL, kind: tuple = (LlamaForCausalLM, LlamaConfig), **more: Any) -> Path:
    """A random two-layer model with a byte-level BPE tokenizer, saved by transformers."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([LONG], vocab_size=290, special_tokens=special, show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=special[0]).save_pretrained(folder)
    torch.manual_seed(0)
    kind[0](kind[1](vocab_size=bpe.get_vocab_size(), **SIZES | more)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """A model to change."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def ids_of(loaded: models.LoadedModel, text: str = LONG) -> list[int]:
    return loaded.tokenizer(text)["input_ids"]


def logits(loaded: models.LoadedModel) -> np.ndarray:
    if loaded.backend == "mlx":
        import mlx.core as mx

        return np.asarray(loaded.model(mx.array([ids_of(loaded)[:40]])).astype(mx.float32))
    with torch.no_grad():
        return loaded.model(torch.tensor([ids_of(loaded)[:40]])).logits.float().numpy()


def likeness(a: models.LoadedModel, b: models.LoadedModel) -> float:
    return np.corrcoef(logits(a).ravel(), logits(b).ravel())[0, 1]


def greedy(loaded: models.LoadedModel, ids: list[int], count: int) -> list[int]:
    """What transformers' own generate gives."""
    return loaded.model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()


def text_of(loaded: models.LoadedModel, ids: list[int]) -> str:
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


# -- loading ---------------------------------------------------------------------------------------------------------------------


def test_a_folder_loads_with_all_that_training_and_chat_need(tiny):
    loaded = models.load(str(tiny), "cpu")
    assert str(loaded) == f"{tiny}: asked for; float32 on cpu; without a chat template of its own, takes that of Phi-3"
    assert (loaded.backend, loaded.name, loaded.revision, loaded.context) == ("torch", str(tiny), None, 64)
    assert loaded.stop_ids == [0, 5] == loaded.model.generation_config.eos_token_id  # <|endoftext|> and <|end|>
    assert loaded.tokenizer.pad_token == "<|pad|>" and loaded.model.generation_config.pad_token_id == 1
    assert loaded.model.dtype == torch.float32 and not loaded.model.training
    np.testing.assert_array_equal(logits(loaded), logits(replace(loaded, model=LlamaForCausalLM.from_pretrained(tiny))))
    half = models.load(str(tiny), Device("cpu", "bfloat16", "tests"))
    assert half.model.dtype == torch.bfloat16 and "bfloat16 on cpu" in half.reason and likeness(loaded, half) > 0.999


@needs_nf4
def test_nf4_at_load_and_as_stored(tiny, tmp_path):
    from bitsandbytes.nn.modules import Linear4bit

    loaded = models.load(str(tiny), CPU, "nf4")
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, Linear4bit)]
    states = [vars(layer.weight)["quant_state"] for layer in layers]
    assert {(state.quant_type, state.nested, layer.compute_dtype) for state, layer in zip(states, layers, strict=True)} == {
        ("nf4", True, torch.bfloat16)
    }
    assert len(layers) == 14 and "nf4 on cpu" in loaded.reason and 0.9 < likeness(loaded, models.load(str(tiny), CPU)) < 0.9999
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = models.load(str(tmp_path), CPU)
    assert "nf4 on cpu" in again.reason and (logits(again) == logits(loaded)).all()
    others: Any = [(CPU, "none"), (MLX, "auto")]
    for device, quantization in others:
        with pytest.raises(
            UserError, match=f"stored as nf4: not possible as {quantization} on {device.kind}.*: use another folder"
        ):
            models.load(str(tmp_path), device, quantization)


@needs_nf4
def test_nf4_gradients_survive_an_evaluation(tiny):
    """On CPUs with AVX512-BF16 bitsandbytes repacks the weights in the first evaluation; then no gradient passes them."""
    model, batch, gradients = models.load(str(tiny), CPU, "nf4").model, torch.tensor([[7, 8, 9, 10]]), []
    for _ in range(2):
        model.train().zero_grad()
        model(batch, labels=batch).loss.backward()
        gradients.append(model.model.embed_tokens.weight.grad.clone())
        with torch.no_grad():
            model.eval()(batch)
    assert gradients[0].abs().sum() > 0 and torch.equal(*gradients)


@needs_mlx
@pytest.mark.parametrize("rope", [THETA, LLAMA3 | {"original_max_position_embeddings": 16}, THETA | {"partial_rotary_factor": 0.5}])
def test_mlx_computes_what_torch_computes(tmp_path, rope):
    phi3: dict[str, Any] = {"kind": (Phi3ForCausalLM, Phi3Config)} if "partial_rotary_factor" in rope else {}
    build(tmp_path, **phi3, rope_parameters=rope)
    on_torch, on_mlx = models.load(str(tmp_path), CPU), models.load(str(tmp_path), MLX)
    np.testing.assert_allclose(logits(on_mlx), logits(on_torch), atol=2e-4)
    same = {"reason": on_torch.reason, "model": None, "tokenizer": None, "device": CPU}
    assert replace(on_mlx, **same) == replace(on_torch, **same)
    assert (on_mlx.backend, on_mlx.device, on_torch.device) == ("mlx", MLX, CPU)
    assert models.load(str(tmp_path), Device("mlx", "bfloat16", "tests")).model.model.norm.weight.itemsize == 2


def save_4bit(source: Path, folder: Path) -> Path:
    """What mlx-community's repositories hold."""
    from mlx_lm.utils import save_model

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_model(folder, models.load(str(source), Device("mlx", "bfloat16", "tests"), "mlx4").model)
    edit(folder / "config.json", quantization={"group_size": 64, "bits": 4})
    return folder


@needs_mlx
def test_mlx_in_4_bit_at_load_and_as_stored(tiny, tmp_path):
    from mlx import nn

    loaded = models.load(str(tiny), MLX, "mlx4")
    quantized = [layer.bits for _, layer in loaded.model.named_modules() if isinstance(layer, nn.QuantizedLinear)]
    assert quantized == [4] * 15 and "mlx4 on mlx" in loaded.reason and 0.9 < likeness(loaded, models.load(str(tiny), MLX)) < 0.9999
    folder = save_4bit(tiny, tmp_path / "4bit")
    for quantization in ("auto", "mlx4"):
        again = models.load(str(folder), MLX, quantization)
        assert "mlx4 on mlx" in again.reason and likeness(again, loaded) > 0.99
        assert again.model.model.norm.weight.itemsize == 4  # bfloat16 is slow on CPUs
    with pytest.raises(UserError, match="stored as mlx4: not possible as auto on cpu"):
        models.load(str(folder), CPU)
    with pytest.raises(UserError, match=r"cannot be loaded \(.*64"):  # half of it in 4 bit would be a lie
        models.load(str(build(tmp_path / "odd", hidden_size=96)), MLX, "mlx4")


@pytest.mark.parametrize(
    ("device", "quantization", "message"),
    [
        (CPU, "int3", "unknown quantization 'int3': choose one of auto, none, nf4, mlx4"),
        (CPU, "mlx4", "quantization mlx4 needs --device mlx, not cpu"),
        (MLX, "nf4", "quantization nf4 needs --device cuda or cpu, not mlx"),
    ],
)
def test_quantization_that_cannot_be(tiny, device, quantization: Any, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        models.load(str(tiny), device, quantization)


# -- tokenizer -------------------------------------------------------------------------------------------------------------------


def chat(loaded: models.LoadedModel, messages: list, **more: Any) -> str:
    return loaded.tokenizer.apply_chat_template(messages, tokenize=False, **more)


def test_phi3_template_when_its_tokens_exist(tiny):
    loaded = models.load(str(tiny), CPU)
    shown = "<|system|>\nBe brief.<|end|>\n<|user|>\nthe void<|end|>\n<|assistant|>\nmeow<|end|>\n<|endoftext|>"
    assert chat(loaded, [{"role": "system", "content": "Be brief."}, *ANSWERED]) == shown
    assert chat(loaded, HELLO, add_generation_prompt=True) == "<|user|>\nthe void<|end|>\n<|assistant|>\n"


def test_plain_template_and_eos_padding_when_they_do_not(tmp_path):
    loaded = models.load(str(build(tmp_path, ["</s>"])), CPU)
    assert chat(loaded, ANSWERED) == "User: the void\nAssistant: meow</s>\n"
    assert chat(loaded, HELLO, add_generation_prompt=True) == "User: the void\nAssistant:"
    assert loaded.stop_ids == [0] and loaded.tokenizer.pad_token == "</s>"
    assert "plain User: and Assistant: lines" in loaded.reason and "the padding is eos" in loaded.reason


@both
def test_what_the_folder_says_stays(copy, device):
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<|im_end|>")
    edit(copy / "generation_config.json", eos_token_id=[0, 42])
    edit(copy / "tokenizer_config.json", pad_token="<|system|>")
    loaded = models.load(str(copy), device)
    assert chat(loaded, HELLO) == "the void<|im_end|>" and "template" not in loaded.reason
    assert loaded.stop_ids == [0, 42] and loaded.tokenizer.pad_token == "<|system|>"  # <|end|> ends no turn in this template
    (copy / "generation_config.json").unlink()
    edit(copy / "config.json", eos_token_id=43)
    edit(copy / "tokenizer_config.json", pad_token="<|endoftext|>")  # equal to eos: replaced
    loaded = models.load(str(copy), device)
    assert loaded.stop_ids == [0, 43] and loaded.tokenizer.pad_token == "<|pad|>"
    edit(copy / "config.json", eos_token_id=[1])
    loaded = models.load(str(copy), device)
    assert loaded.stop_ids == [0, 1] and loaded.tokenizer.pad_token == "<|endoftext|>" and "padding is eos" in loaded.reason


def test_batches_are_padded_for_generation(tiny):
    loaded, texts = models.load(str(tiny), CPU), ["the cat", "the void stares back"]
    batch = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    rows = loaded.model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert [text_of(loaded, row) for row in rows] == [text_of(loaded, greedy(loaded, ids_of(loaded, text), 8)) for text in texts]


# -- folders that are not as they should be --------------------------------------------------------------------------------------

DAMAGE = [
    ("truncated weights", "model.safetensors", lambda old: old[:200_000], ""),
    ("empty weights", "model.safetensors", lambda old: b"", ""),
    ("no weights", "model.safetensors", lambda old: None, r"has no model\.safetensors"),
    ("tensor missing", "model.safetensors", lambda old: old.replace(b"model.norm.weight", b"model.norm.WEIGHT"), r"model\.norm"),
    ("broken index", "model.safetensors.index.json", lambda old: b"{", ""),
    (
        "shard missing",
        "model.safetensors.index.json",
        lambda old: b'{"weight_map": {"a": "2.safetensors"}}',
        r"has no 2\.safetensors",
    ),
    ("wrong shape", "config.json", lambda old: old.replace(b'_size": 128', b'_size": 64'), ""),
    ("unknown architecture", "config.json", lambda old: old.replace(b'"llama"', b'"nope"'), ""),
    ("small vocabulary", "config.json", lambda old: re.sub(rb'(vocab_size": )\d+', rb"\g<1>99", old), "for 99 embeddings"),
    ("no config", "config.json", lambda old: None, r"has no config\.json"),
    ("broken config", "config.json", lambda old: old[:20], ""),
    ("no tokenizer", "tokenizer.json", lambda old: None, r"has no tokenizer\.json"),
    ("broken tokenizer", "tokenizer.json", lambda old: old[:20], ""),
    ("adapter", "adapter_config.json", lambda old: b"{}", "holds an adapter: load its base"),
]


@both
@pytest.mark.parametrize(("file", "change", "message"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damaged_folder_is_one_line(copy, device, file, change, message):
    old = (copy / file).read_bytes() if (copy / file).exists() else b""
    (copy / file).unlink() if change(old) is None else (copy / file).write_bytes(change(old))
    advice = "use another folder, device or quantization"
    with pytest.raises(UserError, match=rf"^the model {copy} cannot be loaded \(.*{message}.*\): {advice}$") as caught:
        models.load(str(copy), device)
    assert len(str(caught.value)) < 500  # and one line: a dot matches no line break
