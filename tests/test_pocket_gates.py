"""Sprint 00: the rules of names and grammar, the questions, the n-gram baseline, and what the gates count."""

import random
import re
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shared.errors import UserError

CODE = "sprints.00_pocket_brain.code"
corpus = import_module(f"{CODE}.text.corpus")
tokenizer = import_module(f"{CODE}.text.tokenizer")
gates = import_module(f"{CODE}.gates")
rules = import_module(f"{CODE}.rules")
evaluate = import_module(f"{CODE}.evaluate")
kneser_ney = import_module(f"{CODE}.kneser_ney")
Sample = import_module(f"{CODE}.text.sample").Sample

WELCOME = (
    "It was Zorb, a fan who builds instruments. | They called him Zorb. | She asked her old friend, Zorb, for help. | "
    'She waved to Captain Zorb. | "I am Zorb," said the cat.'
)
STRANGERS = (  # nobody says who they are
    "Then Tom laughed. | She met Zorb there. | She went to meet Zorb. | Then she gave Zorb a drum. | Then she gave "
    "Zorb the cat. | The dog saw Zorb. | Then her mother told Zorb everything. | A small bird woke Zorb. | He "
    "thanked Zorb, the wind blew. | When she saw Zorb, the dog barked. | She called Zorb."
)
GOOD = (
    "What should he do? | If I were you, I would go. If it were late, I would worry. | Tom and I are late. | Did she have a dog? | "
    "Does it have a tail? Why don't they go? | It looked as if it were made of glass, as it were. | She let him go. It made him do "
    "more than she did. | There sat a one-eyed cat with a unicorn and an umbrella. | That is what it is made of. He had had enough."
)
BEFORE = "Once there was a girl named Mira. She had a drum."


@pytest.fixture(scope="module")
def brain():
    return tokenizer.train(corpus.synthetic("story", False, 0.1, 5), 600)


@pytest.fixture(scope="module")
def begun():
    """Openings and true continuations of about the length that the model writes."""
    found = gates.openings(150)
    return [opening for opening, _, _ in found], [" ".join(rest.split(" ")[:90]) for _, rest, _ in found]


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("Mira was happy.", [True]),
        ("Her brother Tom laughed. Tom was loud.", [True, True]),
        ("A tea merchant called Zorb came. Zorb sat down.", [True, True]),
        ("In came Zorb, a friendly giant. Zorb sang.", [True, True]),
        ("By the door lay Smudge the cat.", [True]),
        ("Zorb was not there. At home sat Zorb, the baker's boy.", [False, False]),
        ("She knew the sisters Ada and Zorb.", [True, True]),
        ("She gave the drum to Zorb. Zorb was glad.", [False, False]),
        ("Tomorrow came, and Tom laughed. His brother Tom was loud.", [False, False]),
        ("She sailed to Clayhanger on the Red Wasp and won the Comet Cup in the floating harbour of Nimbus.", []),
        ("She moved to the town of Zorbia and lived in Zorbia.", []),
        ('"I am glad," said Mira. On Monday it rained, and in May it snowed.', [True]),
    ],
)
def test_who_is_named(text, verdicts):
    assert rules.names_introduced(BEFORE, text) == verdicts


@pytest.mark.parametrize(("texts", "verdict"), [(WELCOME, True), (STRANGERS, False)])
def test_who_was_introduced(texts, verdict):
    for text in texts.split(" | "):
        assert rules.names_introduced(BEFORE, text) == [verdict], text


def test_capitals_are_words_that_a_mention_can_be():
    assert all(re.fullmatch(r"[A-Z][a-z]+", word) for word in rules.CAPITALS)


def share(verdicts) -> float:
    return float(np.mean([good for story in verdicts for good in story]))


def test_names_ceiling_and_floor(begun):
    """The rules let true continuations pass and those of other stories not: what a new person is does not depend on the opening."""
    before, true = begun
    assert share(gates.name_verdicts(before, true)) >= 0.98
    assert share(gates.name_verdicts(before[1:] + before[:1], true)) <= 0.3


def test_invented_names_in_true_text_are_found(begun):
    before, true = begun
    spoiled = [re.sub(r"(\w) (and|but) ", r"\1 \2 Zorb ", text) for text in true]
    changed = [place for place, text in enumerate(true) if text != spoiled[place]]
    verdicts = gates.name_verdicts([before[place] for place in changed], [spoiled[place] for place in changed])
    assert len(changed) > 30 and np.mean([all(story) for story in verdicts]) < 0.05


@pytest.mark.parametrize("text", ["", " ", "Mira was happy.", "Mira " * 39])
def test_short_continuations_fail(text):
    verdicts = gates.name_verdicts([BEFORE], [text])
    assert verdicts[0] and not any(verdicts[0])
    assert not gates.clean(text)


