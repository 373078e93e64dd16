"""The C kernels: every instruction set, threads, the build, its cache, and life without a compiler."""

import os
import stat
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch

engines = import_module("sprints.02_spaghettinet.code.engines")
kernels = import_module("sprints.02_spaghettinet.code.kernels")
spaghettinet = import_module("sprints.02_spaghettinet.code.spaghettinet")
SpaghettiLayer, ROOT = spaghettinet.SpaghettiLayer, Path(__file__).resolve().parents[1]

try:
    kernels.find_compiler()
    WHY_NOT = ""
except kernels.BuildError as error:
    WHY_NOT = str(error)
HIDDEN = os.environ.get("CXX") == "none"  # on purpose: elsewhere a runner of CI has a compiler, or has lost it unnoticed
compiled = pytest.mark.usefixtures("compiler")
WIRINGS = [("random", 33, 17), ("bundle", 64, 48), ("local_bundle", 64, 32)]


@pytest.fixture
def compiler():
    """Skips a test that needs the compiler where there is none, with the reason; in CI it fails."""
    if WHY_NOT:
        (pytest.fail if os.environ.get("CI") and not HIDDEN else pytest.skip)(f"the C kernels cannot be built: {WHY_NOT}")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and no kernels loaded before or after; what is built in it is built in a third of the time."""
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "FLAGS", ["-O0", *kernels.FLAGS[1:]])
    kernels.kernels.cache_clear()
    yield tmp_path / "cache" / "kernels"
    kernels.kernels.cache_clear()


def results(wiring, rows, fan_in=7):
    """Output, gradients and (of a bundle) the packed output of a seeded layer of engine c."""
    name, inputs, outputs = wiring
    layer = SpaghettiLayer(inputs, outputs, fan_in=fan_in, wiring=name, grid=(8, 8) if inputs == 64 else None, seed=0, engine="c")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator).requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=generator))
    assert x.grad is not None and layer.weight.grad is not None
    packed = [layer.pack()(x.detach())] if "bundle" in name else []
    return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad, *packed], layer, x.detach()


@compiled
@pytest.mark.parametrize("isa", kernels.ISAS)
@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring[0])
@pytest.mark.parametrize("rows", [1, 2, 15, 48, 64, 131])
def test_every_instruction_set_of_this_processor_gives_the_same(monkeypatch, isa, wiring, rows):
    library = kernels.library()
    if library.noodles_isa() < kernels.ISAS.index(isa):
        pytest.skip(f"this processor has no {isa}")
    _, layer, x = results(wiring, rows)
    reference = engines.F.linear(x, engines.dense(layer.weight, layer.structure), layer.bias)
    expected = results(wiring, rows)[0]
    made = kernels.Kernels(library, isa)
    monkeypatch.setattr(kernels, "kernels", lambda: made)
    monkeypatch.setattr(import_module("sprints.02_spaghettinet.code.packed"), "kernels", kernels.kernels)
    ours = results(wiring, rows)[0]
    for mine, theirs in zip([ours[0], *ours], [reference, *expected], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@compiled
@pytest.mark.parametrize("wiring", [("random", 300, 200), ("bundle", 320, 208)], ids=["random", "bundle"])
def test_the_number_of_threads_does_not_change_a_bit(wiring):
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert engines.thread_count(150 * 200 * 40) == threads, "large enough for all threads"
            made.append(results(wiring, 150, fan_in=40)[0])
    finally:
        torch.set_num_threads(before)
    for one, two, three in zip(*made, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@compiled
def test_threads_of_python_share_a_layer():
    layer = SpaghettiLayer(64, 64, wiring="local_bundle", grid=(8, 8), seed=0, engine="c")
    packed, x = layer.pack(), torch.randn(50, 64)
    expected = layer(x).detach()
    wrong: list[str] = []

    def call():
        for _ in range(50):
            with torch.no_grad():
                if not torch.allclose(packed(x), expected, atol=1e-5) or not torch.allclose(layer(x), expected, atol=1e-5):
                    wrong.append("differs")

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@compiled
def test_the_library_is_built_once_and_kept(fresh, monkeypatch):
    assert kernels.kernels().isa in kernels.ISAS
    (built,) = fresh.iterdir()
    assert built.name.startswith("noodles-") and built.suffix == ".so", "no half-written file is left"
    assert stat.S_IMODE(built.stat().st_mode) == 0o755, "other users can read what root has put there"
    monkeypatch.setattr(kernels, "build", lambda compiler, path: pytest.fail("built again"))
    kernels.kernels.cache_clear()
    assert kernels.kernels() is not None
    monkeypatch.setenv("CXX", "none")
    kernels.kernels.cache_clear()
    with pytest.warns(RuntimeWarning, match="CXX is 'none', which is no program"):
        assert kernels.kernels() is None


@compiled
@pytest.mark.parametrize("what", ["damaged", "writable by others", "owned by another"])
def test_a_library_that_cannot_be_trusted_is_built_again_once(fresh, monkeypatch, what):
    kernels.library()
    (kept,) = fresh.iterdir()
    if what == "damaged":
        monkeypatch.setenv("SPRINTS_CACHE", str(fresh.parent / "again"))  # the loader knows the other path, and would not look
        kept = fresh.parent / "again" / "kernels" / kept.name
        kept.parent.mkdir(parents=True)
        kept.write_text("no library")
    elif what == "writable by others":
        kept.chmod(0o775)
    elif os.getuid() == 0:
        os.chown(kept, 4242, -1)
    else:
        monkeypatch.setattr(kernels.os, "getuid", lambda: 4242)
    builds, build = [], kernels.build
    monkeypatch.setattr(kernels, "build", lambda compiler, path: builds.append(path) or build(compiler, path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.kernels() is not None
    assert builds == [kept] == list(kept.parent.iterdir()) and stat.S_IMODE(kept.stat().st_mode) == 0o755


@compiled
def test_another_compiler_and_other_flags_have_libraries_of_their_own(fresh, monkeypatch, tmp_path):
    kernels.library()
    real = kernels.find_compiler()
    for version in ("one", "two"):  # an upgrade in the same place
        other = tmp_path / "other"
        other.write_text(f'#!/bin/sh\ntest "$1" = --version && echo {version} && exit\nexec {real} "$@"\n')
        other.chmod(0o755)
        monkeypatch.setenv("CXX", str(other))
        kernels.library()
    assert len(list(fresh.iterdir())) == 3
    monkeypatch.setattr(kernels, "FLAGS", [*kernels.FLAGS, "-DNOTHING_OF_NOTE"])
    kernels.library()
    assert len(list(fresh.iterdir())) == 4


def told_of(call):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call()
        call()
    return [str(one.message) for one in told]


@compiled
def test_without_a_home_every_process_builds_for_itself_and_says_so_once(fresh, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SPRINTS_CACHE")
    monkeypatch.setattr(Path, "expanduser", no_home)
    (told,) = told_of(kernels.kernels)
    assert "built anew by every process: this user has no home folder: set SPRINTS_CACHE" in told
    assert kernels.kernels() is not None


@compiled
def test_where_no_folder_can_be_written_torch_computes_and_it_is_said_once(fresh, monkeypatch, tmp_path):
    fresh.parent.touch()
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(tmp_path / "nowhere"))
    (told,) = told_of(kernels.kernels)
    assert "neither the cache nor the folder for temporary files can be used" in told and kernels.kernels() is None
    results(("bundle", 64, 48), 3)


@compiled
def test_a_read_only_cache_is_no_obstacle(fresh, monkeypatch):
    fresh.mkdir(parents=True)
    fresh.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(fresh, os.W_OK):  # root writes everywhere: a file in the place of the folder refuses root too
        fresh.rmdir()
        fresh.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.kernels() is not None
        made, layer, x = results(("random", 33, 17), 5)
        torch.testing.assert_close(made[0], layer.to_dense()(x))
    fresh.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("how", ["no compiler", "broken compiler", "broken library"])
def test_without_the_kernels_torch_computes_and_it_is_said_once(fresh, monkeypatch, how):
    if how == "no compiler":
        monkeypatch.setenv("CXX", "none")
        reason = "CXX is 'none', which is no program"
    elif how == "broken compiler":
        monkeypatch.setenv("CXX", "false")
        reason = "false failed: no message"
    else:
        monkeypatch.setattr(kernels, "build", lambda compiler, path: path.write_text("no library"))
        monkeypatch.setattr(kernels, "find_compiler", lambda: "c++")
        reason = "does not load"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made, layer, x = results(("bundle", 64, 48), 9)
        SpaghettiLayer(64, 32, seed=0)(x)
    assert len(told) == 1 and reason in str(told[0].message) and "'torch' takes the place of 'c'" in str(told[0].message)
    torch.testing.assert_close(made[0], layer.to_dense()(x))
    torch.testing.assert_close(made[-1], layer.to_dense()(x))  # packed
    local = SpaghettiLayer(64, 32, wiring="local_bundle", grid=(8, 8), seed=0)
    torch.testing.assert_close(local.pack()(x), local(x))


@compiled
@pytest.mark.parametrize("missing", ["compiler", "runtime"])
def test_openmp_is_left_out_where_there_is_none(fresh, monkeypatch, tmp_path, missing):
    compiler = tmp_path / "without_openmp"
    fails = (
        'echo "error: no OpenMP" >&2; exit 1' if missing == "compiler" else 'for last; do :; done; echo no library > "$last"; exit'
    )
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) {fails};; esac\nexec {kernels.find_compiler()} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    made, layer, x = results(("random", 33, 17), 70)
    torch.testing.assert_close(made[0], layer.to_dense()(x))


@compiled
@pytest.mark.parametrize("how", ["strided", "expanded"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring[0])
def test_a_bias_of_any_strides_is_read_in_its_order(wiring, rows, how):
    _, layer, x = results(wiring, rows)
    outputs = layer.out_features
    bias = torch.arange(2.0 * outputs)[::2] if how == "strided" else torch.tensor([3.0]).expand(outputs)
    expected = layer.to_dense()
    expected.bias.data.copy_(bias)
    for tracked in (True, False):
        with torch.set_grad_enabled(tracked):
            y = torch.func.functional_call(layer, {"bias": bias}, x)
        torch.testing.assert_close(y, expected(x), rtol=1e-4, atol=1e-4)
    layer.bias.data = bias
    if layer.structure.bundle is not None:
        torch.testing.assert_close(layer.pack()(x), expected(x), rtol=1e-4, atol=1e-4)


@compiled
def test_two_processes_may_build_at_the_same_time(tmp_path):
    program = "from importlib import import_module as i; k = i('sprints.02_spaghettinet.code.kernels'); "
    program += "k.FLAGS[0] = '-O0'; print(k.kernels().isa)"
    environment = os.environ | {"SPRINTS_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0].strip() for process in running]
    assert said[0] == said[1] in kernels.ISAS
    assert len(list((tmp_path / "kernels").iterdir())) == 1
