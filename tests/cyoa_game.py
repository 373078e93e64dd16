"""The game as the tests of CYOA need it: served, with its engine paced, or with one that always says the same."""

import asyncio
import re
import socket
import threading
import time
from contextlib import aclosing, contextmanager
from importlib import import_module
from types import SimpleNamespace

import httpx2
import uvicorn

from shared import models

PLACES = ("api.app", "api.champion", "api.store", "api.limits", "scenarios", "engines.base", "engines.fast")
app, champion, store, limits, scenarios, base, fast = (import_module(f"sprints.05_cyoa.code.{name}") for name in PLACES)


def wait_until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Paced:
    """The real engine, as slow as a test needs it to look at a scene while it is written."""

    def __init__(self, engine):
        self.engine, self.pause = engine, 0.0
        self.name, self.model_version, self.close = engine.name, engine.model_version, engine.close

    async def submit(self, request):
        async with aclosing(self.engine.submit(request)) as pieces:
            async for piece in pieces:
                await asyncio.sleep(self.pause)
                yield piece


class Parrot:
    """An engine that answers every request with the same text."""

    name = model_version = "parrot"
    device = None

    def __init__(self, text):
        self.text = text

    async def submit(self, request):
        yield base.Piece(self.text, 12, "stop")

    async def close(self):
        pass


@contextmanager
def serving(app):
    """The address of an app that uvicorn serves in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the app did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def played(folder):
    """The game with the pocket model: .base its address, .client a client of it, .engine to pace."""
    engine = Paced(fast.Fast(models.POCKET, "pocket"))
    kept = store.Store(f"sqlite:///{folder}/stories.db")
    writer = champion.Champion(lambda: (models.POCKET, "pocket"), lambda *_: engine)
    whole = app.create_app(kept, writer, scenarios.load(), limits=limits.Limits(burst=200))
    with serving(whole) as origin, httpx2.Client(base_url=origin, timeout=30) as client:
        ready = any(client.get("/readyz").status_code == 200 or time.sleep(0.1) for _ in range(300))
        assert ready, "the model was not loaded within half a minute"
        yield SimpleNamespace(base=origin, client=client, engine=engine)


def written(page, scene, busy="false"):
    """Wait until the scene with this number is whole, or with busy="true" has begun; its text."""
    page.locator(".place", has_text=f"scene {scene}").wait_for()
    page.locator(f".box[aria-busy={busy}] .text").filter(has_text=re.compile(r"\S.{25}", re.DOTALL)).wait_for()
    return " ".join(page.locator(".text").inner_text().split())
