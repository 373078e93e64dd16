"""The scenes that are being written: one task per node, any number of readers, and the text kept whatever happens.

A reader takes from the text so far what it has not seen, so a slow one gets larger pieces and holds nobody up, and one that
comes back goes on where it stopped.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, suppress
from datetime import UTC, datetime
from typing import Any

from ..engines import choices as writing
from ..engines.base import Admission, Engine, EngineError, Request, UpstreamTimeout
from ..scenarios import Person
from ..storytext import BUDGET, World, estimate, messages
from .champion import Champion
from .errors import ApiError
from .limits import Clients, Limits
from .metrics import Metrics
from .shapes import ChoiceOut, Settings
from .store import Store, card_of
from .tables import RUNNING, Node, Story

NEARLY = 0.75  # of a story's length, from which on the model may end it
FLUSH = 0.5  # seconds between two writes of a growing text
log = logging.getLogger("cyoa")
WHY = {
    "deadline": ("deadline", "the scene took too long; what is there is kept"),
    "cancelled": ("cancelled", "the scene was stopped; what is there is kept"),
    "disconnect": ("disconnect", "nobody was reading; what is there is kept"),
    "shutdown": ("shutdown", "the server is being stopped; what is there is kept"),
    "interrupted": ("interrupted", "the server stopped in the middle; what was there is kept"),
    "error": ("engine", "the engine failed: try again"),
    "timeout": ("engine_timeout", "the engine does not answer: try again"),
}


class Job:
    """A node on its way. `text` only grows, until `over`."""

    def __init__(self, node_id: str, text: str):
        self.node_id, self.text, self.tokens, self.readers = node_id, text, 0, 0
        self.over, self.reason, self.seen = False, "", asyncio.get_running_loop().time()
        self.news = asyncio.Event()
        self.settled = asyncio.Event()  # nothing more will be added: what is left is the last write to the store
        self.task: asyncio.Task | None = None

    def tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def stop(self, reason: str) -> None:
        if self.task and not self.reason:
            self.reason = reason
            self.task.cancel()


class Generations:
    def __init__(self, store: Store, champion: Champion, clients: Clients, metrics: Metrics, limits: Limits):
        self.store, self.champion, self.clients, self.metrics = store, champion, clients, metrics
        self.admission, self.limits = Admission(limits.queue), limits
        self.jobs: dict[str, Job] = {}
        self.draining = False

    def places(self, client: str) -> ExitStack:
        """A place among the client's turns and in the queue; close it to give them back. Raises ApiError 429, 503, QueueFull."""
        if self.draining:
            raise ApiError(503, "the server is being stopped", code="not_ready", retry_after=5)
        self.champion.check()
        with ExitStack() as stack:
            stack.enter_context(self.clients.turn(client))
            stack.enter_context(self.admission.slot())
            return stack.pop_all()

    async def start(self, client: str, add: Callable[[], Node]) -> Node:
        """Add a node with `add` (called in a thread) and begin to write it."""
        places = self.places(client)
        try:
            node = await asyncio.to_thread(add)
        except BaseException:
            places.close()
            raise
        job = self.jobs[node.id] = Job(node.id, node.text)
        job.task = asyncio.create_task(self._run(job, node, places))
        return node

    async def _run(self, job: Job, node: Node, places: ExitStack) -> None:
        loop, started, final = asyncio.get_running_loop(), asyncio.get_running_loop().time(), {}
        keeper = asyncio.create_task(self._keep(job))
        first: float | None = None
        draft, finish, genre = None, "", ""
        try:
            with places, self.champion.lease() as engine:
                async with asyncio.timeout(self.limits.deadline):
                    request, story, end = await asyncio.to_thread(self._prepare, engine, node)
                    genre = story.genre
                    if node.text:  # the player's own beginning
                        answer = writing.given(engine, request, node.text, genre)
                    else:
                        final["model_version"], answer = engine.model_version, writing.scene(engine, request, genre, **end)
                    async with aclosing(answer) as pieces:
                        async for piece in pieces:
                            if not isinstance(piece, writing.Piece):
                                draft = piece
                                continue
                            if piece.text and first is None:
                                first = loop.time() - started
                            job.text, job.tokens, finish = (
                                job.text + piece.text,
                                job.tokens + piece.token_count,
                                piece.finish or finish,
                            )
                            job.tell()
        except asyncio.CancelledError:
            finish = job.reason or "shutdown"
        except TimeoutError:
            finish = "deadline"
        except EngineError as error:
            finish = "timeout" if isinstance(error, UpstreamTimeout) else "error"
            log.warning("node %s: %s", node.id, error)
        except Exception:
            finish = "error"
            log.exception("node %s", node.id)
        job.reason = job.reason or "over"  # from here on nothing stops it
        job.settled.set()
        await asyncio.wait([keeper])  # a thread that writes is not stopped by cancelling: the last write shall be the last
        text = draft.scene if draft else job.text.strip()
        ms, ttft = round(1000 * (loop.time() - started)), None if first is None else round(1000 * first)
        if draft:
            status, choices, source = "done", draft.choices, "model"
        else:
            status = "cancelled" if finish == "cancelled" else "partial" if text else "failed"
            choices, source = writing.deck(genre, salt=text) if text else (), "deck"
        final |= {"text": text, "status": status, "finish": finish or "stop", "ending": bool(draft and draft.ending)}
        try:
            await asyncio.to_thread(self.store.write, node.id, choices, source, **final, tokens=job.tokens, ttft_ms=ttft, ms=ms)
        except Exception:
            log.exception("node %s cannot be stored", node.id)  # it is recovered at the next start
        self.metrics.generation(final["finish"], job.tokens, first, ms / 1000)
        del self.jobs[node.id]
        job.over = True
        job.tell()

    async def _keep(self, job: Job) -> None:
        """While a job runs: put its text into the store, and stop it when nobody has read it for a while."""
        loop, stored = asyncio.get_running_loop(), 0
        while not job.settled.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(job.settled.wait(), FLUSH)
                return
            if job.readers:
                job.seen = loop.time()
            if loop.time() - job.seen > self.limits.grace:
                job.stop("disconnect")
            if len(job.text) > stored:
                stored = len(job.text)
                with suppress(Exception):  # the last write says so, if the store is gone
                    await asyncio.to_thread(self.store.write, job.node_id, text=job.text, tokens=job.tokens)

    def _prepare(self, engine: Engine, node: Node) -> tuple[Request, Story, dict[str, bool]]:
        """The request for a node, and whether its scene may and has to be an ending; notes in the store what the model sees."""
        story, cards = self.store.story(node.story_id), self.store.lore(node.story_id)
        settings, count = Settings(**story.settings | node.sampling), counter(engine)
        people = tuple(Person(**person) for person in story.cast)
        world = World(story.genre, Person(**story.hero), people, story.memory, tuple(card_of(card) for card in cards))
        turns = self.store.turns(node.parent_id, node.action) if node.parent_id else []
        asked = messages(world, turns, count)
        seen = [] if node.text else asked
        self.store.write(node.id, status="running", messages=seen, prompt_tokens=sum(count(one["content"]) for one in seen))
        sampling = {"max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_k": settings.top_k}
        before = self.store.path(node.parent_id) if node.parent_id else []
        since = node.depth - max(
            (one.depth for one in before if one.ending), default=0
        )  # past an ending the story has its length anew
        end = {"ending": False, "may_end": True}
        if settings.length is not None:
            end = {"ending": since >= settings.length, "may_end": since >= NEARLY * settings.length}
        return Request(asked, **sampling, seed=node.seed), story, end

    async def reroll(self, client: str, node: Node, story: Story) -> list[Any]:
        """Other choices for a finished node, by the model."""
        with self.places(client), self.champion.lease() as engine:
            asked = node.messages or messages(World(story.genre, Person(**story.hero)), [], counter(engine))
            old = [choice.text for choice in node.all_choices]
            request = Request(asked, temperature=max(0.5, Settings(**story.settings).temperature))
            try:
                async with asyncio.timeout(self.limits.deadline):
                    texts = await writing.reroll(engine, request, node.text, story.genre, old)
            except TimeoutError:
                raise ApiError(504, "the engine took too long") from None
        return await asyncio.to_thread(self.store.offer, node.id, texts, "model")

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def live(self, node: Node) -> Node:
        """The node with the text that is not in the store yet; who asks counts as a reader."""
        if job := self.jobs.get(node.id):
            job.seen = asyncio.get_running_loop().time()
            if node.status in RUNNING:
                node.text, node.tokens = job.text, job.tokens
        return node

    async def stop(self, node_id: str) -> None:
        """Stop a job and wait for its end; a node without one ends as it is in the store."""
        if job := self.jobs.get(node_id):
            job.stop("cancelled")
            if job.task:
                await asyncio.wait([job.task])
        elif (node := await asyncio.to_thread(self.store.node, node_id)).status in RUNNING:
            await asyncio.to_thread(self.store.give_up, node, writing.deck, "cancelled")

    async def drain(self) -> None:
        """Let nobody in any more; what is not written in time is stopped and kept as it is."""
        self.draining = True
        if tasks := self._running():
            await asyncio.wait(tasks, timeout=self.limits.drain)
        while tasks := self._running():  # also those who were let in just before
            for job in self.jobs.values():
                job.stop("shutdown")
            await asyncio.wait(tasks)

    def _lost(self, node: Node) -> bool:
        """Whether nobody writes a node of the store any more: no scene takes so long."""
        age = datetime.now(UTC) - datetime.fromisoformat(node.created)
        return age.total_seconds() > self.limits.deadline + self.limits.grace

    def _running(self) -> list[asyncio.Task]:
        return [job.task for job in self.jobs.values() if job.task and not job.task.done()]

    async def events(self, node_id: str, start: int) -> AsyncIterator[str]:
        """The stream of a node from character `start` of its text, as server-sent events."""
        at, job = start, self.jobs.get(node_id)
        if job:
            job.readers += 1
            try:
                while not job.over:
                    news = job.news
                    if len(job.text) > at:
                        yield _event("token", {"i": at, "t": job.text[at:]}, len(job.text))
                        at = max(at, len(job.text))
                        continue
                    try:
                        async with asyncio.timeout(self.limits.heartbeat):
                            await news.wait()
                    except TimeoutError:
                        yield ": heartbeat\n\n"
            finally:
                job.readers -= 1
        node = await asyncio.to_thread(self.store.node, node_id)
        while node.status in RUNNING:  # another server writes it, or did so until it died
            yield ": heartbeat\n\n"
            await asyncio.sleep(FLUSH)
            if self._lost(node):
                await asyncio.to_thread(self.store.give_up, node, writing.deck)
            node = await asyncio.to_thread(self.store.node, node_id)
        if len(node.text) > at:
            yield _event("token", {"i": at, "t": node.text[at:]}, len(node.text))
        for event in closing(node):
            yield event


def closing(node: Node) -> list[str]:
    """The events that end the stream of a finished node."""
    length, choices = len(node.text), [ChoiceOut.model_validate(choice).model_dump() for choice in node.choices]
    events = [_event("scene", {"text": node.text}, length), _event("choices", choices, length)]
    if node.status == "done":
        names = ("finish", "ending", "actor", "tokens", "ttft_ms", "ms", "model_version")
        return [*events, _event("done", {"node_id": node.id} | {name: getattr(node, name) for name in names}, length)]
    code, message = WHY.get(node.finish or "", WHY["error"])
    return [*events, _event("error", {"code": code, "message": message}, length)]


def counter(engine: Engine) -> Callable[[str], int]:
    """How an engine counts tokens; an estimate where it does not say."""
    if prompts := getattr(engine, "prompts", None):
        return lambda text: len(prompts.tokenizer.encode(text, add_special_tokens=False).ids)
    return estimate


def context(node: Node) -> dict[str, Any]:
    return {"messages": node.messages, "tokens": node.prompt_tokens, "budget": BUDGET}


def _event(name: str, data: Any, place: int) -> str:
    return f"event: {name}\nid: {place}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
