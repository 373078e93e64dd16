"""What fine-tuning has to hold in memory, computed from a model's shapes, and the same measured."""

import gc
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Phi3Config, PreTrainedTokenizerFast, TrainerCallback

from shared import models, runlog
from shared.device import pick
from shared.environment import peak_memory_mib

from .recipe import Method, Recipe
from .snippets import Encoded

METHODS: tuple[Method, Method, Method] = ("full", "lora", "qlora")
Kind = Literal["cuda", "cpu"]
PARTS = ("weights", "gradients", "optimizer", "activations")
BF16, FP32, GIB = 2, 4, 2**30  # bytes
WARM_UP = 2  # steps that are not timed


@dataclass(frozen=True)
class Memory:
    """Bytes of one way of tuning, and its trainable parameters. recomputed: activations with gradient checkpointing instead."""

    method: Method
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    recomputed: int

    def total(self, checkpointing: bool = False) -> int:
        """All at once, as when gradients of several batches add up; else they grow while the activations go."""
        return self.weights + self.gradients + self.optimizer + (self.recomputed if checkpointing else self.activations)


def phi3_mini_config() -> Phi3Config:
    """The shape of microsoft/Phi-3-mini-4k-instruct (its config.json; Abdin et al. 2024, section 2): 3 821 079 552 parameters."""
    sizes: dict = {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32}
    sizes |= {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "sliding_window": 2047}
    return Phi3Config(**sizes, original_max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False)


def skeleton(config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model without a byte of weights, on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def nf4(weights: int) -> int:
    """Bytes of a matrix in NF4 with double quantisation (Dettmers et al. 2023, section 3) as bitsandbytes lays it out.

    4 bits each; an absmax per 64, in 8 bits with an fp32 absmax per 256; their mean; tables of 16 and 256: 4.127 bits in all.
    """
    blocks = ceil(weights / 64)
    return ceil(weights / 2) + blocks + FP32 * (ceil(blocks / 256) + 1 + 16 + 256)


def table(config: Any, rows: int, length: int, rank: int) -> list[Memory]:
    """Memory of full fine-tuning, LoRA and QLoRA of a Llama or Phi-3, with rows of length tokens, as tune_torch does them.

    full: fp32 weights, no masters, so 4 bytes each for weight and gradient and 8 for AdamW's two means. lora: bf16 base, fp32
    adapters on every linear layer but the head. qlora: the same on an NF4 base; embeddings, head and norms stay bf16.
    """
    model = skeleton(config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    layers, adapters = [prod(shape) for _, shape in _linear(model)], sum(rank * sum(shape) for _, shape in _linear(model))
    frozen = {"full": 0, "lora": BF16 * numbers, "qlora": BF16 * (numbers - sum(layers)) + sum(map(nf4, layers))}

    def entry(method: Method) -> Memory:
        count, r = (numbers, 0) if method == "full" else (adapters, rank)
        kept, recomputed = activations(model, rows, length, r)
        return Memory(method, count, frozen[method] + FP32 * count, FP32 * count, 2 * FP32 * count, kept, recomputed)

    return [entry(method) for method in METHODS]


def activations(model: Any, rows: int, length: int, rank: int) -> tuple[int, int]:
    """Bytes that the forward pass keeps for the backward pass under bf16 autocast: all of it, and with gradient checkpointing.

    A layer keeps, per token (d hidden, f inner, q and k widths, v the width of the layer that makes the values: of all qkv_proj
    where it is fused, because a view keeps its whole storage):
      both norms     2 (4 d + 4)                               their input and 1/rms in fp32
      attention      2 (q + k + v + q) + 4 heads + 2 length    rotated q and k, v, output; log-sum-exp; padding mask
      gated product  2 (3 f)                                   gate, up, silu(gate)
    and besides, per linear layer of n inputs and m outputs, when everything is tuned (rank 0)
      each norm      4 d                                       its fp32 output, for the gradient of its weight
      each linear    2 n, and once 2 n m                       autocast's copies of input and weight (a Llama's o_proj reads
                                                               the attention output itself, Phi-3's a reordered copy of it)
    or with adapters, where frozen weights need no inputs
      each linear    2 n + 2 rank, once 2 rank (n + m)         autocast's copy of the input, A x; copies of A and B
    Around the layers: the last norm, log-softmax in fp32 (4 vocabulary) and labels (8), cosines and sines, input and copy of a
    tuned head, ids of tuned embeddings. With adapters, nothing before the first norm is tuned: neither it nor the A after it
    keep what only the gradient of their input needs.
    Checkpointing keeps each layer's input, and while it goes back the one layer that it computes anew; when everything is tuned
    autocast's copies of all weights, which live until the forward pass ends, are the larger part.
    """
    config, tokens, full = model.config, rows * length, rank == 0
    d, f, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    width = getattr(config, "head_dim", None) or d // heads
    q, k = heads * width, config.num_key_value_heads * width
    linear = {name.rsplit(".", 1)[-1]: shape for name, shape in _linear(model) if ".layers.0." in name}
    v = linear.get("qkv_proj", linear.get("v_proj"))[0]  # pyright: ignore[reportOptionalSubscript]
    stream = FP32 if full else BF16  # the residual stream has the dtype of the embeddings
    norm = tokens * (FP32 * d * (2 if full else 1) + FP32)
    layer = 2 * norm + tokens * (BF16 * (2 * q + k + v) + FP32 * heads + BF16 * length + BF16 * 3 * f)
    copies = BF16 * sum((prod(shape) if full else rank * sum(shape)) for shape in linear.values())
    around, first = norm + tokens * (FP32 * config.vocab_size + 8) + 2 * length * width * stream, 0
    if full:
        layer += tokens * BF16 * sum(n for name, (_, n) in linear.items() if name != "o_proj" or "qkv_proj" in linear)
        around += tokens * (BF16 * d + 8) + BF16 * d * config.vocab_size
    else:
        layer += tokens * sum(BF16 * n + BF16 * rank for _, n in linear.values())
        reading = d * sum(name in ("qkv_proj", "q_proj", "k_proj", "v_proj") for name in linear)
        first = norm + BF16 * rank * reading
    count, layer = config.num_hidden_layers, layer + copies
    return count * layer + around - first, count * tokens * d * stream + around + max(layer, count * copies)


def _linear(model: Any) -> list[tuple[str, torch.Size]]:
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]
    return [(name, layer.weight.shape) for name, layer in layers if not name.endswith("lm_head")]  # (outputs, inputs)


def prepared(model: Any, method: Method, rank: int) -> Any:
    """A loaded model as tune_torch trains it: fp32 adapters on every linear layer, or every weight trainable."""
    from peft import LoraConfig, get_peft_model

    if method == "full":
        return model.requires_grad_(True).train()
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=Recipe.dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora).train()  # makes the adapters fp32


