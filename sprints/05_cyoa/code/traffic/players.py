"""People at the story server: they take a choice, read the stream to its end, take the next.

The server allows one address two turns per second after the first twenty. A player therefore comes from a new address with every
story, as other people would; `per_address` puts several players behind one.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from typing import Any

import httpx2

LENGTH = 12  # turns after which a player begins another story


@dataclass
class Turn:
    """One turn as its player saw it: the status of HTTP (0: no answer), seconds to the first text and to the end of the scene (0:
    they did not come)."""

    status: int
    first: float = 0.0
    whole: float = 0.0
    error: str = ""  # the code of an error event, or what broke the connection
    retry_after: float = 0.0
    choices: list[str] = field(default_factory=list)
    ending: bool = False

    @property
    def told(self) -> bool:
        return self.status == 200 and not self.error


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=90, limits=limits) as made:
        yield made


class Player:
    def __init__(self, web: httpx2.AsyncClient, scenarios: Sequence[str], number: int, tokens: int, per_address: int = 0):
        """`scenarios` are ids, `tokens` the longest scene with its choices; `per_address` 0 is a new address per story."""
        self._web, self._scenarios, self._number = web, scenarios, number
        self._settings = {"max_tokens": tokens, "length": None, "authored": False}  # what is measured is the model
        self._per_address, self._stories = per_address, count()
        self._story, self._node, self._choice, self._left = "", "", "", 0
        self._headers: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()  # of every request

    async def turn(self) -> Turn:
        """Take a choice, in a new story where there is none to take."""
        try:
            if not self._left:
                await self._begin()
            turn = await self._take()
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else 0
            turn = Turn(status, error=type(error).__name__)
            self._left = 0
        self.statuses[turn.status] += 1
        return turn

    async def _begin(self) -> None:
        story = next(self._stories)
        place = self._number // self._per_address if self._per_address else 1000 * self._number + story % 1000
        self._headers = {"X-Forwarded-For": f"10.{place >> 16 & 255}.{place >> 8 & 255}.{place & 255}"}
        scenario = self._scenarios[(self._number + story) % len(self._scenarios)]
        body = {"scenario_id": scenario, "settings": self._settings}
        answer = (await self._web.post("/stories", json=body, headers=self._headers)).raise_for_status()
        self.statuses[200] += 1
        made = answer.json()
        self._story, self._node, self._left = made["story"]["id"], made["root"]["id"], LENGTH
        self._choice = made["root"]["choices"][0]["id"]

    async def _take(self) -> Turn:
        body = {"parent_id": self._node, "choice_id": self._choice}
        headers, started = self._headers | {"Accept": "text/event-stream"}, perf_counter()
        async with self._web.stream("POST", f"/stories/{self._story}/nodes", json=body, headers=headers) as answer:
            turn, offered = Turn(answer.status_code, retry_after=float(answer.headers.get("retry-after", 0))), []
            if answer.status_code != 200:
                await answer.aread()
                return turn
            async for name, data in events(answer):
                if name == "token" and not turn.first:
                    turn.first = perf_counter() - started
                elif name == "choices":
                    offered = data
                elif name == "error":
                    turn.error = data["code"]
                elif name == "done":
                    turn.whole, turn.ending = perf_counter() - started, data["ending"]
                    self._node = data["node_id"]
        if not turn.whole and not turn.error:
            turn.error = "broken off"
        turn.choices = [choice["text"] for choice in offered]
        self._left = self._left - 1 if turn.told and offered else 0
        self._choice = random.choice(offered)["id"] if offered else ""
        return turn


async def events(answer: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    """The server-sent events of an answer: name and data."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def play(url: str, scenarios: Sequence[str], users: int, turns: int, tokens: int, first: int = 0) -> list[Turn]:
    """All users at once, `turns` turns each without a pause; the first is player number `first`."""
    async with client(url) as web:
        players = [Player(web, scenarios, first + number, tokens) for number in range(users)]

        async def one(player: Player) -> list[Turn]:
            return [await player.turn() for _ in range(turns)]

        return [turn for told in await asyncio.gather(*map(one, players)) for turn in told]


@dataclass
class Crowd:
    """What many users met: their turns, every status of HTTP, and `samples` of the server as (seconds, value)."""

    turns: list[Turn]
    statuses: Counter[int]
    samples: list[tuple[float, float]]


async def throng(
    url: str, scenarios: Sequence[str], users: int, seconds: float, tokens: int, sample: Callable[[], float], every: float
) -> Crowd:
    """Users without patience, four behind each address: who is refused comes back as soon as the server said he may."""
    found, chance = Crowd([], Counter(), []), random.Random(0)
    async with client(url) as web:
        started = perf_counter()
        players = [Player(web, scenarios, number, tokens, per_address=4) for number in range(users)]

        async def one(player: Player) -> None:
            while perf_counter() - started < seconds:
                found.turns.append(turn := await player.turn())
                if not turn.told:
                    await asyncio.sleep((turn.retry_after or 0.5) * chance.uniform(1, 1.5))

        async def watch() -> None:
            while True:
                found.samples.append((perf_counter() - started, sample()))
                await asyncio.sleep(every)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*map(one, players))
        watching.cancel()
        found.samples.append((perf_counter() - started, sample()))
    for player in players:
        found.statuses += player.statuses
    return found
