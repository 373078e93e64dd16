"""Sprint 00: whole pretraining runs in processes of their own, as train.py starts them: resume, agreement, and what goes wrong."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from shared import sprints
from shared.errors import UserError

CODE = "sprints.00_pocket_brain.code"
batches = import_module(f"{CODE}.batches")
pretrain = import_module(f"{CODE}.pretrain")
train = import_module(f"{CODE}.train")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A corpus that can be learned: a repeating walk through the vocabulary."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for name, stride in (("story", 3), ("task", 7)):
        for side in ("train", "heldout"):
            walk = (np.arange(6000) * stride + (rng.random(6000) < 0.05)) % 300
            walk.astype(np.uint16).tofile(folder / f"{name}.{side}.bin")
    return folder


def run_settings(shards, **changes):
    mixes = {"story": 0.5, "task": 0.5}, {"task": 1.0}
    base = batches.Settings(str(shards), *mixes, size="1M", tokens=24 * 512, step_tokens=512, micro_tokens=256)
    small = {"context": 32, "final_context": 64, "warmup_steps": 3, "evaluate_every": 6, "checkpoint_seconds": 0.0}
    return replace(base, **(small | changes))


def kill(process):
    """kill -9 for torchrun and for the processes it started, which have sessions of their own."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for member in [parent, *parent.children(recursive=True)]:
            member.kill()
        process.wait()


@pytest.fixture
def start():
    """Starts a run; what still lives of it at the end of the test is killed."""
    running = []

    def begin(folder, settings, processes=2):
        settings.write(folder)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        process = subprocess.Popen(
            [*command, "-m", f"{CODE}.pretrain", str(folder), "cpu"],
            cwd=sprints.ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        kill(process)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards):
    """A run that nobody disturbed, by two processes that train.py started."""
    folder = tmp_path_factory.mktemp("whole")
    entries = train.pretrain(folder, run_settings(shards), 2, "cpu")
    assert entries[-1]["heldout"]["story"] < entries[0]["heldout"]["story"] < 9
    assert [entry["step"] for entry in entries] == [6, 12, 18, 24] and entries[-1]["tokens"] == 24 * 512
    return folder


