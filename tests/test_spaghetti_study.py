"""Images, trainings and the study around them: equal sizes, fair tuning, stored results, sets that are missing."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from shared import data, runlog
from shared.errors import UserError

bench, comparisons, images, kernels, learning, study, train = (
    import_module(f"sprints.02_spaghettinet.code.{name}")
    for name in ("bench", "comparisons", "images", "kernels", "learning", "study", "train")
)
Job, ROOT = learning.Job, Path(__file__).resolve().parents[1]
ARMS = ("dense", "dense_small", *study.SPARSE)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(arm="constant_fan_in", **changes):
    return replace(Job("digits", arm, 0.9, 4e-3, 0, 32, 2, 16, 128), **changes)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx(tmp_path, monkeypatch):
    """A small MNIST of random images in $SPRINTS_DATA, with its own hashes, and nothing remembered of other files."""
    generator = np.random.default_rng(0)
    for part, rows in (("train", 60), ("t10k", 20)):
        write_idx(tmp_path / f"mnist/{part}-images-idx3-ubyte.gz", generator.integers(0, 256, (rows, 28, 28), np.uint8))
        write_idx(tmp_path / f"mnist/{part}-labels-idx1-ubyte.gz", generator.integers(0, 10, rows, np.uint8))
    known = {name: data.Remote("http://127.0.0.1:9/", data.digest(tmp_path / name)) for name in images.files("mnist")}
    monkeypatch.setattr(data, "REGISTRY", data.REGISTRY | known)
    monkeypatch.setattr(images, "HELD_OUT", 20)
    monkeypatch.setenv("SPRINTS_DATA", str(tmp_path))
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    for cached in (images.pixels, images.load):
        cached.cache_clear()
    yield tmp_path
    for cached in (images.pixels, images.load):
        cached.cache_clear()


def test_the_rows_of_a_set_are_split_once_and_standardised_on_the_training_rows_only():
    for split in (0, 1):
        given = images.load("digits", split=split)
        parts = [set(part.tolist()) for part in (given.train, given.validation, given.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(given.x) == 1797
        of_train = given.x[given.train]
        assert abs(float(of_train.mean())) < 1e-5 and abs(float(of_train.std()) - 1) < 1e-5
    first = images.load("digits", split=0)
    assert torch.equal(first.test, given.test), "no seed tunes or trains on the test rows of another"
    assert set(first.validation.tolist()) != parts[1]
    permuted = images.load("digits", split=1, permuted=True)
    assert torch.equal(permuted.test, given.test) and not torch.equal(permuted.x, given.x)
    assert torch.equal(permuted.x.sort(1).values, given.x.sort(1).values)


def test_the_idx_sets_keep_their_own_test_rows(idx):
    given = images.load("mnist")
    assert (len(given.train), len(given.validation), len(given.test)) == (40, 20, 20) and given.grid == (28, 28)
    labels = data.read_idx(idx / images.files("mnist")[3])
    assert given.y[given.test].tolist() == labels.tolist()
    assert images.at_hand("mnist") and not images.at_hand("fashion_mnist") and images.at_hand("digits")


def test_a_damaged_file_is_named_and_not_trained_on(idx):
    (idx / images.files("mnist")[0]).write_bytes(b"no images")
    with pytest.raises(data.DataError, match=r"images-idx3-ubyte.* is not the expected file"):
        images.load("mnist")


def test_all_arms_of_a_sparsity_have_equally_many_parameters():
    given = images.load("digits")
    sizes = {arm: learning.parameters(learning.build(tiny(arm, hidden=256), given)) for arm in ARMS}
    k = round(0.1 * 64)
    assert {sizes[arm] for arm in study.SPARSE} == {256 * (k + 1) + 257 * 10}
    assert abs(sizes["dense_small"] - sizes["set"]) <= 75 / 2, "as near as whole neurons allow"
    assert sizes["dense"] == 65 * 256 + 257 * 10
    original = tiny("erdos_renyi", original=True, sparsity=0.7, hidden=128)
    kept = learning.parameters(learning.build(original, given)) / (65 * 128 + 129 * 10)
    assert 0.27 < kept < 0.35
    small = learning.parameters(learning.build(replace(original, arm="dense_small"), given))
    assert abs(small - (0.3 * 128 * 74 + 38 + 10)) < 75


@pytest.mark.parametrize("arm", [*ARMS, "noodle_dag"])
def test_a_training_learns_and_is_repeated_by_its_seed(arm):
    one = tiny(arm, epochs=6, rows=512, **({"depth": 3, "sparsity": 0.8, "scaled": False} if arm == "noodle_dag" else {}))
    _, first = learning.learn(one)
    _, second = learning.learn(one)
    del first["seconds"], second["seconds"]
    assert first == second
    assert first["losses"][-1] < first["losses"][0] and first["test"] > 30
    assert len(first["curve"]) == len(first["losses"]) == 6 and first["curve"][-1] == first["validation"]
    assert ("explored" in first) == (arm in learning.REWIRED)
    if arm in learning.REWIRED:
        assert first["explored"] > 6 / 64


def test_the_masked_layers_keep_their_zeros_through_training():
    for original in (False, True):
        net, _ = learning.learn(tiny("erdos_renyi", original=original, sparsity=0.7))
        for layer in (layer for layer in net.modules() if isinstance(layer, learning.MaskedLinear)):
            assert (layer.weight[layer.mask == 0] == 0).all() and 0.2 < layer.mask.mean() < 0.4


@pytest.mark.parametrize("arm", study.SPARSE)
def test_every_sparse_arm_learns_with_the_density_in_its_rate(arm):
    net = learning.build(tiny(arm), images.load("digits"))
    rates = {id(p): group["lr"] for group in learning.param_groups(net, 1e-3) for p in group["params"]}
    assert rates[id(net[0].weight)] == pytest.approx(1e-3 * 64 / 6) and rates[id(net[-1].weight)] == 1e-3


def test_the_factor_of_the_rate_warms_up_and_falls_to_zero():
    factors = [learning.factor(step, 1000) for step in range(1001)]
    assert factors[0] == 0.01 and max(factors) == factors[99] and abs(factors[1000]) < 1e-12
    assert all(a > b for a, b in pairwise(factors[99:]))


def test_tuning_takes_the_best_rate_on_validation_rows_and_looks_beyond_the_edge():
    args = study.Args(rates=(1e-3, 2e-3))
    peaks, seen = {"low": 2.5e-4, "inside": 2e-3, "high": 1.0}, []

    def measure(jobs):
        seen.extend(jobs)
        return {one: {"validation": -abs(np.log(one.rate / peaks[one.arm])), "test": one.rate} for one in jobs}

    best = study.tune(args, [tiny(arm) for arm in peaks], measure)
    assert [round(one.rate, 6) for one in best.values()] == [2.5e-4, 2e-3, 0.016], "at most so often"
    assert {one.seed for one in seen} == set(range(study.TUNING_SEED, study.TUNING_SEED + study.SIZES["digits"].trials))
    assert max(size.seeds for size in study.SIZES.values()) <= study.TUNING_SEED
    assert all(one.seed == 0 for one in best.values())


def run(args, folder):
    what = {"title": "t", "objective": "o", "setup": {}}
    return runlog.Run(replace(args, out=folder), str(ROOT / "sprints/02_spaghettinet/code/train.py"), "test", **what)


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HOME", tmp_path / "home")
    args, jobs = study.Args(jobs=1, mlflow=False), [tiny(seed=seed) for seed in range(3)]
    trained, learn = [], learning.learn

    def stopped(one, device):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(one)
        return learn(one, device)

    monkeypatch.setattr(learning, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        study.measured(run(args, tmp_path), args, "test")(jobs)
    stored = sorted((tmp_path / "home").rglob("*"))
    assert len([path for path in stored if path.suffix == ".json"]) == 2 == len([path for path in stored if path.is_file()])
    monkeypatch.setattr(learning, "learn", lambda one, device: trained.append(one) or learn(one, device))
    found = study.measured(run(args, tmp_path), args, "test")(jobs)
    assert len(trained) == 3 and [found[one]["test"] for one in jobs] == [learn(one)[1]["test"] for one in jobs]
    again = study.measured(run(args, tmp_path), args, "test")([*jobs, replace(jobs[0], rate=1e-3)])
    assert len(trained) == 4 and again[jobs[1]]["validation"] == found[jobs[1]]["validation"]
    text = json.loads(next(path for path in stored if path.suffix == ".json").read_text())
    assert Job(**text["job"]) in jobs
    report = run(args, tmp_path)
    monkeypatch.setattr(study, "code", lambda: "edited")
    study.measured(report, args, "test")(jobs)
    assert report.report["observations"] == ["Stored by another version of the code than this one: 3 of 3 trainings."]


STUDY = """
import sys, time
from importlib import import_module
from pathlib import Path
from shared import runlog

