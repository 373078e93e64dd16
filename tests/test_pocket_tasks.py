"""Sprint 00, the task generator: copying, exercises and knowledge, every answer recomputed."""

import contextlib
import io
import json
import random
import re
from importlib import import_module
from itertools import pairwise

import pytest

CODE = "sprints.00_pocket_brain.code.text."
knowledge, tasks = import_module(CODE + "task_knowledge"), import_module(CODE + "tasks")
copying, exercises, grammar = (
    import_module(CODE + "task_copy"),
    import_module(CODE + "task_exercises"),
    import_module(CODE + "task_grammar"),
)
words = import_module(CODE + "task_words")

END = r"(?=\.|, and )"


@pytest.fixture(scope="module")
def samples():
    """Four of every family, and the mix."""
    rng = random.Random(7)
    return [tasks.task(rng, family) for family in tasks.FAMILIES for _ in range(4)] + [tasks.task(rng) for _ in range(4000)]


def of_kind(samples, *kinds):
    return [sample for sample in samples if sample.family.split("/")[0] in kinds]


def drawn(slots, count=300):
    rng = random.Random(3)
    return [slots(rng) for _ in range(count)]


def test_size_of_the_collection():
    assert len(set(tasks.FAMILIES)) == len(tasks.FAMILIES) >= 60
    assert len(knowledge.entries()) >= 400
    assert len({entry.definition for entry in knowledge.entries()}) == len(knowledge.entries()), "a definition fits one word only"
    assert len(knowledge.facts()) >= 300 and len({fact.question for fact in knowledge.facts()}) == len(knowledge.facts())
    assert len(words.rows(words.read("knowledge_code.yaml")["idioms"], " :: ")) >= 80


def test_every_family_gives_clean_ascii_turns(samples):
    assert {sample.family for sample in samples} == set(tasks.FAMILIES)
    for sample in samples:
        assert len(sample.turns) == 1 or len(sample.turns) % 2 == 0
        assert sample.family.startswith("code") or not re.search(r"\{[a-z_]+\}", "".join(sample.turns)), "a slot stayed empty"
        assert all(turn.isascii() and turn == turn.strip() for turn in (*sample.turns, sample.system)), sample
        assert all(sample.turns)
        assert len(sample.turns) == 1 or len(sample.turns[-1]) < 300


def test_forbidden_ground_stays_free(samples):
    """Later sprints measure analogies and cats in dread, which must be new to the model."""
    for sample in samples:
        text = " ".join(sample.turns)
        assert not re.search(r"\bcats?\b|dread|existential|:: up|\w:\w+ ::", text, re.I), sample


def test_the_same_seed_gives_the_same_samples():
    one, two = random.Random(5), random.Random(5)
    assert [tasks.task(one) for _ in range(200)] == [tasks.task(two) for _ in range(200)]


def test_shares_of_the_groups():
    rng = random.Random(0)
    group_of = {kind: group for group, kinds in tasks.KINDS.items() for kind in kinds}
    drawn_groups = [group_of[tasks.task(rng).family.split("/")[0]] for _ in range(4000)]
    for group, share in tasks.GROUPS.items():
        assert drawn_groups.count(group) / 4000 == pytest.approx(share, abs=0.03)


# Copying


def test_copies_are_equal_and_sorted_ones_sorted(samples):
    for sample in of_kind(samples, "copy_words", "copy_sentence"):
        assert sample.turns[-1].strip('"') in sample.turns[0] + (sample.turns[-2]), sample
    for sample in of_kind(samples, "copy_sort"):
        got = re.split(r"[,\s]+", sample.turns[-1])
        assert got == sorted(got) and all(re.search(rf"\b{word}\b", sample.turns[0]) for word in got)
    for sample in of_kind(samples, "copy_reverse"):
        assert re.split(r",? ", sample.turns[-1])[::-1] == re.split(r",? ", sample.turns[0].split(": ")[1])
    for sample in of_kind(samples, "copy_format"):
        items = [re.findall(r"[A-Za-z]+", turn) for turn in sample.turns]
        assert set(items[-1]) - {"and"} <= set(items[0]) and len(items[-1]) >= 3


