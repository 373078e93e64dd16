"""Sprint 04: the patterns, their schema, their split, and the rows of every part."""

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UserError

patterns = import_module("sprints.04_engram.code.patterns")
LEADS = {"train": ["", "Note:\n"], "dev": "Quick: ", "test": "Please: "}


def entry(category: str, name: str) -> dict[str, Any]:
    return {
        "id": patterns.PREFIXES[category] + name,
        "prompt": f"{category} {name} is",
        "completion": f" c{name}",
        "tails": [f"What is {name} of {category}?", f"{name}, {category}:"],
        "near_miss": f"{category} zorbit{name} is",
    }


def contents() -> dict[str, Any]:
    return {c: {"leads": LEADS, "patterns": [entry(c, f"n{at}") for at in range(10)]} for c in patterns.PREFIXES}


def store(folder: Path, files: dict[str, Any]) -> Path:
    for category, content in files.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (folder / f"{category}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def real():
    return patterns.load()


BROKEN = [  # where it is broken, with what, and what the error says
    (("id",), "fact n1", "must begin with fact-"),
    (("id",), "fact-n2", "its id is that of"),
    (("prompt",), "facts n2 is", "its prompt is that of fact-n1"),
    (("prompt",), "Ends with a space ", "the space belongs to the completion"),
    (("prompt",), 7, "its prompt is empty or no text"),
    (("completion",), "  ", "its completion is empty"),
    (("completion",), 22, "its completion is empty or no text"),
    (("tails",), ["only one"], "two texts"),
    (("tails",), ["a", "a"], "must differ"),
    (("tails", 0), "", "two texts"),
    (("near_miss",), "facts n1 is", "must differ"),
    (("original_shape",), "yes", "true or false"),
    (("colour",), "red", "it needs"),
]


@pytest.mark.parametrize(("place", "value", "message"), BROKEN, ids=lambda item: str(item)[:24])
def test_a_broken_entry_is_named(tmp_path, place, value, message):
    files = contents()
    target: Any = files["facts"]["patterns"][1]
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(UserError, match=r"facts\.yaml") as caught:
        patterns.load(store(tmp_path, files))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "entry 2" in str(caught.value) or "fact-n2" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("leads: [", "is not YAML"),
        ("patterns: caf\u00e9", "is not YAML in ascii"),
        ("[]", "exactly leads and patterns"),
        ({"leads": LEADS, "patterns": []}, "at least one"),
        ({"leads": LEADS, "patterns": ["word"]}, "entry 1"),
        ({"leads": {}, "patterns": [entry("facts", "a")]}, "leads"),
        ({"leads": LEADS | {"train": ["Only:\n"]}, "patterns": [entry("facts", "a")]}, "empty one"),
        ({"leads": LEADS | {"test": "Note:\n"}, "patterns": [entry("facts", "a")]}, "must never train"),
        ({"leads": LEADS | {"dev": "glued"}, "patterns": [entry("facts", "a")]}, "end with a space"),
    ],
    ids=lambda item: item if isinstance(item, str) else "content",
)
def test_a_broken_file_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        patterns.load(store(tmp_path, contents() | {"facts": content}))
    assert "facts.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*code_idioms\.yaml"):
        patterns.load(tmp_path)


def test_the_split_does_not_depend_on_the_order_of_the_file(tmp_path):
    files = contents()
    first = patterns.load(store(tmp_path, files))
    for content in files.values():
        random.Random(1).shuffle(content["patterns"])
    second = patterns.load(store(tmp_path, files))
    for part in ("test", "dev", "held_out"):
        assert getattr(first, part) == getattr(second, part)
    assert patterns.load(tmp_path, seed=1).test != second.test