def stored(model: Any) -> list[torch.Tensor]:
    """Every tensor that the weights are made of: parameters, and the absmaxes, offset and tables of 4-bit ones."""
    found = list(model.parameters())
    for state in [vars(one)["quant_state"] for one in found if vars(one).get("quant_state")]:
        found += [value for part in (state, state.state2) for value in vars(part).values() if isinstance(value, torch.Tensor)]
    return found


def measured(model: Any, method: Method, rows: int, length: int) -> Memory:
    """The same of a prepared model, by a step on random tokens; activations are the distinct storages that autograd saves."""
    tuned = {name: one for name, one in model.named_parameters() if one.requires_grad}
    activations, layer, loss = saved(model, rows, length)
    loss.backward()
    (optimizer := torch.optim.AdamW(tuned.values())).step()
    moments = [one for state in optimizer.state.values() for one in state.values()]
    gradients = [one.grad for one in tuned.values() if one.grad is not None]
    weights, gradients, moments = (sum(one.nbytes for one in part) for part in (stored(model), gradients, moments))
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()  # as trl does
    inputs, _, _ = saved(model, rows, length)
    copies = BF16 * sum(one.numel() for name, one in tuned.items() if one.dim() == 2 and ".layers." in name)
    count = sum(one.numel() for one in tuned.values())
    return Memory(method, count, weights, gradients, moments, activations, inputs + max(layer, copies))


def saved(model: Any, rows: int, length: int) -> tuple[int, int, torch.Tensor]:
    """Bytes that a forward pass under bf16 autocast saves, of them the last layer's, and the loss."""
    parameters, sizes = {one.untyped_storage()._cdata for one in model.parameters()}, []
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address comes twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := tensor.untyped_storage())._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    def size(*_: Any) -> None:
        sizes.append(sum(storage.nbytes() for storage in kept.values()))

    last = next(layer for name, layer in model.named_modules() if name.endswith(f"layers.{model.config.num_hidden_layers - 1}"))
    hooks = [last.register_forward_pre_hook(size), last.register_forward_hook(size)]
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device=model.device)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    hook = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast(model.device.type, torch.bfloat16), hook:
        loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
    size()
    for hook in hooks:
        hook.remove()
    return sizes[2], sizes[1] - sizes[0], loss


class Clock(TrainerCallback):
    """Seconds of the steps after the second, and the peak of all (GiB): what torch allocated on CUDA, else the whole process."""

    def on_step_end(self, args, state, control, **kwargs):
        if cuda := not args.use_cpu:
            torch.cuda.synchronize()
        if state.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start if state.global_step > WARM_UP else 0
        self.peak = torch.cuda.max_memory_allocated() / GIB if cuda else (peak_memory_mib() or 0) / 1024


def random_model(config: Any, kind: Kind, four_bit: bool) -> Any:
    """A model of this shape in bf16, or in NF4: each matrix, until then one random row repeated, is quantised on the device."""
    bf16, empty = torch.bfloat16, skeleton(config)
    rows = {name: torch.randn(one.shape[-1], dtype=bf16).mul(0.02).expand(one.shape) for name, one in empty.named_parameters()}
    options: dict = {"config": config, "dtype": bf16, "device_map": kind}
    if four_bit:
        nf4: dict = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        options["quantization_config"] = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=bf16)
    return type(empty).from_pretrained(None, state_dict=rows, **options)


