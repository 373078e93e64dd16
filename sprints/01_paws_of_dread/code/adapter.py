"""Adapters on disk: PEFT's format in safetensors, with the base they belong to; the same files for torch and for MLX."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from shared import models
from shared.errors import UserError, line
from shared.report import replaced

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")  # of a tensor in PEFT's file
EXTRAS = ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


def identity(loaded: models.LoadedModel) -> dict[str, str]:
    """Name of a base model, and the sha256 of its weights on disk or its commit on the hub.

    The 4-bit twin of a model for MLX counts as that model, of any commit.
    """
    folder = models.POCKET if loaded.name == "pocket" else Path(loaded.name)
    if not folder.is_dir():
        twins = {twin: name for name, twin in models.MLX4_TWINS.items()}
        return {"base": twins.get(loaded.name, loaded.name), "revision": "" if loaded.name in twins else loaded.revision or ""}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"base": loaded.name, "revision": digest.hexdigest()}


def save(loaded: models.LoadedModel, folder: Path) -> None:
    """Write the adapter of a tuned model."""
    with replaced(folder) as part:
        if loaded.backend == "mlx":
            from .tune_mlx import save_adapter

            save_adapter(loaded.model, part)
        else:
            loaded.model.save_pretrained(part)
        known = identity(loaded)
        config = json.loads((part / CONFIG).read_text()) | {"base_model_name_or_path": known["base"]}
        (part / CONFIG).write_text(json.dumps(config, indent=1))
        (part / "README.md").unlink(missing_ok=True)  # an empty form of peft's
        (part / BASE).write_text(json.dumps(known, indent=1))


def load(loaded: models.LoadedModel, folder: Path) -> models.LoadedModel:
    """Put an adapter onto its base. Raises UserError, and changes nothing, for a missing, pickled, damaged or foreign one."""
    if not (folder / WEIGHTS).is_file():
        pickles = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
        if pickles:
            raise UserError(f"{folder} holds {pickles[0]}: a pickle can run code, it is never loaded; convert it to safetensors")
        raise UserError(f"there is no adapter in {folder}: run `make cats-train`, or give --adapter a folder that has {WEIGHTS}")
    try:
        shapes, config, theirs = _read(folder)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the adapter in {folder} is damaged ({line(error)}): train it again") from None
    mine = identity(loaded)
    if theirs and (theirs["base"] != mine["base"] or (theirs["revision"] and mine["revision"] not in ("", theirs["revision"]))):
        same = "other weights of that name" if theirs["base"] == mine["base"] else mine["base"]
        raise UserError(f"the adapter in {folder} belongs to {theirs['base']}, not to {same}: load its base, or train it again")
    if loaded.backend == "mlx":
        from . import tune_mlx

        backend = tune_mlx
    else:
        from . import tune_torch

        backend = tune_torch
    paths = _check(folder, shapes, config, backend.sizes(loaded.model))
    loaded.model = backend.load_adapter(loaded.model, folder / WEIGHTS, paths, config)
    return loaded


def _read(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any], dict[str, str] | None]:
    """Shapes of the tensors, configuration and base of an adapter; raises whatever a damaged file makes the parsers raise."""
    with safe_open(folder / WEIGHTS, "np") as weights:
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    numbers_fit = int(config["r"]) >= 1 and config["lora_alpha"] > 0 and 0 <= config.get("lora_dropout", 0) < 1
    if not shapes or config["peft_type"] != "LORA" or not numbers_fit:
        raise ValueError("it is empty or no LoRA")
    if not (folder / BASE).is_file():
        return shapes, config, None
    base = json.loads((folder / BASE).read_text(encoding="utf-8"))
    return shapes, config, {key: str(base[key]) for key in ("base", "revision")}


def _check(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], config: dict[str, Any], layers: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Raises UserError when the tensors are not exactly those of a plain LoRA on these layers, path to (out, in)."""
    if extra := [key for key in EXTRAS if config.get(key)]:
        raise UserError(f"the adapter in {folder} uses {extra[0]}: only plain LoRA is supported here")
    names = {match[1].rsplit(".", 1)[-1] for key in shapes if (match := KEY.fullmatch(key))}
    paths = [path for path in layers if path.rsplit(".", 1)[-1] in names]  # in all of its depth: a deeper base is another
    wanted: dict[str, tuple[int, ...]] = {}
    for path in paths:
        out, inner = layers[path]
        wanted[f"base_model.model.{path}.lora_A.weight"] = (config["r"], inner)
        wanted[f"base_model.model.{path}.lora_B.weight"] = (out, config["r"])
    for key in sorted({*wanted, *shapes}):
        theirs, ours = shapes.get(key, "absent"), wanted.get(key, "absent")
        if theirs != ours:
            name = key.removeprefix("base_model.model.").removesuffix(".weight")
            raise UserError(f"the adapter in {folder} fits another base: its {name} is {theirs}, here it is {ours}")
    return paths
