"""A LoRA adapter of mlx-lm as one of PEFT: trained on a Mac, used with torch anywhere.

$ python -m sprints.04_engram.code.teaching.convert MLX_FOLDER PEFT_FOLDER

mlx-lm holds A as (in, rank) and B as (rank, out), PEFT their transposes; the scale in front of B A is alpha / rank in PEFT.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shared.errors import UserError
from shared.report import refuse_foreign, replaced

from .lora import CONFIG, WEIGHTS

MLX_WEIGHTS, MLX_CONFIG = "adapters.safetensors", "adapter_config.json"


def to_peft(source: Path, target: Path) -> None:
    """Write the adapter in `source` to `target` in PEFT's format. Raises UserError for anything but a plain LoRA of mlx-lm."""
    if missing := [name for name in (MLX_WEIGHTS, MLX_CONFIG) if not (source / name).is_file()]:
        raise UserError(f"{source} is no adapter of mlx-lm, it has no {missing[0]}: train one with --backend mlx")
    if (target / MLX_WEIGHTS).exists():
        raise UserError(f"{target} holds an adapter of mlx-lm, which would be lost: choose another folder")
    refuse_foreign(target, CONFIG, "an adapter")
    try:
        about = json.loads((source / MLX_CONFIG).read_text(encoding="utf-8"))
        shape = about["lora_parameters"]
        kind, rank, scale, dropout = about["fine_tune_type"], int(shape["rank"]), float(shape["scale"]), float(shape["dropout"])
        held = load_file(source / MLX_WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the adapter in {source} is damaged ({str(error)[:100]}): train it again") from None
    if kind != "lora" or any(not name.endswith((".lora_a", ".lora_b")) or tensor.ndim != 2 for name, tensor in held.items()):
        raise UserError(f"the adapter in {source} is no plain LoRA (fine_tune_type {kind}): only that one converts")
    tensors = {}
    for name, tensor in held.items():
        path, _, side = name.rpartition(".lora_")
        tensors[f"base_model.model.{path}.lora_{side.upper()}.weight"] = np.ascontiguousarray(tensor.T)
    names = sorted({name.removesuffix(".lora_a").rsplit(".", 1)[-1] for name in held if name.endswith(".lora_a")})
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none"}
    config |= {"r": rank, "lora_alpha": scale * rank, "lora_dropout": dropout, "target_modules": names}
    with replaced(target) as part:
        save_file(tensors, part / WEIGHTS, {"format": "pt"})
        (part / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main(source: tyro.conf.Positional[Path], target: tyro.conf.Positional[Path], /) -> None:
    """Convert the mlx-lm adapter in SOURCE to PEFT's format in TARGET."""
    to_peft(source, target)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