def cuda_peak(
    config: Any, method: Method, kind: Kind = "cuda", *, ours: bool = True, rows: int = 8, length: int = 256, steps: int = 10
) -> tuple[float, float]:
    """Peak memory (GiB) and tokens per second of LoRA or QLoRA on random weights, with our settings or with trl's own defaults.

    Model, rows, targets and rank are the same. trl: checkpointing, bf16 adapters; ours: see tune_torch.trainer.
    """
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from . import tune_torch

    gc.collect()  # the trainer before this one is held by cycles
    if kind == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    words: dict = {"tokenizer_object": Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, "<end>"))}
    tokenizer = PreTrainedTokenizerFast(**words, pad_token="<pad>", eos_token="<end>")
    model, chosen, clock = random_model(config, kind, method == "qlora"), Recipe(method=method, epochs=1, batch=rows), Clock()
    encoded = [Encoded(row.tolist(), 0) for row in torch.randint(2, config.vocab_size, ((WARM_UP + steps) * rows, length))]
    with tempfile.TemporaryDirectory() as folder:
        if ours:
            loaded = models.LoadedModel(model, tokenizer, "random", "for its size", [1], length, None, pick(kind))
            made = tune_torch.trainer(loaded, chosen, encoded, encoded[:1], Path(folder), **tune_torch.STILL)
        else:
            options: dict = {"num_train_epochs": 1, "use_cpu": kind == "cpu", "report_to": "none", "save_strategy": "no"}
            arguments = SFTConfig(folder, per_device_train_batch_size=rows, **options)
            lora = LoraConfig(r=chosen.rank, lora_alpha=chosen.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
            data: dict = {"train_dataset": tune_torch.rows(encoded, completion_only=False), "processing_class": tokenizer}
            made = SFTTrainer(model, arguments, **data, peft_config=lora)
        made.add_callback(clock)
        made.train()
    return clock.peak, steps * rows * length / clock.seconds


def figure(plt: Any, entries: list[Memory], title: str) -> Any:
    """Stacked bars, GiB per method, without and with gradient checkpointing."""
    drawing, axes = plt.subplots(figsize=(8, 3.4))
    names = {"full": "full, fp32", "lora": "LoRA, bf16 base", "qlora": "QLoRA, NF4 base"}
    bars, left = [(names[e.method] + more, e, more) for e in entries for more in ("", ", checkpointing")], [0.0] * 2 * len(entries)
    for part in PARTS:
        sizes = [getattr(e, "recomputed" if more and part == "activations" else part) / GIB for _, e, more in bars]
        axes.barh([label for label, _, _ in bars], sizes, left=left, label=part)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.1f}", va="center")
    axes.set(xlabel="GiB", title=title, xlim=(0, 1.1 * max(left)), ylim=(len(bars) - 0.5, -0.5))
    axes.legend()
    return drawing


def record(run: runlog.Run, setting: Recipe = Recipe()) -> list[Memory]:  # noqa: B008
    """Phi-3-mini computed, which is returned too, the same formula against the pocket model measured, on CUDA the real peaks."""
    batch, config = (setting.batch, setting.max_length, setting.rank), phi3_mini_config()
    size, down = f"{batch[0]} rows of {batch[1]} tokens", {"unit": "GiB", "higher_is_better": False}
    entries = table(config, *batch)
    for e in entries:
        key, what = f"memory_phi3_{e.method}", f"Phi-3-mini, {e.method}, {size}, computed: "
        run.metric(f"{key}_gib", e.total() / GIB, **down, meaning=what + "weights, gradients, AdamW, activations")
        run.metric(f"{key}_checkpointing_gib", e.total(True) / GIB, **down, meaning=what + "the same with gradient checkpointing")
        run.metric(f"{key}_weights_gib", e.weights / GIB, **down, meaning=what + "the weights alone, adapters included")
    for method in METHODS:
        base = models.load("pocket", "cpu", "nf4" if method == "qlora" else "none").model
        model = prepared(base.bfloat16() if method == "lora" else base, method, setting.rank)
        computed = next(e for e in table(base.config, *batch) if e.method == method)
        error = abs(computed.total() / measured(model, method, *batch[:2]).total() - 1)
        run.metric(f"memory_pocket_{method}_error", error, unit="fraction", meaning="pocket model, computed against measured total")
    for method, ours in product(METHODS[1:], (True, False)) if run.device.kind == "cuda" else ():
        key = f"phi3_{method}_{'ours' if ours else 'trl'}"
        try:
            peak, speed = cuda_peak(config, method, ours=ours, rows=batch[0], length=batch[1])
        except torch.OutOfMemoryError as error:
            run.observe(f"OOM: {key}, {size}: {str(error).partition(' GPU ')[0]}")
            continue
        run.metric(f"peak_{key}_gib", peak, **down, meaning="most that torch allocated; random weights")
        run.metric(f"tokens_per_second_{key}", speed, unit="tokens/s", higher_is_better=True, meaning="training steps only")
    return entries
