"""Engram memory: hashed n-gram embeddings with a context gate, for one or several layers (arXiv 2601.07372, section 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from shared.errors import UserError

from .guard import Guard
from .hashing import Vocabulary, mixes, mixes_of_last, multipliers, primes_from

Gate = Literal["signed_sqrt", "sigmoid", "off"]
Init = Literal["zero_table", "zero_value"]
EPSILON = 1e-6
TAPS = 4  # of the convolution, as in the paper; its dilation is the longest order
REMEMBERED = 4096  # n-gram sets whose projections the decoding step keeps


@dataclass(frozen=True)
class EngramConfig:
    """What a memory is made of. Rows of the table: len(layers) * len(orders) * heads primes, none below `rows`."""

    orders: tuple[int, ...] = (2, 3, 5, 8)  # n-gram lengths, ascending
    heads: int = 4  # rows read per n-gram and layer
    head_width: int = 8  # numbers per row
    rows: int = 0  # least per head; 0: to be solved by within_budget
    layers: tuple[int, ...] = (1,)  # decoder layers, counted from 0, before which the memory is added
    gate: Gate = "signed_sqrt"  # of the published code and DeepSeek-V4.1; "sigmoid" is the paper's formula
    convolution: bool = False
    init: Init = "zero_table"  # which factor starts at zero, so that the base is unchanged
    guard: bool = True  # n-grams that were never taught contribute exactly zero
    compress: bool = True  # tokens that differ in case, accents or white space count as one
    seed: int = 0  # of the hash and of the projections

    def __post_init__(self):
        for name in ("orders", "layers"):  # JSON gives lists
            numbers = tuple(getattr(self, name))
            object.__setattr__(self, name, numbers)
            least = int(name == "orders")
            if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < least:
                raise UserError(f"{name} {numbers}: give different whole numbers from {least} on, in ascending order")
        if self.heads < 1 or self.head_width < 1 or self.rows < 0:
            raise UserError("a memory needs heads >= 1, head_width >= 1 and rows >= 0")
        if self.gate not in get_args(Gate) or self.init not in get_args(Init):
            raise UserError(f"gate is one of {get_args(Gate)}, init one of {get_args(Init)}; not {self.gate!r}, {self.init!r}")

    @property
    def width(self) -> int:
        """Of the embedding that one layer reads per position."""
        return len(self.orders) * self.heads * self.head_width

    def primes(self) -> list[int]:
        return primes_from(self.rows, len(self.layers) * len(self.orders) * self.heads)

    def parameters(self, hidden_size: int) -> int:
        """Trainable parameters of the memory on a model of that width."""
        dense = self.width * hidden_size  # value projection
        if self.gate != "off":
            dense += self.width * hidden_size + 2 * hidden_size  # key projection, two norms
        if self.convolution:
            dense += (TAPS + 1) * hidden_size  # taps, norm
        return len(self.layers) * dense + sum(self.primes()) * self.head_width


def within_budget(config: EngramConfig, hidden_size: int, parameters: int) -> EngramConfig:
    """The config with the most rows whose trainable parameters do not exceed `parameters`. Raises UserError if none do.

    Bisection over whole configurations: the primes of small tables lie well above `rows`, so a division would overshoot.
    """
    low, high = 1, max(2, parameters // (len(config.layers) * config.width) + 1)
    if replace(config, rows=low).parameters(hidden_size) > parameters:
        least = replace(config, rows=low).parameters(hidden_size)
        raise UserError(f"{parameters:,} parameters are too few for this memory, which has at least {least:,}: take fewer heads")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if replace(config, rows=middle).parameters(hidden_size) <= parameters else (low, middle)
    return replace(config, rows=low)


@dataclass(frozen=True)
class Found:
    """What the memory knows of one call. M positions have at least one n-gram to read."""

    positions: torch.Tensor  # (M,) indices into the flattened (B * T) positions
    mixes: torch.Tensor  # (M, orders)
    known: torch.Tensor  # (M, orders) whether the n-gram is read
    packs: torch.Tensor  # (M, orders) the part of the table it is read from


@dataclass
class Contribution:
    """What one layer adds at M positions."""

    value: torch.Tensor  # (M, hidden) in float32, gated
    gate: torch.Tensor | None = field(default=None)  # (M, 1); None: no gate


class LayerMemory(nn.Module):
    """The dense part for one decoder layer: projections, gate and convolution."""

    def __init__(self, config: EngramConfig, hidden_size: int, generator: torch.Generator):
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


class EngramMemory(nn.Module):
    """The table, the guard and one LayerMemory per layer; knows nothing of the model it is attached to."""

    classes: torch.Tensor
    factors: torch.Tensor
    primes: torch.Tensor
    offsets: torch.Tensor

    def __init__(
        self, config: EngramConfig, vocabulary: Vocabulary, hidden_size: int, packs: int = 1, mapped: np.ndarray | None = None
    ):
        """`packs` tables lie one after the other (see merge); `mapped` (rows, head_width) stands in for them, on disk."""
        super().__init__()
        if config.rows < 1:
            raise UserError("the config has no rows: set them, or call within_budget(config, hidden_size, parameters)")
        self.config, self.vocabulary, self.hidden_size = config, vocabulary, hidden_size
        generator = torch.Generator().manual_seed(config.seed)
        self.layers = nn.ModuleList(LayerMemory(config, hidden_size, generator) for _ in config.layers)
        primes = torch.tensor(config.primes()).view(len(config.layers), len(config.orders), config.heads)
        self.rows, self.packs, self.mapped = int(primes.sum()), packs, mapped  # rows of one pack
        shape = (self.rows * packs, config.head_width)
        if mapped is None:
            self.table = nn.Parameter(torch.zeros(shape))
            if config.init == "zero_value":
                nn.init.normal_(self.table, std=0.02, generator=generator)
        elif mapped.shape != shape:
            raise ValueError(f"the table is {mapped.shape}, not {shape}")
        self.guard = Guard(config.orders)
        self.python_factors = multipliers(config.seed, config.orders[-1], vocabulary.dead)
        self.register_buffer("classes", torch.tensor([*vocabulary.classes, vocabulary.dead]), persistent=False)
        self.register_buffer("factors", torch.tensor(self.python_factors), persistent=False)
        self.register_buffer("primes", primes, persistent=False)
        self.register_buffer("offsets", (primes.flatten().cumsum(0) - primes.flatten()).view_as(primes), persistent=False)
        self._projected: dict[tuple, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._stamp: tuple = ()

    def windows(self, ids: torch.Tensor) -> torch.Tensor:
        """Classes (B, T, N) of each position and the N - 1 before it, of ids (B, N - 1 + T); unknown ids are dead."""
        size, reach = len(self.classes) - 1, self.config.orders[-1]
        return self.classes[torch.where((ids < 0) | (ids >= size), size, ids)].unfold(1, reach, 1).flip(-1)

    def mixes(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T, orders) of whole texts (B, T)."""
        return mixes(self.windows(F.pad(ids, (self.config.orders[-1] - 1, 0), value=-1)), self.factors, self.config.orders)

    def find(self, windows: torch.Tensor, present: torch.Tensor | None) -> Found | None:
        """What to read at each position; windows (B, T, N), present (B, T) False where there is padding. None: nothing."""
        mixed = mixes(windows, self.factors, self.config.orders).flatten(0, 1)
        known, packs = self.guard.find(mixed) if self.config.guard else (torch.ones_like(mixed, dtype=torch.bool), mixed * 0)
        if present is not None:
            known = known & present.reshape(-1, 1)
        positions = known.any(-1).nonzero().squeeze(-1)
        return Found(positions, mixed[positions], known[positions], packs[positions]) if len(positions) else None

    def addresses(self, layer: int, found: Found) -> torch.Tensor:
        """Rows (M, orders, heads) of the table that the n-grams have in a layer (index into config.layers)."""
        row = found.mixes.unsqueeze(-1) % self.primes[layer] + self.offsets[layer]
        return row + found.packs.unsqueeze(-1) * self.rows

    def embed(self, layer: int, found: Found) -> torch.Tensor:
        """Concatenated rows (M, width); zero for the orders that are not known, whose rows get no gradient either."""
        rows = self.addresses(layer, found)[found.known]
        if self.mapped is None:
            read = F.embedding(rows, self.table, sparse=True)
        else:
            read = torch.from_numpy(self.mapped[rows.cpu().numpy()]).to(rows.device, torch.float32)
        width = self.config.heads * self.config.head_width
        embedding = read.new_zeros(*found.known.shape, width)
        embedding[found.known] = read.flatten(1)
        return embedding.flatten(1)

    def read(self, layer: int, hidden: torch.Tensor, found: Found) -> Contribution:
        """The gated values at the found positions of hidden states (M, hidden)."""
        memory: LayerMemory = self.layers[layer]  # pyright: ignore[reportAssignmentType]
        return memory.gated(hidden, *memory.project(self.embed(layer, found)))

    def step(self, tokens: Sequence[int]) -> tuple[int | None, ...] | None:
        """The known mixes, order by order, at the last of N tokens of one text (negative: no token); None: none is known."""
        classes, dead = self.vocabulary.classes, self.vocabulary.dead
        window = [classes[token] if 0 <= token < len(classes) else dead for token in reversed(tokens)]
        found = mixes_of_last(window, self.python_factors, self.config.orders)
        if not self.config.guard:
            return tuple(found)
        known = tuple(mix if mix in keys else None for mix, keys in zip(found, self.guard.sets(), strict=True))
        return known if any(mix is not None for mix in known) else None

    def read_step(self, layer: int, hidden: torch.Tensor, known: tuple[int | None, ...]) -> Contribution:
        """As `read`, for one position (1, hidden). Values and keys depend on the n-grams alone: recent ones are kept."""
        stamp = tuple(parameter._version for parameter in self.parameters())
        if stamp != self._stamp or len(self._projected) >= REMEMBERED:
            self._projected, self._stamp = {}, stamp
        memory: LayerMemory = self.layers[layer]  # pyright: ignore[reportAssignmentType]
        projected = self._projected.get((layer, known))
        if projected is None:
            mixed = torch.tensor([[mix or 0 for mix in known]], device=self.factors.device)
            read = torch.tensor([[mix is not None for mix in known]], device=mixed.device)
            packs = self.guard.find(mixed)[1] if self.config.guard else mixed * 0
            found = Found(torch.zeros(1, dtype=torch.int64, device=mixed.device), mixed, read, packs)
            projected = self._projected[layer, known] = memory.project(self.embed(layer, found))
        return memory.gated(hidden, *projected)
