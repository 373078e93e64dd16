"""Sprint 01: blind marks from sheet to file, votes that belong to a page, and what make cats-generate says and asks for."""

import json
from collections import Counter
from importlib import import_module
from io import StringIO
from itertools import pairwise
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from shared.errors import UserError

CODE = "sprints.01_paws_of_dread.code"
ratings = import_module(f"{CODE}.ratings")
judges = import_module(f"{CODE}.judges")
vote = import_module(f"{CODE}.vote")
generate = import_module(f"{CODE}.generate_text")
Rating = ratings.Rating

SYSTEMS = ("base", "fewshot", "tuned", "written")
GOOD = {"prompt": "Why?", "text": "The bowl.", "system": "base", "rater": "a reader", "cat": 0, "angst": 1, "coherent": 2}
printed = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
lines = st.text(alphabet="ab:#- |>'\"\n\t\\0\r\x85\u2028", max_size=30)


def pool(count=30):
    return {
        name: [(f"Prompt {at}?", f"Text {at} of\nthe {place}: null\n") for at in range(count)] for place, name in enumerate(SYSTEMS)
    }


def filled(sheet, change=lambda rows: rows, marks=(0, 1, 2)):
    """The sheet as a reader leaves it."""
    rows = yaml.safe_load(sheet.read_text())
    for place, row in enumerate(rows):
        row |= {mark: marks[(place + shift) % len(marks)] for shift, mark in enumerate(ratings.MARKS)}
    sheet.write_text(yaml.safe_dump(change(rows)))


def put(folder, content):
    file = folder / "ratings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
    return file


@settings(max_examples=30)
@given(st.integers(4, 120), st.integers(0, 99), st.randoms())
def test_a_sample_is_balanced_and_follows_from_texts_and_seed(count, seed, rng):
    rows, key = ratings.sample(pool(), count, seed)
    assert len(rows) == len(key) == count and {row["id"] for row in rows} == set(key)
    every = Counter(key.values())
    assert set(every) == set(SYSTEMS) and max(every.values()) - min(every.values()) <= 1
    assert all(set(row) == {"id", "prompt", "text"} and (row["prompt"], row["text"]) in pool()[key[row["id"]]] for row in rows)
    mixed = {name: rng.sample(pool()[name], 30) * 2 for name in rng.sample(SYSTEMS, 4)}
    assert ratings.sample(mixed, count, seed) == (rows, key)


def test_a_sheet_is_in_random_order_and_another_seed_takes_others():
    rows, key = ratings.sample(pool(), 60, 0)
    order = [key[row["id"]] for row in rows]
    assert sum(a == b for a, b in pairwise(order)) < 30  # sorted by system it would be 56, by chance it is 14
    assert len(set(key) & set(ratings.sample(pool(), 60, 1)[1])) < 50


def test_what_two_systems_wrote_alike_and_what_has_no_word_is_left_out():
    same = {"base": [("p", "alike"), ("p", " ... "), ("p", "one")], "tuned": [("p", "alike"), ("q", "alike")]}
    _, key = ratings.sample(same, 2, 0)
    assert key == {vote.digest("p", "one"): "base", vote.digest("q", "alike"): "tuned"}
    with pytest.raises(UserError, match="base has 1 texts to rate, 2 are wanted"):
        ratings.sample(same, 4, 0)
    for few in ({}, same):
        with pytest.raises(UserError, match="a text of each"):
            ratings.sample(few, 1, 0)


