"""The engine `hf`: transformers, for every model it knows. One answer after the other on the CPU and on Apple GPUs; on CUDA all of
them in the paged cache of its continuous batching (`batching.py`)."""

from typing import Any

from shared import models

from .base import Request
from .prompts import Prompts
from .worker import Job, Worker


class Transformers(Worker):
    """`model.generate` under a lock: one thread, one request at a time."""

    name = "hf"

    def __init__(self, loaded: models.LoadedModel, model_version: str = ""):
        self._model = loaded.model
        super().__init__(Prompts(loaded.tokenizer, loaded.stop_ids, loaded.context), model_version or loaded.name, loaded.device)

    def _batch(self, first: Job) -> list[Job]:
        return []

    def _answer(self, jobs: list[Job]) -> None:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList
        from transformers.generation.streamers import BaseStreamer

        engine, job, over = self, jobs[0], False

        class Stream(BaseStreamer):
            prompt = True  # it comes first

            def put(self, value: torch.Tensor) -> None:
                nonlocal over
                if self.prompt:
                    self.prompt = False
                    return
                over = job.add(int(value)) or engine._closing
                if job.answer.finish or engine._is_due():
                    engine._publish([job])

            def end(self) -> None:
                pass

        class Over(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                return torch.full((1,), over, dtype=torch.bool, device=input_ids.device)

        ids = torch.tensor([job.prompt], device=self._model.device)
        with torch.inference_mode(), torch.random.fork_rng(enabled=job.request.seed is not None):
            if job.request.seed is not None:
                torch.manual_seed(job.request.seed)
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=job.answer.limit,
                streamer=Stream(),
                stopping_criteria=StoppingCriteriaList([Over()]),
                **_sampling(job.request),
            )


def _sampling(request: Request) -> dict[str, Any]:
    if request.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": request.temperature, "top_k": request.top_k, "top_p": request.top_p}
