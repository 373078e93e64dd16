"""shared/sprints.py: a step that is stopped, killed or too slow, and what the next ones make of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from shared import sprints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
SLOW = """import time, pathlib
try:
    pathlib.Path("began").touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("cleaned").touch()
"""


def test_a_program_that_takes_too_long_is_asked_to_stop(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        sprints.call([sys.executable, "-c", SLOW], folder=tmp_path, limit=3.0)
    assert (tmp_path / "began").exists() and (tmp_path / "cleaned").exists()


def test_a_program_that_ignores_ctrl_c_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sprints, "GRACE", 0.5)
    deaf, start = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)", time.perf_counter()
    with pytest.raises(subprocess.TimeoutExpired):
        sprints.call([sys.executable, "-c", deaf], folder=tmp_path, limit=3.0)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_was_told_to_stop_stops_what_would_follow(sent, tmp_path):
    kill = [sys.executable, "-c", f"import os, signal; signal.signal({sent}, signal.SIG_DFL); os.kill(os.getpid(), {sent})"]
    with pytest.raises(KeyboardInterrupt):
        sprints.call(kill, folder=tmp_path)
    assert sprints.call([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], folder=tmp_path) == -signal.SIGKILL


def test_sigterm_ends_the_program_and_this_process():
    script = "import sys; from shared import sprints; sprints.call([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parent = psutil.Popen([sys.executable, "-c", script], cwd=sprints.ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (children := parent.children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    threading.Timer(1.0, parent.terminate).start()
    parent.communicate(timeout=60)
    assert parent.returncode != 0 and not psutil.wait_procs(children, timeout=10)[1]
