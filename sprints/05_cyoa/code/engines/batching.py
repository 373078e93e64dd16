"""Continuous batching of transformers: a newcomer joins the running batch at its next step, the cache lies in pages. For CUDA."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from shared import models

from .base import EngineClosed, EngineError, Piece, Request
from .prompts import Answer, Prompts

ON_CPU = {"page_size": 32, "num_blocks": 256, "max_batch_tokens": 512}  # for tests; what it picks there by itself is far slower


class Batching:
    name = "hf"

    def __init__(self, loaded: models.LoadedModel, model_version: str = ""):
        self.prompts = Prompts(loaded.tokenizer, loaded.stop_ids, loaded.context)
        self.model_version, self.device = model_version or loaded.name, loaded.device
        self._words = loaded.model.get_input_embeddings().num_embeddings
        sizes: dict[str, Any] = ON_CPU if loaded.model.device.type == "cpu" else {}
        self._manager = loaded.model.init_continuous_batching(
            # for these values it makes the processors; each request brings its own
            GenerationConfig(do_sample=True, temperature=0.8, top_k=40, top_p=0.9, eos_token_id=loaded.stop_ids, pad_token_id=0),
            ContinuousBatchingConfig(per_request_processors=True, **sizes),
        )
        self._manager.generation_config.do_sample = False  # Noise draws
        processors = self._manager.logit_processor
        processors.logits_processor.append(Noise())
        processors.tensors_required += 1
        processors._retrieve_processors_kwargs()
        self._manager.start()

    async def submit(self, request: Request) -> AsyncGenerator[Piece, None]:
        prompt, number = self.prompts.ids(request), uuid.uuid4().hex
        answer, seen = Answer(self.prompts, request, prompt), 0
        mail: asyncio.Queue = asyncio.Queue()
        self._manager.register_result_handler(number, mail.put_nowait)
        limits = {"request_id": number, "max_new_tokens": answer.limit, "streaming": True}
        try:
            if not self._manager.add_request(prompt, **limits, **self._sampling(request)):
                raise EngineClosed("this engine is closed")
            while not answer.finish:
                output = await mail.get()
                while not mail.empty():  # each holds all tokens so far
                    output = mail.get_nowait()
                for token in output.generated_tokens[seen:]:
                    answer.add(token)
                seen = len(output.generated_tokens)
                if piece := answer.take():
                    yield piece
                if output.is_finished() and not answer.finish:
                    raise EngineError(f"the engine failed or was closed during the answer ({output.error})")
        finally:
            self._manager.cancel_request(number)
            self._manager.output_router.result_handlers.pop(number, None)

    def _sampling(self, request: Request) -> dict[str, Any]:
        top_k = min(request.top_k or self._words, self._words)
        if request.temperature == 0:
            return {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
        draws = random.Random(request.seed)
        return {"temperature": float(request.temperature), "top_k": top_k, "top_p": float(request.top_p), "draws": draws}

    async def close(self) -> None:
        if self._manager.is_running():
            await asyncio.to_thread(self._manager.stop, hard_stop=True)


class Noise(ContinuousBatchingLogitsProcessor):
    """Draws by the Gumbel-max trick (the greatest of logits plus Gumbel noise is a sample of their softmax): a request has its own
    stream of random numbers, which the manager with one seed for all cannot give, and a greedy one is among them."""

    supported_kwargs = {"draws": random.Random}  # noqa: RUF012  # as its siblings write it
    ignored_kwargs = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: list) -> torch.Tensor:
        streams = [request.state.logit_processor_kwargs.get("draws") for request in requests_with_new_token]
        return torch.tensor([stream.randint(1, 2**31 - 1) if stream else 0 for stream in streams], dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        draws = tensor_arg[: scores.size(0)].long().unsqueeze(-1)  # (B, 1)
        bits = draws * 2654435761 + torch.arange(scores.size(-1), device=scores.device) * 2246822519  # (B, V)
        for shift, factor in ((16, 73244475), (16, 73244475), (16, 1)):  # of a hash that spreads well over 32 bits
            bits = ((bits ^ (bits >> shift)) & 0xFFFFFFFF) * factor
        uniform = ((bits & 0xFFFFFFFF).double() + 0.5) / 2**32
        return scores - (draws > 0) * torch.log(-torch.log(uniform)).to(scores.dtype)
