"""How well a model knows rows, and how far it is from its base: exact match, loss, answers, retention.

found = score(model, encoded)          # one forward per row: exact match, begins, nll, departure
kept = retention(model, blocks, reference(base, blocks))

A model is anything that is called like a Hugging Face causal LM. Greedy decoding gives the whole completion and the end token
exactly when, with them fed in, every one of them is the most likely next token: so one forward scores what decoding would give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax

from ..teaching.training import Encoded

BATCH = 32  # rows per forward
ANSWERED = 192  # prompts that are answered together
BLOCK = 128  # tokens of a text that are read at once
BLOCKS = 4  # of them per forward


@dataclass(frozen=True)
class Scores:
    """Of rows, in their order; all arrays are (rows,)."""

    exact: np.ndarray  # bool: greedy decoding gives the completion and the end token
    begins: np.ndarray  # bool: it gives the completion, whatever follows (the original's startswith)
    nll: np.ndarray  # nats per token of completion and end token
    departure: np.ndarray  # the first wrong token of greedy decoding as place * 2 ** 32 + id; -1 without one


def score(model: Any, rows: Sequence[Encoded]) -> Scores:
    """Scores of the rows under teacher forcing; rows of like length share a forward."""
    exact, begins = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    nll, departure = np.zeros(len(rows)), np.full(len(rows), -1, np.int64)
    for places, logits in _completions(model, rows):
        for place, row_logits in zip(places, logits, strict=True):
            row = rows[place]
            target = torch.tensor(row.ids[row.start :], device=row_logits.device)
            said = row_logits.argmax(-1)
            wrong = (said != target).nonzero().flatten().tolist()
            exact[place], begins[place] = not wrong, not wrong or wrong[0] == len(target) - 1
            nll[place] = -log_softmax(row_logits, -1).gather(-1, target[:, None]).mean().item()
            if wrong:
                departure[place] = wrong[0] * 2**32 + int(said[wrong[0]])
    return Scores(exact, begins, nll, departure)


def exact_match(model: Any, rows: Sequence[Encoded]) -> np.ndarray:
    """(rows,) bool: greedy decoding gives the whole completion and then the end token."""
    return score(model, rows).exact


def nll(model: Any, rows: Sequence[Encoded]) -> np.ndarray:
    """(rows,) nats per token of the completion and its end token."""
    return score(model, rows).nll


@torch.no_grad()
def _completions(model: Any, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """(places, logits at the completion of each, (tokens, vocabulary)), batch by batch."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
    for at in range(0, len(order), BATCH):
        places = order[at : at + BATCH]
        batch = [rows[place] for place in places]
        ids, mask = (one.to(model.device) for one in padded([row.ids for row in batch]))
        first = min(row.start for row in batch) - 1  # before it the head has nothing to say
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=ids.shape[1] - first).logits
        yield places, [logits[n, row.start - 1 - first : len(row.ids) - 1 - first].float() for n, row in enumerate(batch)]


def padded(sequences: Sequence[Sequence[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), both (sequences, longest); what pads is masked, so its id does not matter."""
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(len(sequences), longest, dtype=torch.long), torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), longest) if left else slice(len(sequence))
        ids[row, place], mask[row, place] = torch.tensor(sequence), 1
    return ids, mask


@torch.no_grad()
def answers(model: Any, prompts: Sequence[Sequence[int]], stop: Sequence[int], new_tokens: int) -> list[list[int]]:
    """What greedy decoding with a cache says after each prompt: token ids up to the first of `stop`, without it."""
    found: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for at in range(0, len(order), ANSWERED):
        places = order[at : at + ANSWERED]
        ids, mask = (one.to(model.device) for one in padded([prompts[place] for place in places], left=True))
        said = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)[:, ids.shape[1] :]
        for place, tokens in zip(places, said.tolist(), strict=True):
            ends = [n for n, token in enumerate(tokens) if token in stop]
            found[place] = tokens[: ends[0]] if ends else tokens
    return found


@dataclass(frozen=True)
class Retention:
    """Of the blocks of a text, in their order; all arrays are (blocks,)."""

    nll: np.ndarray  # nats per token
    base_nll: np.ndarray
    kl: np.ndarray  # mean over positions of KL(base || model), nats
    equal: np.ndarray  # share of positions with all logits bit-equal to the base's

    @property
    def perplexity_ratio(self) -> float:
        return float(np.exp(np.mean(self.nll - self.base_nll)))


def blocks(ids: Sequence[int], most: int | None = None) -> torch.Tensor:
    """A text as (blocks, BLOCK) ids, at most so many, evenly spaced; what does not fill a block is left out."""
    count = len(ids) // BLOCK
    every = torch.tensor(list(ids[: count * BLOCK])).view(count, BLOCK)
    return every if most is None or most >= count else every[torch.linspace(0, count - 1, most).long()]


@torch.no_grad()
def reference(base: Any, text: torch.Tensor) -> torch.Tensor:
    """The logits of the base at every position, (blocks, BLOCK, vocabulary), for `retention`."""
    return torch.cat([_logits(base, part) for part in text.split(BLOCKS)])


@torch.no_grad()
def retention(model: Any, text: torch.Tensor, base_logits: torch.Tensor) -> Retention:
    """How far the model is from the base on a text, block by block."""
    parts: list[torch.Tensor] = []
    for ids, before in zip(text.split(BLOCKS), base_logits.split(BLOCKS), strict=True):
        after = _logits(model, ids)  # on the CPU, as all below
        p, q = log_softmax(before, -1), log_softmax(after, -1)
        target = ids[:, 1:, None]
        losses = [-side[:, :-1].gather(-1, target).squeeze(-1).mean(1) for side in (q, p)]
        kl = (p.exp() * (p - q)).sum(-1).mean(1)
        parts.append(torch.stack([*losses, kl, (before == after).all(-1).float().mean(1)]))
    nll, base_nll, kl, equal = torch.cat(parts, 1).double().numpy()
    return Retention(nll, base_nll, kl, equal)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    ids = ids.to(model.device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float().cpu()
