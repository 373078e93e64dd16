"""Engram's hash against a slow reference, its primes, the compression of the vocabulary, and the guard's bookkeeping."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import models
from shared.errors import UserError

hashing = import_module("sprints.04_engram.code.engram.hashing")
memory = import_module("sprints.04_engram.code.engram.memory")
guard = import_module("sprints.04_engram.code.engram.guard")

TOKENIZER = models.load("pocket", "cpu").tokenizer
VOCABULARY = hashing.Vocabulary.of(TOKENIZER, True)
CONFIG = memory.EngramConfig(orders=(1, 2, 3, 5), heads=3, rows=50, layers=(1, 4), head_width=2, seed=3)
MEMORY = memory.EngramMemory(CONFIG, VOCABULARY, 16)
GOLDEN_FACTORS = [1468733653847133, 622085807911155, 94478513731125]  # seed 0, 4000 classes
GOLDEN_MIXES = [10281135576929931, 13381367290339892, 365095709278854676]  # of the classes 7, 5, 4000
TEXTS = st.lists(st.integers(-1, len(TOKENIZER) + 5), min_size=1, max_size=12)


def slow_mix(ids, position, order):
    """The definition, in Python's unbounded integers."""
    mix = 0
    for back in range(order):
        token = ids[position - back] if position >= back else -1
        known = 0 <= token < len(VOCABULARY.classes)
        mix ^= (VOCABULARY.classes[token] if known else VOCABULARY.dead) * MEMORY.python_factors[back]
    return mix


@settings(max_examples=60)
@given(TEXTS)
def test_hash_equals_the_slow_reference_on_every_path(ids):
    mixes = MEMORY.mixes(torch.tensor([ids]))
    found = memory.Found(mixes[0], mixes[0] >= 0, mixes[0] * 0)
    start = 0
    for layer in range(len(CONFIG.layers)):
        rows = MEMORY.addresses(layer, found)
        for column, order in enumerate(CONFIG.orders):
            for head in range(CONFIG.heads):
                prime = int(MEMORY.primes[layer, column, head])
                expected = [slow_mix(ids, position, order) % prime + start for position in range(len(ids))]
                assert rows[:, column, head].tolist() == expected
                start += prime
    window = [*reversed(ids), *[-1] * 5][:5]
    classes = [VOCABULARY.classes[t] if 0 <= t < len(VOCABULARY.classes) else VOCABULARY.dead for t in window]
    assert hashing.mixes_of_last(classes, MEMORY.python_factors, CONFIG.orders) == mixes[0, -1].tolist()
    assert start == MEMORY.rows
    assert bool((mixes >= 0).all())


def test_mixes_never_overflow():
    for seed in range(20):
        for dead in (1, 2, 129_280, 10**6):
            assert all(factor % 2 == 1 and factor * dead <= hashing.LARGEST for factor in hashing.multipliers(seed, 8, dead))


def test_golden_values():
    """Stored memories address their rows by these numbers: a change of the hash would scramble them silently."""
    factors = hashing.multipliers(0, 3, 4000)
    assert factors == GOLDEN_FACTORS
    assert hashing.mixes_of_last([7, 5, 4000], factors, (1, 2, 3)) == GOLDEN_MIXES
    assert hashing.primes_from(50, 5) == [53, 59, 61, 67, 71]


def test_primes_are_prime_distinct_and_ascending():
    primes = MEMORY.primes.flatten().tolist()
    assert len(set(primes)) == len(primes) == 2 * 4 * 3
    assert min(primes) >= CONFIG.rows and primes == sorted(primes)
    assert not [p for p in primes for divisor in range(2, p) if p % divisor == 0]
    assert hashing.primes_from(0, 5) == [2, 3, 5, 7, 11]


