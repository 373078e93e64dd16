"""Tokens per CPU-second of a server under sixteen answers at a time, through the OpenAI route that all of them have."""

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import httpx2

from shared.errors import UserError
from shared.models import LoadedModel

from .. import scenarios, storytext
from .players import client
from .servers import Server

Chat = list[dict[str, str]]
SETTLE = 0.05  # seconds in which a server ends what it still does for an answer
_callers = count()


def chats(number: int, count: Callable[[str], int], long: bool) -> list[Chat]:
    """Prompts of as many scenarios: their beginnings, or (`long`) the last turn of a path, with what of the story fits."""
    chosen = scenarios.load()[:number]
    told = [storytext.turns(scenarios.paths(one, 1)[0])[:-1] if long else [] for one in chosen]
    return [storytext.messages(storytext.world(one), turns, count) for one, turns in zip(chosen, told, strict=True)]


async def _answer(web: httpx2.AsyncClient, body: dict[str, Any]) -> str:
    caller = next(_callers)
    headers, text = {"X-Forwarded-For": f"10.{caller >> 16 & 255}.{caller >> 8 & 255}.{caller & 255}"}, ""
    async with web.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        if answer.status_code != 200:
            raise UserError(f"{web.base_url} refuses a prompt ({answer.status_code} {(await answer.aread())[:200]!r})")
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise UserError(f"{web.base_url} fails in an answer ({event['error']})")
                for choice in event["choices"]:
                    text += choice.get("delta", {}).get("content") or ""
    return text


async def burst(url: str, prompts: Sequence[Chat], tokens: int, loaded: LoadedModel, repeats: int = 1) -> list[str]:
    """The answers to all prompts at once, `repeats` times one after the other."""
    ids = {"eos_token_id": loaded.stop_ids, "pad_token_id": loaded.tokenizer.pad_token_id}
    generation = {"do_sample": True, "temperature": 0.8, "top_k": 40} | ids
    body: dict[str, Any] = {"max_tokens": tokens, "temperature": 0.8, "stream": True}
    body["generation_config"] = json.dumps(generation)  # `transformers serve` samples only when it is told so here
    async with client(url) as web:
        told = [await asyncio.gather(*(_answer(web, body | {"messages": chat}) for chat in prompts)) for _ in range(repeats)]
    return [text for texts in told for text in texts]


def efficiency(
    server: Server, prompts: Sequence[Chat], tokens: int, count: Callable[[str], int], loaded: LoadedModel, repeats: int
) -> float:
    """Tokens per CPU-second of the server's processes; the tokens are those of the text that arrived."""

    async def measured() -> tuple[int, float]:
        before = server.cpu_seconds()
        texts = await burst(server.url, prompts, tokens, loaded, repeats)
        await asyncio.sleep(SETTLE)
        return sum(map(count, texts)), server.cpu_seconds() - before

    written, spent = asyncio.run(measured())
    return written / spent
