"""Runs a program in a process of its own that has the large libraries already: the fork of a server that imported them once.

Half of the time of a smoke run would be these imports.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import threading
from pathlib import Path

from shared.sprints import ROOT

LIBRARIES = ["torch", "transformers", "peft", "trl", "mlflow", "sklearn.pipeline", "pandas", "matplotlib.pyplot", "scipy.stats"]
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")  # elsewhere a fork of torch is not safe
CONTEXT.set_forkserver_preload(LIBRARIES)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}  # forks of a server that asked CUDA itself cannot use it


def run(module: str, *arguments: str, log: Path) -> int | None:
    """`python -m module arguments`, with what it prints in `log`; the exit code. The first call has to be made in ENVIRONMENT."""
    log.touch()
    process = CONTEXT.Process(target=_main, args=(module, arguments, log))
    process.start()
    process.join()
    return process.exitcode


def _main(module: str, arguments: tuple[str, ...], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # as an interpreter ends; multiprocessing leaves the second out
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
