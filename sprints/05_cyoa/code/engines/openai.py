"""The engine `openai`: any server that speaks the OpenAI API, such as vLLM, SGLang, llama.cpp or `transformers serve`.

Its failures come as UpstreamDown (HTTP calls it 502), UpstreamTimeout (504), QueueFull (503) and BadRequest (400).
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from .base import BadRequest, EngineClosed, EngineError, Piece, QueueFull, Request, UpstreamDown, UpstreamTimeout

BUSY = (429, 503)
SILENT = (408, 504)


class OpenAI:
    name = "openai"
    device = None

    def __init__(self, base_url: str, model: str = "", key: str = "", timeout: float = 30.0):
        """`base_url` ends where `/chat/completions` begins; `model` "" is the first that the server lists; `timeout` is the longest
        silence in seconds."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=min(5.0, timeout)),
            limits=httpx2.Limits(max_connections=None),  # how many may run is for Admission
        )
        self._model, self.model_version = model, model
        self._extras = True  # the server takes what OpenAI's own does not know, until it refuses it once

    async def submit(self, request: Request) -> AsyncGenerator[Piece, None]:
        if self._client.is_closed:
            raise EngineClosed("this engine is closed")
        with_extras = self._extras
        async with _upstream_errors(self):
            if not self._model:
                self._model = self.model_version = await self._first_model()
            try:
                async for piece in self._stream(request, with_extras):
                    yield piece
            except BadRequest:
                if not with_extras or request.prefix:  # without the extras a prefix would be lost
                    raise
                async for piece in self._stream(request, False):
                    self._extras = False
                    yield piece

    async def close(self) -> None:
        await self._client.aclose()

    async def _first_model(self) -> str:
        answer = await self._client.get("models")
        answer.raise_for_status()
        listed = answer.json()["data"]
        if not listed:
            raise UpstreamDown("the server offers no model")
        return listed[0]["id"]

    async def _stream(self, request: Request, extras: bool) -> AsyncGenerator[Piece, None]:
        path, body = self._body(request, extras)
        async with self._client.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                raise _refusal(answer.status_code, (await answer.aread()).decode(errors="replace"), answer.headers)
            counted, finish = 0, None
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    break
                event = json.loads(data)
                if "error" in event:
                    raise UpstreamDown(f"the server failed during the answer ({_brief(str(event['error']))})")
                for choice in event.get("choices", ()):
                    finish = choice.get("finish_reason") or finish
                    if text := choice.get("text") or (choice.get("delta") or {}).get("content"):
                        counted += 1
                        yield Piece(text, 1)
                if usage := event.get("usage"):
                    counted, before = usage["completion_tokens"], counted
                    if counted > before:
                        yield Piece("", counted - before)
            if not finish:
                raise UpstreamDown("the server broke off during the answer")
            yield Piece("", 0, "length" if finish == "length" else "stop")

    def _body(self, request: Request, extras: bool) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self._model, "stream": True, "max_tokens": request.max_tokens}
        body |= {"temperature": request.temperature, "top_p": request.top_p}
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if extras:
            body |= {"top_k": request.top_k or -1, "stream_options": {"include_usage": True}}
        if request.prompt is not None:
            return "completions", body | {"prompt": request.prompt + request.prefix}
        body["messages"] = list(request.messages)
        if request.prefix:
            body["messages"].append({"role": "assistant", "content": request.prefix})
            body |= {"add_generation_prompt": False, "continue_final_message": True} if extras else {}
        return "chat/completions", body


@asynccontextmanager
async def _upstream_errors(engine: OpenAI):
    try:
        yield
    except httpx2.TimeoutException as error:
        raise UpstreamTimeout("the server is silent") from error
    except httpx2.HTTPStatusError as error:
        raise _refusal(error.response.status_code, "", error.response.headers) from error
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        if engine._client.is_closed:
            raise EngineClosed("the engine was closed during the answer") from error
        raise UpstreamDown(f"the server cannot be reached ({_brief(str(error)) or type(error).__name__})") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UpstreamDown("the server answers with something else than the OpenAI API") from error


def _refusal(status: int, text: str, headers: Any) -> EngineError:
    if status in BUSY:
        after = headers.get("retry-after", "1")
        return QueueFull("the server is busy: try again later", int(after) if after.isdigit() else 1)
    if status in SILENT:
        return UpstreamTimeout(f"the server answers {status}")
    if status in (400, 413, 422):
        return BadRequest(f"the server refuses the request ({status}: {_brief(text)})")
    return UpstreamDown(f"the server answers {status}")


def _brief(text: str) -> str:
    return " ".join(text.split())[:200]
