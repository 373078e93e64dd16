"""Device choice, seeds and machine description, on the machine at hand and in fresh processes."""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from shared import data, device, environment
from shared.errors import UserError

ROOT = Path(__file__).parents[1]
APPLE = sys.platform == "darwin" and platform.machine() == "arm64"
MLX = importlib.util.find_spec("mlx") is not None


def mps() -> bool:
    """Hosted macOS machines report an Apple GPU that cannot allocate."""
    try:
        return torch.backends.mps.is_available() and torch.zeros(1, device="mps").item() == 0
    except RuntimeError:
        return False


HERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps(), "mlx": MLX}


def python(code: str, **variables: str) -> Any:
    """Run code in a fresh interpreter and return what it prints, as JSON."""
    command = [sys.executable, "-c", f"import json, os, sys; from shared import device, environment; {code}"]
    output = subprocess.check_output(command, cwd=ROOT, env=os.environ | variables, text=True)
    return json.loads(output)


def compute(picked: device.Device) -> list[float]:
    """A sum on the picked device and dtype: a device that was only named would fail here."""
    if picked.kind == "mlx":
        import mlx.core as mx

        return np.asarray((mx.ones(3, dtype=getattr(mx, picked.dtype)) + 1).astype(mx.float32)).tolist()
    return (torch.ones(3, device=picked.kind, dtype=getattr(torch, picked.dtype)) + 1).tolist()


@pytest.mark.parametrize("name", HERE)
def test_named_device_works_or_says_what_to_do(name):
    if HERE[name]:
        picked = device.pick(name, supported=tuple(HERE))
        assert picked.kind == name and compute(picked) == [2.0] * 3
        assert str(picked) == f"{name}: asked for with --device {name}"
    else:
        with pytest.raises(device.DeviceError, match=f"^--device {name}: .* or use --device cpu$") as caught:
            device.pick(name, supported=tuple(HERE))
        assert "\n" not in str(caught.value)


def test_missing_cuda_names_its_cause():
    if HERE["cuda"]:
        pytest.skip("this machine has CUDA: its absence cannot be shown here")
    built = torch.version.cuda or torch.version.hip
    with pytest.raises(device.DeviceError, match="nvidia-smi" if built else "this torch build has no CUDA; install"):
        device.pick("cuda")
    with pytest.raises(device.DeviceError) as caught:
        device.pick("cuda", supported=("cuda",))
    assert "--device cpu" not in str(caught.value)  # no advice that this program cannot follow


def test_auto_takes_the_best_supported_device():
    best = "cuda" if HERE["cuda"] else "mps" if HERE["mps"] else "cpu"
    picked = device.pick()
    assert picked.kind == best and compute(picked) == [2.0] * 3
    assert picked.reason.startswith("auto: ")
    if best == "cpu":
        assert str(picked) == "cpu: auto: no CUDA and no Apple GPU found"
    assert device.pick(supported=("cpu",)).reason == "auto: this program runs on the CPU only"


def test_auto_takes_mlx_on_apple_silicon_only():
    supported = ("cpu", "mps", "mlx")
    assert device.pick(supported=supported).kind == ("mlx" if APPLE and MLX else "mps" if HERE["mps"] else "cpu")
    if not APPLE:
        with pytest.raises(device.DeviceError, match=r"^--device auto: no MLX on Apple silicon found; .*mlx"):
            device.pick(supported=("mlx",))


@pytest.mark.parametrize("name", ["cuda", "mlx", "tpu"])
def test_unsupported_device_is_refused_on_every_machine(name: Any):
    with pytest.raises(device.DeviceError, match=f"^--device {name}: this program runs on cpu, mps; use one of these"):
        device.pick(name, supported=("cpu", "mps"))


def test_misspelt_supported_kind_is_a_programming_error():
    with pytest.raises(ValueError, match="gpu"):
        device.pick(supported=("cpu", "gpu"))


def test_errors_and_names_belong_together():
    assert issubclass(device.DeviceError, UserError) and issubclass(data.DataError, UserError)
    assert set(get_args(device.DeviceName)) == {"auto", *HERE}


def test_a_numpy_program_imports_nothing_heavy():
    heavy = "{'torch', 'mlx', 'pandas', 'sklearn', 'rich'}"
    light = "import shared.data; device.pick(supported=('cpu',)); environment.describe_machine()"
    show = f"print(json.dumps(sorted({heavy} & set(sys.modules))))"
    assert python(f"{light}; {show}") == []
    assert python(f"device.pick(supported=('cpu', 'cuda')); {show}") == ["torch"]  # the probe does see an import


def test_describe_machine():
    machine = environment.describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cpu"] and machine["python"] == platform.python_version() and machine["os"] == platform.platform()
    assert machine["physical_cores"] is None or 1 <= machine["physical_cores"] <= machine["logical_cores"]
    if sys.platform == "linux":
        total_kib = int(Path("/proc/meminfo").read_text().split()[1])
        assert machine["memory_gib"] == pytest.approx(total_kib / 2**20, abs=0.1)
    if HERE["cuda"]:
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        assert [gpu["name"] for gpu in machine["accelerators"]] == gpus


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can restrict a process to some CPUs")
def test_only_usable_cores_count():
    cpu = min(os.sched_getaffinity(0))
    machine = python(f"os.sched_setaffinity(0, {{{cpu}}}); print(json.dumps(environment.describe_machine()))")
    assert machine["logical_cores"] == 1 and machine["physical_cores"] in (1, None)


@pytest.mark.skipif(sys.platform == "win32", reason="stands in for nvidia-smi with a shell script")
@pytest.mark.parametrize(
    ("script", "accelerators"),
    [
        ("echo 'NVIDIA H200, 143771'; echo 'NVIDIA L4, 23034'", [("NVIDIA H200", 140.4), ("NVIDIA L4", 22.5)]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", []),
        ("echo garbage", []),
        ("exec sleep 30", []),
    ],
)
def test_nvidia_smi_is_asked_but_not_trusted(tmp_path, script, accelerators):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    start = time.monotonic()
    machine = python("print(json.dumps(environment.describe_machine()))", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert [(gpu["name"], gpu["memory_gib"]) for gpu in machine["accelerators"]] == accelerators
    assert time.monotonic() - start < 10


def test_versions():
    assert environment.versions(["numpy", "no-such-package"]) == {
        "numpy": np.__version__,
        "no-such-package": "not installed",
    }


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_commit_is_marked_when_code_differs_from_it_but_not_for_results_and_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.git_commit() == "unknown"
    files = ["shared/runlog.py", "sprints/01_a/code/train.py", "sprints/01_a/results/model.safetensors"]
    files += ["sprints/01_a/results/b/report.json", "sprints/01_a/results/b/a.png", "docs/a.svg", "README.md"]
    for file in map(tmp_path.joinpath, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("old")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = environment.git_commit()
    assert len(commit) == 12 and "+" not in commit
    for file, mark in zip(files, ["+", "+", "+", "", "", "", ""], strict=True):
        (tmp_path / file).write_text("new")
        assert environment.git_commit() == commit + mark, file
        (tmp_path / file).write_text("old")
