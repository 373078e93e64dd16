"""The dense part of Engram memory for one decoder layer: projections, gate, convolution (arXiv 2601.07372, section 2.3)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from .memory import EngramConfig

Gate = Literal["signed_sqrt", "sigmoid", "off"]
EPSILON = 1e-6
TAPS = 4  # of the convolution, as in the paper; its dilation is the longest order


@dataclass
class Contribution:
    """What one layer reads at M positions."""

    value: torch.Tensor  # (M, hidden) in float32, gated
    gate: torch.Tensor | None = None  # (M, 1); None: no gate


class LayerMemory(nn.Module):
    """The dense part for one decoder layer: projections, gate and convolution."""

    def __init__(self, config: "EngramConfig", hidden_size: int, generator: torch.Generator):
        super().__init__()
        self.gate_kind = config.gate
        self.dilation = config.orders[-1]

        def projection() -> nn.Parameter:
            bound = 1 / math.sqrt(config.width)  # as nn.Linear
            return nn.Parameter(torch.empty(hidden_size, config.width).uniform_(-bound, bound, generator=generator))

        self.value = projection()
        if config.gate != "off":
            self.key = projection()
            self.key_norm, self.query_norm = nn.Parameter(torch.ones(hidden_size)), nn.Parameter(torch.ones(hidden_size))
        if config.init == "zero_value":
            nn.init.zeros_(self.value)
        if config.convolution:
            self.taps, self.tap_norm = nn.Parameter(torch.zeros(TAPS, hidden_size)), nn.Parameter(torch.ones(hidden_size))

    def project(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values and normalised keys (M, hidden) of embeddings (M, width); they depend on the n-grams alone."""
        value = embedding @ self.value.T
        if self.gate_kind == "off":
            return value, None
        return value, F.rms_norm(embedding @ self.key.T, self.key_norm.shape, self.key_norm, EPSILON)

    def gated(self, hidden: torch.Tensor, value: torch.Tensor, key: torch.Tensor | None) -> Contribution:
        """alpha * value with alpha = sigmoid(s(RMSNorm(hidden) . key / sqrt(width))), s the signed square root or nothing."""
        if key is None:
            return Contribution(value)
        query = F.rms_norm(hidden.float(), self.query_norm.shape, self.query_norm, EPSILON)
        score = (query * key).sum(-1, keepdim=True) / math.sqrt(key.shape[-1])
        if self.gate_kind == "signed_sqrt":
            score = score.sign() * score.abs().clamp_min(EPSILON).sqrt()  # clamped: the root of zero has no slope
        gate = torch.sigmoid(score)
        return Contribution(gate * value, gate)

    def gate_of_one(self, hidden: torch.Tensor, target: torch.Tensor) -> float:
        """The gate at one position (hidden,), target = key * query_norm: Python's numbers take a fifth of nine tensors' time."""
        size = len(target)
        root_mean_square = math.sqrt(torch.dot(hidden, hidden).item() / size + EPSILON)
        score = torch.dot(hidden, target).item() / (root_mean_square * math.sqrt(size))
        if self.gate_kind == "signed_sqrt":
            score = math.copysign(math.sqrt(max(abs(score), EPSILON)), score) if score else 0.0
        return 0.5 + 0.5 * math.tanh(0.5 * score)  # the sigmoid, without overflow

    def convolve(self, values: torch.Tensor, past: torch.Tensor | None, limit: torch.Tensor | None) -> torch.Tensor:
        """values (B, T, hidden) + SiLU(causal depthwise convolution of RMSNorm(values)); `past`: values before this chunk.

        limit (B, T): how far a position may look back, so that packed documents do not mix.
        """
        reach = (TAPS - 1) * self.dilation
        padding = values.new_zeros(len(values), reach, values.shape[-1])
        before = padding if past is None else torch.cat([padding, past.to(values.dtype)], 1)[:, -reach:]
        normed = F.rms_norm(torch.cat([before, values], 1), self.tap_norm.shape, self.tap_norm, EPSILON)
        total, length = torch.zeros_like(values), values.shape[1]
        for tap in range(TAPS):
            back = tap * self.dilation
            term = self.taps[tap] * normed[:, reach - back : reach - back + length]
            total = total + (term if limit is None else term * (limit >= back).unsqueeze(-1))
        return values + F.silu(total)
