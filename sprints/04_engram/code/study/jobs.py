"""Jobs in parallel processes that are done once: a result is kept under a key of everything that decides it.

results = run_jobs([Job("lora seed 0", trial.measure, {"method": "lora", "seed": 0})], folder, processes=2)

A job is a function at the top of a module of this sprint with JSON arguments and a JSON result. Its key holds the arguments,
the code of that module and of all of the sprint it imports (comments and layout do not count), the data, the base model
and the version of torch. What was stopped goes on with the same command.
"""

import ast
import hashlib
import importlib.metadata
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rich.progress import track

from shared import data, models
from shared.processes import spread
from shared.report import write_atomically
from shared.runlog import console

CODE = Path(__file__).resolve().parents[1]
PACKAGE = (__package__ or "").rpartition(".")[0]


@dataclass(frozen=True)
class Job:
    """`function` stands at the top of a module of this sprint; `arguments` and what it returns are JSON."""

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for equal arguments, code, data, base model and torch."""
        module = self.function.__module__.removeprefix(f"{PACKAGE}.")
        code = {name: _code(name) for name in sorted(modules(module))}
        known = [self.function.__name__, dict(self.arguments), code, _material()]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]


def run_jobs(jobs: Sequence[Job], folder: Path, processes: int = 2, label: str = "jobs") -> dict[str, Any]:
    """name -> result of every job; those in `folder` are taken from there, the others run, one thread per process.

    One process is this one. Raises what a job raised; what was done until then is kept.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("two jobs have one name")
    files = {job.name: folder / f"{job.key}.json" for job in jobs}
    waiting = [job for job in jobs if not files[job.name].is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    results = spread(_call, {job.name: (job,) for job in waiting}, processes)
    bar = {"total": len(waiting), "console": console, "disable": not console.is_terminal or not waiting, "transient": True}
    for name, result in track(results, label, **bar):
        write_atomically(files[name], json.dumps({"name": name, "result": result}, allow_nan=False).encode())
    return {name: json.loads(file.read_text(encoding="utf-8"))["result"] for name, file in files.items()}


def _call(job: Job) -> Any:
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # what the libraries say would tear the bar of the jobs
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # the sums of a matrix product depend on it
    return job.function(**job.arguments)


@cache
def modules(name: str) -> frozenset[str]:
    """A module of this sprint ("study.trial") and every one of it that it imports, directly or not."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found.add(one := waiting.pop())
        waiting |= _siblings(one) - found
    return frozenset(found)


def _siblings(name: str) -> set[str]:
    found = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            whence = ".".join([*name.split(".")[: -node.level], *([node.module] if node.module else [])])
            found |= {whence} if _path(whence).is_file() else {f"{whence}.{alias.name}".lstrip(".") for alias in node.names}
    return found


def _path(name: str) -> Path:
    return CODE.joinpath(*name.split(".")).with_suffix(".py")


def _tree(name: str) -> ast.Module:
    return ast.parse(_path(name).read_text(encoding="utf-8"))


@cache
def _code(name: str) -> str:
    return hashlib.sha256(ast.dump(_tree(name)).encode()).hexdigest()


@cache
def _material() -> list[str]:
    """What decides a result and is no argument and no code."""
    files = sorted(path for path in (CODE.parent / "data").iterdir() if path.suffix in (".yaml", ".txt"))
    weights = sorted(models.POCKET.glob("*.safetensors"))
    return [*(data.digest(path) for path in [*files, *weights]), importlib.metadata.version("torch")]