def state(folder):
    return {name: tensor for name, tensor in load_file(folder / "checkpoint.safetensors").items() if name != "seconds"}


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, shards, whole, start):
    """kill -9 in the middle, start again: the same weights, momentum and moments, bit for bit."""
    process = start(tmp_path, run_settings(shards))
    deadline = time.monotonic() + 90
    while not (tmp_path / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(process)
    assert 0 < int(state(tmp_path)["step"]) < 24, "the kill came too late to test anything"
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 12, "tok')  # a line that the kill tore
    process = start(tmp_path, run_settings(shards))
    assert process.wait(120) == 0, process.stdout.read()
    one, two = state(whole), state(tmp_path)
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [entry["step"] for entry in pretrain.history(tmp_path)] == [6, 12, 18, 24]


def test_one_process_takes_the_steps_of_two(tmp_path, shards, whole):
    """The sums run in another order, so the weights agree to rounding; a mean in place of a sum would double them."""
    settings = run_settings(shards, tokens=24 * 512)
    train.pretrain(tmp_path, settings, 1, "cpu")
    one, two = state(tmp_path), state(whole)
    for name in one:
        if name.startswith("master."):
            assert torch.nn.functional.cosine_similarity(one[name].flatten(), two[name].flatten(), dim=0) > 0.99, name
    losses = [pretrain.history(folder)[-1]["heldout"]["story"] for folder in (tmp_path, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_run_goes_on_with_its_own_settings_only(tmp_path, shards):
    settings = run_settings(shards, tokens=2 * 512, evaluate_every=1)
    train.pretrain(tmp_path / "run", settings, 1, "cpu")
    moved = shutil.copytree(shards, tmp_path / "moved")
    assert len(train.pretrain(tmp_path / "run", replace(settings, corpus=str(moved)), 1, "cpu")) == 2  # the same text elsewhere
    for change in ({"optimizer": "adamw"}, {"tokens": 512}, {"tokens": 4 * 512}, {"matrix_rate": 0.5}):
        with pytest.raises(UserError, match=next(iter(change))):
            replace(settings, **change).write(tmp_path / "run")
    np.arange(6000, dtype=np.uint16).tofile(moved / "task.train.bin")
    with pytest.raises(UserError, match="another text"):
        replace(settings, corpus=str(moved)).write(tmp_path / "run")
    (moved / "task.train.bin").unlink()
    with pytest.raises(UserError, match="not whole"):
        replace(settings, corpus=str(moved)).write(tmp_path / "run")


def test_a_run_that_lost_its_last_checkpoint_is_not_finished(tmp_path, shards):
    """The log is written first: a disk that is full at the last save leaves a log of the end and a checkpoint before it."""
    settings = run_settings(shards, tokens=4 * 512, evaluate_every=2, checkpoint_seconds=1e9)
    train.pretrain(tmp_path, settings, 1, "cpu")
    last = state(tmp_path)
    early = pretrain.Pretraining(tmp_path, "cpu")
    early.step = 2
    early.save()
    early.lock.close()
    assert [entry["step"] for entry in train.pretrain(tmp_path, settings, 1, "cpu")] == [2, 4]
    assert pretrain.reached(tmp_path) == 4 and not torch.equal(state(tmp_path)["master.embedding"], last["master.embedding"])


def test_a_damaged_checkpoint_is_one_line(tmp_path, shards):
    settings = run_settings(shards, tokens=512)
    train.pretrain(tmp_path, settings, 1, "cpu")
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        pretrain.Pretraining(tmp_path, "cpu")


def test_a_folder_has_one_writer(tmp_path, shards):
    run_settings(shards).write(tmp_path)
    held = pretrain.only_writer(tmp_path)
    with pytest.raises(UserError, match="another process"):
        pretrain.Pretraining(tmp_path, "cpu")
    held.close()
    pretrain.Pretraining(tmp_path, "cpu")


def test_impossible_settings_are_refused(shards, tmp_path):
    for change in ({"tokens": 100}, {"warmup_steps": 0}, {"context": 100}, {"decay_share": 0.0}):
        with pytest.raises(UserError):
            run_settings(shards, **change)
    with pytest.raises(UserError, match="fewer tokens"):
        batches.Shards(run_settings(shards, context=256, final_context=8192, step_tokens=8192, tokens=8192))
    (tmp_path / "settings.json").write_text('{"corpus": "x", "width": 3}')
    with pytest.raises(UserError, match="another version"):
        batches.Settings.read(tmp_path)


def test_shares_are_those_of_the_batches(shards):
    chosen = run_settings(shards, first_share=0.5)
    assert chosen.shares == pytest.approx({"story": 0.25, "task": 0.75})


def test_schedule_and_batches(shards):
    chosen = run_settings(shards)
    scales = [chosen.scale(step) for step in range(chosen.steps)]
    assert scales[0] == pytest.approx(1 / 3) and max(scales) == 1.0 and 0 < scales[-1] < 0.1
    assert scales[chosen.steps // 2 :] == sorted(scales[chosen.steps // 2 :], reverse=True)
    data = batches.Shards(chosen)
    rows = [data.batch(step)[0] for step in (0, 5, 6, chosen.steps - 1)]
    assert rows[0].shape == (16, 33) and rows[3].shape == (8, 65)
    assert np.array_equal(rows[1], batches.Shards(chosen).batch(5)[0])
    assert not np.array_equal(rows[1], rows[2])
    first = data.batch(0)[0]  # task alone, whose walk has strides of 7
    assert ((np.diff(first) % 300 == 7).mean(1) > 0.5).all() and ((np.diff(rows[2]) % 300 == 3).mean(1) > 0.5).any()


def test_tasks_begin_at_their_beginning_and_their_answers_weigh_more(tmp_path):
    end_of_text, _, _, user, assistant, end = range(6)
    document = [user, 50, 51, end, 52, assistant, 60, 61, end, 53, end_of_text]
    for source in ("task", "story"):
        for side in ("train", "heldout"):
            np.array(document * 40, np.uint16).tofile(tmp_path / f"{source}.{side}.bin")
    settings = batches.Settings(
        corpus=str(tmp_path),
        mix={"task": 1.0, "story": 1.0},
        first_mix={"task": 1.0, "story": 1.0},
        step_tokens=256,
        context=32,
        final_context=32,
        answer_weight=4.0,
    )
    rows, weights = batches.Shards(settings).batch(0)
    tasks = weights.max(1) > 1
    assert tasks.any() and not tasks.all()
    assert (rows[tasks, 0] == user).all() and (rows[~tasks, 0] != user).any()
    expected = [4.0 if place in (6, 7, 8) else 1.0 for place in range(len(document))]
    assert weights[tasks][0].tolist() == (expected * 3)[:33]
