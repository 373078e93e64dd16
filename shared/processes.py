"""Several processes that train one model together, on this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from shared.errors import UserError
from shared.sprints import ROOT


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