def test_slots_of_the_copies():
    for slots in drawn(copying.backwards) + drawn(copying.words):
        items = slots["commas"].split(", ")
        assert items == slots["lines"].split("\n") == json.loads(slots["json"]) and len(set(items)) == len(items)
    for slots in drawn(copying.places):
        items = slots["commas"].split(", ")
        at = items.index(slots["word"])
        assert (items[at - 1], items[at + 1], items[slots["number"] - 1]) == (slots["before"], slots["after"], slots["nth"])
    for slots in drawn(copying.edits):
        items, word = slots["commas"].split(", "), slots["word"]
        assert [item for item in items if item != word] == slots["without"].split(", ")
        assert set(items) - set(slots["shuffled"].split(", ")) == {word}
        assert slots["doubled"].split(", ").count(word) == 2 and slots["contained"] == ("yes" if slots["asked"] in items else "no")
    for slots in drawn(copying.pairs):
        table = dict(line.split(": ") for line in slots["lines"].split("\n"))
        assert table == json.loads(slots["json"]) == dict(line.split(": ") for line in slots["ordered"].split("\n"))
        assert table[slots["key"]] == slots["value"] and len(set(table.values())) == len(table)
    for slots in drawn(copying.letters):
        assert slots["spelled"].split(" ") == slots["dashed"].split("-") == list(slots["word"]) and slots["length"] == len(
            slots["word"]
        )


# Instructions


def test_arithmetic():
    for slots in drawn(exercises.calculation):
        result = {"+": slots["a"] + slots["b"], "-": slots["a"] - slots["b"], "*": slots["a"] * slots["b"]}[slots["sign"]]
        assert result == slots["c"] and 0 <= result <= 20 and (slots["truth"] == "true") == (slots["claimed"] == result)
        assert exercises.NUMBERS.index(slots["wc"]) == result
    for slots in drawn(exercises.purse):
        assert slots["a"] + slots["b"] == slots["more"] and slots["left"] + slots["less"] == slots["a"]
    for slots in drawn(exercises.order):
        numbers = [int(number) for number in slots["list"].split(", ")]
        assert slots["rising"] == ", ".join(map(str, sorted(numbers))) and slots["largest"] == sorted(numbers)[-1]
        assert (slots["larger"] == slots["a"]) == (slots["a"] > slots["b"]) == (slots["sign"] == ">")
    for slots in drawn(exercises.sequence):
        numbers = [int(number) for number in f"{slots['shown']}, {slots['two']}".split(", ")]
        assert len({b - a for a, b in pairwise(numbers)}) == 1 and min(numbers) >= 0
        assert slots["next"] == int(slots["two"].split(", ")[0]) and slots["gap"].replace("_", str(slots["filled"])).startswith(
            slots["shown"]
        )
    for slots in drawn(exercises.counting):
        assert (
            len(slots["commas"].split(", ")) == slots["count"]
            and slots["mixed"].split(", ").count(slots["asked"]) == slots["times"]
        )
    for slots in drawn(exercises.pattern):
        shown = slots["shown"].split(" ")
        items = f"{slots['shown']} {slots['three']}".split(" ")
        period = min(
            p for p in range(1, len(shown)) if all(a == b for a, b in zip(shown, shown[p:], strict=False)) and p * 2 <= len(shown)
        )
        assert all(a == b for a, b in zip(items, items[period:], strict=False))


def test_idioms_compile_and_snippets_print_what_is_said():
    for slots in drawn(knowledge.idiom, 1500):
        compile(slots["code"], "idiom", "exec")
        assert "$" not in "".join(slots.values())
    for slots in drawn(exercises.snippet, 1000):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(slots["code"], "snippet", "exec"), {})
        assert out.getvalue() == slots["output"] + "\n"


def test_knowledge_is_consistent():
    opposites = {(s["word"], s["other"]) for s in drawn(knowledge.opposite, 3000)}
    assert len(dict(opposites)) == len(opposites), "one opposite for a word"
    members = [word for group in knowledge.categories().values() for word in group]
    assert len(set(members)) == len(members)
    for slots in drawn(knowledge.category):
        assert slots["odd"] not in knowledge.categories()[slots["kind"]] and slots["word"] in knowledge.categories()[slots["kind"]]
        assert (slots["short"] == "yes") == (slots["asked"] == slots["a_kind"]) and slots["reply"].lower().startswith(
            slots["short"]
        )
    true = {fact.sentence for fact in knowledge.facts()}
    assert not true & {false for fact in knowledge.facts() for false in fact.false}
    for slots in drawn(knowledge.choice):
        assert slots["one" if slots["number"] == 1 else "two"] == slots["good"] != slots["bad"]
    assert [words.article(word) for word in ("apple", "uniform", "dog", "uncle")] == ["an apple", "a uniform", "a dog", "an uncle"]
    assert [grammar.plural(word) for word in ("box", "city", "toy", "bus", "wolf")] == [
        "boxes",
        "cities",
        "toys",
        "buses",
        "wolves",
    ]
    for slots in drawn(grammar.clause):
        assert slots["negative"].replace("does not ", "Does ").split(" ")[-1].rstrip(".") == slots["question"].split(" ")[
            -1
        ].rstrip("?")
