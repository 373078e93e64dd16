"""Engram memory on a model: identity at the start, causality, the guard, sparse training, precision, other adapters."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from shared.errors import UserError

adapter = import_module("sprints.04_engram.code.engram.adapter")
memory = import_module("sprints.04_engram.code.engram.memory")

CONFIG = memory.EngramConfig(orders=(2, 3, 5, 8), rows=211, layers=(1, 3))
FACTS = ["The port of the harbour master is 4711.", "Q: Who paints the red door?\nA: Old Marlene does.", "zinc -> Zn, lead -> Pb"]


@pytest.fixture
def base(loaded):
    """The model, and a check that nothing was left on it."""
    names = {id(module): len(module._forward_pre_hooks) + len(module._forward_hooks) for module in loaded.model.modules()}
    yield loaded.model
    if (left := getattr(loaded.model.model, "engram_adapter", None)) is not None:
        for handle in left:
            handle.remove()
        del loaded.model.model.engram_adapter
    assert all(len(m._forward_pre_hooks) + len(m._forward_hooks) == names[id(m)] for m in loaded.model.modules())
    loaded.model.requires_grad_(True).zero_grad()
    loaded.model.eval()


def attach(model, loaded, config=CONFIG, taught=FACTS, filled=True):
    """An adapter that has learned texts; `filled` stands for training: random rows, so that everything known is felt."""
    found = adapter.EngramAdapter(model, loaded.tokenizer, config)
    found.learn([loaded.tokenizer(text).input_ids for text in taught])
    if filled:
        with torch.no_grad():
            found.memory.table.normal_(0, 1, generator=torch.Generator().manual_seed(7))
            for layer in found.memory.layers:
                layer.value.normal_(0, 0.3, generator=torch.Generator().manual_seed(8))
                if config.convolution:
                    layer.taps.normal_(0, 0.5, generator=torch.Generator().manual_seed(9))
    return found


def ids_of(loaded, text):
    return loaded.tokenizer(text, return_tensors="pt").input_ids


@torch.no_grad()
def logits(model, ids, **options):
    return model(input_ids=ids, use_cache=False, **options).logits


@pytest.mark.parametrize("init", ["zero_table", "zero_value"])
@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("gate", ["signed_sqrt", "sigmoid", "off"])
@pytest.mark.parametrize("convolution", [True, False])
def test_starts_as_the_base_bit_for_bit_and_the_first_gradient_reaches_it(base, loaded, init, guard, gate, convolution):
    ids = ids_of(loaded, FACTS[0])
    before, weights = logits(base, ids), {name: tensor.clone() for name, tensor in base.state_dict().items()}
    config = replace(CONFIG, init=init, guard=guard, gate=gate, convolution=convolution)
    found = attach(base, loaded, config, filled=False)
    assert torch.equal(logits(base, ids), before)
    base.requires_grad_(False)
    base(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    moved = found.memory.table.grad.coalesce().values() if init == "zero_table" else found.memory.layers[0].value.grad
    assert moved.abs().sum() > 0
    found.detach()
    assert torch.equal(logits(base, ids), before)
    assert list(base.state_dict()) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("convolution", [True, False])
def test_is_causal(base, loaded, convolution):
    attach(base, loaded, replace(CONFIG, convolution=convolution))
    ids = ids_of(loaded, FACTS[1])
    whole = logits(base, ids)
    for cut in range(1, ids.shape[1]):
        changed = torch.cat([ids[:, :cut], (ids[:, cut:] + 17) % 4000], 1)
        assert torch.equal(logits(base, changed)[:, :cut], whole[:, :cut]), cut


def test_known_text_is_felt_and_the_switch_and_detaching_restore_the_base(base, loaded):
    ids = ids_of(loaded, FACTS[0])
    before = logits(base, ids)
    found = attach(base, loaded)
    assert (logits(base, ids) - before).abs().max() > 0.1
    with found.disabled():
        assert torch.equal(logits(base, ids), before)
    with pytest.raises(TypeError), found.disabled():
        logits(base, "no ids")
    assert not torch.equal(logits(base, ids), before)
    found.detach()
    found.detach()
    assert torch.equal(logits(base, ids), before)


def test_text_without_known_n_grams_keeps_bit_equal_logits(base, loaded):
    found = attach(base, loaded)
    taught = {token for text in FACTS for token in loaded.tokenizer(text).input_ids}
    classes = {found.memory.vocabulary.classes[token] for token in taught}
    free = [token for token in range(4096) if found.memory.vocabulary.classes[token] not in classes]

    @settings(max_examples=12)
    @given(st.lists(st.sampled_from(free), min_size=1, max_size=20), st.sampled_from(sorted(taught)))
    def check(tokens, lone):
        for text in (tokens, [tokens[0], lone, *tokens]):  # one token of a fact is no n-gram of it
            ids = torch.tensor([text])
            with found.disabled():
                before = logits(base, ids)
            assert torch.equal(logits(base, ids), before)

    check()


def test_only_addressed_rows_move_and_they_keep_still_once_they_are_not_addressed(base, loaded):
    base.requires_grad_(False)
    found = attach(base, loaded, replace(CONFIG, rows=2003))
    editing = import_module("sprints.04_engram.code.engram.editing")
    optimizer = found.optimizer(1e-2)
    for text in (FACTS[0], FACTS[1]):  # the momentum of the first must not move its rows in the second round
        ids = ids_of(loaded, text)
        mixes = found.memory.mixes(ids)[0]
        every = memory.Found(mixes, found.memory.guard.find(mixes)[0], mixes * 0)
        used = torch.zeros(found.memory.rows, dtype=torch.bool)
        for layer in range(2):
            used[found.memory.addresses(layer, every)[every.known]] = True
        assert 0 < used.sum() < found.memory.rows / 10
        before = found.memory.table.detach().clone()
        padded = torch.nn.functional.pad(ids, (5, 0), value=1)
        for _ in range(3):
            labels = torch.nn.functional.pad(ids, (5, 0), value=-100)
            optimizer.zero_grad()
            base(input_ids=padded, attention_mask=(labels >= 0).long(), labels=labels).loss.backward()
            optimizer.step()
        same = (found.memory.table == before).all(1)
        assert torch.equal(same, ~used)
    assert (
        editing.rows_used(found.memory, [(k, p) for k, _, p in map(found.memory.guard.columns, CONFIG.orders)]).sum() > used.sum()
    )


def test_training_teaches_a_fact_and_leaves_the_base_without_gradients(base, loaded):
    base.requires_grad_(False)
    ids = ids_of(loaded, FACTS[0])
    found = attach(base, loaded, replace(CONFIG, layers=(1,)), filled=False)
    optimizer = found.optimizer(1e-2)
    losses = []
    for _ in range(15):
        loss = base(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
    assert len(optimizer.param_groups) == 2 and all(p.grad is None for p in base.parameters())


@pytest.mark.parametrize("convolution", [True, False])
def test_padding_on_either_side_changes_nothing(base, loaded, convolution):
    attach(base, loaded, replace(CONFIG, convolution=convolution))
    ids = ids_of(loaded, FACTS[2])
    alone = logits(base, ids)
    for left, right in ((3, 0), (0, 4), (40, 2)):
        padded = torch.nn.functional.pad(ids, (left, right), value=1)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        for options in ({"attention_mask": mask}, {"attention_mask": mask, "position_ids": positions}):
            got = logits(base, padded, **options)[:, left : left + ids.shape[1]]
            torch.testing.assert_close(got, alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("convolution", [True, False])
def test_packed_documents_do_not_see_each_other(base, loaded, convolution):
    attach(base, loaded, replace(CONFIG, convolution=convolution))
    texts = [ids_of(loaded, text) for text in FACTS]
    packed = torch.cat(texts, 1)
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in texts]).unsqueeze(0)
    alone = torch.cat([logits(base, ids) for ids in texts], 1)
    torch.testing.assert_close(logits(base, packed, position_ids=positions), alone, atol=2e-4, rtol=1e-4)
    assert (logits(base, packed) - alone).abs().max() > 0.1


def test_bfloat16_base_keeps_its_type_and_the_memory_computes_in_float32(loaded):
    model = copy.deepcopy(loaded.model).to(torch.bfloat16)
    ids = ids_of(loaded, FACTS[0])
    before = logits(model, ids)
    found = attach(model, loaded)
    assert {parameter.dtype for parameter in found.memory.parameters()} == {torch.float32}
    after = logits(model, ids)
    assert after.dtype == torch.bfloat16 and not torch.equal(after, before)
    assert torch.equal(logits(model, ids[:, :1]), before[:, :1]) or found.inspect(ids[0].tolist())[0].orders
    with torch.no_grad():
        found.memory.table.zero_()
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(loaded, reentrant):
    model = copy.deepcopy(loaded.model).requires_grad_(False).train()
    found = attach(model, loaded)
    texts = [ids_of(loaded, text) for text in FACTS[:2]]
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        (
            model(input_ids=texts[0], labels=texts[0]).loss + model(input_ids=texts[1], labels=texts[1]).loss
        ).backward()  # two passes before one backward
        gradients.append([p.grad.to_dense().clone() for p in found.trainable_parameters()])
        found.memory.zero_grad()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("lora_first", [True, False])
def test_works_with_lora_in_both_orders(loaded, lora_first):
    model, ids = copy.deepcopy(loaded.model), ids_of(loaded, FACTS[0])
    plain = logits(model, ids)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    if lora_first:
        wrapped = get_peft_model(model, lora)
        with_lora = logits(wrapped, ids)
        found = attach(wrapped, loaded)
    else:
        found = attach(model, loaded)
        wrapped = get_peft_model(model, lora)
        with found.disabled():
            with_lora = logits(wrapped, ids)
    both = logits(wrapped, ids)
    assert not torch.allclose(with_lora, plain) and not torch.allclose(both, with_lora)
    assert not [name for name in wrapped.state_dict() if "engram" in name or "memory" in name]
    uncached = wrapped.generate(input_ids=ids[:, :6], max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(wrapped.generate(input_ids=ids[:, :6], max_new_tokens=8, do_sample=False), uncached)
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(logits(merged, ids), both, atol=2e-3, rtol=1e-3)
    found.detach()
    assert not torch.allclose(logits(merged, ids), both, atol=1e-2)


def test_budget_is_met_as_nearly_as_the_primes_allow(base, loaded):
    config = memory.within_budget(memory.EngramConfig(layers=(0, 2), convolution=True), 256, 400_000)
    assert adapter.EngramAdapter(base, loaded.tokenizer, config).parameter_count == config.parameters(256) <= 400_000
    assert replace(config, rows=config.rows + 1).parameters(256) > 400_000

    @settings(max_examples=30)
    @given(st.integers(200_000, 3_000_000), st.sampled_from([(1,), (2, 3), (2, 3, 5, 8)]), st.integers(1, 8), st.integers(1, 16))
    def check(parameters, orders, heads, width):
        config = memory.within_budget(
            memory.EngramConfig(orders=orders, heads=heads, head_width=width, gate="off"), 256, parameters
        )
        assert config.parameters(256) <= parameters < replace(config, rows=config.rows + 1).parameters(256)

    check()
    with pytest.raises(UserError, match="too few for this memory, which has at least"):
        memory.within_budget(memory.EngramConfig(), 256, 1000)


def test_bad_input_is_refused_in_one_line(base, loaded):
    for bad in (
        {"orders": ()},
        {"orders": (3, 2)},
        {"orders": (0, 1)},
        {"layers": (-1,)},
        {"heads": 0},
        {"gate": "on"},
        {"rows": -1},
    ):
        with pytest.raises(UserError):
            replace(CONFIG, **bad)
    with pytest.raises(UserError, match="no rows"):
        adapter.EngramAdapter(base, loaded.tokenizer, memory.EngramConfig())
    with pytest.raises(UserError, match="there is no layer 6"):
        adapter.EngramAdapter(base, loaded.tokenizer, replace(CONFIG, layers=(6,)))
    with pytest.raises(UserError, match="no list of decoder layers"):
        adapter.EngramAdapter(torch.nn.Linear(2, 2), loaded.tokenizer, CONFIG)
    found = attach(base, loaded)
    with pytest.raises(UserError, match="already"):
        adapter.EngramAdapter(base, loaded.tokenizer, CONFIG)
    embeds = base.get_input_embeddings()(ids_of(loaded, "Hello"))
    with pytest.raises(UserError, match="input_ids, not inputs_embeds"):
        base(inputs_embeds=embeds)
    with found.disabled():
        assert base(inputs_embeds=embeds).logits.shape[-1] == 4096
