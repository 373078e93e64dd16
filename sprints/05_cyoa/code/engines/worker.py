"""A thread that owns a model, and the way from it to the event loop: the part that `fast`, `hf` and `mlx` share."""

import asyncio
import atexit
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic

from shared.device import Device

from .base import EngineClosed, EngineError, Piece, Request
from .prompts import Answer, Prompts

INTERVAL = 1 / 30  # seconds between two pieces of an answer: tokens that come faster travel together, which is much cheaper


class Job:
    """A request on its way through a worker. The thread adds tokens and publishes, the event loop reads `mail`."""

    def __init__(self, request: Request, prompts: Prompts):
        self.request, self.prompt = request, prompts.ids(request)
        self.answer = Answer(prompts, request, self.prompt)
        self.mail: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.cancelled = False  # by the reader
        self.done = False  # nothing more will be published

    def add(self, token: int) -> bool:
        """Take a token; True when the answer is over."""
        return self.cancelled or self.answer.add(token)


class Worker(ABC):
    """An engine whose thread takes jobs from a queue. A subclass says how a batch of them is answered."""

    name: str

    def __init__(self, prompts: Prompts, model_version: str, device: Device):
        self.prompts, self.model_version, self.device = prompts, model_version, device
        self._jobs: deque[Job] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._due = 0.0  # when to publish again
        self._thread = threading.Thread(target=self._work, name=f"{self.name}-engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    async def submit(self, request: Request) -> AsyncGenerator[Piece, None]:
        job = Job(request, self.prompts)
        with self._news:
            if self._closing:
                raise EngineClosed("this engine is closed")
            self._jobs.insert(place(job, self._jobs), job)
            self._news.notify()
        try:
            finish = None
            while not finish:
                if isinstance(piece := await job.mail.get(), Exception):
                    raise piece
                finish = piece.finish
                yield piece
        finally:
            job.cancelled = True

    async def close(self) -> None:
        await asyncio.to_thread(self._stop)
        atexit.unregister(self._stop)

    def _stop(self) -> None:
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()  # a native library aborts when its threads outlive the interpreter

    @abstractmethod
    def _batch(self, first: Job) -> list[Job]:
        """The jobs to answer together with `first`, taken from the queue; called with the lock held."""

    @abstractmethod
    def _answer(self, jobs: list[Job]) -> None:
        """Answer all jobs; returns when each is over or the worker is closing."""

    def _release(self) -> None:  # noqa: B027  # most have nothing
        """Give back what the thread holds; it calls this last."""

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._answer(jobs)
                error = EngineClosed("the engine was closed during the answer")
            except Exception as raised:  # the thread goes on with the next jobs
                error = EngineError(f"the engine failed ({raised})")
                error.__cause__ = raised
            self._publish(jobs)
            self._fail(jobs, error)
        self._release()
        self._fail(self._jobs, EngineClosed("the engine was closed before the answer"))

    def _next(self) -> list[Job]:
        """The next batch, as soon as there is a job; empty when closing."""
        with self._news:
            while not self._closing:
                while self._jobs:
                    if not (first := self._jobs.popleft()).cancelled:
                        return [first, *self._batch(first)]
                self._news.wait()
        return []

    def _is_due(self) -> bool:
        return monotonic() >= self._due

    def _publish(self, jobs: Iterable[Job]) -> None:
        """Send what these jobs wrote since the last time, with one call for all of them."""
        self._due = monotonic() + INTERVAL
        mail = [(job, piece) for job in jobs if not job.done and not job.cancelled and (piece := job.answer.take())]
        self._post(mail)
        for job, piece in mail:
            job.done = piece.finish is not None

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        left = [job for job in jobs if not job.done and not job.cancelled]
        self._post([(job, error) for job in left])
        for job in left:
            job.done = True

    @staticmethod
    def _post(mail: Sequence[tuple[Job, Piece | Exception]]) -> None:
        for loop in {job.loop for job, _ in mail}:
            with suppress(RuntimeError):  # the loop is closed, with its readers
                loop.call_soon_threadsafe(_deliver, [(job.mail.put_nowait, piece) for job, piece in mail if job.loop is loop])


def place(job: Job, waiting: Sequence[Job]) -> int:
    """Where in the queue: an answer that begins anew is before all that are gone on with, whose reader has something to read."""
    if job.request.prefix:
        return len(waiting)
    return next((at for at, other in enumerate(waiting) if other.request.prefix), len(waiting))


def _deliver(mail: list[tuple[Callable, Piece | Exception]]) -> None:
    for put, piece in mail:
        put(piece)
