"""What is let in: sizes, hosts, origins, tokens and how much one client may ask for. ASGI, before the app sees anything."""

import asyncio
import hmac
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .metrics import Metrics

BODY, IMPORT, DISCARDED = 64 * 1024, 2 * 1024 * 1024, 4 * 1024 * 1024  # bytes
SLOW_BODY, SLOW_READER = 15.0, 60.0  # seconds that a body, and one write to a client, may take
OPEN = ("/livez", "/readyz")  # for probes, without a token
COOKIE = "cyoa_token"
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
SECURITY = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
SECURITY |= {"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "X-Frame-Options": "DENY"}


@dataclass(frozen=True)
class Limits:
    """What the server promises to bear (docs/api.md)."""

    queue: int = 32  # scenes being written or waiting, of all clients
    parallel: int = 2  # scenes at a time for one client
    rate: float = 2.0  # new scenes per second for one client, after `burst`
    burst: int = 20
    deadline: float = 30.0  # seconds for a scene, waiting included
    grace: float = 10.0  # seconds that a scene is written without a reader
    drain: float = 10.0  # seconds that a running scene has when the server is stopped
    heartbeat: float = 10.0  # seconds of silence in a stream


class Clients:
    """Who may begin a scene."""

    def __init__(self, limits: Limits):
        self.parallel, self.rate, self.burst = limits.parallel, limits.rate, limits.burst
        self._running: dict[str, int] = {}
        self._allowance: dict[str, tuple[float, float]] = {}  # client -> turns it may begin, and when that was so

    @contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """A turn of a client, to the end of the block. Raises ApiError 429."""
        allowance, then = self._allowance.get(client, (float(self.burst), monotonic()))
        allowance = min(self.burst, allowance + (monotonic() - then) * self.rate)
        if self._running.get(client, 0) >= self.parallel:
            raise ApiError(429, f"wait for one of your {self.parallel} scenes that are being written")
        if allowance < 1:
            raise ApiError(429, "too many turns in a short time, wait a moment", retry_after=(1 - allowance) / self.rate)
        if len(self._allowance) > 10_000:  # forget those who have their whole allowance again
            full = monotonic() - self.burst / self.rate
            self._allowance = {name: value for name, value in self._allowance.items() if value[1] > full}
        self._allowance[client] = allowance - 1, monotonic()
        self._running[client] = self._running.get(client, 0) + 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


class Guard:
    """The outermost layer of the app. `hosts` None allows any Host header (only with a token)."""

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: frozenset[str] | None, token: str | None = None):
        self.app, self.metrics, self.hosts, self.token = app, metrics, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, status, sent = Headers(scope=scope), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                out = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    out.setdefault(name, value)
                if not scope["path"].endswith((".js", ".css", ".svg")):
                    out.setdefault("Cache-Control", "no-cache")
            async with asyncio.timeout(SLOW_READER):
                await send(message)

        try:
            if redirect := self._check(scope, headers):
                await _plain(answer, 303, redirect)
                return
            body = await self._body(scope, headers, receive)
            await self.app(scope, _replay(body, receive), answer)
        except ApiError as error:
            if error.status in (408, 413):
                error.headers["Connection"] = "close"
            if error.status == 413:
                await _discard(receive)
            await error.response()(scope, receive, answer)
        except TimeoutError:
            if not sent:
                raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(scope["method"] if scope["method"].isalpha() else "other", route, status).inc()

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Host, token and origin. Returns headers of a redirect where a token in the address becomes a cookie."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise ApiError(403, "this server does not answer to that Host: use http://127.0.0.1, or --public with a token")
        if self.token and scope["path"] not in OPEN:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if scope["path"] == "/" else ""
            if given and _same(given, self.token):
                return {
                    "Location": "/",
                    "Set-Cookie": f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000",
                }
            bearer = headers.get("authorization", "").removeprefix("Bearer ")
            if not _same(bearer, self.token) and not _same(_cookie(headers), self.token):
                raise ApiError(401, "a token is needed: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            ours = (f"http://{host}", f"https://{host}")  # a proxy before it may speak https
            if foreign or (origin and origin not in ours):
                raise ApiError(403, "another site may not do this")
        return None

    async def _body(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The body, counted while it arrives: no more than the limit is ever held. Raises ApiError 413, 408."""
        limit = IMPORT if scope["path"] == "/stories:import" else BODY
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            raise ApiError(413, f"a body has at most {limit} bytes")
        chunks, size = [], 0
        try:
            async with asyncio.timeout(SLOW_BODY):
                while True:
                    message = await receive()
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > limit:
                        raise ApiError(413, f"a body has at most {limit} bytes")
                    if not message.get("more_body"):  # a disconnect too
                        return b"".join(chunks)
        except TimeoutError:
            raise ApiError(408, "the body took too long") from None


async def _discard(receive: Receive) -> None:
    """Read on for a while and throw it away: a connection closed under a client that still sends takes the answer with it."""
    left = DISCARDED
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while left > 0 and (message := await receive()).get("more_body"):
                left -= len(message["body"])


def _replay(body: bytes, receive: Receive) -> Receive:
    first = True

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def _plain(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*raw, (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _name(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d+$", "", host).lower()


def _cookie(headers: Any) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
