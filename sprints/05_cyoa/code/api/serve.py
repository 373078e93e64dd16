"""Serve the game: one command, one process, offline.

    make cyoa-serve                                             the champion, stories in stories.db, opens the page
    make cyoa-serve ARGS="--port 9000 --database postgresql://..."
    make cyoa-serve ARGS="--engine openai --base-url http://gpu-host:8000/v1"
    make cyoa-serve ARGS="--public"                             for other machines too, with a token

SIGTERM and Ctrl-C let scenes end for a while, then keep what is there.
"""

import asyncio
import json
import logging
import re
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx2
import uvicorn

from shared import runlog
from shared.errors import UserError
from shared.runlog import console
from shared.sprints import ROOT

from .. import registry, scenarios
from ..engines.choose import Kind, open_engine, where
from .app import LOCAL, create_app
from .champion import Champion
from .limits import Limits
from .store import Store


@dataclass
class Args(runlog.Args):
    aside: ClassVar[tuple[str, ...]] = ("port", "open", "public", "token", "database", "engine", "base_url", "model", "key")

    port: int = 8005
    """Where to listen; 0 is any free port."""
    engine: Kind = "auto"
    """What writes: auto, fast (CTranslate2), hf (transformers), mlx, or openai (any server with that API)."""
    base_url: str = ""
    """Of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Which model of that server; its first when not given."""
    key: str = ""
    """The API key of that server."""
    database: str = f"sqlite:///{ROOT / 'stories.db'}"
    """Where the stories are kept: sqlite:///FILE or postgresql://USER@HOST/NAME."""
    public: bool = False
    """Listen on every interface; everybody needs the token then."""
    token: str = ""
    """The token of --public; made up when not given. Without --public it may be set too."""
    queue: int = Limits.queue
    """Scenes that may be written or wait at a time; one more is answered 503."""
    per_client: int = Limits.parallel
    """Scenes at a time for one client; one more is answered 429."""
    rate: float = Limits.rate
    """Scenes per second for one client, after its first twenty; for a server behind others, who are its clients, give more."""
    deadline: float = Limits.deadline
    """Seconds for a scene, waiting included; then its text so far is kept."""
    grace: float = Limits.grace
    """Seconds that a scene is written on when its reader is gone."""
    drain: float = Limits.drain
    """Seconds that running scenes have when the server is stopped."""
    heartbeat: float = Limits.heartbeat
    """Seconds of silence after which a stream gives a sign of life."""
    watch: float = 30.0
    """Seconds between two looks at who is champion."""
    open: bool = True
    """Open the page in the browser, where there is one."""

    @property
    def elsewhere(self) -> bool:
        """Whether another server writes."""
        return self.engine == "openai" or bool(self.base_url)


class Server(uvicorn.Server):
    """Refuses new scenes as soon as it is told to stop, and stops the running ones in time."""

    def __init__(self, args: Args, store: Store, listener: socket.socket, token: str | None):
        last: registry.Champion | None = None

        def source() -> tuple[Path | None, str]:
            """Who is champion. While its registry is down a champion stays: the shipped model is for the start."""
            nonlocal last
            if args.elsewhere:
                return None, args.model or "openai"
            found = registry.champion()
            if last is None or found.name.startswith(registry.NAME) or not last.name.startswith(registry.NAME):
                last = found
            return last.folder, last.name

        def open_champion(folder: Path | None, version: str):
            return open_engine(args.engine, folder, version, on=args.device, base_url=args.base_url, model=args.model, key=args.key)

        self.app = create_app(
            store,
            Champion(source, open_champion),
            scenarios.load(),
            limits=Limits(
                args.queue, args.per_client, args.rate, Limits.burst, args.deadline, args.grace, args.drain, args.heartbeat
            ),
            hosts=None if args.public else LOCAL,
            token=token,
            watch=args.watch,
        )
        self.listener = listener
        timeout = round(args.drain + 3)
        super().__init__(
            uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=timeout, server_header=False)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self.app.state.generations.drain())
        await super().shutdown(sockets)
        await draining

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or [self.listener])


def listen(host: str, port: int) -> socket.socket:
    """Raises UserError where the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError):
        raise UserError(f"port {port} cannot be had: give another with --port") from None
    listener.listen(512)
    return listener


def build(args: Args) -> tuple[Server, str]:
    """The server, ready to run, and the address of its page."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", args.token):
        raise UserError("a token has letters, digits and - _ only")
    if not args.elsewhere:
        where(args.engine, args.device)  # to refuse now what no model could be opened on
    token = args.token or (secrets.token_urlsafe(24) if args.public else "")
    listener = listen("0.0.0.0" if args.public else "127.0.0.1", args.port)
    port = listener.getsockname()[1]
    store = Store(args.database, owner=f"{socket.gethostname()}:{port}")
    host = socket.gethostname() if args.public else "127.0.0.1"
    return Server(args, store, listener, token or None), f"http://{host}:{port}/" + (f"?token={token}" if token else "")


def main(args: Args) -> dict | None:
    if args.smoke:
        return smoke(args)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for name in ("alembic", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server, address = build(args)
    console.print(f"the game: {address}   (Ctrl-C stops it)")
    if args.open and console.is_terminal:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    server.run()
    return None


def smoke(args: Args) -> dict:
    """Start, answer one story over HTTP, stop."""
    with (
        tempfile.TemporaryDirectory() as folder,
        runlog.Run(
            args,
            __file__,
            "serve_smoke",
            title="CYOA server, one story",
            objective="Does the server start, tell a scene and stop?",
            setup={"server": "uvicorn on a free port", "database": "sqlite in a temporary folder"},
        ) as run,
    ):
        args.port, args.database = 0, f"sqlite:///{folder}/stories.db"
        server, address = build(args)
        thread = threading.Thread(target=server.run)
        thread.start()
        started = time.perf_counter()
        try:
            with httpx2.Client(base_url=address, timeout=60) as client:
                while client.get("/readyz").status_code != 200:
                    if time.perf_counter() - started > 120:
                        raise UserError("no model was loaded: run again without --smoke to see why")
                    time.sleep(0.05)
                run.metric(
                    "serve_ready_seconds", time.perf_counter() - started, unit="s", meaning="from the start to a loaded model"
                )
                begun = {"scenario_id": scenarios.load()[0].id, "settings": {"authored": False}}  # the model is to tell it
                story = client.post("/stories", json=begun).raise_for_status().json()
                turn = {"parent_id": story["root"]["id"], "choice_id": story["root"]["choices"][0]["id"]}
                accept = {"Accept": "text/event-stream"}
                told = client.post(f"/stories/{story['story']['id']}/nodes", json=turn, headers=accept).raise_for_status().text
        finally:
            server.should_exit = True
            thread.join()
        events = [event.split("\ndata: ") for event in told.split("\n\n") if event.startswith("event: ")]
        done = next(json.loads(data) for name, data in events if name.startswith("event: done"))
        run.metric("serve_scene_ms", done["ms"], unit="ms", meaning="one scene with its choices, over HTTP")
        run.observe(f"The scene ended with {done['finish']} after {done['tokens']} tokens, written by {done['model_version']}.")
        run.conclude("The server starts, tells a scene with choices and stops.")
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
