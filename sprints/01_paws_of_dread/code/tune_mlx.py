"""Fine-tuning with MLX on Apple silicon, by the same recipe as tune_torch.py, and its adapters in PEFT's format.

The loop is our own: that of mlx-lm 0.32 counts one pad token of every row into the loss, and sorts rows of tokens and start by
their number of fields, which is two. Batches, schedule, optimizer and clipping are those of trl's defaults.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx import nn
from mlx.nn.losses import cross_entropy
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.lora import LoRALinear

from shared import models
from shared.errors import UserError
from shared.runlog import console

from .adapter import CONFIG, WEIGHTS
from .recipe import ORIGINAL_TARGETS, Course, Recipe, Tuned
from .snippets import Encoded


def linears(model: Any) -> dict[str, Any]:
    """Every linear layer but the head by its path, the 4-bit ones too; an adapter goes onto them."""
    kinds = (nn.Linear, nn.QuantizedLinear)
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, kinds) and _last(path) != "lm_head"}


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def attach(model: Any, paths: Iterable[str], rank: int, scale: float, dropout: float) -> None:
    """Freeze the model and put a LoRA layer, still without effect, onto each of these linear layers."""
    model.freeze()
    found = linears(model)
    layers = [(path, LoRALinear.from_base(found[path], rank, dropout, scale)) for path in paths]  # float32 on a bfloat16 base too
    model.update_modules(tree_unflatten(layers))


def prepare(model: Any, chosen: Recipe) -> None:
    """Leave trainable what the recipe tunes. Raises UserError when it tunes nothing, or all of a 4-bit model."""
    if chosen.method == "full":
        if any(isinstance(layer, nn.QuantizedLinear) for _, layer in model.named_modules()):
            raise UserError(
                "--method full cannot tune a model in 4 bit: take --method qlora, or a model that is not stored in 4 bit"
            )
        model.set_dtype(mx.float32)  # bfloat16 weights would lose the small steps
        return
    every = linears(model)
    paths = [path for path in every if chosen.targets == "all" or _last(path) in ORIGINAL_TARGETS]
    if not paths:
        names = ", ".join(sorted({_last(path) for path in every}))
        raise UserError(f"this model has no linear layer of the wanted names; it has {names}")
    attach(model, paths, chosen.rank, chosen.scale, chosen.dropout)


def batches(rows: Sequence[Encoded], size: int, rng: np.random.Generator) -> Iterator[list[Encoded]]:
    """Every row once, beside rows of about its length (little padding), in another order each time."""
    order = sorted(rng.permutation(len(rows)), key=lambda row: len(rows[row].ids) // 16)
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    for group in rng.permutation(len(groups)):
        yield [rows[row] for row in groups[group]]


def padded(rows: Sequence[Encoded], completion_only: bool) -> tuple[mx.array, mx.array]:
    """Token ids (B, T), and which of the tokens 1..T-1 count in the loss (B, T - 1): never the padding."""
    width = max(len(row.ids) for row in rows)
    ids, counted = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = row.ids
        counted[place, row.start if completion_only else 0 : len(row.ids)] = True
    return mx.array(ids), mx.array(counted[:, 1:])


def nats(model: Any, ids: mx.array, counted: mx.array) -> mx.array:
    """Sum of the losses of the tokens that count; padding on the right is invisible to the tokens before it."""
    logits = model(ids[:, :-1]).astype(mx.float32)  # (B, T - 1, V)
    return mx.where(counted, cross_entropy(logits, ids[:, 1:]), 0).sum()


def mean_loss(model: Any, ids: mx.array, counted: mx.array) -> mx.array:
    return nats(model, ids, counted) / counted.sum()


def evaluate(model: Any, rows: Sequence[Encoded], size: int) -> float:
    """Loss of the completions in nats per token, each token with the same weight."""
    model.eval()
    ordered = sorted(rows, key=lambda row: len(row.ids))
    groups = [padded(ordered[at : at + size], completion_only=True) for at in range(0, len(ordered), size)]
    return sum(float(nats(model, *group)) for group in groups) / sum(int(counted.sum()) for _, counted in groups)


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: 3 % warm-up from zero, then a cosine to zero, as transformers computes it."""
    warmup = math.ceil(0.03 * steps)
    return peak * (step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def tune(loaded: models.LoadedModel, chosen: Recipe, train: Sequence[Encoded], validation: Sequence[Encoded]) -> Tuned:
    """Tune until the validation loss stops falling; the best epoch's weights stay.

    Raises UserError when the model cannot be tuned in this way, and when the loss leaves the numbers.
    """
    model, rng = loaded.model, np.random.default_rng(chosen.seed)
    mx.random.seed(chosen.seed)  # start of the adapter, dropout
    prepare(model, chosen)
    optimizer = optimizers.AdamW(0.0, weight_decay=0.0, bias_correction=True)
    gradient = value_and_grad(model, mean_loss)
    step, steps = 0, chosen.epochs * math.ceil(len(train) / chosen.batch)
    history, best, kept = [], math.inf, None
    begin, stale = time.perf_counter(), 0
    for epoch in range(1, chosen.epochs + 1):
        model.train()
        losses = []
        for rows in batches(train, chosen.batch, rng):
            optimizer.learning_rate = rate(step, steps, chosen.learning_rate)
            loss, slopes = gradient(model, *padded(rows, chosen.completion_only))
            optimizer.update(model, optimizers.clip_grad_norm(slopes, 1.0)[0])
            mx.eval(loss, model.parameters(), optimizer.state)
            losses.append(float(loss))
            step += 1
        entry = {"epoch": float(epoch), "step": step, "train_loss": float(np.mean(losses))}
        history.append(entry | {"validation_loss": (now := evaluate(model, validation, chosen.batch))})
        console.print(f"epoch {epoch}: train loss {entry['train_loss']:.3f}, validation loss {now:.3f}")
        if not math.isfinite(entry["train_loss"] + now):
            raise UserError(f"the loss is no number any more in epoch {epoch}: lower --learning-rate")
        if now < best:
            best, kept, stale = now, model.trainable_parameters(), 0
        elif (stale := stale + 1) == chosen.patience:
            break
    model.update(kept)
    seconds = time.perf_counter() - begin
    weights: Any = tree_flatten(model.trainable_parameters())
    trainable = sum(weight.size for _, weight in weights)
    return Tuned(loaded, Course(history, seconds, len(history) * sum(len(row.ids) for row in train), trainable))


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT does: A (rank, in) and B (out, rank), where MLX has them transposed."""
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    if not layers:
        raise UserError("this model has no adapter that could be saved (--method full tunes the model itself)")
    weights = {}
    for path, layer in layers.items():
        weights[f"base_model.model.{path}.lora_A.weight"] = layer.lora_a.T
        weights[f"base_model.model.{path}.lora_B.weight"] = layer.lora_b.T
    mx.save_safetensors(str(folder / WEIGHTS), weights, {"format": "pt"})
    one = next(iter(layers.values()))
    rank = one.lora_a.shape[1]
    alpha = round(one.scale * rank, 6)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none", "r": rank}
    config |= {"lora_alpha": alpha if alpha % 1 else int(alpha), "lora_dropout": round(1 - one.dropout._p_1, 6)}
    config |= {"target_modules": sorted({_last(path) for path in layers})}
    (folder / CONFIG).write_text(json.dumps(config, indent=1))


def sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Path of every linear layer but the head: (out, in); packed weights are counted unpacked."""
    found = {}
    for path, layer in linears(model).items():
        out, inner = layer.weight.shape
        found[path] = (out, inner * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else inner)
    return found


def load_adapter(model: Any, weights: Path, paths: Sequence[str], config: dict[str, Any]) -> Any:
    """Put the tensors of an adapter, which fit (adapter.load has checked), onto these layers; returns the model."""
    attach(model, paths, config["r"], config["lora_alpha"] / config["r"], config.get("lora_dropout", 0.0))
    held: Any = mx.load(str(weights))
    sides = [
        (f"{path}.lora_{side.lower()}", held[f"base_model.model.{path}.lora_{side}.weight"].T.astype(mx.float32))
        for path in paths
        for side in "AB"
    ]
    model.update(tree_unflatten(sides))
    mx.eval(model.eval().parameters())
    return model
