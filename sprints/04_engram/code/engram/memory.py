"""Engram memory: hashed n-gram embeddings with a context gate, for one or several layers (arXiv 2601.07372, section 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from shared.errors import UserError

from .guard import Guard
from .hashing import Vocabulary, mixes, mixes_of_last, multipliers, primes_from
from .layer import TAPS, Contribution, Gate, LayerMemory

Init = Literal["zero_table", "zero_value"]
REMEMBERED = 4096  # n-gram sets whose projections the decoding step keeps


@dataclass(frozen=True)
class EngramConfig:
    """What a memory is made of. Rows of the table: len(layers) * len(orders) * heads primes, none below `rows`."""

    orders: tuple[int, ...] = (3, 4, 6, 8)  # n-gram lengths, ascending
    heads: int = 4  # rows read per n-gram and layer
    head_width: int = 8  # numbers per row
    rows: int = 0  # least per head; 0: to be solved by within_budget
    layers: tuple[int, ...] = (1,)  # decoder layers, counted from 0, before which the memory is added
    gate: Gate = "signed_sqrt"  # of the published code and DeepSeek-V4.1; "sigmoid" is the paper's formula
    convolution: bool = False
    init: Init = "zero_table"  # which factor starts at zero, so that the base is unchanged
    guard: bool = True  # n-grams that were never taught contribute exactly zero
    compress: bool = True  # tokens that differ in case, accents or white space count as one
    table_rate: float = 100.0  # times the rate of the rest (paper: 5, by dense Adam; SparseAdam moves a row only when it is read)
    seed: int = 0  # of the hash and of the projections

    def __post_init__(self):
        for name in ("orders", "layers"):  # JSON gives lists
            numbers = tuple(getattr(self, name))
            object.__setattr__(self, name, numbers)
            least = int(name == "orders")
            if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < least:
                raise UserError(f"{name} {numbers}: give different whole numbers from {least} on, in ascending order")
        if self.heads < 1 or self.head_width < 1 or self.rows < 0 or not 0 < self.table_rate < math.inf:
            raise UserError("a memory needs heads >= 1, head_width >= 1, rows >= 0 and a table_rate above 0")
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
    """What the memory knows at each of M positions: all of a call, since a smaller matrix would round in another way."""

    mixes: torch.Tensor  # (M, orders)
    known: torch.Tensor  # (M, orders) whether the n-gram is read
    packs: torch.Tensor  # (M, orders) the part of the table it is read from


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
        self._projected: dict[tuple, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = {}
        self._watched, self._stamp = tuple(self.parameters()), [-1]
        pairs = torch.stack([primes, self.offsets], -1).tolist()  # layers x orders x heads x (prime, offset)
        self._python_primes: list[list[list[tuple[int, int]]]] = pairs

    def windows(self, ids: torch.Tensor) -> torch.Tensor:
        """Classes (B, T, N) of each position and the N - 1 before it, of ids (B, N - 1 + T); unknown ids are dead."""
        size, reach = len(self.classes) - 1, self.config.orders[-1]
        return self.classes[torch.where((ids < 0) | (ids >= size), size, ids)].unfold(1, reach, 1).flip(-1)

    def mixes(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T, orders) of whole texts (B, T)."""
        return mixes(self.windows(F.pad(ids, (self.config.orders[-1] - 1, 0), value=-1)), self.factors, self.config.orders)

    def find(self, windows: torch.Tensor, present: torch.Tensor | None) -> Found | None:
        """What to read at M = B * T positions; windows (B, T, N), present (B, T) False where there is padding. None: nothing."""
        mixed = mixes(windows, self.factors, self.config.orders).flatten(0, 1)
        known, packs = self.guard.find(mixed) if self.config.guard else (torch.ones_like(mixed, dtype=torch.bool), mixed * 0)
        if present is not None:
            known = known & present.reshape(-1, 1)
        return Found(mixed, known, packs) if known.any() else None

    def addresses(self, layer: int, found: Found) -> torch.Tensor:
        """Rows (M, orders, heads) of the table that the n-grams have in a layer (index into config.layers)."""
        row = found.mixes.unsqueeze(-1) % self.primes[layer] + self.offsets[layer]
        return row + found.packs.unsqueeze(-1) * self.rows

    def embed(self, layer: int, found: Found) -> torch.Tensor:
        """Concatenated rows (M, width); zero for the orders that are not known, whose rows get no gradient either."""
        rows = self.addresses(layer, found)[found.known]
        read = self._rows(rows)
        width = self.config.heads * self.config.head_width
        embedding = read.new_zeros(*found.known.shape, width)
        embedding[found.known] = read.flatten(1)
        return embedding.flatten(1)

    def _rows(self, rows: torch.Tensor) -> torch.Tensor:
        if self.mapped is None:
            return F.embedding(rows, self.table, sparse=True)
        return torch.from_numpy(self.mapped[rows.cpu().numpy()]).to(rows.device)

    def read(self, layer: int, hidden: torch.Tensor, found: Found) -> Contribution:
        """The gated values at hidden states (M, hidden): exactly zero where nothing is known."""
        memory: LayerMemory = self.layers[layer]  # pyright: ignore[reportAssignmentType]
        return memory.gated(hidden, *memory.project(self.embed(layer, found)))

    def convolve(self, layer: int, values: torch.Tensor, past: torch.Tensor | None, limit: torch.Tensor | None) -> torch.Tensor:
        """The layer's LayerMemory.convolve."""
        memory: LayerMemory = self.layers[layer]  # pyright: ignore[reportAssignmentType]
        return memory.convolve(values, past, limit)

    def step(self, tokens: Sequence[int]) -> tuple[int | None, ...] | None:
        """The known mixes, order by order, at the last of N tokens of one text (negative: no token); None: none is known."""
        classes, dead = self.vocabulary.classes, self.vocabulary.dead
        window = [classes[token] if 0 <= token < len(classes) else dead for token in reversed(tokens)]
        found = mixes_of_last(window, self.python_factors, self.config.orders)
        if not self.config.guard:
            return tuple(found)
        known = tuple(mix if mix in keys else None for mix, keys in zip(found, self.guard.sets(), strict=True))
        return known if any(mix is not None for mix in known) else None

    def add_step(self, layer: int, hidden: torch.Tensor, known: tuple[int | None, ...]) -> torch.Tensor:
        """hidden (1, 1, hidden) plus what `read` gives for one position with these known mixes.

        Values and keys depend on the n-grams alone, so recent ones are kept for as long as no parameter changes.
        """
        stamp = [parameter._version for parameter in self._watched]
        if stamp != self._stamp or len(self._projected) >= REMEMBERED:
            self._projected, self._stamp = {}, stamp
        memory: LayerMemory = self.layers[layer]  # pyright: ignore[reportAssignmentType]
        projected = self._projected.get((layer, known))
        if projected is None:
            value, key = memory.project(self._embed_step(layer, known))
            target = None if key is None else (key * memory.query_norm)[0]
            projected = self._projected[layer, known] = value, key, target
        value, key, target = projected
        if target is None or hidden.device.type != "cpu":  # elsewhere, a number that Python asks for stops the queue
            return hidden + memory.gated(hidden[0], value, key).value.to(hidden.dtype)
        return torch.add(hidden, value.to(hidden.dtype), alpha=memory.gate_of_one(hidden.view(-1).float(), target))

    def _embed_step(self, layer: int, known: tuple[int | None, ...]) -> torch.Tensor:
        """As `embed`, (1, width), for one position, its rows found with Python's integers."""
        columns = [column for column, mix in enumerate(known) if mix is not None]
        mixed = torch.tensor([[mix or 0 for mix in known]], device=self.factors.device)
        packs = self.guard.find(mixed)[1][0].tolist() if self.packs > 1 else [0] * len(known)
        rows = [
            (known[column] or 0) % prime + offset + packs[column] * self.rows
            for column in columns
            for prime, offset in self._python_primes[layer][column]
        ]
        embedding = torch.zeros(len(known), self.config.heads * self.config.head_width, device=self.factors.device)
        embedding[columns] = self._rows(torch.tensor(rows, device=self.factors.device)).view(len(columns), -1)
        return embedding.view(1, -1)