def test_heads_are_independent():
    """The signature of all heads tells real n-grams apart, although each head alone has far fewer rows than there are keys."""
    text = "\n".join(f"Q: What is the code of item {number}?\nA: {number * 7919 % 10007}" for number in range(300))
    mixes = MEMORY.mixes(torch.tensor([TOKENIZER(text, verbose=False).input_ids]))[0]
    keys = mixes[:, 2].unique()
    assert len(keys) > 900
    wide = memory.EngramMemory(memory.EngramConfig(orders=(3,), heads=4, rows=500), VOCABULARY, 8)
    signatures = keys.unsqueeze(-1) % wide.primes[0, 0]
    assert len(torch.unique(signatures, dim=0)) == len(keys)
    assert len(torch.unique(signatures[:, :1], dim=0)) < len(keys)


def test_compression_joins_case_accents_and_spaces_and_nothing_else():
    tokens = ["Apple", " apple", "APPLE", "é", "e", " ", "\n", "\ufffd", "\ufffd", "<end>", "ﬁ", "fi", "\u0301"]
    strings = [f"t{number}" for number in range(len(tokens))]
    fake = SimpleNamespace(
        decode=lambda ids, **_: tokens[ids[0]],
        convert_ids_to_tokens=lambda ids: [strings[i] for i in ids],
        all_special_ids=[9],
        added_tokens_decoder={9: "<end>"},
    )
    fake = type(
        "Fake",
        (),
        {"__len__": lambda self: len(tokens), **{k: staticmethod(v) if callable(v) else v for k, v in vars(fake).items()}},
    )()
    classes = hashing.Vocabulary.of(fake, True).classes
    assert len({classes[0], classes[1], classes[2]}) == 1
    assert classes[3] == classes[4] and classes[10] == classes[11]
    assert classes[5] == classes[6] not in {classes[i] for i in (0, 3, 7, 9, 12)}
    assert classes[7] != classes[8], "parts of characters never merge"
    assert classes.count(classes[9]) == classes.count(classes[12]) == 1
    plain = hashing.Vocabulary.of(fake, False)
    assert plain.classes == tuple(range(13)) and plain.dead == 13


def test_compression_of_a_real_tokenizer_is_total_and_surjective_and_normalising_twice_changes_nothing():
    assert len(VOCABULARY.classes) == len(TOKENIZER)
    assert set(VOCABULARY.classes) == set(range(VOCABULARY.dead))
    assert VOCABULARY.dead < len(TOKENIZER)
    for token in range(len(TOKENIZER)):
        text = TOKENIZER.decode([token])
        assert hashing.normalised(hashing.normalised(text)) == hashing.normalised(text)
    for token in TOKENIZER.all_special_ids:
        assert VOCABULARY.classes.count(VOCABULARY.classes[token]) == 1


def mixes_of(ids):
    return torch.stack([ids, ids * 1000 + torch.nn.functional.pad(ids, (1, 0), value=999)[:, :-1]], -1)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=6), st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=6))
def test_guard_counts_references(first, second):
    """Learning in one go or in two is the same; forgetting what came last restores what was."""
    once, twice, before = (guard.Guard((1, 2)) for _ in range(3))
    once.learn([*first, *second], mixes_of)
    twice.learn(first, mixes_of)
    before.learn(first, mixes_of)
    twice.learn(second, mixes_of)
    for name, tensor in once.named_buffers():
        assert torch.equal(tensor, twice.get_buffer(name)), name
    singles = {token for ids in [*first, *second] for token in ids[:-1]}
    assert once.sets()[0] == singles
    fresh = [ids for ids in second if ids not in first]
    if fresh:
        twice.forget(fresh, mixes_of)
    for name, tensor in before.named_buffers():
        assert torch.equal(tensor, twice.get_buffer(name)), name
    known, _ = once.find(torch.tensor([[5, 5000], [77, 3]]))
    assert known[:, 0].tolist() == [5 in singles, False]


def test_guard_refuses_to_forget_what_it_never_learned():
    taught = guard.Guard((1, 2))
    taught.learn([[1, 2, 3]], mixes_of)
    with pytest.raises(UserError, match="1 of 2 sequences were never taught"):
        taught.forget([[1, 2, 3], [1, 2]], mixes_of)
    assert taught.sets()[0] == {1, 2}
