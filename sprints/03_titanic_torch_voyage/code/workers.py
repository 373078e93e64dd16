"""Jobs in parallel: one pool of processes for the whole program, since a process takes seconds to import what it needs.

for key, found in spread(run, score_fold, {key: arguments, ...}, "folds", processes=2): ...
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from typing import Any

from shared import runlog


def spread(
    run: runlog.Run, function: Callable[..., Any], jobs: Mapping[Any, tuple], label: str, processes: int = 0
) -> Iterator[tuple[Any, Any]]:
    """(key, function(*arguments)) of each job as soon as it is done, in any order.

    `processes`: 0 for one per core; 1, or a single job, stays in this process. `function` stands at the top of a module.
    """
    count = processes or os.cpu_count() or 1
    if min(count, len(jobs)) < 2:
        for key, arguments in run.track(jobs.items(), label, total=len(jobs)):
            yield key, function(*arguments)
        return
    pool = _pool(count)
    futures = {pool.submit(function, *arguments): key for key, arguments in jobs.items()}
    try:
        for future in run.track(as_completed(futures), label, total=len(futures)):
            yield futures[future], future.result()
    except BaseException:  # Ctrl-C too: what has not begun never does
        pool.shutdown(cancel_futures=True)
        _pool.cache_clear()
        raise


@cache
def _pool(count: int) -> ProcessPoolExecutor:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes to come
    return ProcessPoolExecutor(count, get_context("spawn"))
