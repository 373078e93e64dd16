"""Attach Engram memory to any Hugging Face causal language model without touching its weights.

    adapter = EngramAdapter(model, tokenizer, within_budget(EngramConfig(), model.config.hidden_size, 100_000))
    adapter.learn(sequences)  # the n-grams that may contribute; then train adapter.trainable_parameters()
    adapter.save(folder); adapter.detach(); EngramAdapter.load(model, tokenizer, folder)

Two kinds of forward pre-hooks do it: one on the decoder, which sees the token ids and finds what the memory knows of them, and
one on each chosen decoder layer, which adds to the hidden states before attention. Where nothing is known, nothing is computed.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from shared.errors import UserError

from . import editing, storage
from .hashing import Vocabulary
from .history import limits, past_of, present, remember
from .layer import Contribution
from .memory import EngramConfig, EngramMemory, Found


@dataclass
class Call:
    """One forward pass of the decoder, from its first hook to its last."""

    ids: torch.Tensor  # (B, T), -1 where there is padding
    found: Found | None = None
    step: tuple[int | None, ...] | None = None  # instead of `found` when one token of one text arrives
    token: int | None = None  # that token, when a cache is there
    limit: torch.Tensor | None = None  # (B, T)
    past: torch.Tensor | None = None  # (B, T', layers * hidden) what the convolutions look back on
    values: list[torch.Tensor] | None = None  # (B, T, hidden) per layer, the next such past; None without convolutions


@dataclass(frozen=True)
class Reading:
    """What the memory did at one token."""

    token: int
    orders: tuple[int, ...]  # lengths of the known n-grams that end here
    gates: tuple[float, ...]  # per layer, 0 to 1; without a gate 1; empty where nothing is known


class EngramAdapter:
    """Memory attached to a model. `memory` is a module of its own: the model's parameters and state_dict stay as they are."""

    def __init__(self, model: Any, tokenizer: Any, config: EngramConfig, memory: EngramMemory | None = None):
        """Attach. The config must have rows (see within_budget). Raises UserError when the model does not fit."""
        decoder, layers = _decoder(model)
        if config.layers[-1] >= len(layers):
            raise UserError(f"there is no layer {config.layers[-1]}: this model has layers 0 to {len(layers) - 1}")
        if getattr(decoder, "engram_adapter", None) is not None:
            raise UserError("this model has an Engram memory already: detach() that one first")
        width = model.get_input_embeddings().embedding_dim
        if memory is None:
            memory = EngramMemory(config, Vocabulary.of(tokenizer, config.compress), width)
        elif memory.hidden_size != width:
            raise UserError(f"this memory is made for models of width {memory.hidden_size}, not {width}")
        self.config, self.decoder = config, decoder
        self.memory = memory.to(next(model.parameters()).device)
        self._call: Call | None = None
        self._off = False
        self._trace: dict[int, Contribution] | None = None
        self._handles = [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after, with_kwargs=True),
        ]
        for index, layer in enumerate(config.layers):
            hook = partial(self._add, index)  # of a bound method: a deep copy of the model takes its adapter along
            self._handles.append(layers[layer].register_forward_pre_hook(hook, with_kwargs=True))
        decoder.engram_adapter = self._handles

    # --- attached or not

    def detach(self) -> None:
        """Take the memory off; the model is as it was, bit for bit."""
        for handle in self._handles:
            handle.remove()
        if getattr(self.decoder, "engram_adapter", None) is self._handles:
            del self.decoder.engram_adapter

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The bare base model, for as long as the block runs."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    # --- training

    def learn(self, sequences: Sequence[Sequence[int]]) -> None:
        """Let the guard know all n-grams of these texts (token ids): only known ones contribute and are trained."""
        if self.config.guard:
            self.memory.guard.learn(sequences, self.memory.mixes)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.memory.parameters() if parameter.requires_grad]

    def freeze_projections(self) -> None:
        """Train the table alone: memories of one config then share their projections and can be merged."""
        self.memory.layers.requires_grad_(False)

    @property
    def parameter_count(self) -> int:
        """Parameters of table and dense part, each trainable unless frozen."""
        return sum(parameter.numel() for parameter in self.memory.parameters())

    @property
    def stored_bytes(self) -> int:
        """Size of all tensors that `save` writes, the guard's included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.memory.state_dict().values())

    def optimizer(self, rate: float) -> "PairedAdam":
        """Adam for the dense part at `rate`, SparseAdam for the table at the config's table_rate times `rate`; no weight decay."""
        if self.memory.mapped is not None:
            raise UserError("a mapped table is read-only: load the memory without mapped=True to train it")
        dense = [parameter for parameter in self.memory.layers.parameters() if parameter.requires_grad]
        return PairedAdam(dense, self.memory.table, rate, rate * self.config.table_rate)

    # --- one memory and its facts

    @torch.no_grad()
    def inspect(self, ids: Sequence[int]) -> list[Reading]:
        """Per token of a text: the orders that are known there, and each layer's gate. Runs the model once."""
        self._trace = {}
        try:
            tokens = torch.tensor([list(ids)], device=self.memory.factors.device)
            windows = self.memory.windows(torch.nn.functional.pad(tokens, (self.config.orders[-1] - 1, 0), value=-1))
            self.decoder(input_ids=tokens, use_cache=False)
            found, trace = self.memory.find(windows, None), self._trace
        finally:
            self._trace = None
        readings = []
        for row, token in enumerate(ids):
            hits = [] if found is None else found.known[row].tolist()
            orders = tuple(order for order, hit in zip(self.config.orders, hits, strict=False) if hit)
            gates = [1.0 if read.gate is None else float(read.gate[row]) for _, read in sorted(trace.items())]
            readings.append(Reading(token, orders, tuple(gates) if orders else ()))
        return readings

    @torch.no_grad()
    def forget(self, sequences: Sequence[Sequence[int]]) -> int:
        """Unlearn texts that were learned, given as the same token ids; returns how many n-grams became unknown.

        N-grams that another learned text holds stay, and so do the rows that another known n-gram reads: all other texts keep
        their logits bit for bit. What only these texts used is zeroed. Give all variants of a fact, or what they share stays.
        """
        return editing.forget(self.memory, sequences)

    # --- on disk

    def save(self, folder: Path) -> None:
        """Write the memory (safetensors and JSON) to `folder`, replacing a memory there in one move."""
        storage.save(self.memory, folder)

    @classmethod
    def load(cls, model: Any, tokenizer: Any, folder: Path, mapped: bool = False) -> "EngramAdapter":
        """Attach a saved memory; `mapped` leaves the table on disk, read-only, for tables larger than RAM.

        Raises UserError, and changes nothing, for missing, damaged and foreign files and for another tokenizer.
        """
        memory = storage.load(folder, tokenizer, mapped)
        return cls(model, tokenizer, memory.config, memory)

    # --- hooks

    def _before(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """The decoder starts: find what the memory knows at each position."""
        self._call = None
        if self._off:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise UserError("Engram memory reads token ids: call the model with input_ids, not inputs_embeds, or use disabled()")
        if self.memory.factors.device != ids.device:
            self.memory.to(ids.device)
        past = past_of(kwargs.get("past_key_values"))
        if ids.shape == (1, 1) and not self.config.convolution and not torch.is_grad_enabled() and self._trace is None:
            self._call = self._single(ids, past, kwargs)
            return
        reach = self.config.orders[-1] - 1
        before = ids[:, :0] if past is None else past.ids()
        texts = present(kwargs.get("attention_mask"), ids.shape[1], before.shape[1] + ids.shape[1])
        limit = limits(kwargs.get("position_ids"), ids.shape)
        ids = ids if texts is None else torch.where(texts, ids, -1)
        joined = nn.functional.pad(torch.cat([before[:, max(0, before.shape[1] - reach) :], ids], 1), (reach, 0), value=-1)
        windows = self.memory.windows(joined[:, -(reach + ids.shape[1]) :])
        if limit is not None:
            near = torch.arange(reach + 1, device=ids.device) <= limit.unsqueeze(-1)
            windows = torch.where(near, windows, self.memory.vocabulary.dead)
        self._call = Call(ids, self.memory.find(windows, texts), limit=limit)
        if self.config.convolution:
            self._call.values = []
            self._call.past = None if past is None else past.values[:, 0]  # pyright: ignore[reportOptionalSubscript]

    def _single(self, ids: torch.Tensor, past: Any, kwargs: Mapping[str, Any]) -> Call:
        """One token of one text: everything in Python's integers, since each torch call costs more than the look-up."""
        token, reach = int(ids), self.config.orders[-1]
        tokens = [token] if past is None else [*past.recent(reach - 1)[-reach:], token]
        position = kwargs.get("position_ids")
        if position is not None and position.dim() == 2 and (limit := int(position)) < len(tokens) - 1:
            tokens = tokens[-limit - 1 :]
        tokens = [-1] * (reach - len(tokens)) + tokens[-reach:]
        return Call(ids, step=self.memory.step(tokens), token=None if past is None else token)

    def _add(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """A chosen layer starts: add the memory to its hidden states (B, T, hidden)."""
        call = self._call
        if call is None or (call.found is None and call.step is None and call.values is None):
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        add = self._add_found if call.step is None else self._add_step
        if torch.is_autocast_enabled(hidden.device.type):
            with torch.autocast(hidden.device.type, enabled=False):  # the memory computes in float32 whatever the base does
                added = add(index, hidden, call)
        else:
            added = add(index, hidden, call)
        return ((added, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": added})

    def _add_step(self, index: int, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        assert call.step is not None
        return self.memory.add_step(index, hidden, call.step)

    def _add_found(self, index: int, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        values = torch.zeros_like(hidden, dtype=torch.float32)
        if call.found is not None:
            read = self.memory.read(index, hidden.flatten(0, 1), call.found)
            values = read.value.view_as(hidden)
            if self._trace is not None:
                self._trace[index] = read
        if call.values is not None:
            call.values.append(values.detach())
            past = None if call.past is None else call.past.chunk(len(self.config.layers), -1)[index]
            values = self.memory.convolve(index, values, past, call.limit)
        return hidden + values.to(hidden.dtype)

    def _after(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> None:
        """The decoder is done: the chunk becomes a part of the cache's past."""
        call, self._call = self._call, None
        if call is None:
            return
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if call.token is not None and cache is not None:
            cache.layers[-1].push(call.token)
        elif isinstance(cache, Cache) and cache.layers:
            remember(cache, call.ids, None if call.values is None else torch.cat(call.values, -1))


class PairedAdam:
    """Two optimisers that step together. SparseAdam moves the rows that were addressed, and no other."""

    def __init__(self, dense: list[nn.Parameter], table: nn.Parameter, rate: float, table_rate: float):
        self.parts: list[torch.optim.Optimizer] = [torch.optim.SparseAdam([table], lr=table_rate)]
        if dense:
            self.parts.append(torch.optim.Adam(dense, lr=rate))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both; schedules scale each group's own rate."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


def _decoder(model: Any) -> tuple[Any, nn.ModuleList]:
    """The module that takes token ids and owns the list of decoder layers, and that list."""
    for module in model.modules():
        if "input_ids" in inspect.signature(module.forward).parameters:
            for child in module.children():
                if isinstance(child, nn.ModuleList) and len(child):
                    first: Any = child[0]
                    if "hidden_states" in inspect.signature(first.forward).parameters:
                        return module, child
    raise UserError(f"{type(model).__name__} has no list of decoder layers: give a Hugging Face causal language model")
