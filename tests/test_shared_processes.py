"""shared/processes.py: nothing that it started outlives it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from shared import processes, sprints
from shared.errors import UserError
from shared.processes import spread, torchrun


def test_jobs_share_one_pool_until_one_fails():
    assert list(spread(abs, {"a": (-1,), "b": (2,)}, 1)) == [("a", 1), ("b", 2)]
    assert dict(spread(divmod, {n: (7, n) for n in (2, 3)}, 2)) == {2: (3, 1), 3: (2, 1)}
    pool, here = processes.POOLS[2], os.environ.get("OMP_NUM_THREADS")
    assert set(dict(spread(os.getenv, {n: ("OMP_NUM_THREADS",) for n in range(4)}, 2)).values()) == {"1"}
    assert processes.POOLS[2] is pool and os.environ.get("OMP_NUM_THREADS") == here
    with pytest.raises(ZeroDivisionError):
        list(spread(divmod, {n: (7, 0) for n in range(2)}, 2))
    assert 2 not in processes.POOLS
    assert dict(spread(divmod, {n: (7, n) for n in (2, 3)}, 2)) == {2: (3, 1), 3: (2, 1)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["killed", "Ctrl-C"])
def test_workers_end_with_their_parent(how):
    script = "import time; from shared.processes import spread; print(dict(spread(time.sleep, {n: (99,) for n in range(6)}, 2)))"
    parent = psutil.Popen(
        [sys.executable, "-c", script], cwd=sprints.ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while len(workers := [one for one in parent.children() if "spawn_main" in " ".join(one.cmdline())]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # until they have begun
    if how == "killed":
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGINT)
    said = parent.communicate(timeout=60)[1]
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert "Traceback" not in said, said


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
