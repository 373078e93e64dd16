"""What a position may look back on: the tokens before the chunk, without padding and without other documents.

The past of a text travels as one more layer of its key-value cache. So it is reordered by beam search, repeated, cropped after a
refused draft, copied and reset together with the keys and values, by the cache's own methods, inside `generate` and outside.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from shared.errors import UserError


class PastLayer(DynamicLayer):
    """keys (B, 1, T, 1): token ids, -1 where there was padding; values (B, 1, T, W): what convolutions look back on, or W = 0.

    Single tokens of one text wait in a list, which costs less than a tensor per step, until somebody asks for the keys.
    """

    _keys: torch.Tensor | None = None
    _recent: list[int] | None = None  # the last tokens, those that wait included
    _waiting = 0

    @property
    def keys(self) -> torch.Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._waiting and self._keys is not None and self._recent is not None:
            waiting = torch.tensor(self._recent[-self._waiting :], device=self._keys.device)
            self._keys, self._waiting = torch.cat([self._keys, waiting[None, None, :, None]], 2), 0
        return self._keys

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:  # by reordering, cropping, copying to a device...
        self._keys, self._recent, self._waiting = value, None, 0

    def get_seq_length(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2] + self._waiting

    def ids(self) -> torch.Tensor:
        """All tokens (B, T)."""
        assert self.keys is not None
        return self.keys[:, 0, :, 0]

    def add(self, ids: torch.Tensor, values: torch.Tensor | None) -> None:
        """Append a chunk (B, T), with what the convolutions look back on (B, T, W)."""
        ids = ids[:, None, :, None]
        if self.keys is None or self.values is None:
            self.dtype, self.device, self.is_initialized = ids.dtype, ids.device, True
            self.keys, self.values = ids, ids[..., :0] if values is None else values.unsqueeze(1)
        else:
            self.keys = torch.cat([self.keys, ids], 2)
            self.values = self.values if values is None else torch.cat([self.values, values.unsqueeze(1)], 2)

    def recent(self, count: int) -> list[int]:
        """The last tokens of the only text: `count` of them, more, or all that there are."""
        if self._recent is None:
            self._recent = self.ids()[0, -count:].tolist() if count else []
        return self._recent

    def push(self, token: int) -> None:
        """Append one token to the only text, after a call of `recent`."""
        assert self._recent is not None
        self._recent.append(token)
        self._waiting += 1

    def reset(self) -> None:
        self.is_initialized, self.keys, self.values = False, None, None


def past_of(cache: Cache | None) -> PastLayer | None:
    """The past of a cache that holds tokens already. Raises UserError when it was filled without the memory."""
    length = 0 if cache is None else int(cache.get_seq_length())
    if cache is None or length == 0:
        return None
    last = cache.layers[-1]
    if not isinstance(last, PastLayer) or last.get_seq_length() != length:
        raise UserError("this cache was filled without the Engram memory: start with an empty cache, or pass the whole text")
    return last


def remember(cache: Cache, ids: torch.Tensor, values: torch.Tensor | None) -> None:
    """Append a chunk to the past, after its forward pass: the cache has all of the model's layers by then."""
    if not cache.layers or not isinstance(cache.layers[-1], PastLayer):
        cache.layers.append(PastLayer())
    last: Any = cache.layers[-1]
    last.add(ids, values)


def present(mask: Any, length: int, width: int) -> torch.Tensor | None:
    """Which of the last `length` tokens are text (B, length), from the attention mask of a call; None: all of them.

    Masks are (B, T) or (B, 1, T, T'), boolean or added to the scores; models with several kinds of layers pass a dictionary.
    In a four-dimensional mask, padding is what no later token of the chunk attends to.
    """
    if isinstance(mask, dict):
        mask = next(iter(mask.values()), None)
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask[:, -length:].bool()
    seen = mask if mask.dtype == torch.bool else mask == 0
    return seen[:, 0, :, :width].any(1)[:, -length:]


def limits(position_ids: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """How many tokens before each one (B, T) belong to its document: its position id. None: all that there are."""
    if position_ids is None or position_ids.dim() != 2:  # three rows: positions in images
        return None
    return position_ids.expand(shape)
