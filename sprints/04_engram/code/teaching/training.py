"""Teach a frozen language model a list of rows: by LoRA, by Engram memory, by both, or in all of its weights.

    tuned = fit(loaded, Recipe("engram", rate=1e-2), [encode(loaded, row.prompt, row.completion) for row in rows])
    tuned.model(...)  # the taught model
    tuned.remove()  # loaded.model is what it was, bit for bit

Every method sees the same batches in the same order (they depend on the rows and the seed alone), and its loss counts the
completion and the end token only.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from shared.errors import UserError
from shared.models import LoadedModel

from ..engram.adapter import EngramAdapter
from ..engram.memory import EngramConfig, within_budget
from . import lora

Method = Literal["lora", "random_label_lora", "full", "engram", "engram_unguarded", "unigram", "lora_engram"]
WARM_UP = 0.05  # of the steps
CLIP = 1.0  # norm of the gradient of each parameter group
WINDOW = 8  # batches whose rows are sorted by length before they are cut


@dataclass(frozen=True)
class Encoded:
    """A prompt with its completion; ids[start:] is the completion with the end token."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Recipe:
    """How to teach. `rate`: the peak learning rate (of the memory: that of its dense part).

    budget: trainable parameters of the adapter; None: those of LoRA of rank `rank`. With a budget the rank of LoRA follows from it.
    """

    method: Method
    rate: float
    steps: int = 300
    batch: int = 16
    rank: int = 8
    budget: int | None = None
    engram: EngramConfig = field(default_factory=EngramConfig)
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch, self.rank) < 1 or not 0 < self.rate < math.inf or self.seed < 0:
            raise UserError("steps, batch and rank must be at least 1, the rate above 0 and finite, the seed at least 0")


@dataclass(frozen=True)
class Tuned:
    """A taught model. losses: nats per completion token, per step. stored_bytes: of what `remove` takes away."""

    model: Any
    adapter: Any  # EngramAdapter | PeftModel | None; of LoRA + Engram the EngramAdapter
    trainable_parameters: int
    stored_bytes: int
    losses: list[float]
    seconds: float
    remove: Callable[[], None]


def encode(loaded: LoadedModel, prompt: str, completion: str) -> Encoded:
    """Prompt and completion as token ids, tokenised apart, and the end token. Raises UserError when one of them is empty."""
    asked, answer = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    if not asked or not answer:
        raise UserError(f"a prompt and its completion need at least one token each: {prompt!r}, {completion!r}")
    return Encoded([*asked, *answer, loaded.tokenizer.eos_token_id], len(asked))


def random_labels(rows: Sequence[Encoded], seed: int) -> list[Encoded]:
    """The same prompts with the completions of other rows: what is learned from them is no knowledge."""
    order = np.random.default_rng(seed).permutation(len(rows))
    giver = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # one cycle: no row keeps its own
    answers = [row.ids[row.start :] for row in rows]
    return [Encoded([*row.ids[: row.start], *answers[giver[place]]], row.start) for place, row in enumerate(rows)]


def batches(rows: Sequence[Encoded], size: int, steps: int, seed: int) -> Iterator[list[Encoded]]:
    """`steps` batches; each pass through the rows is shuffled anew. Rows of like length come together: little is padded."""
    generator, made = np.random.default_rng(seed), 0
    while True:
        order = generator.permutation(len(rows))
        cut: list[np.ndarray] = []
        for at in range(0, len(order), size * WINDOW):
            window = sorted(order[at : at + size * WINDOW], key=lambda place: len(rows[place].ids))
            cut += [np.array(window[begin : begin + size]) for begin in range(0, len(window), size)]
        for place in generator.permutation(len(cut)):
            yield [rows[row] for row in cut[place]]
            if (made := made + 1) == steps:
                return


def mean_loss(model: Any, rows: Sequence[Encoded], device: Any = "cpu") -> torch.Tensor:
    """Nats per completion token. The padding is on the right, where no token that counts can see it, so it needs no mask."""
    longest = max(len(row.ids) for row in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest - 1), -100)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        labels[place, row.start - 1 : len(row.ids) - 1] = ids[place, row.start : len(row.ids)]
    kept = (labels != -100).any(0).nonzero().flatten()  # columns with a completion in some row: the head computes no others
    logits = model(input_ids=ids.to(device), use_cache=False, logits_to_keep=kept.to(device)).logits
    return cross_entropy(logits.flatten(0, 1).float(), labels[:, kept].flatten().to(device))


