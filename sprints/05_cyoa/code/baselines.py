"""Who else can answer the prompts: a model as it is, an n-gram model, and the nearest scene that a person wrote."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from shared import models

from .encoding import Row, encode
from .storytext import Example

BATCH = 16


def sample(loaded: models.LoadedModel, examples: Sequence[Example], tokens: int, seed: int, track=iter) -> list[str]:
    """What a model answers to each prompt, with the sampling of the game: temperature 0.8, the 40 likeliest tokens."""
    import torch

    tokenizer, found = loaded.tokenizer, []
    torch.manual_seed(seed)
    for start in track(range(0, len(examples), BATCH)):
        chats = [example.messages for example in examples[start : start + BATCH]]
        texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        inputs = {key: inputs[key].to(loaded.model.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, max_new_tokens=tokens, do_sample=True, temperature=0.8, top_k=40, top_p=1.0)
        found += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


class NGrams:
    """An interpolated n-gram model over tokens (Witten & Bell 1991); it sees the answers it learns from, and no prompt."""

    def __init__(self, rows: Sequence[Row], vocabulary: int, order: int = 4):
        self._order, self._vocabulary = order, vocabulary
        self._counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for row in rows:
            padded = [-1] * (order - 1) + row.ids[row.start :]  # -1 stands before an answer
            for at in range(order - 1, len(padded)):
                for size in range(order):
                    self._counts[tuple(padded[at - size : at])][padded[at]] += 1

    def probability(self, token: int, before: tuple[int, ...]) -> float:
        """Of a token after those before it: of its counts, and of its probability after fewer."""
        shorter = self.probability(token, before[1:]) if before else 1 / self._vocabulary
        if (counts := self._counts.get(before)) is None:
            return shorter
        return (counts[token] + len(counts) * shorter) / (counts.total() + len(counts))

    def nats(self, row: Row) -> float:
        """Of the answer of a row and its end sign."""
        padded = [-1] * (self._order - 1) + row.ids[row.start :]
        places = range(self._order - 1, len(padded))
        return -sum(math.log(self.probability(padded[at], tuple(padded[at - self._order + 1 : at]))) for at in places)

    def draw(self, rng: random.Random, ends: Sequence[int], limit: int) -> list[int]:
        """Tokens of an answer, without its end sign."""
        found = [-1] * (self._order - 1)
        for _ in range(limit):
            before = tuple(found[-self._order + 1 :])
            while before:  # a context is left for a shorter one as often as the interpolation says
                counts = self._counts.get(before, Counter())
                if rng.random() * (counts.total() + len(counts)) < counts.total():
                    break
                before = before[1:]
            counts = self._counts[before]
            token = rng.choices(list(counts), list(counts.values()))[0]
            if token in ends:
                break
            found.append(token)
        return found[self._order - 1 :]


def ngram_model(loaded: models.LoadedModel, training: Sequence[Example]) -> NGrams:
    return NGrams(encode(loaded, training), len(loaded.tokenizer))


def ngram_answers(loaded: models.LoadedModel, model: NGrams, count: int, tokens: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    drawn = [model.draw(rng, loaded.stop_ids, tokens) for _ in range(count)]
    return [loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn]


def ngram_bits_per_byte(loaded: models.LoadedModel, model: NGrams, examples: Sequence[Example]) -> dict[str, float]:
    """Bits per byte of the answers of each scenario, as encoding.bits_per_byte has it for a language model."""
    bits, size = defaultdict(float), defaultdict(int)
    for example, row in zip(examples, encode(loaded, examples), strict=True):
        bits[example.scenario] += model.nats(row) / math.log(2)
        size[example.scenario] += len(example.response.encode())
    return {scenario: bits[scenario] / size[scenario] for scenario in bits}


def retrieve(training: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """To each prompt the answer that a person wrote to the training prompt nearest to it, by TF-IDF."""

    def text(example: Example) -> str:
        return "\n".join(message["content"] for message in example.messages)

    vectors = TfidfVectorizer(sublinear_tf=True).fit(map(text, training))
    wanted, known = (vectors.transform(map(text, side)) for side in (examples, training))
    nearest = cosine_similarity(wanted, known).argmax(axis=1)
    return [training[at].response for at in nearest]
