"""Memories on disk and as objects: saved, mapped, damaged, inspected, forgotten, merged."""

import copy
import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import UserError

adapter = import_module("sprints.04_engram.code.engram.adapter")
hashing = import_module("sprints.04_engram.code.engram.hashing")
editing = import_module("sprints.04_engram.code.engram.editing")
memory = import_module("sprints.04_engram.code.engram.memory")
storage = import_module("sprints.04_engram.code.engram.storage")

CONFIG = memory.EngramConfig(orders=(2, 3, 5, 8), rows=211, layers=(1, 3))
FACTS = ["The port of the harbour master is 4711.", "The port of the lighthouse keeper is 4812.", "zinc -> Zn, lead -> Pb"]


@pytest.fixture
def attach(loaded):
    """Makes adapters, taught and with random rows; takes the last one off the model again."""
    made = []

    def make(config=CONFIG, taught=FACTS, seed=7):
        if made:
            made[-1].detach()
        made.append(adapter.EngramAdapter(loaded.model, loaded.tokenizer, config))
        made[-1].learn([loaded.tokenizer(text).input_ids for text in taught])
        with torch.no_grad():
            made[-1].memory.table.normal_(0, 1, generator=torch.Generator().manual_seed(seed))
        return made[-1]

    yield make
    for handle in getattr(loaded.model.model, "engram_adapter", []):
        handle.remove()
    loaded.model.model.engram_adapter = None


@torch.no_grad()
def logits(loaded, text):
    return loaded.model(**loaded.tokenizer(text, return_tensors="pt"), use_cache=False).logits


@torch.no_grad()
def stepped(loaded, text):
    """The logits of the last token, decoded alone after the others."""
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids
    cache = loaded.model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    return loaded.model(input_ids=ids[:, -1:], past_key_values=cache).logits


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    "change", [{}, {"guard": False}, {"convolution": True, "gate": "sigmoid"}, {"gate": "off", "layers": (2,)}]
)
def test_saved_memory_loads_bit_for_bit(loaded, attach, tmp_path, change, mapped):
    found = attach(replace(CONFIG, **change))
    before, alone = logits(loaded, FACTS[0]), stepped(loaded, FACTS[0])
    found.save(tmp_path / "memory")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["engram.json", "engram.safetensors"]
    size = (tmp_path / "memory" / "engram.safetensors").stat().st_size
    assert found.stored_bytes <= size <= found.stored_bytes + 4000
    found.detach()
    assert not torch.equal(logits(loaded, FACTS[0]), before)
    again = adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, tmp_path / "memory", mapped=mapped)
    try:
        assert torch.equal(logits(loaded, FACTS[0]), before) and torch.equal(stepped(loaded, FACTS[0]), alone)
        assert again.config == found.config
        if mapped:
            assert again.parameter_count < found.parameter_count
            for refused in (lambda: again.optimizer(1e-3), lambda: again.save(tmp_path / "other"), lambda: again.forget([[1, 2]])):
                with pytest.raises(UserError, match="mapped"):
                    refused()
    finally:
        again.detach()


