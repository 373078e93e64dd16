"""Edit what a memory holds: forget facts, merge two memories."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from shared.errors import UserError

from .memory import EngramMemory, Found

if TYPE_CHECKING:
    from .adapter import EngramAdapter


def everything(memory: EngramMemory, column: int, keys: torch.Tensor, packs: torch.Tensor) -> Found:
    """Keys of one order as if each stood at a position of its own."""
    shape = (len(keys), len(memory.config.orders))
    mixes, known, owner = (keys.new_zeros(shape, dtype=dtype) for dtype in (torch.int64, torch.bool, torch.int64))
    mixes[:, column], known[:, column], owner[:, column] = keys, True, packs.long()
    return Found(mixes, known, owner)


def rows_used(memory: EngramMemory, columns: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Which rows of the table (rows,) the keys, with their packs, of each order read in any layer."""
    used = torch.zeros(memory.rows * memory.packs, dtype=torch.bool, device=memory.factors.device)
    for column, (keys, packs) in enumerate(columns):
        found = everything(memory, column, keys, packs)
        for layer in range(len(memory.config.layers)):
            used[memory.addresses(layer, found)[found.known].flatten()] = True
    return used


@torch.no_grad()
def forget(memory: EngramMemory, sequences: Sequence[Sequence[int]]) -> int:
    """Unlearn texts (token ids) in place; see EngramAdapter.forget."""
    if not memory.config.guard or memory.mapped is not None:
        raise UserError("forgetting needs the guard's record of n-grams and a table in RAM (guard=True, mapped=False)")
    removed = memory.guard.forget(sequences, memory.mixes)
    left = [(keys, packs) for keys, _, packs in map(memory.guard.columns, memory.config.orders)]
    memory.table[rows_used(memory, removed) & ~rows_used(memory, left)] = 0
    return sum(len(keys) for keys, _ in removed)


@torch.no_grad()
def merge(a: "EngramAdapter", b: "EngramAdapter") -> EngramMemory:
    """One memory that knows what both know; attach it with EngramAdapter(model, tokenizer, memory.config, memory).

    Its table is that of `a` followed by that of `b`, and each n-gram reads the table it was trained in, so texts taught to one
    of them keep their logits. Raises UserError when the memories differ in hash or projections, or share an n-gram.
    """
    first, second = a.memory, b.memory
    if first.config != second.config or first.vocabulary != second.vocabulary or first.hidden_size != second.hidden_size:
        raise UserError("memories can be merged when tokenizer and config (hash seed included) agree: train both with one config")
    if not first.config.guard or first.mapped is not None or second.mapped is not None:
        raise UserError("merging needs the guards' records of n-grams and tables in RAM (guard=True, mapped=False)")
    dense = first.layers.state_dict()
    if not all(torch.equal(tensor, dense[name]) for name, tensor in second.layers.state_dict().items()):
        raise UserError("the projections of the two memories differ: call freeze_projections() on both before training")
    merged = EngramMemory(first.config, first.vocabulary, first.hidden_size, first.packs + second.packs).to(first.table.device)
    merged.layers.load_state_dict(dense)
    merged.table.copy_(torch.cat([first.table, second.table]))
    for order in first.config.orders:
        (keys, counts, packs), (others, other_counts, other_packs) = first.guard.columns(order), second.guard.columns(order)
        if shared := int(torch.isin(keys, others).sum()):
            raise UserError(f"the two memories share {shared} n-grams of order {order}: teach those texts in one memory")
        joined, place = torch.cat([keys, others]).sort()
        owner = torch.cat([packs, other_packs + first.packs])
        merged.guard.put(order, joined, torch.cat([counts, other_counts])[place], owner[place])
    merged.guard.sequences = torch.cat([first.guard.sequences, second.guard.sequences]).unique()
    return merged
