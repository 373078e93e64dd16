"""LoRA with peft on every linear layer of a causal language model, in full precision or on a 4-bit base (QLoRA).

Hu et al. 2021, arXiv 2106.09685; all linear layers and the scale of 2 as in Dettmers et al. 2023, arXiv 2305.14314.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from shared.errors import UserError
from shared.report import refuse_foreign, replaced

SCALE = 2.0  # in front of B A
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def linear_sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Path of every linear layer but the head: (in, out). 4-bit layers count as what they stand for."""
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and ".lora_" not in path}
    return {path: (one.in_features, one.out_features) for path, one in layers.items() if not path.endswith("lm_head")}


def parameter_count(model: Any, rank: int) -> int:
    """Trainable parameters of LoRA of that rank: rank * (in + out) for each layer."""
    return sum(rank * sum(size) for size in linear_sizes(model).values())


def rank_within(model: Any, parameters: int) -> int:
    """The highest rank whose parameters do not exceed `parameters`. Raises UserError when not even rank 1 fits."""
    if (rank := parameters // parameter_count(model, 1)) < 1:
        raise UserError(f"{parameters:,} parameters are too few for LoRA, which has at least {parameter_count(model, 1):,}")
    return rank


def attach(model: Any, rank: int, seed: int) -> Any:
    """Put a LoRA of no effect yet onto the model, which becomes part of the returned PeftModel and whose weights freeze."""
    from peft import LoraConfig, get_peft_model

    names = sorted({path.rsplit(".", 1)[-1] for path in linear_sizes(model)})
    torch.manual_seed(seed)  # of A; B starts at zero
    config = LoraConfig(r=rank, lora_alpha=int(SCALE * rank), lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


def detach(adapted: Any) -> Any:
    """Take LoRA off; returns the base with the layers it had before, bit for bit."""
    base = adapted.unload()
    for name in ("peft_config", "_hf_peft_config_loaded"):  # else the base warns when it is adapted again
        base.__dict__.pop(name, None)
    return base


def save(adapted: Any, folder: Path) -> None:
    """Write the adapter to `folder`, replacing an adapter there. Raises UserError for a folder that holds something else."""
    refuse_foreign(folder, CONFIG, "an adapter")
    with replaced(folder) as part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the base's card, which a local folder has not
            adapted.save_pretrained(part)
        (part / "README.md").unlink(missing_ok=True)  # an empty form of peft's


def load(model: Any, folder: Path) -> Any:
    """Put a saved adapter onto its base, for use only. Raises UserError, and changes nothing, for a missing or foreign one."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise UserError(f"there is no LoRA adapter in {folder}: run `make engram-train`")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
        assert isinstance(config, LoraConfig)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"the LoRA adapter in {folder} is damaged ({str(error)[:100]}): run `make engram-train`") from None
    wanted = {}
    for path, (inner, out) in linear_sizes(model).items():
        wanted[f"base_model.model.{path}.lora_A.weight"] = (config.r, inner)
        wanted[f"base_model.model.{path}.lora_B.weight"] = (out, config.r)
    if wanted != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise UserError(f"the LoRA adapter in {folder} belongs to another base: train one for this base (`make engram-train`)")
    adapted = get_peft_model(model, config)
    set_peft_model_state_dict(adapted, tensors)
    return adapted.eval().requires_grad_(False)
