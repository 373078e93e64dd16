"""Which engine is opened and where it computes, which requests it takes, how many, and whom `fast` answers together."""

import asyncio
from collections import deque
from importlib import import_module
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import models

CODE = "sprints.05_cyoa.code.engines."
base, choose, fast, worker = (import_module(f"{CODE}{name}") for name in ("base", "choose", "fast", "worker"))
serve = import_module("sprints.05_cyoa.code.api.serve")
JOBS = st.lists(st.tuples(st.integers(1, 511), st.sampled_from([0.0, 0.8]), st.sampled_from([None, 7]), st.booleans()), min_size=1)


def job(length, temperature=0.8, seed=None, cancelled=False):
    request = base.Request(prompt="x", temperature=temperature, seed=seed)
    return SimpleNamespace(request=request, prompt=[0] * length, cancelled=cancelled)


@settings(max_examples=200)
@given(JOBS, st.integers(1, 16))
def test_the_oldest_is_in_every_batch_and_its_company_is_alike(made, size):
    first, *waiting = [job(*one) for one in made]
    found = fast.company(first, waiting, size)
    room = min(size, max(1, fast.ROOM // len(first.prompt)))
    fit = [
        one
        for one in waiting
        if not one.cancelled
        and one.request.seed is None
        and one.request.temperature == first.request.temperature
        and abs(len(one.prompt) - len(first.prompt)) <= fast.NEAR
    ]
    assert len(found) == min(len(fit), room - 1)  # nobody who fits waits while there is room
    assert all(any(one is other for other in fit) for one in found) and len({id(one) for one in found}) == len(found)


def test_who_reads_nothing_yet_goes_first():
    waiting = deque()
    for number, prefix in enumerate(["", "You wait.", "", "It rains.", ""]):
        new = SimpleNamespace(request=base.Request(prompt="x", prefix=prefix), number=number)
        waiting.insert(worker.place(new, waiting), new)
    assert [one.number for one in waiting] == [0, 2, 4, 1, 3]


def test_a_batch_holds_either_beginnings_or_middles():
    waiting = deque([job(300), *[job(50)] * 40, job(310)])
    batches = []
    while waiting:
        first = waiting.popleft()
        found = fast.company(first, waiting, 16)
        for one in found:
            waiting.remove(one)
        batches.append([len(one.prompt) for one in [first, *found]])
    assert batches == [[300, 310], [50] * 16, [50] * 16, [50] * 8]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"seed": -1},
        {"stop": ("",)},
    ],
)
def test_requests_are_checked(wrong):
    with pytest.raises(base.BadRequest):
        base.Request(**({"messages": [{"role": "user", "content": "x"}]} if wrong else {}) | wrong)


def test_admission_is_bounded():
    admission = base.Admission(2)
    with admission.slot(), admission.slot():
        with pytest.raises(base.QueueFull) as full, admission.slot():
            pass
        assert full.value.retry_after >= 1
    with admission.slot():
        assert admission.inside == 1
    assert admission.inside == 0


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("swift", {}, "fast"),
        ("openai", {}, "--base-url"),
        ("openai", {"base_url": "file:///x"}, "--base-url"),
        ("fast", {}, "make cyoa-train"),
    ],
)
def test_engines_that_cannot_be_opened_say_what_to_do(kind, more, says, tmp_path):
    with pytest.raises(choose.UserError, match=says):
        choose.open_engine(kind, tmp_path / "none", **more)


@pytest.mark.parametrize(("kind", "on", "name", "dtype"), [("auto", "cpu", "fast", "int8"), ("hf", "cpu", "hf", "float32")])
def test_an_engine_computes_where_it_is_asked_to_and_says_where(kind, on, name, dtype):
    engine = choose.open_engine(kind, models.POCKET, on=on)
    assert (engine.name, engine.device.kind, engine.device.dtype) == (name, on, dtype)
    asyncio.run(engine.close())


@pytest.mark.parametrize(("kind", "on"), [("fast", "cuda"), ("fast", "mlx"), ("hf", "mlx"), ("mlx", "cpu")])
def test_an_engine_that_cannot_compute_there_is_refused(kind, on):
    with pytest.raises(choose.UserError, match=f"--device {on}: the engine {kind} computes on"):
        choose.open_engine(kind, models.POCKET, on=on)


def test_a_server_on_a_device_that_its_engine_cannot_have_does_not_start():
    with pytest.raises(choose.UserError, match="--device mlx: the engine fast"):
        serve.build(serve.Args(engine="fast", device="mlx"))