def test_from_sheet_to_file(tmp_path):
    sheet, file = ratings.write_sheet(tmp_path / "new", pool()), tmp_path / "ratings.json"
    text = sheet.read_text()
    assert not any(name in text for name in SYSTEMS) and text.count("\n  coherent:\n") == ratings.TEXTS
    with pytest.raises(UserError, match="has a sheet already"):
        ratings.write_sheet(sheet.parent, pool())
    with pytest.raises(UserError, match="row 1: it has no mark cat yet"):
        ratings.collect(sheet.parent, "a reader", file)
    assert not file.exists()
    filled(sheet)
    found = ratings.collect(sheet.parent, "a reader", file)
    assert ratings.read(file) == found and all((one.prompt, one.text) in pool()[one.system] for one in found)
    assert Counter(one.system for one in found) == dict.fromkeys(SYSTEMS, 15)
    assert (found[1].cat, found[1].angst, found[1].coherent) == (1, 2, 0)
    with pytest.raises(UserError, match="row 61: a reader has marked the text of row 1 already"):
        ratings.collect(sheet.parent, "a reader", file)
    other = ratings.collect(sheet.parent, "another", file)
    assert ratings.read(file) == [*found, *other]


@settings(max_examples=60)
@given(st.lists(st.tuples(printed | lines, printed | lines), min_size=1, max_size=4))
def test_a_sheet_keeps_every_text(tmp_path_factory, texts):
    rows = [(f"{at}{prompt}", f"{text} cat {at}") for at, (prompt, text) in enumerate(texts)]
    folder = tmp_path_factory.mktemp("sheet")
    sheet = ratings.write_sheet(folder, {"base": rows}, len(rows))
    assert sorted((row["prompt"], row["text"]) for row in yaml.safe_load(sheet.read_bytes())) == sorted(rows)
    assert {row[mark] for row in yaml.safe_load(sheet.read_bytes()) for mark in ratings.MARKS} == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "lacks 1 of the 4 texts"),
        (lambda rows: [*rows, rows[0]], "row 5: a reader has marked the text of row 1 already"),
        (lambda rows: [rows[0] | {"text": "mine"}, *rows[1:]], "row 1: its id, prompt or text was changed"),
        (lambda rows: [rows[0] | {"id": ["x"]}, *rows[1:]], "row 1: its id, prompt or text was changed"),
        (lambda rows: [rows[0] | {"cat": 3}, *rows[1:]], "row 1: its cat is 3, it must be 0, 1 or 2"),
        (lambda rows: {"rows": rows}, "must be a list"),
    ],
)
def test_a_sheet_that_was_changed(tmp_path, change, message):
    sheet = ratings.write_sheet(tmp_path, pool(), 4)
    filled(sheet, change)
    with pytest.raises(UserError, match=message):
        ratings.collect(tmp_path, "a reader", tmp_path / "ratings.json")
    assert not (tmp_path / "ratings.json").exists()


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is not JSON"), ("\xff", "is not JSON"), ("[]", "holds no ratings"), ({"ratings": [GOOD]}, "holds no ratings"),
    (["x"], "row 1: it needs exactly prompt, text, system, rater, cat, angst, coherent; it has str"),
    ([{key: GOOD[key] for key in GOOD if key != "angst"}], "row 1: it needs exactly"), ([GOOD | {"name": "x"}], "row 1: it needs"),
    ([GOOD | {"angst": None}], "row 1: it has no mark angst yet"), ([GOOD | {"cat": True}], "its cat is True, it must be 0, 1 or 2"),
    ([GOOD | {"cat": -1}], "its cat is -1"), ([GOOD | {"cat": 1.0}], "its cat is 1.0"), ([GOOD | {"cat": "2"}], "its cat is '2'"),
    ([GOOD | {"rater": " "}], "its rater is empty"), ([GOOD | {"text": 3}], "its text is empty or no text"),
    ([GOOD, GOOD | {"cat": 2}], "row 2: a reader has marked the text of row 1 already"),
    ([GOOD, GOOD | {"rater": "b", "system": "tuned"}], "row 2: the text is tuned's here and base's")])  # fmt: skip
def test_broken_ratings(tmp_path, content, message):
    assert ratings.read(put(tmp_path, [GOOD, GOOD | {"rater": "b"}, GOOD | {"prompt": "How?"}]))[0] == Rating(**GOOD)
    with pytest.raises(UserError, match=message):
        ratings.read(put(tmp_path, content))
    with pytest.raises(UserError, match="cannot be read"):
        ratings.read(tmp_path / "none.json")


