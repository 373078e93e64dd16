"""Several processes on this machine: for jobs that do not depend on each other, and to train one model together."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from shared.environment import usable_cpus
from shared.errors import UserError
from shared.sprints import ROOT

POOLS: dict[int, ProcessPoolExecutor] = {}  # kept until this process ends: a worker takes seconds to import what it needs


def spread(function: Callable[..., Any], jobs: Mapping[Any, tuple], processes: int = 0) -> Iterator[tuple[Any, Any]]:
    """(key, function(*arguments)) of each job as soon as it is done, in any order; raises what a job raised.

    `processes`: 0 for one per core; 1, or a single job, stays in this process; of several each has one thread. `function` stands
    at the top of a module. Calls of the same count follow each other: they share their processes.
    """
    count = processes or len(usable_cpus())
    if min(count, len(jobs)) < 2:
        for key, arguments in jobs.items():
            yield key, function(*arguments)
        return
    if count not in POOLS:
        POOLS[count] = ProcessPoolExecutor(count, get_context("spawn"), _begin)
    pool = POOLS[count]
    try:
        with _one_thread():
            futures = {pool.submit(function, *arguments): key for key, arguments in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:  # Ctrl-C too: nobody waits for the jobs that run, and no other begins
        POOLS.pop(count, None)
        for worker in list(pool._processes.values()):
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """For processes that start in the block: they read it when they import NumPy and torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin() -> None:
    """A worker ends at once at Ctrl-C; and with its parent, since else it would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def torchrun(count: int, module: str, *arguments: str, environment: Mapping[str, str], doing: str) -> None:
    """Run `python -m module arguments` in `count` processes that torch.distributed connects; none of them outlives this call.

    Raises UserError when one of them fails; `doing` names the work in it.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc_per_node", str(count), "-m", module, *arguments]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the same command resumes it"))  # else nobody stops them
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)
    try:
        code = process.wait()
    finally:  # Ctrl-C reaches the processes too; another signal reaches only this one
        if process.poll() is None:
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, before)
    if code:
        raise UserError(f"{doing} stopped; what went wrong stands above, the same command resumes it")
