"""Sprint 00: the fit of the scaling law, the search for AdamW's settings, and the folder that is committed."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared import data, models, runlog

CODE = "sprints.00_pocket_brain.code"
batches = import_module(f"{CODE}.batches")
corpus = import_module(f"{CODE}.text.corpus")
export = import_module(f"{CODE}.export")
model = import_module(f"{CODE}.model")
scaling = import_module(f"{CODE}.scaling")
tokenizer = import_module(f"{CODE}.text.tokenizer")

SIZES, TOKENS = (part.ravel() for part in np.meshgrid([1.0, 3.0, 6.0], [2.0, 4.0, 8.0]))


def test_the_fit_finds_the_law_that_made_the_losses():
    law = np.array([1.0, 0.8, 0.4, 2.5, 0.5])
    fit = scaling.chinchilla(SIZES, TOKENS, scaling.predict(law, SIZES, TOKENS))
    assert scaling.predict(fit, 6.0, 96.0) == pytest.approx(scaling.predict(law, 6.0, 96.0), rel=0.02)
    assert scaling.predict(fit, SIZES, TOKENS) == pytest.approx(scaling.predict(law, SIZES, TOKENS), rel=1e-3)


@pytest.mark.parametrize("decayed", [True, False])
def test_adamw_gets_the_best_of_its_settings(decayed, tmp_path, monkeypatch):
    """Losses by a formula: the rate 6e-3 is best, and the strong decay helps or not; the compared seeds are not those tried."""
    asked = []

    def loss(self, **changes):
        asked.append(changes)
        strong = changes.get("weight_decay", self.settings.weight_decay) > 0.1
        rate = changes.get("learning_rate", 6e-3)
        return (
            3 + abs(np.log(rate / 6e-3)) + 0.1 * (strong is not decayed) + 1e-3 * changes["seed"] * (changes["optimizer"] == "muon")
        )

    monkeypatch.setattr(scaling.Runs, "loss", loss)
    args = runlog.Args(smoke=True, out=tmp_path, device="cpu")
    settings = batches.Settings("", {"story": 1.0}, {"story": 1.0})
    with runlog.Run(args, str(scaling.__file__), "scaling", title="t", objective="o", setup={}, seeds=[0, 1, 2]) as run:
        scaling.optimizers(run, scaling.Runs(tmp_path, settings, lambda *_: []), 1_000_000, [0, 1, 2])
        run.conclude("Compared.")
    compared = [one for one in asked if one["optimizer"] == "adamw" and one["seed"] in (0, 1, 2)]
    assert len(compared) == 3 and {one["learning_rate"] for one in compared} == {6e-3}
    assert {one["weight_decay"] > 0.1 for one in compared} == {decayed}


def test_export_is_loaded_and_survives_what_a_kill_left(tmp_path):
    """Twice over the same place, with the remains of an export that was killed before its last step."""
    brain = tokenizer.train(corpus.synthetic("story", False, 0.1, 5), 4096)
    trained = model.Llama(model.SHAPES["1M"], torch.Generator().manual_seed(0))
    state = {f"master.{name}": weight.detach().clone() for name, weight in trained.named_parameters()}
    save_file(state, tmp_path / "checkpoint.safetensors")
    facts = dict.fromkeys(("tokens", "hours", "mix", "first", "answer_weight", "machine"), "1")
    for _ in range(2):
        weights = export.export(tmp_path / "checkpoint.safetensors", "1M", brain, tmp_path / "model", facts, {"packages": []})
        (tmp_path / ".model.old").mkdir()
        (tmp_path / ".model.old" / "model.safetensors").write_bytes(b"old")
    assert not list(weights.parent.glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(weights.parent, local_files_only=True)
    tokens = torch.tensor([AutoTokenizer.from_pretrained(weights.parent)("Once upon a time").input_ids])
    with torch.no_grad():
        assert float(loaded(tokens, labels=tokens).loss * (tokens.shape[1] - 1)) == pytest.approx(
            float(trained.loss(tokens)), rel=0.01
        )


def test_the_gates_judged_the_committed_weights():
    report = models.POCKET.parent / "gates" / "report.json"
    digest = data.digest(models.POCKET / "model.safetensors")
    recorded = json.loads(report.read_text())["data"]
    assert recorded["weights"]["sha256"] == digest, "run make pocket-eval: results/gates belongs to other weights"