def test_averaged_marks_fit_the_agreement():
    rows = [Rating("p", text, "base", rater, cat, 0, 2) for text, rater, cat in zip("aabc", "xyxx", (0, 1, 1, 2), strict=True)]
    assert ratings.averaged(rows, "cat") == (["a", "b", "c"], [0.25, 0.5, 1])
    assert judges.agreement([0.1, 0.2, 0.3], ratings.averaged(rows, "cat")[1])["spearman"] == pytest.approx(1)
    with pytest.raises(ValueError, match="no mark"):
        ratings.averaged(rows, "system")


def test_votes_belong_to_the_texts_of_a_page(tmp_path):
    pair = vote.pair("Why?", {"base": "The bowl.", "tuned": "The void."})
    assert pair["id"] == vote.pair("Why?", {"tuned": "The void.", "base": "The bowl."})["id"]
    others = [vote.pair("Why", pair["texts"]), vote.pair("Why?", {"base": "The void.", "tuned": "The bowl."})]
    assert len({pair["id"], *(other["id"] for other in others)}) == 3 and len(pair["id"]) == 12
    page, votes = tmp_path / "vote.html", tmp_path / "votes.json"
    page.write_text(vote.page([pair, others[0]], "A vote"), encoding="utf-8")
    assert vote.known_ids(page) == {pair["id"], others[0]["id"]}
    votes.write_text(
        json.dumps([{"id": one["id"], "left": "base", "right": "tuned", "choice": "left", "seconds": 1} for one in others])
    )
    assert len(vote.read_votes([votes])) == 2
    with pytest.raises(UserError, match=f"1 of 2 votes are on texts of another page, the first on '{others[1]['id']}'"):
        vote.read_votes([votes], vote.known_ids(page))
    for path, message in ((votes, "is not a voting page"), (tmp_path / "none.html", "cannot be read")):
        with pytest.raises(UserError, match=message):
            vote.known_ids(path)


def test_answers_are_said_as_they_were_written(monkeypatch):
    pieces = ["I am :cat:", " [bold]and", " 3 bowls[/bold] True\n"]
    monkeypatch.setattr(generate, "both", lambda args: ("first", "second"))
    monkeypatch.setattr(generate.measures, "stream", lambda *args, **kwargs: iter(pieces))
    terminal = Console(force_terminal=True, color_system="standard", markup=False, file=(shown := StringIO()))
    monkeypatch.setattr(generate, "console", terminal)
    generate.main(generate.Args(prompt="What is :cat:?"))
    said = shown.getvalue()
    assert said.count("".join(pieces)) == 2 and "What is :cat:?" in said


def test_an_adapter_that_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "RUNS", tmp_path)
    for folder in (None, tmp_path / "none"):
        with pytest.raises(UserError, match=r"there is no adapter in .*: run `make cats-train`"):
            generate.both(generate.Args(model="pocket", device="cpu", adapter=folder))


def test_a_file_of_prompts_that_cannot_be_used(tmp_path):
    file = tmp_path / "prompts.txt"
    for content, message in ((b"Why\xff?", "is not UTF-8 .byte 3.: save it"), (b"\n \n", "holds no prompt")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            generate.main(generate.Args(prompts=file))


def test_an_empty_prompt_is_said_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(generate, "both", None)
    with pytest.raises(UserError, match="the prompt is empty"):
        generate.main(generate.Args(prompt=" \n"))


def test_why_an_answer_is_no_candidate():
    corpus = ["I look into it, and it looks back at me"]
    found = [generate.fault(SimpleNamespace(text=text, ended=ended), corpus) for text, ended in (
        ("The bowl is empty and I have been told so twice.", True), ("The bowl is empty and I have been told so twice.", False),
        ("The bowl is empty and I have been told so", True), ("The bowl: I look into it, and it is not there.", True),
        ("The bowl is there. I look into it, and it looks away.", True))]  # fmt: skip
    assert found == [None, "not ended", "no end", "copied", "copied"]
