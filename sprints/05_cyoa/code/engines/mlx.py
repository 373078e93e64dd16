"""The engine `mlx`: mlx-lm with its continuous batching, for Apple silicon. It runs on Linux too, where the tests run it."""

import secrets
from collections.abc import Callable
from typing import Any

from shared import models

from .base import Request
from .prompts import Prompts
from .worker import Job, Worker


class Mlx(Worker):
    """A newcomer joins the running batch at its next step."""

    name = "mlx"

    def __init__(self, loaded: models.LoadedModel, model_version: str = "", batch: int = 16):
        self._model, self._size = loaded.model, batch
        super().__init__(Prompts(loaded.tokenizer, loaded.stop_ids, loaded.context), model_version or loaded.name, loaded.device)

    def _batch(self, first: Job) -> list[Job]:
        return [self._jobs.popleft() for _ in range(min(self._size - 1, len(self._jobs)))]

    def _answer(self, jobs: list[Job]) -> None:
        from mlx_lm.generate import BatchGenerator

        generator = BatchGenerator(self._model, completion_batch_size=self._size, prefill_batch_size=min(8, self._size))
        try:
            self._generate(generator, jobs)
        finally:
            generator.close()

    def _generate(self, generator: Any, jobs: list[Job]) -> None:
        live: dict[int, Job] = {}
        new = list(jobs)
        while (new or live) and not self._closing:
            if new:
                samplers = [_sampler(job.request) for job in new]
                limits = [job.answer.limit for job in new]
                live |= zip(generator.insert([job.prompt for job in new], limits, samplers=samplers), new, strict=True)
            over = {number for number, job in live.items() if job.cancelled}
            for result in generator.next_generated():
                job = live[result.uid]
                if job.add(result.token):
                    over.add(result.uid)
                if result.finish_reason:  # the generator has let it go
                    over.discard(result.uid)
                    live.pop(result.uid)
                    self._publish([job])
            if over:
                self._publish([live.pop(number) for number in over])
                generator.remove(list(over))
            if self._is_due():
                self._publish(live.values())
            new = self._newcomers(jobs, self._size - len(live))

    def _newcomers(self, jobs: list[Job], room: int) -> list[Job]:
        with self._news:
            found = [self._jobs.popleft() for _ in range(min(room, len(self._jobs)))]
        new = [job for job in found if not job.cancelled]
        jobs[:] = [*(job for job in jobs if not job.done and not job.cancelled), *new]  # who is told if the batch fails
        return new


def _sampler(request: Request) -> Callable:
    """Log-probabilities (rows, vocabulary) to tokens (rows,), drawn with a key of this request: it repeats in any company."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_top_k, apply_top_p, greedy_sampler

    if request.temperature == 0:
        return greedy_sampler
    key = mx.random.key(secrets.randbits(32) if request.seed is None else request.seed)

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        scores = logprobs / request.temperature
        if 0 < request.top_k < scores.shape[-1]:
            scores = apply_top_k(scores, request.top_k)
        if request.top_p < 1:
            scores = apply_top_p(scores - mx.logsumexp(scores, axis=-1, keepdims=True), request.top_p)
        return mx.random.categorical(scores, key=now)

    return draw
