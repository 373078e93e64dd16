"""Runs a program in a process of its own that has the large libraries already: the fork of a server that imported them once.

Half of the time of a smoke run would be these imports.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

LIBRARIES = ["torch", "transformers", "peft", "trl", "mlflow", "sklearn.pipeline", "pandas", "matplotlib.pyplot", "scipy.stats"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(LIBRARIES)


def run(module: str, *arguments: str, log: Path) -> int | None:
    """`python -m module arguments`, with what it prints in `log`; the exit code."""
    process = CONTEXT.Process(target=_main, args=(module, arguments, log))
    process.start()
    process.join()
    return process.exitcode


def _main(module: str, arguments: tuple[str, ...], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
