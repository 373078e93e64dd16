"""Stream text from a loaded model, on torch and on MLX.

for piece in stream(loaded, [{"role": "user", "content": "Why am I a cat?"}], temperature=0.7, seed=0):
    print(piece, end="", flush=True)
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import numpy as np

from shared.errors import UserError
from shared.models import LoadedModel

Input = str | list[dict[str, str]]  # a text, or chat messages


def stream(
    loaded: LoadedModel,
    prompt: Input,
    max_new_tokens: int = 256,
    temperature: float = 0,
    top_p: float = 1,
    seed: int | None = None,
    no_repeat: int = 0,
) -> Generator[str, None, bool]:
    """Yield the answer to chat messages, or the continuation of a text, in pieces of whole characters; return whether it ended.

    Temperature 0 is greedy; a seed gives the same text again; no `no_repeat` tokens come twice in the same order in the answer (0:
    they may). In a small context the answer gives way down to a quarter of it, then the prompt loses its start, with a warning.
    Raises UserError for an empty prompt and for settings out of range.
    """
    if max_new_tokens < 1 or not 0 <= temperature <= 100 or not 0 < top_p <= 1 or (seed or 0) < 0:
        raise UserError("max_new_tokens must be at least 1, temperature 0 to 100, top_p above 0 and at most 1, seed at least 0")
    if not (prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)).strip():
        raise UserError("the prompt is empty: give it some text")
    text, chat = isinstance(prompt, str), {"return_dict": False, "tokenizer_kwargs": {"verbose": False}}
    encode = partial(loaded.tokenizer.apply_chat_template, add_generation_prompt=True, **chat)
    ids = loaded.tokenizer(prompt, verbose=False)["input_ids"] if text else encode(prompt)
    context = loaded.context or len(ids) + max_new_tokens
    room = context - min(max_new_tokens, context // 4)
    if len(ids) > room:
        warnings.warn(f"the prompt has {len(ids)} tokens, {room} fit the context: its start is cut off", stacklevel=2)
        ids = ids[-room:] if text else [ids[0], *ids[1 - room :]]  # a conversation begins with a mark
    sample = partial(_sample, temperature=temperature, top_p=top_p, generator=np.random.default_rng(seed))
    if no_repeat:
        sample = _unlike(no_repeat, sample)
    loaded.model.eval()  # training may have left its dropout on
    tokens = _mlx_tokens if loaded.backend == "mlx" else _torch_tokens
    return _pieces(loaded, tokens(loaded, ids, min(max_new_tokens, context - len(ids)), sample))


def whole(pieces: Generator[str, None, bool], show: Callable[[str], object] = lambda piece: None) -> tuple[str, bool]:
    """All of a stream, each piece shown as it comes, and whether it ended by itself."""
    text = ""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return text, end.value
        show(piece)
        text += piece


def _pieces(loaded: LoadedModel, tokens: Iterator[int]) -> Generator[str, None, bool]:
    ids, text, done, ended = [], "", 0, False
    for token in tokens:
        if ended := token in loaded.stop_ids:
            break
        ids.append(token)
        text = loaded.tokenizer.decode(ids, skip_special_tokens=True)
        if len(text) > done and not text.endswith("\ufffd"):  # the first bytes of a character wait for the others
            yield text[done:]
            done = len(text)
    if text[done:]:
        yield text[done:]
    return ended


def _sample(logits: np.ndarray, temperature: float, top_p: float, generator: np.random.Generator) -> int:
    """Draw a token from logits (V,); in NumPy, so that the three settings mean the same on every backend."""
    if temperature == 0:
        return int(logits.argmax())
    p = np.exp((logits.astype(float) - logits.max()) / temperature)
    order = np.argsort(-p)
    kept = order[np.cumsum(p[order]) - p[order] < top_p * p.sum()]  # the likelier tokens before it leave some of top_p
    return int(generator.choice(kept, p=p[kept] / p[kept].sum()))


def _unlike(length: int, sample: Callable) -> Callable:
    """`sample`, but never a token that would repeat `length` tokens that it drew before."""
    ids: list[int] = []

    def draw(logits: np.ndarray) -> int:
        last = ids[len(ids) - length + 1 :]
        again = [ids[at + length - 1] for at in range(len(ids) - length + 1) if ids[at : at + length - 1] == last]
        allowed = logits.copy()
        allowed[again] = -np.inf
        ids.append(sample(allowed))
        return ids[-1]

    return draw


def _torch_tokens(loaded: LoadedModel, ids: list[int], count: int, sample: Callable) -> Iterator[int]:
    """A loop of its own: `generate` would need a thread, which goes on when its reader stops and hides its errors."""
    import torch

    cache = None
    for _ in range(count):
        feed = torch.tensor([ids], device=loaded.model.device)  # (1, T), then (1, 1)
        with torch.no_grad():  # around the step only: around a yield it would reach into the caller
            output = loaded.model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = [sample(output.logits[0, -1].float().cpu().numpy())], output.past_key_values
        yield ids[0]


def _mlx_tokens(loaded: LoadedModel, ids: list[int], count: int, sample: Callable) -> Iterator[int]:
    import mlx.core as mx
    from mlx_lm import stream_generate

    def draw(logprobs: Any) -> Any:  # (1, V)
        return mx.array([sample(np.asarray(logprobs[0].astype(mx.float32)))])

    yield from (made.token for made in stream_generate(loaded.model, loaded.tokenizer, ids, max_tokens=count, sampler=draw))
