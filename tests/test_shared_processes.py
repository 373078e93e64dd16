"""shared/processes.py: nothing that it started outlives it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from shared import sprints
from shared.errors import UserError
from shared.processes import torchrun


def test_a_failure_is_one_line():
    with pytest.raises(UserError, match="counting stopped"):
        torchrun(1, "no_such_module", environment={"OMP_NUM_THREADS": "1"}, doing="counting")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_sigterm_stops_all_of_them(tmp_path):
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(99)\n")
    script = "from shared.processes import torchrun; torchrun(2, 'sleeper', environment={}, doing='sleeping')"
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(sprints.ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | paths, stderr=subprocess.PIPE, text=True
    )
    parent, deadline = psutil.Process(process.pid), time.monotonic() + 90

    def sleepers():
        return [one for one in parent.children(recursive=True) if "sleeper" in one.cmdline() and "-u" in one.cmdline()]

    while len(sleepers()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    children = parent.children(recursive=True)
    assert len(children) >= 3
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command resumes it" in errors
    assert not psutil.wait_procs(children, timeout=30)[1]
