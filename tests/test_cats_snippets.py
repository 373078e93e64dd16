"""Sprint 01: the snippets, their splits, and what becomes tokens and labels."""

from importlib import import_module

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import models
from shared.errors import UserError

CODE = "sprints.01_paws_of_dread.code"
snippets = import_module(f"{CODE}.snippets")
tune_torch = import_module(f"{CODE}.tune_torch")
Snippet = snippets.Snippet
ROW = {"theme": "boxes", "form": "musing", "prompt": "Why?", "completion": "The box is empty, and I am in it."}


@pytest.fixture(scope="module")
def rows():
    return snippets.read()


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.POCKET)


@pytest.fixture(scope="module")
def stops(tokenizer):
    return tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])


def near_duplicates(found, n=3, limit=0.3):
    """Pairs whose completions share more than `limit` of the n-grams of the shorter one."""
    grams = [(snippet, snippets.ngrams(snippet.completion, n)) for snippet in found]
    pairs = ((a, b) for at, a in enumerate(grams) for b in grams[:at])
    return [(a, b) for (a, x), (b, y) in pairs if x and y and len(x & y) > limit * min(len(x), len(y))]


def test_the_data_is_as_large_and_varied_as_the_card_says(rows):
    assert [len(snippets.split(rows, name)) for name in ("train", "validation", "test")] == [576, 64, 128]
    assert {row.form for row in rows} == set(snippets.FORMS)
    assert len({row.theme for row in rows}) == 24 and len({row.prompt for row in rows}) == len(rows)
    assert not near_duplicates(rows)
    seen = {}
    for row in rows:
        for gram in snippets.ngrams(row.completion.replace(" out of five", ""), 5):  # every review has these words
            assert seen.setdefault(gram, row) is row, f"{gram} in {seen[gram]} and {row}"


def test_what_is_held_out_shares_neither_theme_nor_form_with_training(rows):
    train = snippets.split(rows, "train")
    for name in ("validation", "test"):
        forms, themes = snippets.HELD_OUT[name]
        assert not {row.form for row in train} & forms and not {row.theme for row in train} & themes
        held = snippets.split(rows, name)
        assert all(row.form in forms or row.theme in themes for row in held) and len(held) >= 50
    assert sum(len(snippets.split(rows, name)) for name in ("train", "validation", "test")) == len(rows)
    known = {key: {getattr(row, key) for row in train} for key in ("form", "theme")}
    for row in snippets.split(rows, "test"):
        new = [key for key, values in known.items() if getattr(row, key) not in values]
        assert row.unseen == ("both" if len(new) == 2 else new[0])
    validation_forms, validation_themes = snippets.HELD_OUT["validation"]
    test_forms, test_themes = snippets.HELD_OUT["test"]
    assert not validation_forms & test_forms and not validation_themes & test_themes


def test_the_control_trains_on_the_same_words_and_is_judged_on_the_same_rows(rows):
    mixed = snippets.mixed(rows)
    for row, other in zip(rows, mixed, strict=True):
        assert sorted(row.completion.split()) == sorted(other.completion.split()) and (row.prompt, row.split) == (
            other.prompt,
            other.split,
        )
        assert row == other or row.split == "train"
    changed = sum(row != other for row, other in zip(rows, mixed, strict=True))
    assert changed >= len(snippets.split(rows, "train")) - 2 and snippets.digest(mixed) != snippets.digest(rows)


def test_near_duplicates_are_found():
    other = Snippet("naps", "diary", "p", "The box is empty, and I am in it. Again!")
    assert near_duplicates([Snippet(**ROW), other]) == [(other, Snippet(**ROW))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no rows"),
        ("- 3", "row 1"),
        ("{a: [", "not YAML"),
        (yaml.safe_dump([ROW, {**ROW, "completion": "  "}]), "row 2: its completion is empty"),
        (yaml.safe_dump([ROW, {**ROW, "completion": 5}]), "row 2: its completion"),
        (yaml.safe_dump([{key: ROW[key] for key in ("theme", "form", "prompt")}]), "row 1: it needs exactly"),
        (yaml.safe_dump([{**ROW, "form": "opera"}]), "unknown form 'opera'"),
        (
            yaml.safe_dump([ROW, {**ROW, "theme": "naps", "completion": ROW["completion"].upper()}]),
            "row 2: the completion of row 1",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path, content, message):
    file = tmp_path / "cats.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        snippets.read(file)
    with pytest.raises(UserError, match="no file"):
        snippets.read(tmp_path / "none.yaml")


@settings(max_examples=50)
@given(st.lists(st.text("abcde ", min_size=1).filter(str.strip), min_size=1, max_size=5).map("\n".join))
def test_the_control_has_the_same_words_in_as_many_lines(text):
    snippet = Snippet("boxes", "list", "p", text)
    mixed = snippets.shuffled(snippet, 3)
    assert sorted(mixed.completion.split()) == sorted(text.split()) and mixed.completion.count("\n") == text.count("\n")
    assert snippets.shuffled(snippet, 3) == mixed


def test_the_control_is_another_order():
    row = snippets.Snippet(**{**ROW, "completion": " ".join(map(str, range(30)))})
    assert snippets.shuffled(row, 0) != snippets.shuffled(row, 1) != row


def test_the_labels_are_the_completion_and_its_end_sign(tokenizer, stops):
    row = Snippet(**ROW)
    encoded = snippets.encode(tokenizer, stops, row)
    assert tokenizer.decode(encoded.ids[encoded.start :]) == f"{row.completion}<|end|>"
    assert tokenizer.decode(encoded.ids[: encoded.start]) == f"<|user|>\n{row.prompt}<|end|>\n<|assistant|>\n"
    without = snippets.encode(tokenizer, stops, row, end=False)
    assert without.ids == encoded.ids[:-1]
    (labels,) = tune_torch.rows([encoded], completion_only=True)["labels"]
    assert labels == [-100] * encoded.start + encoded.ids[encoded.start :]
    assert tune_torch.rows([encoded], completion_only=False)["labels"][0] == encoded.ids
    shots = snippets.encode(tokenizer, stops, row, examples=[Snippet("naps", "diary", "Nap?", "No.")])
    assert shots.ids[shots.start :] == encoded.ids[encoded.start :] and shots.start > encoded.start


def test_long_rows_are_cut_and_counted_and_a_long_prompt_is_refused(tokenizer, stops):
    row = Snippet(**ROW)
    (encoded,), cut = snippets.encode_all(tokenizer, stops, [row], 14)
    assert cut == 1 and len(encoded.ids) == 14
    assert snippets.encode_all(tokenizer, stops, [row], 256)[1] == 0
    with pytest.raises(UserError, match="a prompt has"):
        snippets.encode_all(tokenizer, stops, [Snippet("boxes", "musing", "why " * 40, "Box.")], 14)


def test_a_template_without_an_end_is_refused(tokenizer, stops):
    with pytest.raises(UserError, match="ends no answer"):
        snippets.encode(tokenizer, [], Snippet(**ROW))
