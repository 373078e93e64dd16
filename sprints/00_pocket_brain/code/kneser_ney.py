"""The n-gram baseline: interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3) over tokens, in sorted arrays.

A 5-gram of 12-bit tokens fits into one 64-bit key, so counting is sorting and looking up is binary search.
"""

from collections.abc import Collection, Sequence

import numpy as np

BITS = 12  # a token of a 4 096-entry vocabulary
ORDER = 5
FALLBACK = (0.0, 0.5, 1.0, 1.5)  # KenLM's --discount_fallback


def keys(tokens: np.ndarray, length: int) -> np.ndarray:
    """The n-gram that starts at each position, oldest token in the highest bits."""
    count = len(tokens) - length + 1
    packed = np.zeros(count, np.uint64)
    for place in range(length):
        packed = packed << np.uint64(BITS) | tokens[place : place + count].astype(np.uint64)
    return packed


def discounts(counts: np.ndarray) -> np.ndarray:
    """The amounts taken from counts of 0, 1, 2 and 3 or more (eq. 26 there), or fixed ones where the counts give none that work.

    What is left must not be negative, and every count must give something away, else what follows only in new contexts gets no
    probability: 0 < D(k) <= k. The upper bound always holds, the lower fails where counts of counts do not fall as Zipf's do.
    That D grows with k is usual and not needed.
    """
    n1, n2, n3, n4 = (int((counts == value).sum()) for value in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return np.array(FALLBACK)
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if (found[1:] > 0).all() else np.array(FALLBACK)


class Level:
    """The n-grams of one length: their discounted counts, and what each context leaves to the shorter n-grams."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray):
        taken = discounts(counts)[np.minimum(counts, 3)]
        self.grams, self.kept = grams, counts - taken
        self.contexts, starts = np.unique(grams >> np.uint64(BITS), return_index=True)
        self.totals = np.add.reduceat(counts, starts).astype(float)
        self.left = np.add.reduceat(taken, starts) / self.totals

    def mix(self, gram: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of the last tokens of these n-grams, given those by the shorter n-grams."""
        place = np.minimum(np.searchsorted(self.contexts, gram >> np.uint64(BITS)), len(self.contexts) - 1)
        known = self.contexts[place] == gram >> np.uint64(BITS)
        exact = np.minimum(np.searchsorted(self.grams, gram), len(self.grams) - 1)
        kept = np.where(self.grams[exact] == gram, self.kept[exact], 0.0)
        return np.where(known, kept / self.totals[place] + self.left[place] * shorter, shorter)

    def spread(self, context: int, shorter: np.ndarray) -> np.ndarray:
        """The same for every token after one context: (4096,). The n-grams that begin with it stand side by side."""
        place = int(np.searchsorted(self.contexts, np.uint64(context)))
        if place == len(self.contexts) or self.contexts[place] != context:
            return shorter
        first, end = np.searchsorted(self.grams, np.array([context << BITS, (context + 1) << BITS], np.uint64))
        probability = self.left[place] * shorter
        probability[self.grams[first:end] & np.uint64((1 << BITS) - 1)] += self.kept[first:end] / self.totals[place]
        return probability


class KneserNey:
    """Learns from one array of tokens (below 4 096)."""

    def __init__(self, tokens: np.ndarray, order: int = ORDER):
        grams, counts = np.unique(keys(tokens, order), return_counts=True)
        self.levels = [Level(grams, counts)]
        for length in range(order - 1, 0, -1):  # a shorter n-gram counts the different tokens seen before it, not its occurrences
            grams, counts = np.unique(grams & np.uint64((1 << BITS * length) - 1), return_counts=True)
            self.levels.insert(0, Level(grams, counts))

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        """-log p of every token that has a whole context before it: (len(tokens) - order + 1,)."""
        order, count = len(self.levels), len(tokens) - len(self.levels) + 1
        probability = np.full(count, 1 / (1 << BITS))
        for length, level in enumerate(self.levels, start=1):
            probability = level.mix(keys(tokens[order - length :], length), probability)
        return -np.log(probability)

    def following(self, context: Sequence[int]) -> np.ndarray:
        """The probability of every next token after these: (4096,)."""
        probability, key = np.full(1 << BITS, 1 / (1 << BITS)), 0
        for length, level in enumerate(self.levels):
            if length > len(context):
                break
            if length:
                key |= int(context[-length]) << BITS * (length - 1)
            probability = level.spread(key, probability)
        return probability

    def write(
        self,
        prompt: Sequence[int],
        count: int,
        stops: Collection[int],
        rng: np.random.Generator | None = None,
        temperature: float = 0.7,
        top_p: float = 0.9,
    ) -> list[int]:
        """Up to `count` tokens after the prompt, without the stop that ends them: greedy, or drawn with `rng`."""
        tokens = list(prompt)
        for _ in range(count):
            p = self.following(tokens)
            token = int(p.argmax())
            if rng is not None:
                p = p ** (1 / temperature)
                order = np.argsort(-p, kind="stable")
                likely = p[order] / p.sum()
                kept = np.cumsum(likely) - likely < top_p  # the likelier ones before it leave some of top_p
                token = int(rng.choice(order[kept], p=likely[kept] / likely[kept].sum()))
            if token in stops:
                break
            tokens.append(token)
        return tokens[len(prompt) :]
