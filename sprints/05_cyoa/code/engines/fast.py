"""The engine `fast`: CTranslate2 with int8 weights on the CPU, many requests in one batch.

The weights are converted from safetensors when a model is first opened, into runs/engines, under the hash of its weights.
CTranslate2 (https://github.com/OpenNMT/CTranslate2) holds no place for a newcomer in a running batch, so what arrives meanwhile
makes the next ones: each of prompts of like length, the oldest request and those nearest to it. One thread per engine: more
processes use more cores better than more threads.
"""

import gc
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from shared import models
from shared.device import Device, keep_freed_memory
from shared.errors import UserError
from shared.sprints import ROOT

from .base import Request
from .prompts import Prompts
from .worker import Job, Worker

CPU = Path("/proc/cpuinfo")
if {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"} <= set(CPU.read_text().split() if CPU.exists() else ()):
    os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")  # by itself it stays with AVX2; it reads this when it is imported

import ctranslate2  # noqa: E402

CONVERTED = ROOT / "runs" / "engines"
GATHER = 0.003  # seconds that an idle engine waits for company of a first request
NEAR = 32  # tokens: beyond the shortest prompt of a batch all others are read one token per step, as slowly as one is written
ROOM = 1300  # tokens of prompts in a batch: every step copies the caches of all, which costs more once they outgrow the processor's
SEEDING = threading.Lock()  # CTranslate2 has one seed for the process
Precision = Literal["int8", "float32"]


class UnsupportedError(UserError):
    """CTranslate2 does not know this architecture."""


class Fast(Worker):
    name = "fast"

    def __init__(self, folder: Path, model_version: str = "", precision: Precision = "int8", batch: int = 16):
        self._folder, self._precision, self._size = convert(folder, precision), precision, batch
        keep_freed_memory()  # every step copies the caches to new places
        tokenizer, stop_ids, context = models.load_tokenizer(folder)
        self._tokens = json.loads((self._folder / "vocabulary.json").read_bytes())
        self._ends = [self._tokens[stop] for stop in stop_ids]
        with SEEDING:
            ctranslate2.set_random_seed(secrets.randbits(31))
            self._generator = self._open()
            self._generator.generate_batch([self._ends[:1]], max_length=1, sampling_topk=2)  # the thread takes its seed now
        super().__init__(
            Prompts(tokenizer, stop_ids, context),
            model_version or self._folder.name,
            Device("cpu", precision, "the engine fast computes on the CPU"),
        )

    def _open(self) -> ctranslate2.Generator:
        return ctranslate2.Generator(
            str(self._folder), device="cpu", compute_type=self._precision, inter_threads=1, intra_threads=1
        )

    def _batch(self, first: Job) -> list[Job]:
        if first.request.seed is not None:
            return []
        if len(self._jobs) < self._size - 1:
            self._news.wait_for(lambda: self._closing or len(self._jobs) >= self._size - 1, GATHER)
        taken = company(first, self._jobs, self._size)
        for job in taken:
            self._jobs.remove(job)
        return taken

    def _answer(self, jobs: list[Job]) -> None:
        if (seed := jobs[0].request.seed) is None:
            self._generate(self._generator, jobs)
            return
        with SEEDING:  # a thread of CTranslate2 reads the seed once, at its first draw: a seeded request needs a new one
            ctranslate2.set_random_seed(seed or 2**31)
            generator = self._open()
            self._generate(generator, jobs)
            while generator.num_active_batches:  # its thread still has to drop the callback: to end it now would be a deadlock
                time.sleep(0.0005)
            ctranslate2.set_random_seed(secrets.randbits(31))

    def _generate(self, generator: ctranslate2.Generator, jobs: list[Job]) -> None:
        step, me = -1, weakref.proxy(self)  # a thread of CTranslate2 lets go of `take` later: must it end the generator, it aborts

        def take(result: Any) -> bool:  # for every token: keep it short
            nonlocal step
            job = jobs[result.batch_id]
            over = job.add(result.token_id)
            if over:
                me._publish([job])
            elif result.step != step:
                step = result.step
                if me._is_due():  # all jobs have the tokens of the step before
                    me._publish(jobs)
            return over or me._closing

        tokens = self._tokens
        generator.generate_batch(
            [[tokens[token] for token in job.prompt] for job in jobs],
            max_length=max(job.answer.limit for job in jobs),
            end_token=self._ends,
            return_end_token=True,
            include_prompt_in_result=False,
            callback=take,
            **_sampling(jobs[0].request),
        )

    def _release(self) -> None:
        self._generator.unload_model()


def company(first: Job, waiting: Iterable[Job], size: int) -> list[Job]:
    """Whom to answer together with `first`, the oldest job: those that draw as it does and are nearest to it in length."""
    kind, length = _sampling(first.request), len(first.prompt)

    def apart(job: Job) -> int:
        return abs(len(job.prompt) - length)

    same = [job for job in waiting if job.request.seed is None and not job.cancelled and _sampling(job.request) == kind]
    near = [job for job in same if apart(job) <= NEAR]
    return sorted(near, key=apart)[: min(size, max(1, ROOM // length)) - 1]


def _sampling(request: Request) -> dict[str, Any]:
    """How CTranslate2 draws; the same for all of a batch."""
    if request.temperature == 0:
        return {"sampling_topk": 1}
    return {"sampling_topk": request.top_k, "sampling_topp": request.top_p, "sampling_temperature": request.temperature}


def convert(folder: Path, precision: Precision) -> Path:
    """The folder with the weights for CTranslate2, converted unless that was done before. Raises UnsupportedError, UserError."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} holds no safetensors: open a folder with model.safetensors")
    digest = hashlib.sha256()
    for path in (*weights, folder / "config.json", folder / "tokenizer.json"):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    place = CONVERTED / f"{digest.hexdigest()[:16]}-{precision}-{ctranslate2.__version__}"
    if not place.is_dir():
        CONVERTED.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=CONVERTED, prefix="part-"))
        try:
            _convert(folder, part, precision)
            os.replace(part, place)
        except OSError:
            if not place.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return place


def _convert(folder: Path, place: Path, precision: Precision) -> None:
    from ctranslate2.converters import TransformersConverter

    loaded = models.load(str(folder), "cpu")

    class Converter(TransformersConverter):
        """Takes the model that is loaded: from safetensors only."""

        def load_model(self, *_, **__):
            return loaded.model

        def load_tokenizer(self, *_, **__):
            return loaded.tokenizer

    gc.freeze()  # after each layer the converter collects garbage, among all that is loaded
    try:
        Converter(str(folder)).convert(str(place), quantization=precision, force=True)
    except (ValueError, NotImplementedError) as error:
        raise UnsupportedError(f"CTranslate2 cannot take {folder} ({error}): use --engine hf") from error
    finally:
        gc.unfreeze()
    path = place / "config.json"
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps(config | {"bos_token": config["bos_token"] or config["eos_token"]}))  # it refuses to load null
