"""Sprint 01: fine-tuning with trl on a 4-bit base: what LoRA reaches, gradients after an evaluation, resume, processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file

from shared import models, sprints
from shared.device import pick
from shared.errors import UserError

CODE = "sprints.01_paws_of_dread.code"
ablations = import_module(f"{CODE}.ablations")
adapter = import_module(f"{CODE}.adapter")
measures = import_module(f"{CODE}.measures")
recipe = import_module(f"{CODE}.recipe")
snippets = import_module(f"{CODE}.snippets")
tune_torch = import_module(f"{CODE}.tune_torch")
tuning = import_module(f"{CODE}.tuning")
twin = import_module(f"{CODE}.twin")
SMALL = recipe.Recipe(rank=4, alpha=8, dropout=0.05, epochs=2, batch=4, max_length=160)


@pytest.fixture(scope="module")
def rows():
    every = snippets.read()
    return snippets.split(every, "train")[:8] + snippets.split(every, "validation")[:2]


@pytest.fixture(scope="module")
def phi3(tmp_path_factory):
    """The Pocket Brain with Phi-3's fused layers: a small checkpoint that has learned something."""
    return str(twin.make(tmp_path_factory.mktemp("twin")))


def nf4(name="pocket"):
    return recipe.base(name, pick("cpu"), "qlora")


def made(name, setting, rows, folder, **changes):
    loaded = nf4(name)
    return tune_torch.trainer(loaded, setting, *tuning.encode(loaded, rows, setting), folder, **changes)


def weights(folder):
    return load_file(folder / adapter.WEIGHTS)


def test_the_twin_with_fused_layers_is_the_same_function(phi3):
    plain, fused = models.load("pocket", "cpu", "none"), models.load(phi3, "cpu", "none")
    assert {path.rsplit(".", 1)[-1] for path in recipe.linear_layers(fused.model)} == {
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
    }
    tokens = torch.randint(6, 4000, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(plain.model(tokens).logits, fused.model(tokens).logits, atol=2e-4)


def test_lora_reaches_every_linear_layer_and_the_originals_names_do_not(phi3, rows, tmp_path):
    everything = made(phi3, SMALL, rows, tmp_path)
    reached = {
        name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in everything.model.named_modules() if ".lora_A.default" in name
    }
    assert reached == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"} and not tune_torch.missed(everything.model)
    original = made(phi3, replace(SMALL, targets="original"), rows, tmp_path)
    left = {name.rsplit(".", 1)[-1] for name in tune_torch.missed(original.model)}
    assert left == {"qkv_proj", "gate_up_proj"}
    assert not tune_torch.missed(made("pocket", SMALL, rows, tmp_path).model)


def test_an_outcome_is_kept_for_what_it_was_measured_on(tmp_path):
    made = [ablations.Outcome(loss, loss, [True, False], 1.0, 2.0) for loss in (1.0, 2.0)]
    for data, expected in (("a", made[0]), ("b", made[1]), ("b", made[1])):
        assert ablations.kept(tmp_path / "x" / "outcome.json", {"data": data}, lambda data=data: made[data == "b"]) == expected
    assert ablations.kept(tmp_path / "x" / "outcome.json", {"data": "b"}, lambda: made[0]) == made[1]


def test_an_evaluation_does_not_stop_the_gradients(rows, tmp_path):
    """bitsandbytes repacks 4-bit weights in evaluation on some CPUs, and no gradient flows through the base any more."""
    trainer = made("pocket", replace(SMALL, dropout=0.0), rows, tmp_path)
    packed = [layer for layer in trainer.model.modules() if isinstance(layer, Linear4bit)]
    assert len(packed) == 42 and not any(layer.support_avx512bf16_for_cpu for layer in packed)  # else it happens where it can

    def gradients():
        trainer.model.train()
        batch = next(iter(trainer.get_eval_dataloader()))
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, batch).backward()
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}

    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    before = gradients()
    trainer.evaluate()
    after = gradients()
    first = [name for name in before if ".layers.0." in name]  # what reaches them went through the whole base
    assert len(first) == 14 and all(before[name].abs().sum() > 0 for name in first)
    for name in first:  # evaluation brings autocast along, so not to the last bit
        assert torch.nn.functional.cosine_similarity(before[name].flatten(), after[name].flatten(), dim=0) > 0.98, name
        assert float(after[name].norm() / before[name].norm()) == pytest.approx(1, abs=0.05), name


def test_adapters_train_in_float32_with_a_pad_that_is_no_end(rows, tmp_path):
    trainer = made("pocket", SMALL, rows, tmp_path)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    tokenizer = trainer.processing_class
    assert tokenizer.pad_token_id not in nf4().stop_ids
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(4)])
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        counted = labels[labels != -100]
        text = tokenizer.decode(ids[mask == 1])
        assert tokenizer.decode(counted) == text.partition("<|assistant|>\n")[2] and text.endswith("<|end|>")


def test_tuning_lowers_the_loss_and_keeps_the_best_epoch(rows, tmp_path):
    setting = replace(SMALL, epochs=4, learning_rate=5e-3)
    tuned = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path)
    history = tuned.course.history
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4] and history[-1]["train_loss"] < history[0]["train_loss"]
    assert tuned.course.tokens > 4 * 8 * 20 and tuned.course.trainable == sum(
        p.numel() for name, p in tuned.loaded.model.named_parameters() if "lora_" in name
    )
    folder = tuning.home(tmp_path, nf4(), setting, rows)
    assert not (folder / "checkpoints").exists()
    again = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path)  # finished: taken as it is
    assert again.course == tuned.course
    state = {name: tensor for name, tensor in again.loaded.model.state_dict().items() if "lora_" in name}
    assert all(torch.equal(tensor, tuned.loaded.model.state_dict()[name]) for name, tensor in state.items())
    other = tuning.tune("pocket", pick("cpu"), replace(setting, epochs=1), rows, tmp_path)  # beside it
    assert len(other.course.history) == 1 and (folder / "done.json").is_file()