def fit(
    loaded: LoadedModel,
    recipe: Recipe,
    rows: Sequence[Encoded],
    progress: Callable[[range], Iterable[int]] = iter,
) -> Tuned:
    """Teach `loaded.model`, which the result then holds, the rows. `progress` wraps the range of steps, for a bar.

    The same recipe and rows give the same weights on the same machine. Raises UserError when the loss is no number any more.
    """
    if not rows:
        raise UserError("there are no rows to teach")
    if recipe.method == "random_label_lora":
        rows = random_labels(rows, recipe.seed)
    model, adapter, groups, remove, stored = _prepare(loaded, recipe, rows)
    device, losses = loaded.model.device, []
    start = time.perf_counter()
    try:
        given = batches(rows, recipe.batch, recipe.steps, recipe.seed)
        for step, batch in zip(progress(range(recipe.steps)), given, strict=True):
            with _precision(device.type):
                loss = mean_loss(model, batch, device)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise UserError(f"the loss is no number any more at step {step + 1}: take a lower rate than {recipe.rate:g}")
            loss.backward()
            for optimizer in groups:
                for group in optimizer.param_groups:
                    clip(group["params"])
                    group["lr"] = group.setdefault("peak", group["lr"]) * schedule(step, recipe.steps)
                optimizer.step()
                optimizer.zero_grad()
    except BaseException:  # Ctrl-C too: the base is left as it was
        remove()
        raise
    trainable = sum(parameter.numel() for optimizer in groups for group in optimizer.param_groups for parameter in group["params"])
    return Tuned(model, adapter, trainable, stored(), losses, time.perf_counter() - start, remove)


def _prepare(loaded: LoadedModel, recipe: Recipe, rows: Sequence[Encoded]) -> tuple[Any, Any, list[Any], Callable, Callable]:
    """Model to train, adapter, optimisers, what restores the base, and what tells the bytes that are stored."""
    base = loaded.model
    trained_before = [(parameter, parameter.requires_grad) for parameter in base.parameters()]

    def restore() -> None:
        for parameter, trains in trained_before:
            parameter.requires_grad_(trains)

    if recipe.method == "full":
        if any(parameter.dtype != torch.float32 for parameter in base.parameters()):
            raise UserError("method full needs a base in float32: take another method, or --device cpu without quantization")
        base.requires_grad_(True)
        saved = [parameter.detach().clone() for parameter in base.parameters()]

        def reset() -> None:
            with torch.no_grad():
                for parameter, before in zip(base.parameters(), saved, strict=True):
                    parameter.copy_(before)
                    parameter.grad = None
            restore()

        parameters = list(base.parameters())
        return base, None, [torch.optim.Adam(parameters, lr=recipe.rate)], reset, lambda: _bytes(parameters)

    base.requires_grad_(False)
    budget = recipe.budget or lora.parameter_count(base, recipe.rank)
    rank = lora.rank_within(base, budget)
    adapted = memory = None
    optimizers: list[Any] = []
    try:
        if recipe.method in ("lora", "random_label_lora", "lora_engram"):
            rank = max(1, rank // 2) if recipe.method == "lora_engram" else rank
            budget -= lora.parameter_count(base, rank)  # what is left for the memory
            adapted = lora.attach(base, rank, recipe.seed)
            parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
            optimizers.append(torch.optim.Adam(parameters, lr=recipe.rate))
        if recipe.method in ("engram", "engram_unguarded", "unigram", "lora_engram"):
            memory = _memory(loaded, recipe, budget)
            memory.learn([row.ids for row in rows])
            optimizers.append(memory.optimizer(recipe.rate))
    except BaseException:
        _remove(adapted, memory, restore)
        raise

    def stored() -> int:
        return (memory.stored_bytes if memory else 0) + (_bytes(parameters) if adapted is not None else 0)

    return adapted or base, memory or adapted, optimizers, lambda: _remove(adapted, memory, restore), stored


def _memory(loaded: LoadedModel, recipe: Recipe, budget: int) -> EngramAdapter:
    config = replace(recipe.engram, seed=recipe.seed)
    if recipe.method == "unigram":  # of the original's kind: one token at a time, every one of them read
        config = replace(config, orders=(1,), guard=False)
    if recipe.method == "engram_unguarded":
        config = replace(config, guard=False)
    if not config.rows:
        config = within_budget(config, loaded.model.get_input_embeddings().embedding_dim, budget)
    return EngramAdapter(loaded.model, loaded.tokenizer, config)


def _remove(adapted: Any, memory: EngramAdapter | None, restore: Callable[[], None]) -> None:
    if memory is not None:
        memory.detach()
    if adapted is not None:
        lora.detach(adapted)
    restore()


def _bytes(parameters: Sequence[torch.Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def clip(parameters: Sequence[torch.Tensor]) -> None:
    """Scale the gradients of a group down to norm CLIP together. torch's own refuses sparse gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    gradients = [one.coalesce() if one.is_sparse else one for one in gradients]
    values = [one._values() if one.is_sparse else one for one in gradients]
    factor = CLIP / max(CLIP, float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in values]))))
    for one in values:
        one.mul_(factor)
    for parameter, gradient in zip([p for p in parameters if p.grad is not None], gradients, strict=True):
        parameter.grad = gradient


def schedule(step: int, steps: int) -> float:
    """Share of the peak rate at a step: a linear warm-up, then a linear decay that would end at zero one step after the last."""
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm + 1))


@contextmanager
def _precision(device: str) -> Iterator[None]:
    """Matrix products in bfloat16 (weights, residual stream and loss stay float32) where the processor computes in it."""
    if device == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            yield
    elif device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # torch's flash attention is ten times slower backwards in bfloat16 on a CPU than in plain matrix products
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield
