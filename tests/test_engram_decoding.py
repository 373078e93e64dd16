"""Decoding with a cache gives what decoding without one gives: chunks, single steps, beams, drafts, padding, any kind of cache."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from transformers import DynamicCache

from shared import models
from shared.errors import UserError

adapter = import_module("sprints.04_engram.code.engram.adapter")
memory = import_module("sprints.04_engram.code.engram.memory")

CONFIG = memory.EngramConfig(orders=(2, 3, 5, 8), rows=211, layers=(1, 3))
TEXT = "Q: Who paints the red door?\nA: Marlene paints it, and nobody else paints the red door."
KINDS = {
    "guard": CONFIG,
    "convolution": replace(CONFIG, convolution=True),
    "no gate": replace(CONFIG, layers=(2,), gate="off"),
    "unigrams": replace(CONFIG, orders=(1,), gate="sigmoid", guard=False),
}


@pytest.fixture(scope="module")
def loaded():
    found = models.load("pocket", "cpu")
    found.model.generation_config.eos_token_id = None  # all texts of a test have one length
    return found


@pytest.fixture(params=KINDS)
def attached(request, loaded):
    """An adapter that knows TEXT, with random rows: its output depends strongly on every n-gram of it."""
    found = adapter.EngramAdapter(loaded.model, loaded.tokenizer, KINDS[request.param])
    found.learn([loaded.tokenizer(TEXT).input_ids])
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        found.memory.table.normal_(0, 1, generator=generator)
        for layer in found.memory.layers:
            layer.value.normal_(0, 0.1, generator=generator)
            if found.config.convolution:
                layer.taps.normal_(0, 0.5, generator=generator)
    yield found
    found.detach()


@pytest.fixture
def ids(loaded):
    return loaded.tokenizer(TEXT, return_tensors="pt").input_ids


def close(a, b):
    torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-3)


@torch.no_grad()
def chunked(model, ids, sizes, cache, **options):
    parts = []
    for start, part in zip([sum(sizes[:i]) for i in range(len(sizes))], ids.split(sizes, 1), strict=True):
        mask = {"attention_mask": options["mask"][:, : start + part.shape[1]]} if "mask" in options else {}
        parts.append(model(input_ids=part, past_key_values=cache, use_cache=True, **mask).logits)
    return torch.cat(parts, 1)


@torch.no_grad()
def test_chunks_and_single_steps_equal_the_whole_text(loaded, attached, ids):
    whole, length = loaded.model(input_ids=ids, use_cache=False).logits, ids.shape[1]
    with attached.disabled():
        assert (loaded.model(input_ids=ids).logits - whole).abs().max() > 0.5, "the memory must be felt"
    for sizes in ([12, *[1] * (length - 12)], [5, 7, 3, length - 15], [1] * length):
        close(chunked(loaded.model, ids, sizes, DynamicCache(config=loaded.model.config)), whole)
    close(chunked(loaded.model, ids, [4, 1, length - 5], DynamicCache()), whole)
    first = loaded.model(input_ids=ids[:, :9], use_cache=True)  # the model makes the cache itself
    close(loaded.model(input_ids=ids[:, 9:], past_key_values=first.past_key_values).logits, whole[:, 9:])


@torch.no_grad()
def test_batches_with_left_padding_and_a_cache(loaded, attached, ids):
    length = ids.shape[1]
    padded = torch.cat([torch.nn.functional.pad(ids[:, : length - 6], (6, 0), value=1), ids])
    mask = torch.ones_like(padded)
    mask[0, :6] = 0
    whole = chunked(loaded.model, padded, [length], DynamicCache(), mask=mask)
    alone = loaded.model(input_ids=ids, use_cache=False).logits
    close(whole[1:], alone)
    close(whole[:1, 6:], alone[:, :-6])
    stepped = chunked(loaded.model, padded, [4, 6, *[1] * (length - 10)], DynamicCache(), mask=mask)
    close(stepped[1], whole[1])
    close(stepped[0, 10:], whole[0, 10:])
    single = chunked(loaded.model, padded[:1], [4, 6, *[1] * (length - 10)], DynamicCache(), mask=mask[:1])
    close(single[0, 10:], whole[0, 10:])


MODES = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "several beams": {"num_beams": 3, "num_return_sequences": 3},
    "prefill in chunks": {"prefill_chunk_size": 3},
    "static cache": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attached", ["guard", "convolution", "unigrams"], indirect=True)  # past: tokens, values, none
def test_generation_is_the_same_with_and_without_a_cache(loaded, attached, ids, mode):
    prompt = torch.cat([torch.nn.functional.pad(ids[:, :12], (2, 0), value=1), ids[:, 3:17]])
    mask = (torch.arange(14) >= torch.tensor([[2], [0]])).long()
    options = {"attention_mask": mask, "max_new_tokens": 7, "do_sample": False}
    plain = {key: value for key, value in MODES[mode].items() if "cache" not in key and "chunk" not in key}
    cached = loaded.model.generate(prompt, **options, **MODES[mode])
    assert torch.equal(cached, loaded.model.generate(prompt, **options, **plain, use_cache=False))
    with attached.disabled():
        assert not torch.equal(cached, loaded.model.generate(prompt, **options, **plain))


def test_drafted_tokens_that_are_refused_leave_no_trace(loaded, attached, ids):
    """Prompt look-up proposes several tokens at once and crops the cache when the model says otherwise; so does an assistant."""
    prompt = ids[:, :20]
    options = {"max_new_tokens": 10, "do_sample": False}
    plain = loaded.model.generate(prompt, use_cache=False, **options)
    assert torch.equal(loaded.model.generate(prompt, prompt_lookup_num_tokens=3, max_matching_ngram_size=1, **options), plain)
    assistant = copy.deepcopy(loaded.model)
    for layer in assistant.model.layers:  # drafts without the memory: most are refused
        layer._forward_pre_hooks.clear()
    assistant.model._forward_pre_hooks.clear()
    assistant.model._forward_hooks.clear()
    assert torch.equal(loaded.model.generate(prompt, assistant_model=assistant, **options), plain)


def test_samples_of_one_prompt_do_not_mix(loaded, attached, ids):
    options = {
        "max_new_tokens": 8,
        "do_sample": True,
        "num_return_sequences": 3,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    torch.manual_seed(1)
    sampled = loaded.model.generate(ids[:, :10], **options)
    with torch.no_grad():
        whole = loaded.model(input_ids=sampled.sequences, use_cache=False).logits
    close(torch.stack(sampled.logits, 1), whole[:, 9:-1])


@torch.no_grad()
def test_a_cache_can_be_copied_repeated_cropped_and_reset(loaded, attached, ids):
    cache = DynamicCache(config=loaded.model.config)
    whole = loaded.model(input_ids=ids, use_cache=False).logits
    loaded.model(input_ids=ids[:, :20], past_key_values=cache)
    fork = copy.deepcopy(cache)
    loaded.model(input_ids=(ids[:, 20:25] + 9) % 4000, past_key_values=cache)
    cache.crop(-5)
    for other in (cache, fork):
        close(loaded.model(input_ids=ids[:, 20:], past_key_values=other).logits, whole[:, 20:])
    fork.crop(-7)
    fork.batch_repeat_interleave(2)
    fork.reorder_cache(torch.LongTensor([1, 0]))
    close(loaded.model(input_ids=ids[:, -7:].expand(2, -1), past_key_values=fork).logits, whole[:, -7:].expand(2, -1, -1))


def test_a_cache_filled_without_the_memory_is_refused(loaded, attached, ids):
    with attached.disabled():
        cache = loaded.model(input_ids=ids[:, :5], use_cache=True).past_key_values
    with pytest.raises(UserError, match="filled without the Engram memory"):
        loaded.model(input_ids=ids[:, 5:], past_key_values=cache)
    mixed = loaded.model(input_ids=ids[:, :5], use_cache=True).past_key_values
    with attached.disabled():
        loaded.model(input_ids=ids[:, 5:7], past_key_values=mixed)
    with pytest.raises(UserError, match="filled without the Engram memory"):
        loaded.model(input_ids=ids[:, 7:], past_key_values=mixed)


@torch.no_grad()
def test_decoding_unknown_text_computes_what_the_base_computes(loaded, attached):
    if not attached.config.guard:
        pytest.skip("without the guard every n-gram contributes")
    foreign = torch.tensor([[3000, 3100, 2900, 3333, 2718, 3141]])
    assert not attached.memory.guard.find(attached.memory.mixes(foreign))[0].any()
    runs = []
    for off in (True, False):
        attached._off, cache = off, DynamicCache()
        runs.append([loaded.model(input_ids=token, past_key_values=cache).logits for token in foreign.split(1, 1)])
    attached._off = False
    assert all(torch.equal(base, ours) for base, ours in zip(*runs, strict=True))


@torch.no_grad()
def test_kept_projections_follow_the_parameters(loaded, attached, ids):
    def last():
        cache = DynamicCache()
        loaded.model(input_ids=ids[:, :9], past_key_values=cache)
        return loaded.model(input_ids=ids[:, 9:10], past_key_values=cache).logits[0, -1]

    before = last()
    assert torch.equal(last(), before)
    attached.memory.table.mul_(0.5)
    assert (last() - before).abs().max() > 1e-2
    close(last(), loaded.model(input_ids=ids[:, :10], use_cache=False).logits[0, -1])
