"""Load a causal language model with its tokenizer for the device at hand.

    loaded = models.load("auto", run.device)  # str(loaded) says which model, why, and in which precision

Weights come from safetensors only, and no code of a model's repository ever runs.
"""

import difflib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from shared.device import Device, DeviceName, pick
from shared.errors import UserError, line
from shared.sprints import ROOT

Quantization = Literal["auto", "none", "nf4", "mlx4"]

POCKET = ROOT / "sprints" / "00_pocket_brain" / "results" / "model"
HUB = {"smollm": "HuggingFaceTB/SmolLM-135M-Instruct", "phi3": "microsoft/Phi-3-mini-4k-instruct"}
MLX4_TWINS = {HUB["phi3"]: "mlx-community/Phi-3-mini-4k-instruct-4bit"}
NAMES = ("auto", "pocket", *HUB)
RUNS_ON = {"nf4": ("cuda", "cpu"), "mlx4": ("mlx",)}
FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]  # of a hub repository: no pickles, no code
TURN_ENDS = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
PADS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<|placeholder1|>")
PHI3_TEMPLATE = (  # gives the same text as the template of microsoft/Phi-3-mini-4k-instruct
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PLAIN_TEMPLATE = (  # eos after an answer: a fine-tuned model learns to stop
    "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] }}{{ eos_token if m['role'] == 'assistant' }}"
    "{{ '\n' }}{% endfor %}{{ 'Assistant:' if add_generation_prompt }}"
)


class HubError(UserError):
    """A model is not in the local cache, and the hub did not give it."""


@dataclass
class LoadedModel:
    """A model in evaluation mode with its Hugging Face tokenizer, which is the same for both backends."""

    model: Any  # transformers.PreTrainedModel or mlx.nn.Module
    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    name: str  # pocket, the hub id or the folder
    reason: str  # why this model, in which precision, and what its folder lacked
    stop_ids: list[int]  # tokens that end a turn or a text
    context: int | None  # most tokens of prompt and answer together
    revision: str | None  # commit on the hub
    device: Device

    @property
    def backend(self) -> Literal["torch", "mlx"]:
        return "mlx" if self.device.kind == "mlx" else "torch"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def load(name: str = "auto", device: Device | DeviceName = "auto", quantization: Quantization | None = None) -> LoadedModel:
    """Load `pocket`, `smollm`, `phi3`, a hub id or a local folder; `auto` takes what suits the device.

    `auto` is Phi-3-mini in 4 bit on CUDA (NF4) and on MLX, `pocket` elsewhere and where the hub gives nothing. `quantization` None
    is "auto": 4 bit for Phi-3 where possible, as stored for others. Raises UserError (one line) when a model cannot be had.
    """
    device = pick(device, ("cpu", "cuda", "mps", "mlx")) if isinstance(device, str) else device
    if (quantization := quantization or "auto") not in get_args(Quantization):
        raise UserError(f"unknown quantization {quantization!r}: choose one of {', '.join(get_args(Quantization))}")
    if device.kind not in RUNS_ON.get(quantization, (device.kind,)):
        raise UserError(f"quantization {quantization} needs --device {' or '.join(RUNS_ON[quantization])}, not {device.kind}")
    if name != "auto":
        return _load(name, device, quantization, "asked for")
    if device.kind not in ("cuda", "mlx"):
        return _load("pocket", device, quantization, "auto: Phi-3 in 4 bit needs CUDA or MLX")
    try:
        return _load("phi3", device, quantization, f"auto: {device.kind} is here")
    except HubError as error:
        if not POCKET.is_dir():
            raise
        return _load("pocket", device, quantization, f"auto: pocket stands in for Phi-3 ({error})")


def _load(name: str, device: Device, quantization: str, why: str) -> LoadedModel:
    name = HUB.get(name, name)
    if quantization == "auto" and name == HUB["phi3"]:  # in float32 it fills 15 GB
        quantization = {"cuda": "nf4", "cpu": "nf4", "mlx": "mlx4"}.get(device.kind, "none")
    name = MLX4_TWINS.get(name, name) if quantization == "mlx4" else name
    folder, revision = _find(name)
    backend = "mlx" if device.kind == "mlx" else "torch"
    try:
        if missing := _missing(folder):
            pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
            note = f"; {pickles[0]} is never loaded, since a pickle can run code" if pickles else ""
            raise ValueError(f"it has no {' and no '.join(missing)}{note}")
        if (folder / "adapter_config.json").is_file():  # transformers would add it unasked, from a pickle too
            raise ValueError("it holds an adapter: load its base, then put the adapter onto it")
        config = json.loads((folder / "config.json").read_bytes())
        other = config.get("quantization_config") or {}  # of transformers; mlx-lm has another key
        stored = f"mlx{config['quantization']['bits']}" if "quantization" in config else other.get("bnb_4bit_quant_type")
        if stored and (quantization not in ("auto", stored) or stored.startswith("mlx") != (backend == "mlx")):
            raise ValueError(f"it is stored as {stored}: not possible as {quantization} on {device.kind}")
        tokenizer, stop_ids, notes = _tokenizer(folder, config)
        if backend == "mlx":
            model = _mlx_model(folder, config, device, stored, quantization)
        else:
            model = _torch_model(folder, device, stored, quantization)
            model.generation_config.eos_token_id = stop_ids
            model.generation_config.pad_token_id = tokenizer.pad_token_id
    except Exception as error:  # broken folders make the libraries raise almost anything
        advice = "use another folder, device or quantization"
        raise UserError(f"the model {folder} cannot be loaded ({line(error)}): {advice}") from error
    reason = "; ".join([why, f"{stored or (quantization if quantization in RUNS_ON else device.dtype)} on {device.kind}", *notes])
    context = config.get("max_position_embeddings")
    return LoadedModel(model, tokenizer, name, reason, stop_ids, context, revision, device)


def load_tokenizer(folder: Path) -> tuple[Any, list[int], int | None]:
    """The tokenizer of a model's folder, the ids that end an answer, and the context, without the weights."""
    config = json.loads((folder / "config.json").read_bytes())
    tokenizer, stop_ids, _ = _tokenizer(folder, config)
    return tokenizer, stop_ids, config.get("max_position_embeddings")


def _find(name: str) -> tuple[Path, str | None]:
    """The folder of a model, downloaded when it is not in the cache, and its commit on the hub."""
    if name == "pocket":
        if not POCKET.is_dir():
            raise UserError("the model pocket is not trained yet: run `make pocket-train`")
        return POCKET, None
    if (folder := Path(name or "?")).is_dir():
        return folder, None
    near = difflib.get_close_matches(name, {*NAMES, *HUB.values()} - {name}, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UserError(f"unknown model {name!r}{hint}: choose {', '.join(NAMES)}, a hub id org/name, or a folder that exists")
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with suppress(LocalEntryNotFoundError):
            folder = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
        if _missing(folder):
            HfApi().model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)  # the download would wait for a silent hub forever
            folder = Path(snapshot_download(name, allow_patterns=FILES))
    except RepositoryNotFoundError as error:
        advice = f"if it is gated or private, get access at {constants.ENDPOINT}/{name} and run `hf auth login`"
        raise HubError(f"the hub gives no model {name}{hint}: {advice}") from error
    except Exception as error:  # no network, no answer, no space: whatever it was, there is no model
        advice = "connect to the network, set HF_HOME to a cache that has it, or use pocket (`make pocket-train`)"
        raise HubError(f"cannot get {name} from the hub ({line(error)}): {advice}") from error
    return folder, folder.name


def _missing(folder: Path) -> list[str]:
    """What a model's folder lacks; the cache may hold a part of a model."""
    index = folder / "model.safetensors.index.json"
    weights = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = [name for name in ("config.json", *sorted(weights)) if not (folder / name).is_file()]
    return missing if [*folder.glob("tokenizer.*"), *folder.glob("vocab.*")] else [*missing, "tokenizer.json"]


def _tokenizer(folder: Path, config: dict) -> tuple[Any, list[int], list[str]]:
    """The tokenizer with a chat template and a pad token, the ids that end an answer, and notes on what was filled in."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    vocabulary, rows, notes = tokenizer.get_vocab(), config["vocab_size"], []
    if max(vocabulary.values()) >= rows:
        raise ValueError(f"its tokenizer has {len(vocabulary)} tokens for {rows} embeddings")
    if not tokenizer.chat_template:
        phi3 = {"<|user|>", "<|assistant|>", "<|end|>"} <= set(vocabulary)
        tokenizer.chat_template = PHI3_TEMPLATE if phi3 else PLAIN_TEMPLATE
        notes.append(f"without a chat template of its own, takes {'that of Phi-3' if phi3 else 'plain User: and Assistant: lines'}")
    generation = folder / "generation_config.json"
    ends = (json.loads(generation.read_bytes()) if generation.is_file() else config).get("eos_token_id")
    turns = [vocabulary[token] for token in TURN_ENDS if token in vocabulary and token in str(tokenizer.chat_template)]
    stop = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, *turns} - {None}
    # collators take padding out of the loss by its id: with pad == eos a model would never learn to stop
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in stop:
        free = [t for t in (*PADS, tokenizer.unk_token) if vocabulary.get(t) not in {*stop, tokenizer.bos_token_id, None}]
        tokenizer.pad_token = free[0] if free else tokenizer.eos_token
        notes += [] if free else ["no free token to pad with: the padding is eos, mask it by length"]
    tokenizer.padding_side = "left"  # on the right, generation in batches goes wrong
    return tokenizer, sorted(stop), notes


def _torch_model(folder: Path, device: Device, stored: str | None, quantization: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = "nf4" in (stored, quantization)
    dtype = torch.bfloat16 if four_bit and device.kind == "cpu" else getattr(torch, device.dtype)  # twice as fast as float32
    options: dict = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    if four_bit and not stored:
        nf4: dict = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        options["quantization_config"] = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=dtype)
    options |= {"dtype": dtype, "device_map": device.kind, "output_loading_info": True}
    model, loading = AutoModelForCausalLM.from_pretrained(folder, **options)  # pyright: ignore[reportGeneralTypeIssues]
    if absent := loading["missing_keys"]:  # transformers only warns, and leaves them random
        raise ValueError(f"missing {len(absent)} of its tensors, such as {min(absent)}")
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # else bitsandbytes repacks the weights: gradients and merging break
            layer.support_avx512bf16_for_cpu = False
    return model


def _mlx_model(folder: Path, config: dict, device: Device, stored: str | None, quantization: str) -> Any:
    import mlx.core as mx
    from mlx import nn
    from mlx_lm.utils import load_model

    # transformers 5 writes rope_parameters; mlx-lm reads the older keys only, and takes a theta of 10000 without them
    rope = config.get("rope_parameters") or {}
    scaling = {} if rope.get("rope_type", "default") == "default" else {"rope_scaling": rope}
    model, _ = load_model(folder, lazy=True, model_config=rope | scaling)
    if not stored or device.dtype == "float32":  # stored scales keep their precision
        model.set_dtype(getattr(mx, device.dtype))
    if quantization == "mlx4":  # leaves stored 4-bit layers as they are
        nn.quantize(model, group_size=64, bits=4)
    mx.eval(model.parameters())
    return model