study = import_module("sprints.02_spaghettinet.code.study")
study.HOME, args = Path(sys.argv[1]), study.Args(jobs=2, mlflow=False)
run = runlog.Run(args, study.__file__, "test", title="t", objective="o", setup={})
study.measured(run, args, "test")([study.Job("digits", "constant_fan_in", 0.9, 4e-3, seed, 32, 2, 16, 128) for seed in range(3)])
print("trained", flush=True)
time.sleep(99)
"""


def test_several_processes_give_what_one_gives_and_end_with_the_first(tmp_path):
    command, environment = [sys.executable, "-c", STUDY, str(tmp_path)], os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout and "trained\n" in first.stdout
            others = psutil.Process(first.pid).children(recursive=True)
        finally:
            first.kill()
    ended, left = psutil.wait_procs(others, timeout=30)
    for one in left:
        one.kill()
    assert len(ended) >= 2 and not left
    stored = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    found = {Job(**one["job"]): one["losses"] for one in stored}
    assert found == {one: learning.learn(one)[1]["losses"] for one in (tiny(seed=seed) for seed in range(3))}


def test_sets_that_are_missing_are_left_out_and_those_that_are_named_are_taken(idx, capsys):
    assert study.prepare(study.Args()) == ["digits", "mnist"]
    assert "fashion_mnist: left out, its files are not on this machine; --only fashion_mnist includes it" in " ".join(
        capsys.readouterr().out.split()
    )
    assert study.prepare(study.Args(out=idx)) == ["digits"], "make demo takes minutes on every machine"
    assert study.prepare(study.Args(out=idx, only=("mnist",))) == ["mnist"]
    with pytest.raises(data.DataError, match="cannot download fashion_mnist"):
        study.prepare(study.Args(only=("fashion_mnist",)))


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("there is no cifar", {"only": ("cifar",)}),
        ("--seeds must be 0 or at least 2", {"seeds": 1}),
        ("--sparsities must be between", {"sparsities": (0.9, 1.0)}),
        ("--sparsities must be between", {"sparsities": ()}),
        ("ascending", {"rates": (2e-3, 1e-3)}),
    ],
)
def test_wrong_settings_are_refused_in_one_line(message, settings):
    with pytest.raises(UserError, match=message):
        study.prepare(study.Args(**settings))


def test_the_headline_wiring_is_chosen_on_validation_rows():
    def trained(arm, validation, test):
        return comparisons.Trained(tiny(arm), [{"validation": validation, "test": test}])

    plain = {("local_bundle", 0.9): trained("local_bundle", 2, 1), ("small_world", 0.9): trained("small_world", 1, 2)}
    assert comparisons.best_local(comparisons.Accuracy(plain, {}), 0.9) == "local_bundle"


def test_the_programs_run_where_there_is_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "none")
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    kernels.kernels.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="engine 'torch' takes the place of 'c'") as told:
            made = [program.main(program.Args(smoke=True, out=tmp_path / "out")) for program in (train, bench)]
    finally:
        kernels.kernels.cache_clear()
    assert sum("takes the place" in str(one.message) for one in told) == 1
    assert [*made[0], *made[1]] == ["digits", *bench.EXPERIMENTS]
    written = {path.parent.name for path in (tmp_path / "out").rglob("report.json")}
    assert written == {"training_digits", *bench.EXPERIMENTS}
