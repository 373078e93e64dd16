"""Tokens per CPU-second: how much text an engine gets out of one second of one core, whatever else the machine does."""

import asyncio
from collections.abc import Sequence
from time import process_time
from typing import Any

from shared.models import LoadedModel

from .base import Engine, Request

Chat = list[dict[str, str]]
TOKENS = 64


async def served(engine: Engine, chats: Sequence[Chat], tokens: int = TOKENS, repeats: int = 1) -> float:
    """All chats at once through an engine that runs in this process, `repeats` times one after the other."""

    async def one(chat: Chat) -> int:
        return sum([piece.token_count async for piece in engine.submit(Request(chat, tokens))])

    started = process_time()
    written = sum([sum(await asyncio.gather(*map(one, chats))) for _ in range(repeats)])
    return written / (process_time() - started)


def naive(loaded: LoadedModel, chats: Sequence[Chat], tokens: int = TOKENS) -> float:
    """One chat after another through `model.generate`, with the same sampling."""
    import torch

    written, request, started = 0, Request(chats[0]), process_time()
    options: dict[str, Any] = {"do_sample": True, "temperature": request.temperature, "top_k": request.top_k}
    for chat in chats:
        inputs = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            ids = loaded.model.generate(**inputs.to(loaded.model.device), max_new_tokens=tokens, **options)
        written += ids.shape[1] - inputs["input_ids"].shape[1]
    return written / (process_time() - started)
