"""Pick the device and dtype, with the reason.

torch and mlx are imported inside the functions that need them: a program that only uses NumPy never pays for them.
"""

import ctypes
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.errors import UserError

Kind = Literal["cpu", "cuda", "mps", "mlx"]
DeviceName = Literal["auto", "cpu", "cuda", "mps", "mlx"]

# what `auto` looks for, best first, and what it calls a miss
ACCELERATORS: dict[Kind, str] = {"cuda": "CUDA", "mlx": "MLX on Apple silicon", "mps": "Apple GPU"}


class DeviceError(UserError):
    """The device asked for is missing here, or the program does not support it."""


@dataclass(frozen=True)
class Device:
    """Where a program computes, in which floating-point type, and why."""

    kind: Kind
    dtype: str  # name of the torch or mlx dtype, such as "float32" or "bfloat16"
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def pick(name: DeviceName = "auto", supported: Sequence[str] = ("cpu", "cuda", "mps")) -> Device:
    """Pick the device a program runs on.

    `auto` takes the first of cuda, mlx, mps and cpu that is here and in `supported`; it takes mlx on Apple GPUs only.
    Raises DeviceError (one line) when the device is missing or not supported, ValueError for bad names in `supported`.
    """
    if unknown := set(supported) - {"cpu", *ACCELERATORS}:
        raise ValueError(f"unknown device kinds in supported: {', '.join(sorted(unknown))}")
    if name == "auto":
        return _pick_auto(supported)
    if name not in supported:
        raise DeviceError(f"--device {name}: this program runs on {', '.join(supported)}; use one of these or auto")
    if name != "cpu" and (missing := _missing(name)):
        instead = " or use --device cpu" if "cpu" in supported else ""
        raise DeviceError(f"--device {name}: {missing}{instead}")
    return Device(name, _dtype(name), f"asked for with --device {name}")


def keep_freed_memory() -> None:
    """glibc gives every large block back to the system and takes the next one anew, which the kernel then fills with zeros, page by
    page: up to half the time of a training step on a CPU. After this call, blocks up to a GiB (of older versions, 32 MiB) stay with
    the process instead. Where the C library is another, nothing changes."""
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change and (change(-3, 2**30) or change(-3, 2**25)):  # M_MMAP_THRESHOLD of malloc.h
        change(-1, 2**30)  # M_TRIM_THRESHOLD


def _pick_auto(supported: Sequence[str]) -> Device:
    absent = []
    for kind, label in ACCELERATORS.items():
        if kind not in supported:
            continue
        # MLX on other machines is there for tests: torch is the better choice on them
        if (kind != "mlx" or _apple_silicon()) and not _missing(kind):
            return Device(kind, _dtype(kind), f"auto: {label} found")
        absent.append(f"no {label}")
    reason = f"{' and '.join(absent)} found" if absent else "this program runs on the CPU only"
    if "cpu" in supported:
        return Device("cpu", "float32", f"auto: {reason}")
    kinds = " or ".join(supported)
    raise DeviceError(f"--device auto: {reason}; use a machine with {kinds}, or name the --device that this one has")


def _missing(kind: Kind) -> str:
    """What keeps an accelerator from being used and what to do about it, or an empty text when it is usable."""
    if kind == "mlx":
        try:
            import mlx.core  # noqa: F401  # on Linux `import mlx` alone succeeds without a backend
        except ImportError:
            package = "mlx" if _apple_silicon() else "mlx[cpu]"
            return f'mlx is not installed; pip install "{package}"'
        return ""
    if kind == "mps" and not _apple_silicon():
        return "this machine has no Apple GPU; run on Apple silicon"
    import torch

    if kind == "mps":
        if not torch.backends.mps.is_available():
            return "torch finds no Apple GPU; update to macOS 14 or later"
        try:  # virtual machines show a GPU that cannot allocate
            torch.zeros(1, device="mps")
        except RuntimeError as error:
            return f"the Apple GPU does not work ({str(error).splitlines()[0]})"
        return ""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch build has no CUDA; install the CUDA build (https://pytorch.org/get-started/locally)"
    return "torch finds no usable GPU; check that nvidia-smi lists one"


def _dtype(kind: Kind) -> str:
    """bfloat16 where the hardware computes in it: float16 would need loss scaling in every training loop."""
    if kind == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind == "mlx":
        import mlx.core as mx

        return "bfloat16" if mx.default_device().type == mx.DeviceType.gpu else "float32"
    return "float32"


def _apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