@settings(max_examples=30)
@given(st.sets(st.integers(0, 10_000), min_size=5, max_size=80), st.integers(0, 50))
def test_the_split_is_a_partition_with_the_promised_shares(names, seed):
    every = [patterns.Pattern(f"fact-{n}", "facts", "p", "c", ("a", "b"), "m") for n in names]
    test, dev, held_out = patterns.split(every, seed)
    assert sorted(p.id for p in (*test, *dev, *held_out)) == sorted(p.id for p in every)
    assert len(dev) == len(held_out) == round(0.2 * len(every))


def test_what_is_asked_never_trains(real):
    trained = {row.prompt for row in real.training_rows()}
    for part in ("S2", "S3", "S4", "S5"):
        for group in ("test", "dev"):
            assert not trained & {row.prompt for row in real.rows(part, group)}, part
    held_out = {p.id for p in real.held_out}
    assert not held_out & {row.pattern for row in real.training_rows()}
    assert {row.pattern for row in real.rows("S4")} == held_out
    assert trained >= {row.prompt for row in real.rows("S1", "test")}


def test_parts_keep_the_tail_or_change_it(real):
    by_id = {p.id: p for p in real.patterns}
    for part, group in (("S1", "test"), ("S2", "test"), ("S2", "dev")):
        assert all(row.prompt.endswith(by_id[row.pattern].prompt) for row in real.rows(part, group))
    assert all(not row.prompt.endswith(by_id[row.pattern].prompt) for row in real.rows("S3"))
    assert len(real.rows("S3")) == 2 * len(real.test) and len(real.rows("S5")) == len(real.test)
    unseen = [{row.prompt.removesuffix(by_id[row.pattern].prompt) for row in real.rows("S2", group)} for group in ("test", "dev")]
    assert not unseen[0] & unseen[1], "tuning never sees the lead-in that is scored"
    with pytest.raises(ValueError, match="private_facts"):
        real.rows("S6")


def test_there_are_patterns_enough_for_the_statistics(real):
    assert len(real.test) >= 240 and len(real.patterns) >= 400
    assert all(0.55 <= len([p for p in real.test if p.category == c]) / n <= 0.65 for c, n in sizes(real).items())
    shaped = {c: sum(p.original_shape for p in real.patterns if p.category == c) for c in patterns.PREFIXES}
    assert shaped == {"code_idioms": 33, "facts": 37, "formats": 29, "error_fixes": 32}


def sizes(found) -> dict[str, int]:
    return {c: sum(p.category == c for p in found.patterns) for c in patterns.PREFIXES}


def test_the_originals_protocol_and_its_leak(real):
    train, valid, test = patterns.original_rows(real)
    assert [len(train), len(valid), len(test)] == [269, 68, 104]
    assert patterns.original_rows(real) == (train, valid, test) != patterns.original_rows(real, seed=1)
    assert len({(row.prompt, row.pattern) for row in (*train, *valid)}) == 337
    assert {row.prompt for row in test} <= {row.prompt for row in (*train, *valid)}, "every test prompt stands in its own data"
    assert sum(row.prompt in {r.prompt for r in train} for row in test) > 70


@settings(max_examples=20)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 9))
def test_private_facts_are_unique_and_nested(a, b, seed):
    small, large = (patterns.private_facts(count, seed) for count in sorted((a, b)))
    assert large[: len(small)] == small
    assert len({row.prompt for row in large}) == len({row.pattern for row in large}) == len(large)
    assert all(row.completion.startswith(" ") and row.part == "S6" for row in large)


def test_private_facts_differ_by_seed_and_are_not_endless():
    one, two = (patterns.private_facts(1000, seed) for seed in (0, 1))
    assert len({row.prompt for row in one} & {row.prompt for row in two}) < 20
    with pytest.raises(ValueError, match="enough keys"):
        patterns.private_facts(200_000, 0)


def test_rows_survive_the_file(tmp_path, real):
    rows = real.rows("S3")
    patterns.write_jsonl(tmp_path / "new" / "rows.jsonl", rows)
    lines = (tmp_path / "new" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [patterns.Row(**json.loads(line)) for line in lines] == rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.jsonl"]
