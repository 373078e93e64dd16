"""Sprint 01: variety, copying and clean form of texts by known values, and the two judges on texts they have not seen."""

import random
import re
from importlib import import_module

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from shared import stats
from shared.errors import UserError

CODE = "sprints.01_paws_of_dread.code"
snippets = import_module(f"{CODE}.snippets")
scores = import_module(f"{CODE}.scores")
judges = import_module(f"{CODE}.judges")

SOUND = "The bowl is empty. I look into it, and it looks back at me for a while."
phrases = st.lists(st.sampled_from(["nap", "void", "tuna", "box", "door"]), max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def rows():
    return snippets.read()


@pytest.fixture(scope="module")
def quality():
    return {key: judges.quality(key, repeats=1) for key in judges.KEYS}


@pytest.fixture(scope="module")
def trained():
    return {key: judges.Judge.train(key) for key in judges.KEYS}


def labelled(count=5):
    """Rows as in the file, `count` of each of the four kinds."""
    kinds = {(1, 1): "my bowl is a void", (1, 0): "my paw likes tuna", (0, 1): "he will die some day", (0, 0): "the bus is late"}
    return [{"text": f"{text} {n}", "cat": cat, "angst": angst} for (cat, angst), text in kinds.items() for n in range(count)]


def written(folder, content):
    file = folder / "judges.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file


def test_distinct_n_is_a_share_of_different_ones():
    assert scores.distinct_n(["A cat, a cat.", "the cat"], 1) == 3 / 6
    assert scores.distinct_n(["A cat, a cat.", "the cat"], 2) == 3 / 4  # none runs from one text into the next
    assert scores.distinct_n(["cat"], 2) == 0
    with pytest.raises(ValueError, match="at least 1"):
        scores.distinct_n(["cat"], 0)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (["a b c d", "a b c e"], (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25),
        (["a b c d", "a b c d e f"], (np.exp(1 - 6 / 4) + (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25) / 2),
        (
            ["a a a a", "a b"],
            ((1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1) ** 0.25 + (1 / 2 * 0.1 * 0.1 * 0.1) ** 0.25 * np.exp(1 - 4 / 2)) / 2,
        ),
        (["a b", "c d", ""], 0),
        # sentence_bleu of nltk with SmoothingFunction().method1, averaged
        (["the cat sits on the mat", "the cat sat on the mat today", "a dog"], 0.14020978367197434),
        (["I am the bowl.", "The bowl is empty.", "I am the empty bowl, the bowl is me.", "nap"], 0.27493994974382385),
    ],
)
def test_self_bleu_by_hand_and_by_nltk(texts, value):
    assert scores.self_bleu(texts) == pytest.approx(value, rel=1e-9)


@given(st.lists(phrases, min_size=2, max_size=6), st.randoms())
def test_variety_stays_in_range_and_knows_no_order(texts, rng):
    mixed = rng.sample(texts, len(texts))
    for measure in (scores.self_bleu, lambda given: scores.distinct_n(given, 2)):
        assert 0 <= measure(texts) <= 1 + 1e-12
        assert measure(mixed) == pytest.approx(measure(texts))


@given(phrases.filter(lambda text: len(text.split()) >= 4))
def test_self_bleu_of_the_same_text_is_one(text):
    assert scores.self_bleu([text, text]) == pytest.approx(1)
    with pytest.raises(ValueError, match="two texts"):
        scores.self_bleu([text])


def test_copied_share_and_the_longest_copy():
    corpus = ["The red dot is gone.", "I waited by the door for years, and the door won."]
    known = scores.corpus_grams(corpus)
    text = "Tonight I waited by the door for tuna"
    assert scores.copied_share(text, known) == 2 / 4  # "i waited by the door", "waited by the door for"
    assert scores.longest_copied(text, corpus) == (6, "i waited by the door for")
    assert scores.longest_copied("go on, dot is gone the red", corpus) == (3, "dot is gone")
    assert scores.longest_copied("gone i waited", corpus) == (2, "i waited")  # not from one row into the next
    assert scores.longest_copied("do not", corpus) == (0, "")  # whole words only
    assert scores.copied_share("the red dot", known) == 0
    with pytest.raises(ValueError, match="not of 4 words"):
        scores.copied_share(text, known, n=4)


@given(phrases, st.lists(phrases, min_size=1, max_size=4))
def test_the_longest_copy_is_the_longest_common_gram(text, corpus):
    copied = scores.longest_copied(text, corpus)
    common = [n for n in range(1, 13) if set(scores.grams(text, n)) & scores.corpus_grams(corpus, n)]
    assert copied.length == max(common, default=0)
    if copied.length:
        assert tuple(copied.phrase.split()) in scores.corpus_grams(corpus, copied.length)


@given(phrases, st.lists(phrases, max_size=4), st.integers(1, 5))
def test_copied_share_of_training_is_one(text, corpus, n):
    known = scores.corpus_grams([*corpus, text], n)
    assert scores.copied_share(text, known, n) == (1 if len(text.split()) >= n else 0)
    assert 0 <= scores.copied_share(text, scores.corpus_grams(corpus, n), n) <= 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (SOUND, None),
        ("Dear Moon,\nyou are round and far away.\nWith some respect,\nthe Cat", None),
        ('He asked me for the last time: "Is there nothing left in that bowl?"', None),
        ("no. no. i can haz tuna, but tuna iz gone nao.", None),
        ("", "too short"),
        ("The bowl is empty.", "too short"),
        ("The bowl is empty. I look into it, and it looks", "no end"),
        ("Dear Moon,\nyou are round and far away and I will never\nreach", "no end"),
        ("The bowl is so so so empty that it looks back at me.", "word thrice"),
        ("- The bowl\n- The bowl\n- The door that nobody opens.", "sentence twice"),
        ('He said: "There is nothing left in that bowl of yours.', "open quotes"),
        ("There is nothing (nothing at all in that bowl of yours.", "open quotes"),
        ("the cat the bowl the cat a bowl the cat my bowl the cat.", "few words"),
        (f"{' '.join(f'word{n}' for n in range(100))} {'so it goes on ' * 13}here.", "few words"),  # a loop after a good start
    ],
)
def test_the_rule_a_text_breaks(text, rule):
    assert scores.broken_rule(text) == rule and scores.clean_form(text) is (rule is None)


