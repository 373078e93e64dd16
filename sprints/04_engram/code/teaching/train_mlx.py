"""LoRA with MLX on Apple silicon (it runs on Linux too): the batches, the loss, the schedule and the seeds of training.py.

tuned = fit(models.load("pocket", "mlx", "none"), Recipe("lora", rate=1e-2), rows)
save(tuned.model, folder)  # the format of mlx-lm; convert.to_peft makes it one that torch loads
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx import nn
from mlx.nn.losses import cross_entropy
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers, remove_lora_layers

from shared.errors import UserError
from shared.models import LoadedModel
from shared.report import refuse_foreign, replaced

from .convert import MLX_CONFIG, MLX_WEIGHTS
from .lora import SCALE
from .training import CLIP, Encoded, Recipe, batches, random_labels, schedule


@dataclass(frozen=True)
class Tuned:
    """As training.Tuned, of an mlx.nn.Module."""

    model: Any
    trainable_parameters: int
    losses: list[float]
    seconds: float
    remove: Callable[[], Any]


def linear_paths(model: Any) -> list[str]:
    """Every linear layer of a decoder layer, by its path inside the layer; 4-bit ones too."""
    kinds = (nn.Linear, nn.QuantizedLinear)
    return sorted({path for layer in model.layers for path, one in layer.named_modules() if isinstance(one, kinds)})


def attach(model: Any, rank: int, seed: int) -> None:
    """Freeze the model and put a LoRA of no effect yet onto its linear layers."""
    mx.random.seed(seed)  # of A; B starts at zero
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), parameters(model, rank))


def parameters(model: Any, rank: int) -> dict[str, Any]:
    """LoRA's shape as mlx-lm writes it down."""
    return {"rank": rank, "scale": SCALE, "dropout": 0.0, "keys": linear_paths(model)}


def mean_loss(model: Any, ids: mx.array, counted: mx.array) -> mx.array:
    """Nats per completion token; ids (B, T), counted (B, T - 1): whether the token after each counts."""
    losses = cross_entropy(model(ids[:, :-1]).astype(mx.float32), ids[:, 1:])
    return mx.where(counted, losses, 0).sum() / counted.sum()


def padded(rows: Sequence[Encoded]) -> tuple[mx.array, mx.array]:
    """Token ids (B, T), padded on the right where no token that counts can see it, and which of 1..T-1 count (B, T - 1)."""
    longest = max(len(row.ids) for row in rows)
    ids, counted = np.zeros((len(rows), longest), np.int32), np.zeros((len(rows), longest), bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = row.ids
        counted[place, row.start : len(row.ids)] = True
    return mx.array(ids), mx.array(counted[:, 1:])


def fit(loaded: LoadedModel, recipe: Recipe, rows: Sequence[Encoded], progress: Callable[[range], Iterable[int]] = iter) -> Tuned:
    """As training.fit. Raises UserError for a method that MLX does not train here."""
    if recipe.method not in ("lora", "random_label_lora"):
        raise UserError(f"MLX trains LoRA here, not {recipe.method}: take --backend torch for it")
    if not rows:
        raise UserError("there are no rows to teach")
    rows = random_labels(rows, recipe.seed) if recipe.method == "random_label_lora" else rows
    model, losses = loaded.model, []
    attach(model, recipe.rank, recipe.seed)
    optimizer = optimizers.Adam(recipe.rate, bias_correction=True)
    gradient = value_and_grad(model, mean_loss)
    start = time.perf_counter()
    try:
        given = batches(rows, recipe.batch, recipe.steps, recipe.seed)
        for step, batch in zip(progress(range(recipe.steps)), given, strict=True):
            optimizer.learning_rate = recipe.rate * schedule(step, recipe.steps)
            loss, slopes = gradient(model, *padded(batch))
            optimizer.update(model, optimizers.clip_grad_norm(slopes, CLIP)[0])
            mx.eval(loss, model.parameters(), optimizer.state)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise UserError(f"the loss is no number any more at step {step + 1}: take a lower rate than {recipe.rate:g}")
    except BaseException:  # Ctrl-C too: the base is left as it was
        remove_lora_layers(model)
        raise
    weights: Any = tree_flatten(model.trainable_parameters())
    count = sum(weight.size for _, weight in weights)
    return Tuned(model, count, losses, time.perf_counter() - start, lambda: remove_lora_layers(model))


def save(model: Any, folder: Path) -> None:
    """Write the adapter as mlx-lm does (`mlx_lm.generate --adapter-path` reads it), beside `folder` and then there."""
    weights: Any = tree_flatten(model.trainable_parameters())
    layer = next((one for _, one in model.named_modules() if isinstance(one, LoRALinear)), None)
    if layer is None:
        raise UserError("this model has no LoRA adapter that could be saved: train one (`make engram-train`)")
    shape = {"rank": layer.lora_a.shape[1], "scale": layer.scale, "dropout": 0.0, "keys": _keys(model)}
    config = {"fine_tune_type": "lora", "num_layers": len(model.layers), "lora_parameters": shape}
    refuse_foreign(folder, MLX_CONFIG, "an adapter")
    with replaced(folder) as part:
        mx.save_safetensors(str(part / MLX_WEIGHTS), dict(weights))
        (part / MLX_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _keys(model: Any) -> list[str]:
    return sorted({path for layer in model.layers for path, one in layer.named_modules() if isinstance(one, LoRALinear)})
