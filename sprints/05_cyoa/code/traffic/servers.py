"""Servers as processes of their own: ours as `make cyoa-serve` starts it, and the two it is compared with.

Each computes with one thread. What a server costs is the processor time that its processes took, not the time on the wall:
other load on the machine changes that little.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
import psutil

from shared.errors import UserError
from shared.sprints import ROOT

CODE = (__package__ or "").rsplit(".", 1)[0]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE")} | {"TOKENIZERS_PARALLELISM": "false"}
PAGED = ("--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512")  # left to itself it is ten times slower
START = 600.0  # seconds after which a server that is still silent is given up; one that ends is noticed at once


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Processor time since its start, in steps of 10 ms on Linux."""
        return sum(sum(one.cpu_times()[:2]) for one in self._processes())

    def memory(self) -> float:
        """Resident memory, MiB."""
        return sum(one.memory_info().rss for one in self._processes()) / 2**20


def ours(port: int, folder: Path, *flags: str) -> list[str]:
    """The game's server with a database of its own."""
    database = f"sqlite:///{folder / 'stories.db'}"
    command = [sys.executable, "-m", f"{CODE}.api.serve", "--port", str(port), "--no-open", "--database", database]
    return [*command, "--watch", "86400", "--engine", "fast", *flags]


def naive(port: int, model: Path) -> list[str]:
    """A thread per request, each calling `generate` (naive.py)."""
    return [sys.executable, "-m", f"{__package__}.naive", str(model), str(port)]


def transformers(port: int, model: Path) -> list[str]:
    """`transformers serve` with continuous batching, in float32 as the naive server and with a cache of fixed size."""
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--continuous-batching", *PAGED]
    return [*serve, "--device", "cpu", "--dtype", "float32", "--port", str(port), "--host", "127.0.0.1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: Sequence[str], port: int, ready: str) -> Iterator[Server]:
    """A server from its first good answer at the path `ready` to the end of the block. Raises UserError where it does not come."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ONE_THREAD, stdout=log, stderr=log)
        try:
            _await(process, url + ready, log, command)
            yield Server(url, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen, url: str, log: IO[bytes], command: Sequence[str]) -> None:
    end = time.monotonic() + START
    while True:
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().rsplit("\n", 1)[-1][:300] or "it says nothing"
            raise UserError(f"the server {' '.join(command[1:4])} does not answer ({last}): start it by hand to see why")
        time.sleep(0.1)
