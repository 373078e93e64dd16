"""What needs no training: examples in the prompt, a dictionary in the prompt, and an n-gram cache beside the model.

All three are given the same taught patterns as the tuned models. The first two change the prompt, the third the probabilities.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from ..patterns import Pattern, Row
from ..teaching.training import Encoded

SHOTS = 4  # examples before a prompt
ORDERS = range(8, 1, -1)  # lengths of the suffixes that the cache knows, the longest first


def few_shot(rows: Sequence[Row], taught: Sequence[Pattern]) -> list[Row]:
    """Each row with the SHOTS taught patterns before it whose prompts are nearest (cosine of TF-IDF of character n-grams), the
    nearest last; for a taught prompt that is its own pattern."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    known = vectors.fit_transform([pattern.prompt for pattern in taught])
    likeness = (vectors.transform([row.prompt for row in rows]) @ known.T).toarray()  # (rows, taught)
    nearest = likeness.argsort(axis=1, kind="stable")[:, -SHOTS:]
    return [_after(row, [taught[place] for place in places]) for row, places in zip(rows, nearest, strict=True)]


def dictionary(rows: Sequence[Row], taught: Sequence[Pattern]) -> list[Row]:
    """Each row with the taught pattern before it whose prompt it ends with (the longest one); other rows stay as they are."""
    entries = sorted(taught, key=lambda pattern: -len(pattern.prompt))
    found = [next((entry for entry in entries if row.prompt.endswith(entry.prompt)), None) for row in rows]
    return [_after(row, [entry]) if entry else row for row, entry in zip(rows, found, strict=True)]


def _after(row: Row, examples: Sequence[Pattern]) -> Row:
    context = "".join(f"{example.prompt}{example.completion}\n\n" for example in examples)
    return replace(row, prompt=context + row.prompt)


class NgramCache:
    """A model whose next-token probabilities are mixed with those of an n-gram cache: the non-parametric twin of the memory.

    The cache counts, after every suffix of 2 to 8 tokens, the next tokens in the completions of `rows`. Where it knows the longest
    such suffix of a text, p = (1 - weight) p_model + weight p_cache (as in kNN-LM, Khandelwal et al. 2020, with exact keys);
    elsewhere the logits are the model's, bit for bit.
    """

    def __init__(self, model: Any, rows: Sequence[Encoded], weight: float, shortest: int = 2):
        self.model, self.weight = model, weight
        self.orders = [n for n in ORDERS if n >= shortest]
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for row in rows:
            for place in range(row.start, len(row.ids)):
                for n in self.orders:
                    if place >= n:
                        self.counts[tuple(row.ids[place - n : place])][row.ids[place]] += 1

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def stored_bytes(self) -> int:
        """8 for the hash of each known suffix, and 8 for each of its next tokens and counts."""
        return sum(8 + 8 * len(found) for found in self.counts.values())

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """Like the model: logits (batch, last of time, vocabulary); `input_ids` (batch, time), padded on the right."""
        logits = self.model(input_ids=input_ids, **options).logits
        first = input_ids.shape[1] - logits.shape[1]
        for row, ids in enumerate(input_ids.tolist()):
            for place in range(first, len(ids)):
                if known := self._known(ids[max(0, place - 7) : place + 1]):
                    logits[row, place - first] = self._mixed(logits[row, place - first], known)
        return SimpleNamespace(logits=logits)

    def generate(self, **options: Any) -> torch.Tensor:
        return self.model.generate(**options, logits_processor=[self._processed])

    def _processed(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        for row, last in enumerate(ids[:, -8:].tolist()):
            if known := self._known(last):
                logits[row] = self._mixed(logits[row], known)
        return logits

    def _known(self, ids: list[int]) -> Counter[int] | None:
        """The counts after the longest suffix of `ids` that the cache knows."""
        return next((found for n in self.orders if len(ids) >= n and (found := self.counts.get(tuple(ids[-n:])))), None)

    def _mixed(self, logits: torch.Tensor, known: Counter[int]) -> torch.Tensor:
        mixed = (1 - self.weight) * logits.softmax(-1)
        for token, count in known.items():
            mixed[token] += self.weight * count / known.total()
        return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()