def test_a_clean_form_is_no_sense(rows):
    """All words but the last in random order: a text still ends like one, and mostly passes. Order is measures.order_gain's."""
    assert np.mean([scores.clean_form(row.completion) for row in rows]) >= 0.98
    assert np.mean([scores.clean_form(row.completion) for row in rows if row.split != "train"]) >= 0.99  # the ceiling of the report
    for parts in (mixed := [re.split(r"(\s+)", row.completion) for row in rows]):
        parts[:-2:2] = random.Random(0).sample(parts[:-2:2], len(parts) // 2)
    assert np.mean([scores.clean_form("".join(parts)) for parts in mixed]) > 0.85


@given(st.text(alphabet='ab .,!"(\n', max_size=80))
def test_the_rules_bear_any_text(text):
    assert scores.broken_rule(text) in {None, *scores.RULES}


def test_judges_learn_from_balanced_texts_that_are_no_snippets(rows):
    labels = np.array([(rated.cat, rated.angst) for rated in judges.read()])
    assert labels.mean(0) == pytest.approx([0.5, 0.5]) and (labels[:, 0] & labels[:, 1]).mean() == 0.25
    known = scores.corpus_grams([row.completion for row in rows], 8)
    assert not any(scores.copied_share(rated.text, known, 8) for rated in judges.read())


@pytest.mark.parametrize("key", judges.KEYS)
def test_judges_beat_the_length_on_held_out_folds(quality, key):
    found = quality[key]
    assert all(len(values) == judges.FOLDS for one in found.values() for values in one.values())
    assert np.mean(found["judge"]["roc_auc"]) > 0.75 and np.mean(found["judge"]["accuracy"]) > 0.65
    compared = stats.paired(found["judge"]["roc_auc"], found["length"]["roc_auc"], test_over_train=1 / (judges.FOLDS - 1))
    assert compared["ci95"][0] > 0
    assert 0.35 < np.mean(found["length"]["roc_auc"]) < 0.65  # the labels do not stand in the length


def test_quality_finds_nothing_in_random_labels():
    rng = random.Random(0)
    mixed = [judges.Rated(rated.text, rng.random() < 0.5, rng.random() < 0.5) for rated in judges.read()[:120]]
    assert abs(np.mean(judges.quality("angst", repeats=1, rows=mixed)["judge"]["roc_auc"]) - 0.5) < 0.15


def test_quality_repeats_by_its_seed():
    few = [judges.Rated(row["text"], bool(row["cat"]), bool(row["angst"])) for row in labelled()]
    assert judges.quality("cat", 3, 1, few) == judges.quality("cat", 3, 1, few)
    assert len(judges.quality("cat", 3, 2, few)["lexicon"]["accuracy"]) == 2 * judges.FOLDS


def test_lexicon_share():
    assert judges.lexicon_share(["A cat is a CAT.", "", "catnip"], frozenset({"cat"})).tolist() == [0.4, 0, 0]
    assert "kitten" in judges.lexicon("cat") and "void" in judges.lexicon("angst")


def test_judges_know_the_one_from_the_other(trained):
    cat, angst = "The kitten purrs in her box and licks a warm paw.", "Nothing he did meant anything, and one day he would be gone."
    assert np.diff(trained["cat"].score([angst, cat])) > 0.2
    assert np.diff(trained["angst"].score([cat, angst])) > 0.2


@settings(max_examples=20)
@given(texts=st.lists(st.text(max_size=60) | phrases, min_size=1, max_size=6), rng=st.randoms())
def test_scores_are_probabilities_of_each_text_alone(trained, texts, rng):
    order = rng.sample(range(len(texts)), len(texts))
    for judge in trained.values():
        found = judge.score(texts)
        assert found.shape == (len(texts),) and ((found >= 0) & (found <= 1)).all()
        assert judge.score([texts[place] for place in order]) == pytest.approx(found[order])


def test_the_order_of_the_rows_does_not_matter(trained):
    mixed = random.Random(0).sample(judges.read(), len(judges.read()))
    again = judges.Judge.train("cat", mixed).score([SOUND])
    assert (again == trained["cat"].score([SOUND])).all() and trained["cat"].score([]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "has no rows"),
        (lambda rows: "- [", "is not YAML"),
        (lambda rows: [*rows, {"text": "a", "cat": 1}], "row 21: it needs exactly text, cat, angst; it has text, cat"),
        (lambda rows: [*rows, "a"], "row 21: .* it has str"),
        (lambda rows: [{**rows[0], "text": " ... "}, *rows], "row 1: its text is empty"),
        (lambda rows: [{**rows[0], "angst": "yes"}, *rows], "row 1: its angst is 'yes', it must be 0 or 1"),
        (lambda rows: [{**rows[0], "cat": 1.0}, *rows], "row 1: its cat is 1.0"),
        (lambda rows: [*rows, {**rows[1], "text": rows[1]["text"].upper()}], "row 21: the text of row 2 again"),
        (lambda rows: rows[:-1], "4 rows with cat 0 and angst 0 are too few for 5 folds"),
    ],
)
def test_a_broken_file_is_named(tmp_path, change, message):
    assert len(judges.read(written(tmp_path, labelled()))) == 20
    with pytest.raises(UserError, match=message):
        judges.read(written(tmp_path, change(labelled())))


