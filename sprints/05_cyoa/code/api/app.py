"""The app: story routes, evaluation, the OpenAI-compatible routes, probes, and the game as static files."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from ..engines.choices import deck
from ..scenarios import Scenario
from . import completions, errors, evaluation, stories
from .champion import Champion
from .generation import Generations
from .limits import Clients, Guard, Limits
from .metrics import Metrics
from .shapes import Rating
from .store import Store

WEB = Path(__file__).resolve().parents[1] / "web"
LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
log = logging.getLogger("cyoa")


def create_app(
    store: Store,
    champion: Champion,
    scenarios: Sequence[Scenario],
    *,
    limits: Limits | None = None,
    hosts: frozenset[str] | None = LOCAL,
    token: str | None = None,
    watch: float = 30.0,
) -> FastAPI:
    """The server as an ASGI app; it closes the store and the champion at its end. `watch` is how often, in seconds, it asks who is
    champion. `app.state.generations` lets the caller drain it."""
    metrics, limits = Metrics(), limits or Limits()
    generations = Generations(store, champion, Clients(limits), metrics, limits)
    metrics.running.set_function(lambda: len(generations.jobs))
    metrics.ready.set_function(lambda: champion.ready)

    async def load() -> None:
        """Until a first model is loaded, try; then watch for the next."""
        while not champion.ready:
            try:
                await champion.refresh(again=True)
            except Exception as error:
                log.error("the model cannot be loaded: %s", error)
                await asyncio.sleep(min(watch, 5))
        await champion.watch(watch)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        if found := await asyncio.to_thread(store.recover, deck):
            log.warning("%d scenes were interrupted when the server stopped", found)
        watcher = asyncio.create_task(load())
        yield
        watcher.cancel()
        await generations.drain()
        await champion.close()
        store.close()

    app = FastAPI(
        title="CYOA",
        version="1",
        summary="Branching stories by a small model",
        lifespan=life,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses=errors.RESPONSES,
        separate_input_output_schemas=False,
    )
    app.state.generations = generations
    errors.install(app)
    app.include_router(stories.routes(store, generations, scenarios))
    app.include_router(evaluation.routes(store))
    app.include_router(completions.routes(generations, champion))

    @app.get("/genres")
    def genres() -> dict[str, list[dict[str, Any]]]:
        names = [scenario.genre for scenario in scenarios]
        return {"genres": [{"name": name, "scenarios": names.count(name)} for name in sorted(set(names))]}

    @app.get("/scenarios")
    def list_scenarios(
        genre: Annotated[str | None, Query(max_length=80)] = None, rating: Rating | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        names = ("id", "title", "genre", "rating", "summary", "hero", "cast")
        found = [s for s in scenarios if genre in (None, s.genre) and rating in (None, s.rating)]
        return {"scenarios": [{name: getattr(scenario, name) for name in names} for scenario in found]}

    @app.get("/model")
    def model() -> dict[str, Any]:
        return champion.info()

    @app.post("/admin/model:reload")
    async def reload() -> dict[str, Any]:
        """Look at once for a new champion; the one before stays when it does not work."""
        try:
            await champion.refresh(again=True)
        except Exception as error:
            log.error("reload: %s", error)
            raise errors.ApiError(409, "the new champion cannot be loaded: the one before stays") from None
        return champion.info()

    @app.get("/livez", response_class=PlainTextResponse)
    async def livez() -> str:
        return "ok\n"

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = champion.ready and not generations.draining
        return JSONResponse({"ready": ready}) if ready else JSONResponse({"ready": False}, 503, {"Retry-After": "2"})

    @app.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    if WEB.is_dir():
        app.mount("/", StaticFiles(directory=WEB, html=True), name="web")
    app.add_middleware(Guard, metrics=metrics, hosts=hosts, token=token)
    return app