def test_saving_replaces_a_memory_and_nothing_else(loaded, attach, tmp_path, monkeypatch):
    folder = tmp_path / "memory"
    attach(seed=1).save(folder)
    old = (folder / "engram.safetensors").read_bytes()
    found = attach(seed=2)

    def full(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", full)
        with pytest.raises(OSError, match="no space"):
            found.save(folder)
    assert (folder / "engram.safetensors").read_bytes() == old and [path.name for path in tmp_path.iterdir()] == ["memory"]
    found.save(folder)
    assert (folder / "engram.safetensors").read_bytes() != old and [path.name for path in tmp_path.iterdir()] == ["memory"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        found.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years of work"


def corrupt(folder, how):
    weights, config = folder / "engram.safetensors", folder / "engram.json"
    about = json.loads(config.read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "no json":
        config.write_text("{")
    elif how == "a list":
        config.write_text("[]")
    elif how == "future format":
        config.write_text(json.dumps(about | {"format": 2}))
    elif how == "unknown setting":
        config.write_text(json.dumps(about | {"config": about["config"] | {"depth": 3}}))
    elif how == "bad setting":
        config.write_text(json.dumps(about | {"config": about["config"] | {"heads": 0}}))
    elif how == "huge table":
        config.write_text(json.dumps(about | {"config": about["config"] | {"rows": 10**15}}))
    elif how == "other rows":
        config.write_text(json.dumps(about | {"config": about["config"] | {"rows": 230}}))
    elif how == "other orders":
        config.write_text(json.dumps(about | {"config": about["config"] | {"orders": [2, 3, 5]}}))
    elif how == "unsorted guard":
        tensors = dict(load_file(weights))
        tensors["guard.keys_2"] = tensors["guard.keys_2"].flip(0).contiguous()
        save_file(tensors, weights)


DAMAGES = ["truncated", "empty", "no json", "a list", "future format", "unknown setting", "bad setting", "huge table"]
DAMAGES += ["other rows", "other orders", "unsorted guard"]


@pytest.mark.parametrize(("mapped", "damages"), [(True, DAMAGES), (False, ["truncated", "huge table"])])
def test_damaged_files_are_refused_in_one_line_and_the_model_stays_bare(loaded, attach, tmp_path, mapped, damages):
    found = attach()
    found.save(tmp_path / "good")
    found.detach()
    before = logits(loaded, FACTS[0])
    for how in damages:
        folder = tmp_path / how
        folder.mkdir()
        for path in (tmp_path / "good").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        corrupt(folder, how)
        with pytest.raises(UserError, match="is damaged") as caught:
            adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, folder, mapped=mapped)
        assert "\n" not in str(caught.value), how
        assert torch.equal(logits(loaded, FACTS[0]), before)
    with pytest.raises(UserError, match=r"no Engram memory in .*it has no engram.json"):
        adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, tmp_path / "nowhere")


def test_another_tokenizer_or_width_is_refused(loaded, attach, tmp_path, monkeypatch):
    found = attach()
    found.save(tmp_path / "memory")
    found.detach()
    other = copy.deepcopy(loaded.tokenizer)
    other.add_tokens(["brandnew"])
    with pytest.raises(UserError, match="another tokenizer"):
        adapter.EngramAdapter.load(loaded.model, other, tmp_path / "memory")
    with monkeypatch.context() as patch:  # the tables of another Unicode: the same tokens, other classes
        patch.setattr(hashing, "normalised", lambda text: text)
        with pytest.raises(UserError, match="another tokenizer"):
            adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, tmp_path / "memory")
    about = json.loads((tmp_path / "memory" / "engram.json").read_text())
    (tmp_path / "memory" / "engram.json").write_text(json.dumps(about | {"hidden_size": 128}))
    with pytest.raises(UserError):
        adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, tmp_path / "memory")
    narrow = memory.EngramMemory(CONFIG, found.memory.vocabulary, 128)
    with pytest.raises(UserError, match="for models of width 128, not 256"):
        adapter.EngramAdapter(loaded.model, loaded.tokenizer, CONFIG, narrow)


def test_a_deep_copy_takes_its_memory_along(loaded, attach):
    found = attach()
    ids = torch.tensor([loaded.tokenizer(FACTS[0])["input_ids"]])
    with torch.no_grad():
        known = loaded.model(input_ids=ids).logits
        copied = copy.deepcopy(loaded.model)
        with found.disabled():
            bare = loaded.model(input_ids=ids).logits
        assert torch.equal(copied(input_ids=ids).logits, known) and not torch.equal(bare, known)


def test_inspect_tells_the_known_orders_and_gates(loaded, attach):
    found = attach(replace(CONFIG, orders=(2, 3)), taught=FACTS[:1])
    ids = loaded.tokenizer(FACTS[0]).input_ids
    foreign = next(token for token in range(3000, 4096) if not set(found.memory.vocabulary.classes[token : token + 1]) & set(ids))
    readings = found.inspect([*ids[:4], foreign, *ids[4:7]])
    assert [reading.orders for reading in readings] == [(2, 3)] * 4 + [(), (), (2,), (2, 3)]
    assert all(len(reading.gates) == (2 if reading.orders else 0) for reading in readings)
    assert all(0 < gate < 1 for reading in readings for gate in reading.gates)
    assert [reading.token for reading in readings[:4]] == ids[:4]
    assert {reading.gates for reading in attach(replace(CONFIG, gate="off")).inspect(ids[:5])} == {(1.0, 1.0)}


