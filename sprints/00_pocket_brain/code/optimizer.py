"""Muon for the weight matrices and AdamW for the rest, on fp32 masters of bf16 weights, shared out over the processes."""

from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from .model import Llama

# Jordan et al. 2024 (Muon): the odd quintic whose iteration drives every singular value towards 1
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: singular values end in [0.7, 1.2]. (N, rows, columns) -> the same, bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def total(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, the same on each."""
    return cast(Tensor, accelerator.reduce(tensor, "sum"))


class Optimizer:
    """One step: sum the gradients over the processes, update the fp32 masters, copy them into the bf16 weights.

    kind "muon" orthogonalises the momentum of every matrix but the embedding; "adamw" gives every weight to AdamW.
    The matrices that the model keeps fused (q|k|v, gate|up) are orthogonalised one by one. Every process holds all states, and
    computes the updates of its share of the matrices, so a checkpoint of one process is complete.
    """

    def __init__(self, model: Llama, accelerator: Accelerator, kind: str, learning_rate: float, matrix_rate: float, decay: float):
        self.accelerator, self.matrix_rate, self.decay = accelerator, matrix_rate, decay
        self.weights = dict(model.named_parameters())
        self.masters = {name: weight.detach().float().clone() for name, weight in self.weights.items()}
        parts = {"qkv": 3, "gate_up": 2}
        fused = {name: parts.get(name.split(".")[0], 1) for name, weight in self.weights.items() if weight.ndim == 2}
        self.matrices = {name: count for name, count in fused.items() if name != "embedding"} if kind == "muon" else {}
        self.momentum = {name: torch.zeros_like(self.masters[name]) for name in self.matrices}
        self.rest = [name for name in self.masters if name not in self.matrices]
        betas = (0.9, 0.98) if kind == "muon" else (0.9, 0.95)
        groups = [
            {"params": [self.masters[name] for name in self.rest if self.masters[name].ndim == 2]},
            {"params": [self.masters[name] for name in self.rest if self.masters[name].ndim == 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=decay if kind == "adamw" else 0.0)
        self.learning_rate = learning_rate
        self.copy_to_model()

    def copy_to_model(self) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])

    def _sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sum over the processes, exchanged as one message in the dtype of the tensors: half the bytes in bf16."""
        flat = total(self.accelerator, torch.cat([tensor.reshape(-1) for tensor in tensors]))
        return [part.view_as(tensor) for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]

    @torch.no_grad()
    def step(self, scale: float, tokens: float, step: int, loss: Tensor) -> Tensor:
        """Update from the summed gradients of so many tokens, at `scale` times the learning rates; returns the mean loss."""
        summed = self._sum([cast(Tensor, weight.grad) for weight in self.weights.values()])
        gradients = {name: gradient.float() / tokens for name, gradient in zip(self.weights, summed, strict=True)}
        for weight in self.weights.values():
            weight.grad = None
        for name in self.rest:
            self.masters[name].grad = gradients[name]
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        self.adam.step()
        if self.matrices:
            self._muon_step(gradients, scale, step)
        self.copy_to_model()
        return total(self.accelerator, loss) / tokens

    def _muon_step(self, gradients: dict[str, Tensor], scale: float, step: int) -> None:
        beta = 0.85 + 0.10 * min(1.0, step / 150)  # a shorter memory while the loss still falls fast
        blocks: dict[tuple[int, int], list[Tensor]] = {}  # by shape, so that one batched product serves them all
        updates = {name: torch.zeros_like(gradients[name], dtype=torch.bfloat16) for name in self.matrices}
        targets: dict[tuple[int, int], list[Tensor]] = {}
        for name, count in self.matrices.items():
            self.momentum[name].lerp_(gradients[name], 1 - beta)
            nesterov = gradients[name].lerp(self.momentum[name], beta)
            for block, target in zip(nesterov.chunk(count), updates[name].chunk(count), strict=True):
                blocks.setdefault((block.shape[0], block.shape[1]), []).append(block)
                targets.setdefault((block.shape[0], block.shape[1]), []).append(target)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for shape, members in blocks.items():
            if mine := members[rank::world]:
                for target, update in zip(targets[shape][rank::world], orthogonalise(torch.stack(mine)), strict=True):
                    target.copy_(update)
        rate = self.matrix_rate * scale
        for (name, count), update in zip(self.matrices.items(), self._sum(list(updates.values())), strict=True):
            tall = max(1.0, update.shape[0] / count / update.shape[1]) ** 0.5
            self.masters[name].mul_(1 - rate * self.decay).sub_(update.float(), alpha=rate * tall)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as flat named tensors for safetensors."""
        found = {f"master.{name}": tensor for name, tensor in self.masters.items()}
        found |= {f"momentum.{name}": tensor for name, tensor in self.momentum.items()}
        for name in self.rest:
            found |= {f"adam.{key}.{name}": value for key, value in self.adam.state[self.masters[name]].items()}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave, in place."""
        for name, master in self.masters.items():
            master.copy_(state[f"master.{name}"])
        for name, momentum in self.momentum.items():
            momentum.copy_(state[f"momentum.{name}"])
        for name in self.rest:
            moments = {key: state[f"adam.{key}.{name}"].to(self.masters[name].device) for key in ("exp_avg", "exp_avg_sq")}
            self.adam.state[self.masters[name]] = {"step": state[f"adam.step.{name}"], **moments}
        self.copy_to_model()