def test_cluster_interval_is_wider_than_that_of_mentions():
    stories = [[True], [False]] * 100
    apart, together = [str(place) for place in range(200)], [str(place % 20) for place in range(200)]
    (low, high), (wide_low, wide_high) = (gates.cluster_interval(stories, plots) for plots in (apart, together))
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 200**0.5, abs=0.01)
    assert wide_high - wide_low > 2.5 * (high - low)
    assert gates.cluster_interval([[True] * 50, [], [True]], "abc")[0] < 0.5 and gates.cluster_interval([[True]] * 2, "ab")[1] == 1


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.name)
def test_grammar_rules_find_faults_and_nothing_else(rule):
    assert rule.name in rules.faults(rule.wrong)
    assert rule.name not in rules.faults(rule.right)


def test_a_quote_left_open():
    assert rules.faults('"Come here, said Tom.\n\nIt rained.') == ["a quote left open"]
    assert not rules.faults('"Come here," said Tom.\n\n"It rains')  # the end may be cut


def test_grammar_rules_pass_good_sentences():
    for text in GOOD.split(" | "):
        assert rules.faults(text) == [], text


def test_grammar_passes_true_text_and_catches_shuffled_words(begun):
    _, true = begun
    rng = random.Random(0)
    assert np.mean([gates.clean(text) for text in true]) >= 0.97
    assert np.mean([gates.clean(gates.shuffled(text, rng)) for text in true]) <= 0.2


def test_shuffling_keeps_words_capitals_and_stops():
    text = '"Where is Mira?" he asked. The old dog Tom slept.'
    mixed = gates.shuffled(text, random.Random(1))
    assert Counter(re.findall(r"\w+", mixed.lower())) == Counter(re.findall(r"\w+", text.lower()))
    assert re.sub(r"[\w ]", "", mixed) == '"?"..'
    assert "Mira" in mixed and "Tom" in mixed


def test_grammar_rules_pass_written_prose():
    """The rules are about errors: text written by hand breaks almost none."""
    pieces = [turn for sample in corpus.written(False) if sample.family.startswith("prose/") for turn in sample.turns]
    assert np.mean([bool(rules.faults(piece)) for piece in pieces]) < 0.03


def test_exact():
    sample = Sample("x", ("Which?", "Zorb."))
    answers = [" Zorb.\n", "Zorb", "zorb", "Zorb the cat", ""]
    assert gates.exact(answers, [sample] * 5).tolist() == [True, True, False, False, False]


def test_openings_come_from_held_out_plots(begun):
    before, true = begun
    assert all(len(text.split()) >= gates.OPENING_WORDS and text.count('"') % 2 == 0 for text in before)
    assert all(len(text.split()) >= gates.REST_WORDS for text in true)
    assert all(text.rstrip('"')[-1] in ".!?" for text in before)
    assert len(set(before)) == len(before)
    assert gates.openings(3) == gates.openings(5)[:3]


def test_lookup_questions_and_their_phrasings():
    for facts in gates.FACTS:
        questions = gates.lookup_questions(facts, 30)
        assert {1, facts} <= {len(values) for _, values in questions} <= set(range(1, facts + 1))
        for sample, values in questions:
            assert len(set(values)) == len(values) and values[0] == sample.turns[-1]
            assert all(value in sample.turns[0] for value in values)
    unseen = gates.unseen_phrasings()
    assert unseen and set(unseen) <= corpus.held_out()
    assert {sample.family for sample, _ in gates.lookup_questions(3, 40, unseen)} == set(unseen)


def test_split_prompts_ends_at_the_assistants_mark(brain):
    samples = [Sample("x", ("Hello?", "Hi.", "More?", "No."), system="Be kind."), Sample("x", ("Why?", "So."))]
    long, short = gates.split_prompts(samples, brain)
    turns = "<|user|>\nHello?<|end|>\n<|assistant|>\nHi.<|end|>\n<|user|>\nMore?<|end|>\n<|assistant|>\n"
    assert long == f"<|system|>\nBe kind.<|end|>\n{turns}"
    assert short == "<|user|>\nWhy?<|end|>\n<|assistant|>\n"