def test_a_missing_file_and_a_broken_lexicon(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        judges.read(tmp_path / "none.yaml")
    for content, message in (([], "no list cat"), ({"cat": []}, "no list cat"), ({"cat": [False]}, "quote words")):
        with pytest.raises(UserError, match=message):
            judges.lexicon("cat", written(tmp_path, content))
    with pytest.raises(UserError, match="with it and texts without it"):
        judges.Judge.train("cat", [judges.Rated("a cat", True, False)])


def test_agreement_with_known_ratings():
    found = judges.agreement([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1])
    assert found["spearman"] == pytest.approx(scipy_stats.spearmanr([1, 2, 3, 4], [1, 2, 1, 2])[0])
    assert (found["accuracy"], found["kappa"], found["n"]) == (0.5, 0, 4)
    perfect = judges.agreement([0.1, 0.2, 0.8, 0.9], [0, 0.25, 0.75, 1])
    assert (perfect["spearman"], perfect["accuracy"], perfect["kappa"]) == (pytest.approx(1), 1, 1)
    assert judges.agreement([0.6, 0.7, 0.8], [1, 0.5, 1])["kappa"] == 0  # all say yes: no more than chance


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 0.5, 1])), min_size=6, max_size=30), st.integers(0, 9))
def test_agreement_stays_in_range_and_is_symmetric(pairs, seed):
    ours, theirs = np.transpose(pairs)
    assume(np.ptp(ours) and np.ptp(theirs))
    found = judges.agreement(ours, theirs, seed, draws=200)
    low, high = interval = found.pop("spearman_ci95")
    assert -1 - 1e-9 <= low <= high <= 1 + 1e-9 and 0 <= found["accuracy"] <= 1 and found["kappa"] <= 1
    back = judges.agreement(theirs, ours, seed, draws=200)
    assert back.pop("spearman_ci95") == pytest.approx(interval) and back == pytest.approx(found)


def test_the_interval_of_agreement_covers():
    rng = np.random.default_rng(0)
    true, inside = scipy_stats.spearmanr(*_correlated(rng, 50_000))[0], []
    for _ in range(100):
        low, high = judges.agreement(*_correlated(rng, 60), draws=200)["spearman_ci95"]
        inside.append(low <= true <= high)
    assert np.mean(inside) >= 0.88


def _correlated(rng, count):
    a, b = rng.standard_normal((2, count))
    return scipy_stats.norm.cdf(a), scipy_stats.norm.cdf(a + b)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([0.1, 0.2], [0, 1], "three numbers"),
        ([0.1, 0.2, 0.3], [0, 1], "equally long"),
        ([0.1, 0.2, 3], [0, 1, 1], "in .0, 1."),
        ([0.1, 0.2, float("nan")], [0, 1, 1], "in .0, 1."),
        ([0.1, 0.2, 0.3], [1, 1, 1], "all the same"),
    ],
)
def test_agreement_of_wrong_numbers(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        judges.agreement(ours, theirs)
