"""Sprint 05: what the registry refuses, what moves the champion, and the way back."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
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
SPREAD = np.array([-3, -2, -1, 0, 1, 2, 3]) / 100  # of seven scenarios around a mean


def metric(mean, better, around=SPREAD, **more):
    return {"values": {f"story-{at}": float(mean + off) for at, off in enumerate(around)}, "better": better} | more


GOOD = {
    "validity": metric(0.90, "higher"),
    "bits": metric(1.50, "lower"),
    "distinct": metric(0.45, "band", band=[0.35, 0.55]),
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


def changed(around=SPREAD[::-1], **means):
    """GOOD with other means, and another order of good and bad scenarios."""
    return GOOD | {key: GOOD[key] | {"values": metric(mean, "", around)["values"]} for key, mean in means.items()}


def test_versions_champions_and_the_way_back(store, downloads, tmp_path, capsys):
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
    for metrics in (changed(bits=1.6), changed(validity=0.8), changed(distinct=0.25), {"bits": GOOD["bits"]}):
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

    stored = Path(known.get(better.version).source, "model", "model.safetensors")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-8])
    fresh = tmp_path / "fresh"
    assert promote.rollback(store, fresh) == first.version == known.champion()  # the one between does not play, and is passed by
    assert f"version {better.version} is passed by" in capsys.readouterr().out
    stored.write_bytes(whole)
    promote.move(known, [first.version, better.version, followed.version])
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


def test_a_loss_within_the_noise_or_the_margin_is_no_worse():
    panel = {"metrics": GOOD}
    assert promote.worse({"metrics": changed(validity=0.87, distinct=0.36)}, panel) == []
    assert promote.worse({"metrics": changed(distinct=0.51)}, panel) == []  # anywhere in the band is as good
    assert promote.worse({"metrics": changed(SPREAD, bits=1.51)}, panel) == []  # on every scenario, but by less than the margin
    assert promote.worse({"metrics": changed(SPREAD, bits=1.52)}, panel)
    found = promote.worse({"metrics": changed(validity=0.8, distinct=0.28, bits=1.6)}, panel)
    assert [line.split()[0] for line in found] == ["validity", "bits", "distinct"]
    assert "missing" in promote.worse({"metrics": GOOD | {"bits": metric(1.5, "lower", SPREAD[:5])}}, panel)[0]


def test_a_model_as_good_as_the_champion_passes_and_a_worse_one_does_not():
    """Panels of thirteen measures on seven scenarios with eight answers each. Two models of one quality differ by story, too: in
    each measure each has its own luck with each story."""
    rng = np.random.default_rng(0)

    def drawn(loss=0.0):
        chance = np.clip(rng.normal(0.8 - loss, 0.08, (8, 7)), 0, 1)  # shares of yes and no
        runs = rng.exponential(rng.gamma(8, 0.8, (3, 8, 7))).mean(1)  # long tails, as of the longest copy
        inside = rng.normal(0.36 - loss, 0.03, 7)  # at the edge of a band
        metrics = {f"share-{at}": metric(0, "higher", row) for at, row in enumerate(rng.binomial(8, chance) / 8)}
        metrics |= {f"run-{at}": metric(0, "lower", row) for at, row in enumerate(runs)}
        metrics["inside"] = metric(0, "band", inside, band=[0.35, 0.55])
        return {"metrics": metrics | {"bits": metric(0, "lower", 1.5 + loss / 4 + rng.normal(0, 0.01, 7))}}

    refused = np.mean([bool(promote.worse(drawn(), drawn())) for _ in range(1000)])
    assert refused <= promote.REFUSED
    assert np.mean([bool(promote.worse(drawn(loss=0.2), drawn())) for _ in range(100)]) > 0.9


def test_two_who_change_the_champion_at_once_do_not_undo_each_other(store, downloads, tmp_path):
    known = registry.Registry(store)
    folders = [made(tmp_path / name, change=change, metrics=changed(bits=1.0)) for name, change in (("one", 0.3), ("two", 0.35))]
    with promote.alone(known):
        late = promote.promote(folders[0], store, downloads)
        assert not late.promoted and "another" in late.reasons[-1] and "\n" not in late.reasons[-1]
        with pytest.raises(UserError, match="another"):
            promote.rollback(store, downloads)
    assert promote.promote(folders[0], store, downloads).promoted
    before = promote.history(known)
    assert promote.promote(folders[1], store, downloads).promoted
    assert promote.history(known)[:-1] == before
    known.client.set_registered_model_alias(registry.NAME, registry.ALIAS, before[-1])  # by hand: the history follows the alias
    assert promote.history(known) == before


def test_what_mlflow_raises_is_one_line(tmp_path):
    gone = versions.Store(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    known = registry.Registry(gone)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        for table in ("model_versions", "registered_models"):
            database.execute(f"alter table {table} rename to old_{table}")
    for ask in (known.versions, known.champion, lambda: promote.rollback(gone)):
        with pytest.raises(UserError, match=r"^cannot use the MLflow store [^\n]*$"):
            ask()


def test_whole_weights_are_read_once(tmp_path, monkeypatch):
    folder = made(tmp_path / "model")
    sha256 = registry.weights(folder)
    monkeypatch.setattr(registry, "safe_open", None)
    assert registry.weights(folder) == sha256
    (folder / "model.safetensors").touch()
    with pytest.raises(registry.RegistryError, match="damaged"):
        registry.weights(folder)


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
    for broken in ("{", "{}", panel.replace("0.89", "NaN"), panel.replace('"lower"', '"smaller"')):
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


def test_the_password_of_a_store_stands_in_no_reason():
    found = registry.champion("http://me:secret@127.0.0.1:9/mlflow")  # nothing listens there
    assert found.name in ("shipped", "pocket") and "me:***@127.0.0.1" in found.reason and "secret" not in found.reason