def test_forgetting_a_fact_removes_it_and_leaves_the_others_bit_for_bit(loaded, attach):
    variants = [FACTS[0], "Tell me: " + FACTS[0]]
    found = attach(taught=[*FACTS, variants[1]])
    with found.disabled():
        base = [logits(loaded, text) for text in variants]
    before = [logits(loaded, text) for text in FACTS[1:]]
    table = found.memory.table.detach().clone()
    removed = found.forget([loaded.tokenizer(text).input_ids for text in variants])
    assert removed > 10
    for text, was in zip(FACTS[1:], before, strict=True):
        assert torch.equal(logits(loaded, text), was)
        with found.disabled():
            assert not torch.equal(logits(loaded, text), was)
    known = [reading.orders for reading in found.inspect(loaded.tokenizer(variants[0]).input_ids)]
    assert (8 not in known[-1]) and not known[-2], "what tells the fact apart is unknown now"
    changed = (found.memory.table != table).any(1)
    assert changed.any() and not found.memory.table[changed].any(), "its own rows are zero"
    with pytest.raises(UserError, match="never taught"):
        found.forget([loaded.tokenizer(variants[0]).input_ids])
    found.forget([loaded.tokenizer(text).input_ids for text in FACTS[1:]])
    assert not found.memory.table[
        editing.rows_used(found.memory, [(k, p) for k, _, p in map(found.memory.guard.columns, CONFIG.orders)])
    ].any()
    assert all(torch.equal(logits(loaded, text), was) for text, was in zip(variants, base, strict=True))


def test_one_variant_at_a_time_forgets_as_well(loaded, attach):
    found = attach(taught=[FACTS[0], "Tell me: " + FACTS[0]])
    found.forget([loaded.tokenizer(FACTS[0]).input_ids])
    assert found.inspect(loaded.tokenizer(FACTS[0]).input_ids)[8].orders, "the other variant still needs it"
    found.forget([loaded.tokenizer("Tell me: " + FACTS[0]).input_ids])
    assert not any(len(keys) for keys in found.memory.guard.sets())


PACKS = (["zinc -> Zn, lead -> Pb"], ["The port of the harbour master is 4711."])


def test_merged_memories_know_what_each_knew(loaded, attach, tmp_path):
    one = attach(taught=PACKS[0], seed=1)
    first = logits(loaded, PACKS[0][0])
    other = attach(taught=PACKS[1], seed=2)
    second, alone = logits(loaded, PACKS[1][0]), stepped(loaded, PACKS[1][0])
    other.detach()
    bare = logits(loaded, PACKS[0][0])
    merged = adapter.EngramAdapter(loaded.model, loaded.tokenizer, CONFIG, editing.merge(one, other))
    assert torch.equal(logits(loaded, PACKS[0][0]), first) and not torch.equal(bare, first)
    assert torch.equal(logits(loaded, PACKS[1][0]), second) and torch.equal(stepped(loaded, PACKS[1][0]), alone)
    merged.save(tmp_path / "merged")
    merged.detach()
    again = adapter.EngramAdapter.load(loaded.model, loaded.tokenizer, tmp_path / "merged")
    assert torch.equal(logits(loaded, PACKS[1][0]), second)
    again.forget([loaded.tokenizer(PACKS[0][0]).input_ids])
    assert torch.equal(logits(loaded, PACKS[0][0]), bare) and torch.equal(logits(loaded, PACKS[1][0]), second)
    again.detach()


def test_memories_that_do_not_fit_are_not_merged(attach):
    one = attach(taught=PACKS[0])
    with pytest.raises(UserError, match=r"share .* n-grams of order 2"):
        editing.merge(one, attach(taught=PACKS[0]))
    with pytest.raises(UserError, match="hash seed"):
        editing.merge(one, attach(replace(CONFIG, seed=1), taught=PACKS[1]))
    with pytest.raises(UserError, match="guards' records"):
        editing.merge(attach(replace(CONFIG, guard=False)), attach(replace(CONFIG, guard=False)))
    trained = attach(taught=PACKS[1])
    with torch.no_grad():
        trained.memory.layers[0].value.add_(0.1)
    with pytest.raises(UserError, match=r"freeze_projections\(\)"):
        editing.merge(one, trained)


def test_frozen_projections_leave_the_table_to_train(attach):
    found = attach()
    found.freeze_projections()
    assert [parameter is found.memory.table for parameter in found.trainable_parameters()] == [True]
    assert len(found.optimizer(1e-3).param_groups) == 1
