"""What a fine-tuning run is made of, the same for every backend."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from shared import models
from shared.device import Device
from shared.errors import UserError

Method = Literal["qlora", "lora", "full"]
ORIGINAL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONTROL_SEEDS = 2  # of the published ones, the first: the control differs far more from the tuned models than its seeds do
FOUR_BIT: dict[str, models.Quantization] = {"cuda": "nf4", "cpu": "nf4", "mlx": "mlx4"}


@dataclass(frozen=True)
class Recipe:
    """rank, alpha, dropout: of LoRA. max_length in tokens. patience: epochs without a better validation loss before it stops.

    targets "all": every linear layer but the head; "original": the seven names of the original script, of which a model with
    fused projections has only two.
    """

    method: Method = "qlora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    learning_rate: float = 2e-3
    epochs: int = 4
    batch: int = 8
    max_length: int = 256
    patience: int = 1
    targets: Literal["all", "original"] = "all"
    completion_only: bool = True
    end_sign: bool = True
    seed: int = 0

    def __post_init__(self):
        numbers = {"rank": self.rank, "epochs": self.epochs, "batch": self.batch, "patience": self.patience}
        if wrong := [name for name, value in numbers.items() if value < 1]:
            raise UserError(f"--{wrong[0]} must be at least 1")
        if not 0 <= self.dropout < 1 or not 0 < self.learning_rate < math.inf or self.max_length < 16 or self.seed < 0:
            raise UserError("--dropout must be in [0, 1), --learning-rate above 0, --max-length at least 16, seeds at least 0")

    @property
    def scale(self) -> float:
        """The factor in front of B A (Hu et al. 2021, section 4.1)."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Course:
    """How a run went. history: one entry per epoch with epoch, step, train_loss, validation_loss. tokens: trained on in these
    seconds, without padding (a resumed run counts from there). trainable: parameters."""

    history: list[dict[str, float]]
    seconds: float
    tokens: int
    trainable: int

    @property
    def best(self) -> dict[str, float]:
        return min(self.history, key=lambda entry: entry["validation_loss"])


@dataclass(frozen=True)
class Tuned:
    loaded: models.LoadedModel
    course: Course


def base(name: str, device: Device, method: Method) -> models.LoadedModel:
    """The model to tune: in 4 bit for QLoRA, else as stored. Raises UserError where the device has no 4-bit format."""
    if method == "qlora" and device.kind not in FOUR_BIT:
        raise UserError(
            f"QLoRA needs a 4-bit base, which --device {device.kind} does not have: take cuda, cpu or mlx, or --method lora"
        )
    return models.load(name, device, FOUR_BIT[device.kind] if method == "qlora" else "none")


def linear_layers(model: Any) -> dict[str, Any]:
    """Every linear layer of a torch model but the head, by its path: what LoRA has to reach. Parts of adapters do not count."""
    import torch

    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and ".lora_" not in path}
    return {path: layer for path, layer in layers.items() if not path.endswith("lm_head")}
