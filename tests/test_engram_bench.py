"""Sprint 04: the clock times the same tokens for every arm, and the invariants tell a broken memory from a right one."""

from importlib import import_module

import numpy as np
import pytest
import torch

from shared.errors import UserError

CODE = "sprints.04_engram.code"
bench = import_module(f"{CODE}.bench")
latency = import_module(f"{CODE}.latency")
peers = import_module(f"{CODE}.peers")
hashing = import_module(f"{CODE}.engram.hashing")
patterns = import_module(f"{CODE}.patterns")
training = import_module(f"{CODE}.teaching.training")


def test_every_arm_says_what_is_dictated(loaded):
    clock = bench.Dictated([7, 0, 9, 7])  # 0 ends a text, but not this one
    ids = torch.tensor([[5, 6, 8]])
    processors = bench.LogitsProcessorList([clock])
    options = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None, "logits_processor": processors}
    said = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert said[0, 3:].tolist() == [7, 0, 9, 7]
    assert len(clock.marks) == 4 and clock.marks == sorted(clock.marks)


def test_the_clock_leaves_the_prompt_out(loaded):
    text = list(range(10, 10 + bench.PROMPT + 3))
    assert 0 < bench.decode_seconds(loaded.model, text) < 1
    assert 0 < bench.prefill_seconds(loaded.model, text[:32], 2) < 1


def test_rounds_read_other_parts_and_rotate():
    stream = list(range(10))
    assert [bench.chunk(stream, turn, 4) for turn in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    names = list(bench.ARMS)
    for place in range(len(names)):
        assert {bench.rotated(names, turn)[place] for turn in range(len(names))} == set(names)


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"tokens": 1}, {"lookups": 0}, {"table_rows": ()}, {"only": ("sped",)}])
def test_wrong_arguments_are_refused(wrong, tmp_path):
    with pytest.raises(UserError):
        bench.main(bench.Args(out=tmp_path, **wrong))


def test_look_ups_are_of_taught_positions_in_a_table_of_the_size_asked(loaded, tmp_path):
    rows = [training.encode(loaded, row.prompt, row.completion) for row in patterns.load().training_rows()[:40]]
    memory = latency.memory_of(tmp_path, hashing.Vocabulary.of(loaded.tokenizer, True), 256, 5000)
    assert 0.9 * 5000 <= memory.rows <= 1.2 * 5000 and memory.mapped.shape == (memory.rows, 8)
    memory.guard.learn([row.ids for row in rows], memory.mixes)
    every = latency.windows(rows, 8)
    assert len(set(every)) == len(every) > 100 and all(None not in memory.step(tokens) for tokens in every)
    rounds = [latency.part(every, turn, 50) for turn in range(2)]
    assert len({*rounds[0], *rounds[1]}) == 100, "no position of a round is warm from the one before"
    assert latency.part(every[:3], 1, 2) == [every[2], every[0]]
    assert latency.seconds(memory, rounds[0], torch.zeros(1, 1, 256)) > 0


def test_our_memory_holds_every_invariant():
    found = peers.ours(prompts=2)
    assert all(peers.held(check, found[check]) for check in peers.CHECKS) and found["effect"] > 0.1


def test_a_memory_without_history_is_found_out():
    """It reads pairs of tokens of the current call alone, as a public retrofit does, and padding like text."""

    def attach(loaded, taught):
        table = torch.zeros(64, 256)

        def hook(module, args, kwargs):
            ids = kwargs["input_ids"]
            rows = (ids + 3 * torch.nn.functional.pad(ids, (1, 0))[:, :-1]) % 64
            kwargs["inputs_embeds"] = module.embed_tokens(ids) + table[rows]
            return args, {**kwargs, "input_ids": None}

        loaded.model.model.register_forward_pre_hook(hook, with_kwargs=True)
        return peers.Attached(loaded.model, [table])

    found = peers.checked(attach, prompts=1)
    broken = {check for check in peers.CHECKS if not peers.held(check, found[check])}
    assert {"cached", "chunked", "untaught"} <= broken and "identity" not in broken


def test_latency_at_toy_size(tmp_path):
    args = bench.Args(smoke=True, out=tmp_path, only=("latency",), rounds=2, table_rows=(1000, 2000), lookups=5)
    report = bench.main(args)["latency"]
    assert np.isfinite(report["metrics"]["lookup_ratio_largest"]["mean"]) and report["claims"]
