"""What a position may look back on: the tokens before the chunk, without padding and without other documents.

The past of a text travels as one more layer of its key-value cache. So it is reordered by beam search, repeated, cropped after a
refused draft, copied and reset together with the keys and values, by the cache's own methods, inside `generate` and outside.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from shared.errors import UserError


class PastLayer(DynamicLayer):
    """keys (B, 1, T, 1): token ids, -1 where there was padding; values (B, 1, T, W): what convolutions look back on (W: 0 without)."""

    def add(self, ids: torch.Tensor, values: torch.Tensor | None) -> None:
        ids = ids[:, None, :, None]
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = ids.dtype, ids.device, True
            self.keys, self.values = ids, ids[..., :0] if values is None else values.unsqueeze(1)
            return
        self.keys = torch.cat([self.keys, ids], 2)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if values is not None:
            self.values = torch.cat([self.values, values.unsqueeze(1)], 2)  # pyright: ignore[reportArgumentType, reportCallIssue]


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
    """Append a chunk's ids (and values) to the past, after its forward pass: the cache has all of the model's layers by then."""
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
