"""The programs `train` and `demo` as a user runs them, at smoke size."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
from rich.console import Console

from shared import models
from shared.errors import UserError

CODE = "sprints.04_engram.code"
demo, showing, train, training = (import_module(f"{CODE}.{name}") for name in ("demo", "showing", "train", "teaching.training"))
Reading = import_module(f"{CODE}.engram.adapter").Reading


SMOKE = {"steps": 6, "batch": 4, "device": "cpu", "mlflow": False}  # with these the demo takes what a smoke training left


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with adapters of a smoke run, and its report."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train.main(train.Args(smoke=True, device="cpu", out=folder, mlflow=False))


@pytest.fixture(scope="module")
def adapters(trained):
    return train.home(train.Args(**SMOKE, out=trained[0]))


def test_training_saves_both_adapters_at_equal_budgets(trained, adapters):
    folder, report = trained
    value = {key: metric["mean"] for key, metric in report["metrics"].items()}
    assert 0.99 < value["saved_engram_parameters"] / value["saved_lora_parameters"] <= 1
    assert [figure["file"] for figure in report["figures"]] == ["curves.png"]
    for name in ("lora", "engram"):
        assert list((adapters / name).glob("*.safetensors"))
        model, adapter = train.reload(name, "pocket", "cpu", None, adapters / name)
        assert adapter is not None and model.config.hidden_size == 256
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", ".tmp", ".old"))]


def test_demo_shows_all_three_sides(tmp_path, capsys):
    report = demo.main(demo.Args(smoke=True, device="cpu", out=tmp_path, mlflow=False))
    shown = capsys.readouterr().out
    for words in ("Taught prompts", "lead-in that was never taught", "Near misses", "Unrelated text", "is forgotten", "bit-equal"):
        assert words in shown
    base, engram = (report["metrics"][f"demo_{name}_perplexity"]["mean"] for name in ("base", "engram"))
    assert engram == pytest.approx(base, rel=0.05)
    assert json.loads((tmp_path / "04_engram" / "demo" / "report.json").read_text())["conclusion"]
    assert not (tmp_path / "engram").exists(), "what it taught in a hurry is not kept"


def test_demo_takes_what_was_trained_and_forgets_one_fact_of_it(trained, adapters, capsys, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("it trains although adapters are there"))
    monkeypatch.setattr(demo, "NEW_TOKENS", 4)
    before = (adapters / "engram" / "engram.safetensors").read_bytes()
    first = train.taught(import_module(f"{CODE}.patterns").load(), 1)[0].id
    args = demo.Args(**SMOKE, out=folder, quick=True, forget=first)
    demo.main(args)
    shown = capsys.readouterr().out
    assert f"{first} is forgotten" in shown and "as `make engram-train` left them" in shown
    assert shown.count("bit-equal") == train.SMOKE_PATTERNS - 1, "its neighbours"
    assert (adapters / "engram" / "engram.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="did you mean"):
        demo.main(demo.Args(**SMOKE, out=folder, quick=True, forget=first[:-1]))


def test_demo_answers_any_prompt(trained, capsys):
    report = demo.main(demo.Args(**SMOKE, out=trained[0], prompt="Q: Default port for SSH?\nA:"))
    shown = capsys.readouterr().out
    assert "Your prompt" in shown and "What the memory reads" in shown and "is forgotten" not in shown
    assert "tokens/s" in report["conclusion"]


def test_the_demo_takes_adapters_of_its_own_settings_alone(trained, adapters, monkeypatch):
    folder, _ = trained
    before = {path: path.read_bytes() for path in adapters.rglob("*") if path.is_file()}
    train.main(train.Args(smoke=True, rank=4, device="cpu", out=folder, mlflow=False))
    assert {path: path.read_bytes() for path in adapters.rglob("*") if path.is_file()} == before
    assert len([*adapters.parent.iterdir()]) == 2

    def fit(*_):
        raise InterruptedError("it trains")

    monkeypatch.setattr(training, "fit", fit)
    for other in ({"steps": 7}, {"rank": 16}, {"seed": 1}, {"lora_rate": 1e-3}, {"engram_rate": 1e-2}, {"backend": "torch"}):
        with pytest.raises(InterruptedError):
            demo.main(demo.Args(**{**SMOKE, **other}, out=folder, quick=True))
    plain = train.Args()
    assert train.home(plain) == train.home(demo.Args()), "defaults"
    assert (
        len({train.home(replace(plain, **other)) for other in ({}, {"quantization": "nf4"}, {"model": "smollm"}, {"steps": 10})})
        == 4
    )


def test_a_four_bit_base_for_mlx_is_refused(tmp_path):
    with pytest.raises(UserError, match="MLX trains no nf4"):
        train.main(train.Args(device="cpu", backend="mlx", quantization="nf4", out=tmp_path, mlflow=False))
    assert not [*tmp_path.iterdir()]


def test_a_fact_that_is_not_taught_stops_the_demo_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("it trains first"))
    with pytest.raises(UserError, match="no taught pattern has this id"):
        demo.main(demo.Args(smoke=True, device="cpu", out=tmp_path, mlflow=False, forget="fact-of-nobody"))


def test_an_interrupted_training_keeps_the_adapters_that_were_there(trained, monkeypatch):
    folder, _ = trained
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}

    def stopped(self, items, label, total=None):
        yield 0
        raise KeyboardInterrupt

    monkeypatch.setattr(train.runlog.Run, "track", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.main(train.Args(smoke=True, device="cpu", out=folder, mlflow=False))
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before


def test_tokens_are_drawn_with_their_ngrams_and_gates():
    tokenizer = models.load("pocket", "cpu").tokenizer
    ids = tokenizer("Q: Default port\nA:")["input_ids"]
    readings = [Reading(ids[0], (), ()), *(Reading(token, (2, 8), (0.5,)) for token in ids[1:])]
    console = Console(width=40, record=True, file=None, color_system=None)
    with console.capture() as caught:
        console.print(showing.reading(tokenizer, readings, 39))
    lines = caught.get().splitlines()
    assert "⏎" in caught.get() and max(map(len, lines)) <= 40
    assert sum(line.split().count("8") for line in lines) == sum(line.split().count("50%") for line in lines) == len(ids) - 1