def test_complete_answers_in_the_order_of_the_prompts(brain, monkeypatch):
    monkeypatch.setattr(gates, "BATCH", 3)
    torch.manual_seed(0)
    sizes = LlamaConfig(vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    sizes.initializer_range = 0.5
    model = LlamaForCausalLM(sizes).eval()
    model.generation_config = tokenizer.generation_config(brain)
    prompts = [text * times for times in (5, 1, 3) for text in ("The cat sat. ", "A dog! ", "Once upon a time ")]
    found = gates.complete(model, brain, prompts, 8)
    alone = [gates.complete(model, brain, [prompt], 8)[0] for prompt in prompts]
    assert found == alone and len(set(found)) > 3
    sampled = [gates.complete(model, brain, prompts, 8, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_windows_are_spread_and_their_characters_counted(brain):
    text = "The cat sat on the mat. " * 1500
    tokens = np.array(brain(text)["input_ids"], np.uint16)
    starts = gates.windows(tokens, 4)
    assert starts[0] == kneser_ney.ORDER - 2 and starts[-1] + gates.WINDOW + 1 == len(tokens)
    assert len(starts) == 4 and np.ptp(np.diff(starts)) <= 1 and np.diff(starts).min() > gates.WINDOW
    lengths = gates.characters(tokens, starts, brain)
    for start, length in zip(starts, lengths, strict=True):
        assert length == sum(len(brain.decode([token])) for token in tokens[start + 1 : start + 1 + gates.WINDOW].tolist())
    marked = np.full(600, brain.eos_token_id, np.uint16)
    assert gates.characters(marked, gates.windows(marked, 9), brain).tolist() == [0]
    ngram = kneser_ney.KneserNey(tokens)
    other = kneser_ney.KneserNey(np.random.default_rng(0).integers(0, 600, 5000).astype(np.uint16))
    nats, share = gates.ngram_nats(ngram, other, tokens, starts)
    assert nats.shape == (4, gates.WINDOW) and share == 1
    assert np.allclose(nats[1], ngram.nats(tokens)[starts[1] + 1 - (kneser_ney.ORDER - 1) :][: gates.WINDOW])
    assert gates.ngram_nats(other, ngram, tokens, starts)[1] == 0


def test_another_tokenizer_is_refused(brain, tmp_path):
    tokenizer.save(brain, tmp_path)
    brain(["a", "longer text"], padding=True)  # leaves padding in the tokenizer's state
    evaluate.same_tokenizer(tmp_path, brain)
    with pytest.raises(UserError, match="another tokenizer"):
        evaluate.same_tokenizer(tmp_path, tokenizer.train(["some other text"], 300))


def test_discounts_by_hand():
    counts = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 1])  # Y = 8 / (8 + 2 * 4) = 1/2
    assert kneser_ney.discounts(counts) == pytest.approx([0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2])


@pytest.mark.parametrize(
    "numbers", [(5, 0, 0, 0), (0, 3, 1, 1), (8, 4, 2, 0), (4, 2, 9, 1), (4, 6, 1, 9), (1, 1, 1, 1), (2, 1, 3, 3)]
)
def test_discounts_always_work(numbers):
    """Odd counts of counts: nothing negative is left, everything gives something away."""
    taken = kneser_ney.discounts(np.repeat([1, 2, 3, 4], numbers))[1:]
    assert np.isfinite(taken).all() and (taken > 0).all() and (taken <= [1, 2, 3]).all()


def test_few_tokens_give_probabilities():
    for tokens in ([1, 2, 3, 4, 5], [7] * 9, [1, 2] * 20, list(range(40)) * 3, [1, 1, 1, 2, 2, 3, 3, 3, 3] * 4):
        ngram = kneser_ney.KneserNey(np.array(tokens, np.uint16))
        assert np.isfinite(ngram.nats(np.array([9, *tokens, 4000], np.uint16))).all()
        for context in (tokens[:4], tokens[-4:], [5, 6], []):
            p = ngram.following(context)
            assert (p > 0).all() and p.sum() == pytest.approx(1)


def slow_kneser_ney(train, order, size):
    """Modified Kneser-Ney by dictionaries, straight from the equations."""
    counts = {order: Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))}
    for length in range(order - 1, 0, -1):
        counts[length] = Counter(gram[1:] for gram in counts[length + 1])
    taken = {}
    for length, table in counts.items():
        n = Counter(table.values())
        y = n[1] / (n[1] + 2 * n[2])
        taken[length] = {0: 0.0} | {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
        assert all(taken[length][k] > 0 for k in (1, 2, 3)), "these counts would need the fallback"

    def probability(gram):
        if not gram:
            return 1 / size
        table, less = counts[len(gram)], taken[len(gram)]
        followers = [count for other, count in table.items() if other[:-1] == gram[:-1]]
        lower = probability(gram[1:])
        if not followers:
            return lower
        kept = table[gram] - less[min(table[gram], 3)] if gram in table else 0.0
        left = sum(less[min(count, 3)] for count in followers)
        return (kept + left * lower) / sum(followers)

    return probability


def test_kneser_ney_against_dictionaries():
    rng = np.random.default_rng(4)
    train, test = (rng.zipf(1.5, size).clip(max=40).astype(np.uint16) for size in (1500, 60))
    ngram = kneser_ney.KneserNey(train, order=3)
    slow = slow_kneser_ney(train.tolist(), 3, 1 << kneser_ney.BITS)
    expected = [-np.log(slow(tuple(test[i : i + 3].tolist()))) for i in range(len(test) - 2)]
    assert np.allclose(ngram.nats(test), expected)
    every = np.array([[5, 1, token] for token in range(1 << kneser_ney.BITS)], dtype=np.uint16).ravel()
    assert np.allclose(ngram.following([9, 5, 1]), np.exp(-ngram.nats(every)[::3]))
    assert np.isfinite(ngram.following([4095, 4095])).all()


def test_the_n_gram_model_writes():
    ngram = kneser_ney.KneserNey(np.array([1, 2, 3, 4, 5, 6, 0] * 60, np.uint16))
    assert ngram.write([1, 2], 9, {0}) == [3, 4, 5, 6] and ngram.write([1, 2], 3, {0}) == [3, 4, 5]
    noisy = kneser_ney.KneserNey(np.random.default_rng(0).integers(1, 9, 3000).astype(np.uint16))
    drawn = [noisy.write([1, 2], 30, set(), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and {token for token in drawn[0]} <= set(range(1, 9))
