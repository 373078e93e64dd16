"""What a model is measured by: loss of given texts, and texts of its own; on torch and on MLX."""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from shared import models, streaming

from . import snippets
from .snippets import Encoded, Snippet

BATCH = 16
TEMPERATURE, TOP_P = 0.7, 0.9  # as the original sampled
NEW_TOKENS = 128  # room for the longest snippet; few-shot prompts leave no more of a context of 512, so that all have the same
NO_REPEAT = 4  # tokens that never come twice in an answer: a small model falls into loops
SHOTS = 3  # examples in a few-shot prompt
SHUFFLES = 3  # random orders that a text is compared with


def losses(loaded: models.LoadedModel, encoded: Sequence[Encoded]) -> np.ndarray:
    """Nats of the completion of each row, and its tokens: (rows, 2). The end sign counts."""
    one = _mlx_nats if loaded.backend == "mlx" else _torch_nats
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].ids))  # little padding
    nats = np.empty(len(encoded))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        rows = [encoded[place].ids for place in places]
        width = max(map(len, rows))
        tokens = np.array([row + [0] * (width - len(row)) for row in rows])
        per_token = one(loaded, tokens)  # padding stands behind the text, which cannot see it
        nats[places] = [sum(per_token[at, encoded[p].start - 1 : len(encoded[p].ids) - 1]) for at, p in enumerate(places)]
    return np.stack([nats, [len(one.ids) - one.start for one in encoded]], 1)


def _torch_nats(loaded: models.LoadedModel, tokens: np.ndarray) -> np.ndarray:
    import torch

    loaded.model.eval()
    rows = torch.from_numpy(tokens).to(loaded.model.device)
    with torch.no_grad():
        logits = loaded.model(input_ids=rows[:, :-1]).logits.float()
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").cpu().numpy()


def _mlx_nats(loaded: models.LoadedModel, tokens: np.ndarray) -> np.ndarray:
    import mlx.core as mx
    from mlx.nn.losses import cross_entropy

    loaded.model.eval()
    rows = mx.array(tokens)
    return np.array(cross_entropy(loaded.model(rows[:, :-1]).astype(mx.float32), rows[:, 1:], reduction="none"))


def per_token(rows: np.ndarray) -> float:
    """Loss per token of rows of `losses`."""
    return float(rows[:, 0].sum() / rows[:, 1].sum())


Term = tuple[float, Sequence[np.ndarray]]  # a sign, and the rows of `losses` for each seed


def interval(*terms: Term, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of a sum of signed losses per token, over rows and seeds: each draw takes the same of both for every
    term, so that differences are paired."""
    stacks = [(sign, np.stack(seeds)) for sign, seeds in terms]
    (count, rows), rng = stacks[0][1].shape[:2], np.random.default_rng(0)
    found = []
    for _ in range(draws):
        picked, places = rng.integers(count, size=count), rng.integers(rows, size=rows)
        found.append(sum(sign * per_token(every[picked].mean(0)[places]) for sign, every in stacks))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def order_gain(loaded: models.LoadedModel, texts: Sequence[str]) -> np.ndarray:
    """How much less a text costs than its own words in random order, nats per word, under one model: (texts,). The last word stays
    last, so that a full stop at the end earns nothing. Near zero for a heap of words; it knows no sense."""
    tokenizer, found = loaded.tokenizer, []
    for text in texts:
        words = text.split()
        rng = random.Random(text)
        orders = [" ".join([*rng.sample(words[:-1], max(0, len(words) - 1)), *words[-1:]]) for _ in range(SHUFFLES)]
        ids = [tokenizer(f"\n{one}", add_special_tokens=False)["input_ids"] for one in (" ".join(words), *orders)]
        nats = losses(loaded, [Encoded(one, 1) for one in ids])[:, 0] if len(words) > 1 else np.zeros(1 + SHUFFLES)
        found.append((nats[1:].mean() - nats[0]) / max(1, len(words)))
    return np.array(found)


def examples(rows: Sequence[Snippet], seed: int, key: str) -> list[Snippet]:
    """The training rows that stand before the prompt `key` in a few-shot prompt; another draw for every prompt and seed."""
    return random.Random(f"{seed} {key}").sample(snippets.split(rows, "train"), SHOTS)


@dataclass(frozen=True)
class Written:
    """A text, and whether the model ended it by itself within its budget of tokens."""

    text: str
    ended: bool


def write(loaded: models.LoadedModel, chats: Sequence[list[dict[str, str]]], new_tokens: int, seed: int) -> list[Written]:
    """One sampled answer to each conversation, in their order."""
    if loaded.backend == "mlx":
        return [_stream(loaded, messages, new_tokens, seed + place) for place, messages in enumerate(chats)]
    import torch
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

    torch.manual_seed(seed)
    tokenizer, found = loaded.tokenizer, {}
    texts = [tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for messages in chats]
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), 2 * BATCH):
        places = order[start : start + 2 * BATCH]
        batch = tokenizer(
            [texts[place] for place in places],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,  # the template wrote them
            return_token_type_ids=False,
        ).to(loaded.model.device)
        width, unlike = batch["input_ids"].shape[1], NoRepeatNGramLogitsProcessor(NO_REPEAT)

        def of_answer(ids: torch.Tensor, logits: torch.Tensor, width: int = width, unlike: Callable = unlike) -> torch.Tensor:
            return unlike(ids[:, width:], logits)  # the prompt may be quoted: few-shot examples would forbid their phrases

        sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
        room = (loaded.context or 10**9) - width
        with torch.no_grad():
            out = loaded.model.generate(
                **batch,
                max_new_tokens=max(1, min(new_tokens, room)),
                logits_processor=LogitsProcessorList([of_answer]),  # before the sampling, as in `stream`
                **sampling,
            )
        for place, row in zip(places, out[:, width:].tolist(), strict=True):
            ends = [at for at, token in enumerate(row) if token in loaded.stop_ids]
            text = tokenizer.decode(row[: ends[0]] if ends else row, skip_special_tokens=True)
            found[place] = Written(text.strip(), bool(ends))
    return [found[place] for place in range(len(chats))]


def _stream(loaded: models.LoadedModel, messages: list[dict[str, str]], new_tokens: int, seed: int) -> Written:
    text, ended = streaming.whole(stream(loaded, messages, new_tokens, seed))
    return Written(text.strip(), ended)


def stream(loaded: models.LoadedModel, messages: list[dict[str, str]], new_tokens: int, seed: int) -> Generator[str, None, bool]:
    """An answer piece by piece, sampled as `write` does."""
    return streaming.stream(loaded, messages, new_tokens, TEMPERATURE, TOP_P, seed, NO_REPEAT)
