"""What the engines derive from a wiring, once: its connections by input, and the lists of a bundle."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .wiring import LANES, PATCH, patch_order


@dataclass(frozen=True, eq=False)
class ByInput:
    """All connections in the order of what they read: `offsets` int32 (n + 1), `rows` that read it, `places` in the table.

    For a bundle the same of entries: n blocks, rows are tiles, and `lanes` uint8 (entries, 16) the permutation the other way round.
    """

    offsets: Tensor
    rows: Tensor
    places: Tensor
    lanes: Tensor | None = None


def by_input(table: Tensor, n: int, lanes: Tensor | None = None) -> ByInput:
    """The transposed lists of a table (rows, k) of values in [0, n)."""
    flat = table.reshape(-1)
    places = flat.argsort(stable=True)
    offsets = torch.zeros(n + 1, dtype=torch.int32, device=table.device)
    offsets[1:] = torch.bincount(flat, minlength=n).cumsum(0)
    back = None if lanes is None else lanes.reshape(-1, LANES)[places].argsort(1).to(torch.uint8)
    return ByInput(offsets, (places // table.shape[1]).int(), places.int(), back)


@dataclass(frozen=True, eq=False)
class Bundle:
    """Tiles of 16 outputs: `blocks` int32 (tiles, k), `lanes` uint8 (tiles, k, 16) that each output reads, `quads` int32 (in / 4):
    where in a row of x the floats of the blocks lie, four at a time (None: in their order)."""

    in_features: int
    blocks: Tensor
    lanes: Tensor
    quads: Tensor | None

    @cached_property
    def by_block(self) -> ByInput:
        return by_input(self.blocks, self.in_features // LANES, self.lanes)


@dataclass(frozen=True, eq=False)
class Structure:
    """A checked wiring `indices` (out, k) of `in_features` inputs; with a grid, blocks of a bundle may be patches of it."""

    indices: Tensor
    in_features: int
    grid: tuple[int, int] | None = None

    @cached_property
    def by_input(self) -> ByInput:
        return by_input(self.indices, self.in_features)

    @cached_property
    def bundle(self) -> Bundle | None:
        """The lists of a bundle where this wiring is one (wiring.py), else None."""
        if self.in_features % LANES or len(self.indices) % LANES:
            return None
        if found := _as_bundle(self.indices, self.in_features, None):
            return found
        if self.grid and not (self.grid[0] % PATCH or self.grid[1] % PATCH):
            order = patch_order(self.grid, self.in_features).to(self.indices.device)
            return _as_bundle(order.argsort().int()[self.indices.long()], self.in_features, order[::PATCH].contiguous())
        return None


def _as_bundle(places: Tensor, in_features: int, quads: Tensor | None) -> Bundle | None:
    """`places` (out, k): the indices in the order of the blocks."""
    tiles = places.reshape(-1, LANES, places.shape[1]).transpose(1, 2)  # (tiles, k, 16)
    blocks, lanes = tiles // LANES, tiles % LANES
    if not (blocks == blocks[:, :, :1]).all() or not (lanes.sort(2).values == torch.arange(LANES, device=lanes.device)).all():
        return None
    return Bundle(in_features, blocks[:, :, 0].contiguous(), lanes.to(torch.uint8).contiguous(), quads)
