"""The guard: the exact set of n-grams that were taught. An n-gram outside of it contributes nothing, exactly."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from shared.errors import UserError

NONE = -1  # no mix is negative
CHUNK = 1024  # sequences hashed at once


def digest(ids: Sequence[int]) -> int:
    """A sequence as 64 bits: which ones were taught is remembered, not what they say."""
    return int.from_bytes(hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).digest(), "little", signed=True)


class Guard(nn.Module):
    """Per order the sorted mixes that were taught, how many sequences hold each, and the pack (part of the table) that it reads."""

    sequences: torch.Tensor  # (taught,) digests, sorted

    def __init__(self, orders: Sequence[int]):
        super().__init__()
        self.orders = tuple(orders)
        self.register_buffer("sequences", torch.zeros(0, dtype=torch.int64))
        for order in orders:
            self.register_buffer(f"keys_{order}", torch.zeros(0, dtype=torch.int64))
            self.register_buffer(f"counts_{order}", torch.zeros(0, dtype=torch.int32))
            self.register_buffer(f"packs_{order}", torch.zeros(0, dtype=torch.uint8))
        self._sets: list[frozenset[int]] | None = None

    def columns(self, order: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, counts and packs of one order."""
        return self.get_buffer(f"keys_{order}"), self.get_buffer(f"counts_{order}"), self.get_buffer(f"packs_{order}")

    def put(self, order: int, keys: torch.Tensor, counts: torch.Tensor, packs: torch.Tensor) -> None:
        setattr(self, f"keys_{order}", keys)
        setattr(self, f"counts_{order}", counts)
        setattr(self, f"packs_{order}", packs)
        self._sets = None

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the tensors of a state_dict, whose lengths are free. Raises ValueError when they are not a guard's."""
        for name, own in self.named_buffers():
            if tensors[name].dtype != own.dtype or tensors[name].dim() != 1:
                raise ValueError(f"{name} of its guard is no list of {own.dtype}")
            setattr(self, name, tensors[name])
        for order in self.orders:
            keys, counts, packs = self.columns(order)
            if not len(keys) == len(counts) == len(packs) or not bool((keys[1:] > keys[:-1]).all()):
                raise ValueError(f"its guard's keys of order {order} do not belong together")
        self._sets = None

    def sets(self) -> list[frozenset[int]]:
        """The keys per order for single look-ups, which Python's sets answer faster than torch."""
        if self._sets is None:
            self._sets = [frozenset(self.columns(order)[0].tolist()) for order in self.orders]
        return self._sets

    def find(self, mixes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the mixes (..., orders) are known, and the packs of those."""
        known, packs = torch.zeros_like(mixes, dtype=torch.bool), torch.zeros_like(mixes)
        for column, order in enumerate(self.orders):
            keys, _, owner = self.columns(order)
            if len(keys):
                wanted = mixes[..., column].contiguous()
                place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
                known[..., column] = keys[place] == wanted
                packs[..., column] = owner[place].long()
        return known, packs

    def learn(self, sequences: Sequence[Sequence[int]], mixes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Register the n-grams of each sequence that was not taught before; `mixes` gives (B, T, orders) of ids (B, T).

        Those that end at the last token are left out: nothing that was taught follows them.
        """
        old = set(self.sequences.tolist())
        fresh = {number: ids for ids in sequences if (number := digest(ids)) not in old}
        found = self._count(list(fresh.values()), mixes)
        for order, (keys, counts) in zip(self.orders, found, strict=True):
            was, were, packs = self.columns(order)
            merged, place = torch.unique(torch.cat([was, keys]), return_inverse=True)
            total = torch.zeros_like(merged, dtype=torch.int32).index_add_(0, place, torch.cat([were, counts]))
            owner = torch.zeros_like(merged, dtype=torch.uint8)
            owner[place[: len(was)]] = packs
            self.put(order, merged, total, owner)
        new = torch.tensor(sorted([*old, *fresh]), dtype=torch.int64, device=self.sequences.device)
        self.sequences = new

    def forget(
        self, sequences: Sequence[Sequence[int]], mixes: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Take sequences back; returns per order the keys that no other sequence holds (they are unknown now) and their packs.

        Raises UserError, and changes nothing, for a sequence that was never taught.
        """
        old, gone = set(self.sequences.tolist()), {digest(ids): ids for ids in sequences}
        if unknown := [ids for number, ids in gone.items() if number not in old]:
            raise UserError(f"{len(unknown)} of {len(gone)} sequences were never taught: give the very token ids that were learned")
        removed = []
        for order, (keys, counts) in zip(self.orders, self._count(list(gone.values()), mixes), strict=True):
            was, were, packs = self.columns(order)
            left = were.index_add(0, torch.searchsorted(was, keys), -counts)
            removed.append((was[left == 0], packs[left == 0]))
            self.put(order, was[left > 0], left[left > 0], packs[left > 0])
        self.sequences = torch.tensor(sorted(old - set(gone)), dtype=torch.int64, device=self.sequences.device)
        return removed

    def _count(
        self, sequences: list[Sequence[int]], mixes: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per order the distinct mixes of the sequences and in how many of them each stands."""
        device = self.sequences.device
        found: list[list[torch.Tensor]] = [[torch.zeros(0, dtype=torch.int64, device=device)] for _ in self.orders]
        texts = [torch.tensor(ids[:-1], dtype=torch.int64) for ids in sequences if len(ids) > 1]
        texts.sort(key=len)
        for start in range(0, len(texts), CHUNK):
            ids = pad_sequence(texts[start : start + CHUNK], batch_first=True, padding_value=NONE).to(device)
            hashed = torch.where((ids == NONE).unsqueeze(-1), NONE, mixes(ids))
            for column in range(len(self.orders)):
                ordered = hashed[..., column].sort(1).values
                first = torch.ones_like(ordered, dtype=torch.bool)
                first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
                found[column].append(ordered[first & (ordered != NONE)])
        counted = [torch.unique(torch.cat(parts), return_counts=True) for parts in found]
        return [(keys, counts.int()) for keys, counts in counted]
