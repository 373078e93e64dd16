"""Sprint 01: the arms of the speed comparison train on the same tokens, equally often, and take turns."""

import gc
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shared import models
from shared.device import pick
from shared.errors import UserError

CODE = "sprints.01_paws_of_dread.code"
bench = import_module(f"{CODE}.bench")
recipe = import_module(f"{CODE}.recipe")
snippets = import_module(f"{CODE}.snippets")
pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Every training collects garbage, which takes seconds in a process as large as this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint with the pocket tokenizer and hardly any weights."""
    folder, known = tmp_path_factory.mktemp("tiny") / "model", models.load("pocket", "cpu", "none")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {key: getattr(known.model.config, key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ids, num_key_value_heads=2, max_position_embeddings=512))
    model.generation_config = known.model.generation_config
    model.save_pretrained(folder)
    known.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sides():
    every = snippets.read()
    return snippets.split(every, "train")[:12], snippets.split(every, "validation")[:2]


@pytest.fixture(scope="module")
def made(tiny, sides):
    """The trainer of every arm."""
    return {name: bench.make(name, recipe.base(tiny, pick("cpu"), "qlora"), *sides, epochs=2, seed=0) for name in bench.NAMES}


def test_every_arm_trains_on_the_same_tokens_equally_often(made):
    ids = {name: sorted(map(list, one.train_dataset["input_ids"])) for name, one in made.items() if name != "packing"}
    assert all(rows == ids["plain"] for rows in ids.values()) and len(ids["plain"]) == 12
    assert {bench.tokens(one) for one in made.values()} == {sum(map(len, ids["plain"]))}
    assert {one.args.num_train_epochs for one in made.values()} == {2}


def test_plain_is_what_the_original_did(made):
    arguments, lora = made["plain"].args, made["plain"].model.peft_config["default"]
    assert (arguments.per_device_train_batch_size, arguments.max_grad_norm, arguments.max_length) == (2, 0.3, 512)
    assert (arguments.optim, arguments.lr_scheduler_type, arguments.learning_rate) == ("paged_adamw_32bit", "constant", 2e-4)
    assert arguments.activation_checkpointing and arguments.train_sampling_strategy == "group_by_length"
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (16, 32, 0.05, set(recipe.ORIGINAL_TARGETS))
    row = made["plain"].train_dataset[0]
    assert row["labels"] == row["input_ids"] and -100 in made["ours"].train_dataset[0]["labels"]  # the whole text counts


def test_a_lever_changes_one_setting(made):
    ours, free = made["ours"].args.to_dict(), {"output_dir", "logging_dir", "run_name"}
    for name, changes in (bench.PUT_BACK | bench.APART).items():
        theirs = made[name].args.to_dict()
        assert (
            {key for key in ours if ours[key] != theirs[key]} - free - {"gradient_checkpointing"}
            == {key for key in changes if ours[key] != theirs[key]}
            != set()
        ), name


def test_packed_rows_do_not_see_each_other(made):
    trainer = made["packing"]
    packed = trainer.train_dataset[0]
    assert len(packed["seq_lengths"]) > 1
    model = trainer.model.float().eval()
    batch = trainer.data_collator([packed])
    start = packed["seq_lengths"][0]
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[0, start:]
        alone = model(input_ids=batch["input_ids"][:, start : start + packed["seq_lengths"][1]]).logits[0]
    assert torch.allclose(together[: len(alone)], alone, atol=0.02)


def test_the_order_rotates_over_all_arms():
    rounds = [bench.rotated(bench.NAMES, turn) for turn in range(-1, len(bench.NAMES) - 1)]
    for place in range(len(bench.NAMES)):
        assert {order[place] for order in rounds} == set(bench.NAMES)


def test_main_at_toy_size(tiny, tmp_path, monkeypatch):
    seen, make = [], bench.make
    monkeypatch.setattr(bench, "make", lambda name, *rest: seen.append((name, rest[-2])) or make(name, *rest))
    args = bench.Args(smoke=True, model=tiny, device="cpu", out=tmp_path, only=("speed",))
    report = bench.main(args)["speed"]
    names = [name for name, _ in seen[: len(seen) // 2]]
    assert {"plain", "ours"} < set(names) and [name for name, _ in seen[len(names) :]] == bench.rotated(names, 1)
    assert {epochs for _, epochs in seen} == {1}
    for name in names:
        assert len(report["metrics"][f"tuning_rate_{name}"]["values"]) == 2
    assert {"lever_batch_2", "change_packing", "throughput_ratio_vs_plain_trl"} < set(report["metrics"])
    assert report["observations"] and "nats per token" in report["conclusion"] and "batch 2" in report["figures"][0]["matters"]


def test_arms_that_cannot_be_compared_are_refused(tiny, tmp_path, monkeypatch):
    args = bench.Args(smoke=True, model=tiny, device="cpu", out=tmp_path, only=("speed",))
    long = [replace(row, completion=row.completion + " and again" * 200) for row in snippets.read()]
    monkeypatch.setattr(bench.snippets, "read", lambda: long)
    with pytest.raises(UserError, match="not train on the same"):
        bench.main(args)
    for wrong in ({"only": ("sped",)}, {"rounds": 1}, {"epochs": 0}):
        with pytest.raises(UserError):
            bench.main(bench.Args(device="cpu", **wrong))
