"""Token ids -> compressed token classes -> n-gram mixes -> table rows (Engram, arXiv 2601.07372, sections 2.2 and 2.3).

The mix of the n-gram that ends at position t is a multiplicative-XOR hash of the classes c of its tokens,

    mix_n(t) = (c[t] * m[0]) XOR (c[t-1] * m[1]) XOR ... XOR (c[t-n+1] * m[n-1])        0 <= mix < 2^63

and head j of a layer reads row `mix_n mod p` of its part of the table, p a prime of its own. Two n-grams share all of their
rows only when their mixes agree modulo the product of the primes (Chinese remainder theorem). The paper draws multipliers per
layer; here all layers share them: their primes differ already, and the mix serves as the guard's key too.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LARGEST = 2**63 - 1  # of an int64
SENTINEL = "\ue000"  # stands for a lone space while the ends are stripped


def normalised(text: str) -> str:
    """The text that tokens of one class share: without case, accents, compatibility forms and outer white space."""
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Mn").lower()
    text = re.sub(r"[ \t\r\n]+", " ", text)
    return (SENTINEL if text == " " else text.strip()).replace(SENTINEL, " ")


@dataclass(frozen=True)
class Vocabulary:
    """The class of each token id of a tokenizer; ids it does not have, and positions without a token, are `dead`."""

    classes: tuple[int, ...]  # of each token id
    dead: int  # the number of classes, one above the largest
    fingerprint: str  # sha256 of the tokens in the order of their ids and of their classes, which Unicode's tables decide too

    @classmethod
    def of(cls, tokenizer: Any, compress: bool) -> "Vocabulary":
        """Tokens of one normalised text share a class (section 2.2); special tokens, and bytes that are no text, keep their own."""
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
        keys: list[tuple] = []
        for token, raw in enumerate(tokens):
            text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if not compress or token in special:
                keys.append((token,))
            elif "\ufffd" in text:  # a part of a character
                keys.append(("raw", raw))
            else:
                keys.append(("text", normalised(text) or text))
        numbers: dict[tuple, int] = {}
        classes = tuple(numbers.setdefault(key, len(numbers)) for key in keys)
        digest = hashlib.sha256("\0".join(map(str, [*tokens, *classes])).encode())
        return cls(classes, len(numbers), digest.hexdigest())


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def primes_from(start: int, count: int) -> list[int]:
    """The `count` smallest primes that are not below `start`."""
    found: list[int] = []
    number = start
    while len(found) < count:
        if is_prime(number):
            found.append(number)
        number += 1
    return found


def multipliers(seed: int, length: int, dead: int) -> list[int]:
    """Odd factors, one per place of an n-gram, so small that no product with a class (at most `dead`) overflows."""
    bound = LARGEST // max(dead, 1)
    drawn = np.random.default_rng(seed).integers(0, bound // 2, length, dtype=np.int64)
    return [int(number) * 2 + 1 for number in drawn]


def mixes(windows: torch.Tensor, factors: torch.Tensor, orders: Sequence[int]) -> torch.Tensor:
    """Mixes (..., len(orders)) of the n-grams of `orders` (ascending); windows (..., N): a position's class, then those before."""
    products = windows * factors
    mix, found = products[..., 0], []
    for back in range(orders[-1]):
        mix = mix ^ products[..., back] if back else mix
        if back + 1 in orders:
            found.append(mix)
    return torch.stack(found, -1)


def mixes_of_last(classes: Sequence[int], factors: Sequence[int], orders: Sequence[int]) -> list[int]:
    """The same for one position in Python's integers, faster than torch for a single token; classes: its own, then those before."""
    mix, found = 0, []
    for back in range(orders[-1]):
        mix ^= classes[back] * factors[back]
        if back + 1 in orders:
            found.append(mix)
    return found
