"""What several test files share."""

import shutil
import signal
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

from shared import models

settings.register_profile("repository", deadline=None)  # a loaded machine is no error of the code
settings.load_profile("repository")
# started in the background, a suite and what it starts would ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """What was left out, a line per reason; pytest's own list (-rs) has one per place."""
    files = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        files[report.longrepr[2].removeprefix("Skipped: ")].append(Path(report.nodeid.partition("::")[0]).name)
    if files:
        terminalreporter.section(f"{sum(map(len, files.values()))} skipped, by reason", sep="-")
    for reason, where in sorted(files.items()):
        terminalreporter.line(f"{len(where):4}  {reason} ({', '.join(sorted(set(where)))})")


@pytest.fixture(scope="module")
def loaded():
    """The pocket model, of each test file its own: some put things into it."""
    return models.load("pocket", "cpu")


@pytest.fixture(scope="session")
def postgres():
    """The URL of an empty PostgreSQL that lives as long as the tests."""
    found = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if not found:
        pytest.skip("PostgreSQL is not installed (on Debian: apt-get install postgresql)")
    binaries, folder = Path(found).resolve().parent, Path(tempfile.mkdtemp(prefix="postgres"))  # pytest's are closed to other users
    as_user: list[str] = []
    if Path("/proc/self").stat().st_uid == 0:  # PostgreSQL refuses to run as root; Debian's package brings a user for it
        if not shutil.which("runuser") or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def call(*command: str) -> None:
        done = subprocess.run([*as_user, *command], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr

    data = folder / "data"
    call(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
    call(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
    yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    subprocess.run(
        [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"], capture_output=True, cwd=folder
    )
    shutil.rmtree(folder, ignore_errors=True)
