"""Builds kernels.cpp with the system's C++ compiler at its first use, keeps the library in a cache folder, and loads it.

The file's name in the cache is the digest of sources, flags and compiler, so an edited source or another compiler is built anew.
$CXX names another compiler (CXX=none: no compiler, and what is in the cache is not used), $SPRINTS_CACHE another folder than
~/.cache/sprintlab. Where that folder cannot be read or written, a process builds for itself.
"""

import ctypes
import functools
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from shared import data

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "kernels_any.h", "kernels_bundle.h")]
ISAS = ("base", "avx2", "avx512")  # by the number that noodles_isa() returns
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fPIC", "-shared", "-w"]
_DARWIN = platform.system() == "Darwin"  # Apple's clang brings no OpenMP runtime: torch has loaded one
OPENMP = ["-Xclang", "-fopenmp", "-undefined", "dynamic_lookup"] if _DARWIN else ["-fopenmp"]
# Pointers and then sizes of each function of the kernels.
SIGNATURES = {
    "forward": (6, 5),
    "forward_row": (5, 3),
    "backward": (13, 5),
    "packed": (3, 2),
    "bundle_forward": (9, 5),
    "bundle_backward": (17, 5),
}


class BuildError(RuntimeError):
    """The kernels cannot be built or loaded here; the message says why, in one line."""


class Kernels:
    """The functions of the built library for one instruction set, by default the best of this processor.

    The two that train bundles exist where `bundle` is true.
    """

    forward: Callable[..., None]
    forward_row: Callable[..., None]
    backward: Callable[..., None]
    packed: Callable[..., None]
    bundle_forward: Callable[..., None]
    bundle_backward: Callable[..., None]

    def __init__(self, library: ctypes.CDLL, isa: str | None = None):
        self.isa = isa or ISAS[library.noodles_isa()]
        self.bundle = self.isa == "avx512"
        for name, (pointers, sizes) in SIGNATURES.items():
            bundle = name.startswith("bundle")
            if bundle and not self.bundle:
                continue
            function = getattr(library, name if bundle else f"{name}_{self.isa}")
            function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * sizes
            function.restype = None
            setattr(self, name, function)


@functools.cache
def kernels() -> Kernels | None:
    """The kernels for this processor; None, after one warning that gives the reason, where they cannot be built."""
    try:
        return Kernels(library())
    except BuildError as error:
        warnings.warn(f"no C kernels, so engine 'torch' takes the place of 'c': {error}", RuntimeWarning, stacklevel=2)
        return None


def library() -> ctypes.CDLL:
    """The library from the cache, built first where it is not there, nobody else's to write, and loadable. Raises BuildError."""
    compiler = find_compiler()
    text = repr((identity(compiler), FLAGS, OPENMP, platform.system(), platform.machine())).encode()
    name = f"noodles-{data.digest(b''.join(source.read_bytes() for source in SOURCES) + text)[:16]}.so"
    try:
        return _cached(compiler, data.cache_folder() / "kernels" / name)
    except data.DataError as error:
        warnings.warn(f"the C kernels are built anew by every process: {error}", RuntimeWarning, stacklevel=3)
    except OSError:  # a folder that cannot be read or written
        pass
    try:
        with tempfile.TemporaryDirectory() as folder:
            build(compiler, Path(folder) / name)
            return _load(Path(folder) / name)
    except OSError as error:
        raise BuildError(f"neither the cache nor the folder for temporary files can be used: {error}") from None


def _cached(compiler: str, path: Path) -> ctypes.CDLL:
    if path.is_file() and is_safe(path):
        try:
            return _load(path)
        except BuildError:  # damaged, or of another machine: once more
            path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    build(compiler, path)
    return _load(path)


def is_safe(path: Path) -> bool:
    """Whether only this user and root can have written the file: what is loaded runs as this user."""
    if os.name != "posix":
        return True
    found = path.stat()
    return found.st_uid in (0, os.getuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def identity(compiler: str) -> str:
    """The compiler's real path and what it says of its version."""
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    return f"{os.path.realpath(compiler)} {said}"


def find_compiler() -> str:
    """The path of $CXX, c++, g++ or clang++. Raises BuildError where there is none."""
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    raise BuildError(f"$CXX is {asked!r}, which is no program" if asked else "there is no C++ compiler (c++, g++, clang++)")


def build(compiler: str, path: Path) -> None:
    """Compile into `path`, whole or not at all; without OpenMP, that is on one thread, where compiler or loader have none.

    Raises BuildError where the source does not compile and OSError where the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        for openmp in (OPENMP, []):
            command = [compiler, *FLAGS, *openmp, str(SOURCES[0]), "-o", name]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
            lines = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.splitlines() or ["no message"]
            failure = BuildError(f"{compiler} failed: {lines[0]}")
            if ran.returncode == 0:
                try:
                    _load(Path(name))  # without OpenMP's runtime it would not
                    os.chmod(name, 0o755)  # mkstemp's own lets nobody else read it: a cache that root filled serves all users
                    os.replace(name, path)
                    return
                except BuildError as error:
                    failure = error
        raise failure
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler} did not finish in {error.timeout:.0f} seconds") from None
    finally:
        Path(name).unlink(missing_ok=True)


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the built library does not load: {error}") from None
