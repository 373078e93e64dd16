"""What a report says about where it was made: machine, versions, commit, command, memory."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.sprints import ROOT


def describe_machine() -> dict[str, Any]:
    """Describe the machine for a report: cpu, usable cores, memory (GiB), os, python, accelerators. Never raises."""
    return {
        "cpu": _attempt(_cpu_model, "unknown"),
        "physical_cores": _attempt(_physical_cores, None),
        "logical_cores": _attempt(lambda: len(usable_cpus()), os.cpu_count()),
        "memory_gib": _attempt(lambda: _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), None),
        "os": platform.platform(),
        "python": platform.python_version(),
        "accelerators": _attempt(_accelerators, []),
    }


def _attempt(probe: Callable[[], Any], default: Any) -> Any:
    try:
        return probe()
    except Exception:  # a report with a gap is better than a run lost to an odd machine
        return default


def _gib(size: float) -> float:
    return round(size / 2**30, 1)


def _sysctl(key: str) -> str:
    return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=2, check=True).stdout.strip()


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    if sys.platform == "linux" and (model := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())):
        return model[1]
    return platform.processor() or platform.machine()


def usable_cpus() -> set[int]:
    """The CPUs this process may run on: in a container or under taskset fewer than the machine has."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def _physical_cores() -> int:
    if sys.platform == "darwin":
        return int(_sysctl("hw.physicalcpu"))
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # equal for the threads of one core
    return len({Path(siblings.format(cpu)).read_text() for cpu in usable_cpus()})


def _accelerators() -> list[dict[str, Any]]:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": gpu.name, "memory_gib": _gib(gpu.total_memory)} for gpu in gpus]
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]  # memory in MiB
    lines = subprocess.run(query, capture_output=True, text=True, timeout=2, check=True).stdout.splitlines()
    return [{"name": name, "memory_gib": _gib(float(mib) * 2**20)} for name, mib in (row.split(", ") for row in lines)]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Map each distribution name to its installed version, or to "not installed"."""
    found = dict.fromkeys(packages, "not installed")
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def command() -> str:
    """The command line of this process, as one would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return shlex.join(["python", "-m", spec.name if spec else Path(sys.argv[0]).name, *sys.argv[1:]])


def git_commit() -> str:
    """The commit, with "+" when anything but documents, reports and figures differs from it; "unknown" outside git."""
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", ".", ":!*.md", ":!docs", ":!sprints/*.png", ":!sprints/*/report.json"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        return commit + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def peak_memory_mib() -> float | None:
    """The most memory that this process has held so far (MiB); None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
