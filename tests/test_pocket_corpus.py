"""Sprint 00: the corpus and its held-out sides, the tokenizer, and what must never be in the text."""

import random
import re
from importlib import import_module
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import sprints

CODE = "sprints.00_pocket_brain.code"
corpus = import_module(f"{CODE}.text.corpus")
library = import_module(f"{CODE}.text.library")
tokenizer = import_module(f"{CODE}.text.tokenizer")
stories = import_module(f"{CODE}.text.stories")
tasks = import_module(f"{CODE}.text.tasks")
Sample = import_module(f"{CODE}.text.sample").Sample


@pytest.fixture(scope="module")
def brain():
    return tokenizer.train(corpus.synthetic("task", False, 0.2, 5), 1000)


@settings(max_examples=200)
@given(text=st.text())
def test_tokenizer_gives_back_any_text(brain, text):
    ids = brain(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in (*tokenizer.SPECIALS, tokenizer.BACK)):
        assert brain.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_are_single_and_specials_are_one_token(brain):
    assert brain.tokenize("in 1984")[-4:] == list("1984")
    for special in tokenizer.SPECIALS:
        assert len(brain(special)["input_ids"]) == 1
    assert max(len(token) for token in brain.get_vocab() if token not in tokenizer.SPECIALS) <= 16


def test_a_word_that_begins_a_line_has_the_tokens_it_has_within_one(brain):
    within = brain("The cat of Zorbelin", add_special_tokens=False)["input_ids"][-4:]
    prompt = brain("What is it?<|end|>\n<|assistant|>\n", add_special_tokens=False)["input_ids"]
    whole = brain("What is it?<|end|>\n<|assistant|>\nZorbelin", add_special_tokens=False)["input_ids"]
    (back,) = brain(tokenizer.BACK, add_special_tokens=False)["input_ids"]
    name = brain(" Zorbelin", add_special_tokens=False)["input_ids"]
    assert whole == [*prompt, back, *name] and within[-len(name) :] == name[-4:]
    shown = [brain.decode(whole[len(prompt) : end]) for end in range(len(prompt), len(whole) + 1)]
    assert shown[:2] == ["", ""] and shown[-1] == "Zorbelin" and tokenizer.BACK not in "".join(shown)


def test_training_chats_are_written_as_the_template_writes_them(brain):
    sample = Sample("x", ("Hello?", "Hi.", "More", "No."), system="Be kind.")
    messages = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": role, "content": turn} for role, turn in zip(["user", "assistant"] * 2, sample.turns, strict=True)]
    assert tokenizer.chat(sample) == brain.apply_chat_template(messages, tokenize=False)
    prompt = brain.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.chat(sample).startswith(prompt)
    encoded = brain.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    answered = [i for i, keep in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if keep]
    assert brain.decode(answered) == "\nHi.<|end|>\nNo.<|end|>"
    assert [brain.decode(some) for some in (answered[:1], answered[:2])] == ["\n", "\n"]  # the second is BACK


def test_held_out_families_never_train():
    """The list names families that exist; their texts come on demand only, and the stream for training never holds them."""
    written = {sample.family for held in (False, True) for sample in corpus.written(held)}
    assert corpus.held_out() <= {*stories.FAMILIES, *tasks.FAMILIES, *written}
    for make, families in ((stories.story, stories.FAMILIES), (tasks.task, tasks.FAMILIES)):
        kept_back = corpus.held_out() & set(families)
        assert len(families) / 25 < len(kept_back) < len(families) / 8
        told = {sample.family for sample in islice(corpus.samples(make, families, held=True, rng=random.Random(0)), 500)}
        assert told == kept_back
        told = {sample.family for sample in islice(corpus.samples(make, families, held=False, rng=random.Random(0)), 500)}
        assert told and not told & kept_back
    assert {sample.family for sample in corpus.written(True)} == corpus.held_out() & written
    assert not corpus.held_out() & set(stories.scenes())  # any scene may be told inside the adventure of another


def test_hand_written_text_is_large_and_plain():
    pieces = corpus.written(False) + corpus.written(True)
    assert sum(len(turn) for piece in pieces for turn in piece.turns) > 150_000
    assert all(turn.isascii() and turn.strip() for piece in pieces for turn in piece.turns)
    assert len({piece.turns for piece in pieces}) == len(pieces)


def grams(text: str, length: int = 8) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_nothing_the_other_sprints_evaluate_on_is_in_the_corpus():
    """The data of the sprints that tune the model, and the prompts of the original sprints: no shared 8-gram."""
    withheld = [path.read_text(encoding="utf-8") for path in sprints.ROOT.glob("sprints/0[145]_*/data/*.yaml")]
    assert withheld
    withheld.append((sprints.ROOT / "sprints/00_pocket_brain/data/withheld.txt").read_text(encoding="utf-8"))
    kept = set().union(*(grams(text) for text in withheld))
    assert kept
    written = [turn for held in (False, True) for sample in corpus.written(held) for turn in sample.turns]
    rng = random.Random(0)
    made = [turn for _ in range(3000) for make in (stories.story, tasks.task) for turn in make(rng).turns]
    for text in written + made:
        assert not kept & grams(text), text[:200]


def test_library_texts_are_split_by_file_and_clean():
    found = library.texts(smoke=True)
    train = {text.text for text in found if not text.held_out}
    held = {text.text for text in found if text.held_out}
    assert train and held and not train & held
    assert all("<|" not in text.text and text.text.isascii() for text in found)
    assert "copyright" not in " ".join(train | held).lower()
    rows = library.manifest(found)
    assert {row["licence"] for row in rows} and all(row["licence"] and row["version"] for row in rows)


def test_a_docstring_of_a_held_out_file_does_not_train_inside_a_function(tmp_path, monkeypatch):
    shared = "Give the number of things that are left when all the others have gone."
    for place in range(12):
        body = "    " + "\n    ".join(f"{word} = thing + {place}" for word in ("alpha", "beta", "gamma")[: 1 + place % 3])
        code = f'def left_{"abcdefghijkl"[place]}(thing):\n    """{shared}"""\n{body}\n    return alpha\n'
        (tmp_path / f"m{place}.py").write_text(code)
    files = [("python", tmp_path, path) for path in sorted(tmp_path.glob("*.py"))]
    monkeypatch.setattr(library, "files", lambda smoke: files)
    found = library.texts(smoke=True)
    assert any(text.held_out and text.source == "docstring" and shared in text.text for text in found)
    assert any(text.held_out and text.source == "code" for text in found)
    assert not any(shared in text.text for text in found if not text.held_out)


def test_every_library_is_permissive_and_locked():
    locked = (sprints.ROOT / "requirements.lock").read_text().lower()
    for row in library.packages()[1:]:
        assert f"\n{row['name'].lower()}==" in f"\n{locked}"
        assert re.search(r"BSD|MIT|Apache|PSF|Python Software", row["licence"]), row
        assert "GPL" not in row["licence"]
