"""The engine for other programs, in the shapes of OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from ..engines.base import Engine, EngineError, Piece
from ..engines.base import Request as Asked
from .champion import Champion
from .errors import ApiError, of_engine
from .generation import Generations, counter
from .shapes import Seed
from .tables import new_id

EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}
Text = Annotated[str, StringConstraints(max_length=8000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=40)]


class StreamOptions(BaseModel):
    include_usage: bool = False


class Sampling(BaseModel):
    """What both routes take; fields of OpenAI's that are not here are ignored, as most servers do."""

    model: Annotated[str, StringConstraints(max_length=80)] = "champion"
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 96
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[int, Field(ge=-1, le=200)] = 40  # 0 and -1, as vLLM has it, are no limit
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    def asked(self, **prompt: Any) -> Asked:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Asked(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            seed=self.seed,
            stop=stop,
            **prompt,
        )


class Completion(Sampling):
    prompt: Annotated[Text, Field(min_length=1)]


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Text


class Chat(Sampling):
    messages: Annotated[list[Message], Field(min_length=1, max_length=64)]
    continue_final_message: bool = False
    """The last message is the beginning of the answer, which goes on from it (as vLLM has it)."""


def routes(generations: Generations, champion: Champion) -> APIRouter:
    router = APIRouter(prefix="/v1")

    async def answer(request: Request, body: Sampling, asked: Asked, kind: str) -> Any:
        if body.model not in ("champion", champion.info()["version"]):
            raise ApiError(404, "there is no such model: use champion")
        chat = kind == "chat.completion"
        head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{new_id()}", "created": int(time.time()), "model": body.model}

        def choice(text: str, finish: str | None, part: bool, first: bool = False) -> dict[str, Any]:
            role = {"role": "assistant"} if first or not part else {}
            said = {"delta" if part else "message": role | {"content": text}} if chat else {"text": text}
            return {"index": 0, "logprobs": None, "finish_reason": finish} | said

        def usage(engine: Engine, completion: int) -> dict[str, int]:
            said = asked.prompt or "".join(message["content"] for message in asked.messages)
            prompt = counter(engine)(said)
            return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

        with ExitStack() as stack:
            stack.enter_context(generations.places(request.client.host if request.client else ""))
            engine = stack.enter_context(champion.lease())
            pieces = _within(generations.limits.deadline, engine.submit(asked))
            if body.stream:
                first = await anext(pieces)  # an error before any text is an error of HTTP
                kept = stack.pop_all()
                named = head | {"object": f"{kind}.chunk" if chat else kind}

                async def lines() -> AsyncIterator[str]:
                    tokens = first.token_count
                    with kept:
                        try:
                            async with aclosing(pieces):
                                yield _line(named | {"choices": [choice(first.text, first.finish, True, True)]})
                                async for piece in pieces:
                                    tokens += piece.token_count
                                    yield _line(named | {"choices": [choice(piece.text, piece.finish, True)]})
                            if body.stream_options and body.stream_options.include_usage:
                                yield _line(named | {"choices": [], "usage": usage(engine, tokens)})
                        except EngineError as error:
                            yield _line({"error": of_engine(error).body()})
                        yield "data: [DONE]\n\n"

                return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
            text, tokens, finish = "", 0, "stop"
            watcher = asyncio.create_task(_gone(request, asyncio.current_task()))
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        text, tokens, finish = text + piece.text, tokens + piece.token_count, piece.finish or finish
            finally:
                watcher.cancel()
        return head | {"object": kind, "choices": [choice(text, finish, False)], "usage": usage(engine, tokens)}

    @router.post("/completions", response_model=None, responses=EVENTS)
    async def complete(request: Request, body: Completion) -> dict[str, Any] | StreamingResponse:
        return await answer(request, body, body.asked(prompt=body.prompt), "text_completion")

    @router.post("/chat/completions", response_model=None, responses=EVENTS)
    async def chat(request: Request, body: Chat) -> dict[str, Any] | StreamingResponse:
        messages = [message.model_dump() for message in body.messages]
        prefix = messages.pop()["content"] if body.continue_final_message else ""
        return await answer(request, body, body.asked(messages=messages, prefix=prefix), "chat.completion")

    @router.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "champion", "object": "model", "created": 0, "owned_by": "cyoa"}]}

    return router


async def _within(seconds: float, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """The pieces that come in time; then the answer ends as one that is too long. Raises ApiError 504 when there was none."""
    end, piece = asyncio.get_running_loop().time() + seconds, None
    async with aclosing(pieces):
        try:
            while True:
                async with asyncio.timeout_at(end):
                    piece = await anext(pieces)
                yield piece
        except StopAsyncIteration:
            return
        except TimeoutError:
            if piece is None:
                raise ApiError(504, "the engine took too long") from None
            yield Piece("", 0, "length")


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _gone(request: Request, task: asyncio.Task | None) -> None:
    """Cancel the task when the client goes away, so that the engine is free."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.25)
    if task:
        task.cancel()
