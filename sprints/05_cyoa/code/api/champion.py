"""The model that writes now, and the watcher that puts a new champion in its place without dropping a stream."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from ..engines.base import Engine, Request
from ..registry import weights
from .errors import ApiError

log = logging.getLogger("cyoa")
Source = Callable[[], tuple[Path | None, str]]  # the folder of the champion (None: an engine elsewhere) and its version
Open = Callable[[Path | None, str], Engine | Awaitable[Engine]]
HELLO = [
    {"role": "system", "content": "A story of the genre isekai. You are Mio (she/her)."},
    {"role": "user", "content": "Begin."},
]


class Champion:
    """Jobs lease the engine; a replaced one is closed when its last lease ends."""

    def __init__(self, source: Source, open: Open):
        self._source, self._open = source, open
        self._leases: dict[int, int] = {}
        self._swapping = asyncio.Lock()
        self._refused: tuple[Path | None, str] | None = None  # the last candidate that did not work
        self._closing: set[asyncio.Task] = set()
        self.engine: Engine | None = None
        self.place: tuple[Path | None, str] | None = None
        self.digest: str | None = None

    @property
    def ready(self) -> bool:
        return self.engine is not None

    def info(self) -> dict[str, Any]:
        version = self.place[1] if self.place else None
        name = self.engine.name if self.engine else None
        return {"alias": "champion", "version": version, "digest": self.digest, "engine": name, "ready": self.ready}

    def check(self) -> Engine:
        """Raises ApiError 503 until a model is loaded."""
        if self.engine is None:
            raise ApiError(503, "the model is being loaded", code="not_ready", retry_after=2)
        return self.engine

    @contextmanager
    def lease(self) -> Iterator[Engine]:
        """The engine, which stays open until the end of the block."""
        engine = self.check()
        key = id(engine)
        self._leases[key] = self._leases.get(key, 0) + 1
        try:
            yield engine
        finally:
            self._leases[key] -= 1
            if not self._leases[key] and engine is not self.engine:
                self._retire(engine)

    async def refresh(self, again: bool = False) -> bool:
        """Look at who is champion; load, warm up and swap when that changed. Returns whether it did.

        Raises whatever a model that cannot be loaded raises; then the one before goes on. One that was refused is not tried
        again unless `again`.
        """
        async with self._swapping:
            place = await asyncio.to_thread(self._source)
            if place == self.place or (place == self._refused and not again):
                return False
            try:
                digest = await asyncio.to_thread(weights, place[0]) if place[0] else None
                engine = await self._load(place)
            except BaseException:
                self._refused = place
                raise
            old, self.engine, self.place, self.digest, self._refused = self.engine, engine, place, digest, None
            if old and not self._leases.get(id(old)):
                self._retire(old)
            return True

    async def _load(self, place: tuple[Path | None, str]) -> Engine:
        opened = await asyncio.to_thread(self._open, *place)
        engine = await opened if inspect.isawaitable(opened) else opened
        if place[0] is None:
            return engine  # a server elsewhere may be down now and come up later
        try:
            text = ""
            async with asyncio.timeout(60), aclosing(engine.submit(Request(HELLO, max_tokens=24))) as pieces:
                async for piece in pieces:
                    text += piece.text
            if not any(c.isalpha() for c in text):
                raise ValueError("the model writes no words")
        except BaseException:
            await engine.close()
            raise
        return engine

    async def watch(self, every: float = 30.0) -> None:
        """Refresh for ever; a champion that does not work is logged once, and the one before stays."""
        while True:
            await asyncio.sleep(every)
            try:
                if await self.refresh():
                    log.info("champion: version %s", self.place and self.place[1])
            except Exception as error:
                log.error("the new champion cannot be loaded, the old one stays: %s", error)

    def _retire(self, engine: Engine) -> None:
        self._leases.pop(id(engine), None)
        task = asyncio.create_task(engine.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self.engine:
            await self.engine.close()
