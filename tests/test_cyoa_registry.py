"""Sprint 05: what the registry refuses, what moves the champion, and the way back."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from shared import models
from shared.errors import UserError

CODE = "sprints.05_cyoa.code"
diary, promote, registry, scenarios, train, versions = (
    import_module(f"{CODE}.{name}") for name in ("diary", "promote", "registry", "scenarios", "train", "versions")
)
GOOD = {
    "validity": {"value": 0.90, "noise": 0.03, "better": "higher"},
    "bits": {"value": 1.50, "noise": 0.0, "better": "lower"},
    "distinct": {"value": 0.40, "noise": 0.01, "better": "band", "band": [0.35, 0.55]},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    return versions.Store(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


def made(folder, version="a" * 64, change=0.0, metrics=GOOD):
    """A model folder: pocket, one weight of which is another; its panel, unless metrics is None."""
    shutil.copytree(models.POCKET, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += change
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    train.write_card(folder, {"data_version": version, "method": "full", "base": "pocket", "metrics": {"validation_loss": 3.25}})
    if metrics:
        promote.write_panel(folder, version, metrics)
    return folder


def changed(**values):
    return GOOD | {key: GOOD[key] | {"value": value} for key, value in values.items()}


def test_versions_champions_and_the_way_back(store, downloads, tmp_path):
    known = registry.Registry(store)
    with pytest.raises(UserError, match="no champion before"):
        promote.rollback(store, downloads)
    first = promote.promote(made(tmp_path / "first"), store, downloads)
    assert first.promoted and known.champion() == first.version, first.reasons
    version = known.get(first.version)
    assert float(version.tags["round_trip"]) < registry.TOLERANCE
    assert version.tags[versions.TAG] == "a" * 64 and "a" * 64 in version.description
    assert "validity" in known.client.get_model_version(registry.NAME, first.version).description
    assert known.register(tmp_path / "first") == first.version  # the same weights, the same version

    better = promote.promote(made(tmp_path / "second", change=0.25, metrics=changed(bits=1.4)), store, downloads)
    assert better.promoted and better.version != first.version
    for metrics in (changed(bits=1.45), changed(validity=0.8), changed(distinct=0.3), {"bits": GOOD["bits"]}):
        refused = promote.promote(made(tmp_path / "worse", change=0.5, metrics=metrics), store, downloads)
        assert not refused.promoted and "worse than version" in refused.reasons[-1], refused.reasons
        assert known.champion() == better.version
        shutil.rmtree(tmp_path / "worse")
    moved = promote.promote(made(tmp_path / "other", "b" * 64, 0.5, changed(bits=1.0)), store, downloads)
    assert not moved.promoted and "other data" in moved.reasons[-1]
    again = known.fetch(better.version, downloads)  # the champion is measured on the data of now: then others can follow it
    promote.write_panel(again, "b" * 64, changed(bits=1.4))
    assert promote.promote(again, store, downloads).version == better.version == known.champion()
    followed = promote.promote(tmp_path / "other", store, downloads)
    assert followed.promoted and known.champion() == followed.version, followed.reasons

    assert promote.rollback(store, downloads) == better.version
    assert promote.rollback(store, downloads) == first.version == known.champion()
    champion = registry.champion(store.uri, downloads)
    assert champion.name == f"cyoa-story/{first.version}" and registry.weights(champion.folder) == registry.weights(
        tmp_path / "first"
    )
    with pytest.raises(UserError, match="no champion before"):
        promote.rollback(store, downloads)
    (champion.folder / "model.safetensors").write_bytes(b"{}")  # a copy that is damaged is fetched anew
    assert registry.champion(store.uri, downloads).name == champion.name and registry.weights(champion.folder)
    stored = Path(version.source, "model", "model.safetensors")  # but not when the store itself is
    stored.write_bytes((tmp_path / "second" / "model.safetensors").read_bytes())
    assert registry.champion(store.uri, tmp_path / "elsewhere").name in ("shipped", "pocket")
    with pytest.raises(registry.RegistryError, match="other weights"):
        known.fetch(first.version, tmp_path / "elsewhere")


def test_a_panel_within_the_noise_is_no_worse():
    panel = {"metrics": GOOD}
    assert promote.worse({"metrics": changed(validity=0.865, distinct=0.346)}, panel) == []
    assert promote.worse({"metrics": changed(distinct=0.54)}, panel) == []  # anywhere in the band is as good
    assert [line.split()[0] for line in promote.worse({"metrics": changed(validity=0.85, distinct=0.33, bits=1.51)}, panel)] == [
        "validity",
        "bits",
        "distinct",
    ]


def refuse(folder, store, downloads):
    before = registry.Registry(store).champion()
    decision = promote.promote(folder, store, downloads)
    assert not decision.promoted and registry.Registry(store).champion() == before
    return decision.reasons[-1]


def test_every_gate_refuses(store, downloads, tmp_path):
    folder = made(tmp_path / "model", change=0.75)
    panel, card = (folder / promote.PANEL).read_text(), (folder / registry.CARD).read_text()
    (folder / "optimizer.pt").write_bytes(b"x")
    assert "could run code" in refuse(folder, store, downloads)
    (folder / "optimizer.pt").unlink()
    (folder / promote.PANEL).unlink()
    assert "not evaluated" in refuse(folder, store, downloads)
    for broken in ("{", "{}", panel.replace("0.9", "NaN"), panel.replace('"lower"', '"smaller"')):
        (folder / promote.PANEL).write_text(broken)
        assert "damaged" in refuse(folder, store, downloads)
    (folder / promote.PANEL).write_text(json.dumps(json.loads(panel) | {"weights": "0" * 64}))
    assert "other weights" in refuse(folder, store, downloads)
    (folder / promote.PANEL).write_text(panel)
    (folder / registry.CARD).write_text(card.replace("a" * 64, "c" * 64))
    assert "other data" in refuse(folder, store, downloads)
    (folder / registry.CARD).write_text("{}")
    assert "no whole card.json" in refuse(folder, store, downloads)
    (folder / registry.CARD).write_text(card)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"llama"', '"nothing"'))
    assert "cannot be loaded" in refuse(folder, store, downloads)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    assert "damaged" in refuse(folder, store, downloads)
    (folder / "model.safetensors").unlink()
    assert "no weights" in refuse(folder, store, downloads)


def test_a_model_that_writes_no_numbers_does_not_play(tmp_path):
    folder = made(tmp_path / "model", change=float("nan"), metrics=None)
    with pytest.raises(promote.GateError, match="finite"):
        promote.writes(folder)


def test_lora_over_a_local_base_is_not_registered_as_something_else(store, tmp_path):
    """MLflow 3.17 stores the wrapped names without an error, and loads random layers (mlflow#23761)."""
    known = registry.Registry(store)
    before, card = len(known.versions()), registry.read_card(made(tmp_path / "model"))
    loaded = models.load("pocket", "cpu", "none")
    torch.manual_seed(0)
    loaded.model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    with pytest.raises(registry.RegistryError, match="nothing is registered"):
        known.add(loaded, card)
    assert len(known.versions()) == before
    merged = replace(loaded, model=loaded.model.merge_and_unload())
    assert float(known.get(known.add(merged, card)).tags["round_trip"]) < registry.TOLERANCE


def test_logits_that_differ_are_found(tmp_path):
    """Weights changed on their way through the store load without an error; only the logits tell."""
    card = registry.read_card(made(tmp_path / "model"))
    loaded = models.load("pocket", "cpu", "none")
    registry._save(loaded, card, tmp_path / "artifact")
    assert registry.round_trip(loaded, tmp_path / "artifact", tmp_path / "a")[1] < registry.TOLERANCE
    stored = tmp_path / "artifact" / "model" / "model.safetensors"
    weights = load_file(stored)
    weights["model.layers.0.mlp.up_proj.weight"][0] *= 1.5
    save_file(weights, stored, metadata={"format": "pt"})
    with pytest.raises(registry.RegistryError, match="answers otherwise"):
        registry.round_trip(loaded, tmp_path / "artifact", tmp_path / "b")
    assert (tmp_path / "artifact" / "requirements.txt").read_text().count("==") > len(registry.PACKAGES)
    assert not [path for path in (tmp_path / "artifact").rglob("*") if path.suffix in registry.PICKLES]


def test_a_changed_byte_of_the_data_is_another_version_of_the_model(store, tmp_path):
    every = scenarios.load()[:3]
    scene = every[0].scenes[every[0].start]
    other = replace(every[0], scenes=every[0].scenes | {scene.id: replace(scene, text=scene.text + "!")})
    known, numbers = registry.Registry(store), []
    for place, data in enumerate((every, [other, *every[1:]])):
        version = versions.version(data)
        numbers.append(known.register(made(tmp_path / str(place), version, metrics=None)))
        assert known.get(numbers[-1]).tags[versions.TAG] == version
    assert numbers[0] != numbers[1]


def test_without_a_registry_the_shipped_model_plays(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    found = registry.champion()
    assert found.name in ("shipped", "pocket") and (found.folder / "model.safetensors").is_file()
    assert registry.champion("http://127.0.0.1:9").name == found.name


def test_a_training_that_goes_on_is_one_run_of_mlflow(store, tmp_path):
    every = scenarios.load()[:2]
    runs = []
    for _ in range(2):
        with diary.diary(tmp_path / "full_1", {"epochs": 3}, every, store) as log:
            runs.append(log.run)
            state = type("State", (), {"global_step": len(runs)})()
            log.callbacks[0].on_log(None, state, None, {"loss": 2.0 / len(runs), "epoch": len(runs)})
    run = store.client.get_run(runs[0])
    assert runs[0] == runs[1] and run.info.status == "FINISHED" and run.data.params == {"epochs": "3"}
    assert [metric.value for metric in store.client.get_metric_history(runs[0], "loss")] == [2.0, 1.0]
    assert versions.version(every) in {tag.value for tag in run.inputs.dataset_inputs[0].tags}
