"""What every engine answers to: requests, pieces of an answer, errors, and the bound on how much is let in.

    async for piece in engine.submit(Request(messages)):
        print(piece.text, end="")

`submit` is an async generator: closing it, or cancelling the task that reads it, frees the engine at once.
"""

# ruff: noqa: N818  # named by what happened, as HTTP names it

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal, Protocol

from shared.device import Device

Finish = Literal["stop", "length"]


class EngineError(Exception):
    """An answer that cannot be had; `status` is what HTTP calls it."""

    status = 500


class BadRequest(EngineError):
    """This request is wrong; others are not concerned."""

    status = 400


class PromptTooLong(BadRequest):
    """The prompt leaves no room for an answer in the model's context."""


class QueueFull(EngineError):
    """As many requests are inside as may be; `retry_after` is in seconds."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


class EngineClosed(EngineError):
    """The engine was closed before or during the answer."""

    status = 503


class UpstreamDown(EngineError):
    """The server behind the engine refuses, fails or breaks off."""

    status = 502


class UpstreamTimeout(EngineError):
    """The server behind the engine is silent."""

    status = 504


@dataclass(frozen=True)
class Request:
    """What to write. `prompt` is raw text in place of messages; `prefix` is how the answer begins, and is not repeated in it."""

    messages: list[dict[str, str]] = field(default_factory=list)
    max_tokens: int = 96
    temperature: float = 0.8  # 0 is greedy
    top_k: int = 40  # 0 is no limit
    top_p: float = 1.0
    seed: int | None = None  # the same request with the same seed gives the same answer
    stop: tuple[str, ...] = ()  # the answer ends before the first of these
    prefix: str = ""
    prompt: str | None = None

    def __post_init__(self):
        if bool(self.messages) == (self.prompt is not None):
            raise BadRequest("give either messages or a prompt")
        if self.max_tokens < 1:
            raise BadRequest("max_tokens is at least 1")
        if not 0 <= self.temperature <= 10:  # false for nan too
            raise BadRequest("temperature is between 0 and 10")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise BadRequest("top_k is at least 0, top_p above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise BadRequest("seed has 32 bits")
        if not all(self.stop):
            raise BadRequest("a stop string is not empty")


@dataclass(frozen=True)
class Piece:
    """Some of an answer: whole characters, maybe none, and how many tokens they took. Only the last piece has a `finish`."""

    text: str
    token_count: int
    finish: Finish | None = None


class Engine(Protocol):
    """A model that writes. `model_version` says which one in the words of whoever opened it."""

    name: str
    model_version: str

    @property
    def device(self) -> Device | None:
        """Where it computes; None: on a server elsewhere."""
        ...

    def submit(self, request: Request) -> AsyncGenerator[Piece, None]:
        """The answer in pieces as it is written. Raises an EngineError; a BadRequest before the first piece."""
        ...

    async def close(self) -> None:
        """End the running answers with EngineClosed and give the memory back. Closing twice is fine."""
        ...


class Admission:
    """Lets at most `capacity` jobs in, running and waiting together: one more is refused at once instead of kept waiting."""

    def __init__(self, capacity: int = 48):
        self.capacity, self.inside = capacity, 0
        self._seconds = 1.0  # a job takes, by the last ones

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A place for one job, from here to the end of the block. Raises QueueFull."""
        if self.inside >= self.capacity:
            raise QueueFull(f"{self.inside} requests are being answered: try again later", math.ceil(self._seconds))
        self.inside, started = self.inside + 1, monotonic()
        try:
            yield
        finally:
            self.inside -= 1
            self._seconds += 0.1 * (monotonic() - started - self._seconds)
