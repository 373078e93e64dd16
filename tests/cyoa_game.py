"""The real server of the game for tests in a browser."""

import asyncio
import threading
import time
from contextlib import aclosing, contextmanager
from importlib import import_module
from types import SimpleNamespace

import httpx2
import uvicorn

from shared import models

PLACES = ("api.app", "api.serve", "api.champion", "api.store", "api.limits", "scenarios", "engines.fast")
app, serve, champion, store, limits, scenarios, fast = (import_module(f"sprints.05_cyoa.code.{name}") for name in PLACES)


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


@contextmanager
def played(folder):
    """The server in a thread: .base its address, .client a client of it, .engine to pace."""
    engine = Paced(fast.Fast(models.POCKET, "pocket"))
    listener = serve.listen("127.0.0.1", 0)
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kept = store.Store(f"sqlite:///{folder}/stories.db")
    writer = champion.Champion(lambda: (models.POCKET, "pocket"), lambda *_: engine)
    whole = app.create_app(kept, writer, scenarios.load(), limits=limits.Limits(burst=200))
    server = uvicorn.Server(uvicorn.Config(whole, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx2.Client(base_url=origin, timeout=30) as client:
        ready = any(client.get("/readyz").status_code == 200 or time.sleep(0.1) for _ in range(300))
        assert ready, "the model was not loaded within half a minute"
        yield SimpleNamespace(base=origin, client=client, engine=engine)
    server.should_exit = True
    thread.join()
