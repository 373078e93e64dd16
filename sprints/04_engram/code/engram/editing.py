"""Forget facts: take n-grams out of the guard, and what only they read out of the table."""

from collections.abc import Sequence

import torch

from shared.errors import UserError

from .memory import EngramMemory, Found


def everything(memory: EngramMemory, column: int, keys: torch.Tensor) -> Found:
    """Keys of one order as if each stood at a position of its own."""
    mixes = keys.new_zeros(len(keys), len(memory.config.orders))
    known = torch.zeros_like(mixes, dtype=torch.bool)
    mixes[:, column], known[:, column] = keys, True
    return Found(mixes, known)


def rows_used(memory: EngramMemory, columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Which rows of the table (rows,) the keys of each order read in any layer."""
    used = torch.zeros(memory.rows, dtype=torch.bool, device=memory.factors.device)
    for column, keys in enumerate(columns):
        found = everything(memory, column, keys)
        for layer in range(len(memory.config.layers)):
            used[memory.addresses(layer, found)[found.known].flatten()] = True
    return used


@torch.no_grad()
def forget(memory: EngramMemory, sequences: Sequence[Sequence[int]]) -> int:
    """Unlearn texts (token ids) in place; see EngramAdapter.forget."""
    if not memory.config.guard:
        raise UserError("forgetting needs the guard's record of n-grams: train the memory with guard=True")
    removed = memory.guard.forget(sequences, memory.mixes)
    left = [memory.guard.column(order)[0] for order in memory.config.orders]
    memory.table[rows_used(memory, removed) & ~rows_used(memory, left)] = 0
    return sum(map(len, removed))