def test_the_best_epoch_is_kept_and_tuning_stops_after_it(rows, tmp_path):
    """Eight rows are learned by heart at this rate: the validation loss rises, and the weights of its minimum stay."""
    setting = replace(SMALL, epochs=12, learning_rate=2e-2, patience=2)
    tuned = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path)
    losses = [entry["validation_loss"] for entry in tuned.course.history]
    assert len(losses) == losses.index(min(losses)) + 3 < 12
    again = adapter.load(nf4(), tuning.home(tmp_path, nf4(), setting, rows) / "adapter")
    held = [snippets.encode(again.tokenizer, again.stop_ids, row) for row in snippets.split(rows, "validation")]
    assert measures.per_token(measures.losses(again, held)) == pytest.approx(min(losses), abs=0.15)  # trl averages otherwise
    log = [{"eval_loss": loss} for loss in losses]
    assert tune_torch.stale(log, 2) and not tune_torch.stale(log[:-1], 2) and not tune_torch.stale([], 2)
    with pytest.raises(UserError, match="no longer a number"):
        tune_torch.stale([{"eval_loss": float("nan")}], 2)


@pytest.mark.parametrize("torn", [False, True])
def test_a_run_that_was_killed_before_its_adapter_was_saved_ends_the_same(rows, tmp_path, monkeypatch, torn):
    setting = replace(SMALL, epochs=12, learning_rate=2e-2, patience=1)
    whole = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "finish", lambda tuned, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "killed")
    folder = tuning.home(tmp_path / "killed", nf4(), setting, rows)
    if torn:  # and while a checkpoint was written
        (folder / "checkpoints" / "checkpoint-99").mkdir()
    again = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "killed")
    assert again.course.history == whole.course.history and again.course.tokens == 0
    first, second = weights(tuning.home(tmp_path / "whole", nf4(), setting, rows) / "adapter"), weights(folder / "adapter")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_run_resumes_bit_for_bit(rows, tmp_path):
    setting = replace(SMALL, epochs=3)
    whole = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "whole")
    script = (
        f"import sys; from importlib import import_module as i; t = i('{CODE}.tuning'); r = i('{CODE}.recipe'); s = i('{CODE}.snippets')\n"
        "from pathlib import Path; from shared.device import pick; import json\n"
        "rows = [s.Snippet(**row) for row in json.loads(sys.argv[1])]\n"
        "t.tune('pocket', pick('cpu'), r.Recipe(**json.loads(sys.argv[2])), rows, Path(sys.argv[3]))\n"
    )
    given = [json.dumps([row.__dict__ for row in rows]), json.dumps(setting.__dict__), str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-c", script, *given], cwd=sprints.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folder = tuning.home(tmp_path / "killed", nf4(), setting, rows)
    deadline = time.monotonic() + 240
    while not (folder / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "done.json").exists()
    resumed = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "killed")
    assert resumed.course.history == whole.course.history
    first, second = weights(tuning.home(tmp_path / "whole", nf4(), setting, rows) / "adapter"), weights(folder / "adapter")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_share_each_batch(rows, tmp_path):
    setting = replace(SMALL, dropout=0.0)
    alone = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "one")
    shared = tuning.tune("pocket", pick("cpu"), setting, rows, tmp_path / "two", processes=2)
    losses = [[entry["validation_loss"] for entry in one.course.history] for one in (alone, shared)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and [e["step"] for e in shared.course.history] == [2, 4]


def test_one_process_that_should_be_two_is_an_error(rows, tmp_path, monkeypatch):
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    job = {"name": "pocket", "device": "cpu", "recipe": SMALL.__dict__, "processes": 2, "train": [], "validation": []}
    (tmp_path / "job.json").write_text(json.dumps(job))
    found = subprocess.run(
        [sys.executable, "-m", f"{CODE}.tune_torch", str(tmp_path)], cwd=sprints.ROOT, capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 1 and "2 processes were asked for" in found.stderr and "Traceback" not in found.stderr
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="cannot be shared by 3"):
        made("pocket", SMALL, rows, tmp_path)


def test_what_cannot_be_is_said_in_one_line(rows, tmp_path):
    with pytest.raises(UserError, match="4-bit base"):
        recipe.base("pocket", replace(pick("cpu"), kind="mps"), "qlora")
    for change in ({"rank": 0}, {"dropout": 1.0}, {"max_length": 3}, {"learning_rate": 0.0}, {"patience": 0}):
        with pytest.raises(UserError):
            replace(SMALL, **change)
    with pytest.raises(UserError, match="on MLX one process"):
        tuning.tune("pocket", replace(pick("cpu"), kind="mlx"), SMALL, rows, tmp_path, processes=2)
    with pytest.raises(UserError, match="no validation rows"):
        tuning.tune("pocket", pick("cpu"), SMALL, rows[:8], tmp_path)


def test_one_seed_compares_nothing():
    train = import_module(f"{CODE}.train_qlora_phi3_cats")
    with pytest.raises(UserError, match="at least two"):
        train.main(train.Args(smoke=True, seeds=(0,), only=("ablations",)))
