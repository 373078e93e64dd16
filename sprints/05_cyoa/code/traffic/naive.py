"""The server that one writes first: FastAPI, a thread per request, each calls `model.generate` and streams.

python -m sprints.05_cyoa.code.traffic.naive FOLDER PORT
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from transformers import AsyncTextIteratorStreamer

from shared import models


def application(folder: Path) -> FastAPI:
    """`/v1/chat/completions` as a stream, with the sampling of the game; `/livez`."""
    torch.set_num_threads(1)
    loaded, app = models.load(str(folder), "cpu"), FastAPI()

    @app.get("/livez")
    def livez() -> str:
        return "ok"

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> StreamingResponse:
        inputs = loaded.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = AsyncTextIteratorStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {"max_new_tokens": body["max_tokens"], "do_sample": True, "temperature": body["temperature"], "top_k": 40}
        threading.Thread(target=loaded.model.generate, kwargs={**inputs, **options, "streamer": streamer}, daemon=True).start()

        async def lines() -> AsyncIterator[str]:
            async for text in streamer:
                yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    return app


async def serve(folder: Path, port: int) -> None:
    await uvicorn.Server(uvicorn.Config(application(folder), port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
