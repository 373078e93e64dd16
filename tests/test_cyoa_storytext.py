"""Sprint 05: the text format, from a story to a prompt that fits and from an answer to a scene."""

from importlib import import_module
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import models
from tests.test_cyoa_scenarios import build

scenarios = import_module("sprints.05_cyoa.code.scenarios")
storytext = import_module("sprints.05_cyoa.code.storytext")
Draft, Lore, Person, Turn, World = (getattr(storytext, name) for name in ("Draft", "Lore", "Person", "Turn", "World"))
HERO = Person("Mika", "she/her")
MARKUP = (
    "<|end|>",
    "<|user|>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "\u200b",
    "\ud800",
    "\n> ",
    "The end.",
    "> ",
    "\u2028",
)
texts = st.lists(st.text(max_size=12) | st.sampled_from(MARKUP), max_size=8).map("".join)
long_texts = st.tuples(texts, st.integers(1, 40)).map(lambda drawn: drawn[0] * drawn[1])
plain_texts = texts.map(storytext.plain).filter(bool)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.POCKET)


@pytest.fixture(scope="module")
def count(tokenizer):
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


def words(text: str) -> int:
    return len(text.split())


@settings(max_examples=150)
@given(texts)
def test_plain_text_is_one_line_without_any_markup(tokenizer, text):
    shown = storytext.plain(text)
    assert storytext.plain(shown) == shown and len(shown.splitlines()) <= 1 and not shown.startswith(">")
    ids = tokenizer(shown, add_special_tokens=False).input_ids
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert not any(mark in shown for mark in ("<|", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "\u200b"))


def test_plain_keeps_what_a_reader_sees():
    assert (
        storytext.plain("\u201cI <3 you,\u201d she said\u2026 2 < 3 [sic] \u2014 na\u00efve!")
        == '"I <3 you," she said... 2 < 3 [sic] - na\u00efve!'
    )
    assert storytext.plain("a<|end|>b") == "a< |end|>b"


@settings(max_examples=300)
@given(plain_texts, st.lists(plain_texts, max_size=4), st.booleans())
def test_an_answer_is_read_as_it_was_written(scene, choices, ending):
    if storytext.THE_END in (scene, *choices):
        return
    draft = Draft(scene, () if ending else tuple(choices), ending)
    assert storytext.parse(storytext.render(draft)) == draft


@settings(max_examples=300)
@given(texts)
def test_whatever_a_model_writes_is_a_draft(text):
    draft = storytext.parse(text)
    assert not (draft.ending and draft.choices) and all(choice.strip() for choice in draft.choices)
    assert storytext.parse(storytext.render(draft)) == draft


def test_what_follows_the_choices_or_the_end_is_dropped():
    assert storytext.parse("One.\nTwo.\n\n> Go\n>\n>> Stay \nThree.\n> Run") == Draft("One.\n\nTwo.", ("Go", "Stay", "Run"))
    assert storytext.parse("One.\nThe end.\n> Go") == Draft("One.", (), True)
    assert storytext.parse("The end. Or not?\n> Go") == Draft("The end. Or not?", ("Go",))


@settings(max_examples=60)
@given(st.data())
def test_a_prompt_fits_its_budget_and_is_never_an_error(tokenizer, count, data):
    person = st.builds(Person, long_texts, texts)
    card = st.builds(Lore, st.lists(texts, max_size=2).map(tuple), long_texts, st.booleans(), st.integers(-1, 1))
    world = data.draw(
        st.builds(
            World, long_texts, person, st.lists(person, max_size=6).map(tuple), long_texts, st.lists(card, max_size=3).map(tuple)
        )
    )
    turns = data.draw(st.lists(st.builds(Turn, long_texts, st.none() | long_texts), max_size=5))
    budget = data.draw(st.integers(60, 330))
    asked = storytext.messages(world, turns, count, budget)
    assert [message["role"] for message in asked] == ["system", "user"] and asked[1]["content"]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert len(ids) <= budget
    signs = [tokenizer.decode([token]) for token in ids if token in tokenizer.all_special_ids]
    assert signs == ["<|system|>", "<|end|>", "<|user|>", "<|end|>", "<|assistant|>"]  # of the template, none of the texts


def test_a_prompt_in_full():
    cast = (Person("Ren", "he/him", "rival"), Person("Ume", "she/her"))
    cards = (Lore(("lantern", "torch"), "Lanterns eat names."), Lore(("sea",), "The sea is far."))
    world = World("magic school", HERO, cast, "Ren lost his match.", cards)
    turns = [Turn("You enter.", "Look around"), Turn("A Lantern hums.", None), Turn("It stops.", "Ask Ren")]
    system, user = storytext.messages(world, turns, words)
    assert system["content"] == (
        "A story of the genre magic school. You are Mika (she/her). With: Ren (he/him), Ume (she/her). "
        "Remember: Ren lost his match. Lanterns eat names."
    )
    assert user["content"] == "You enter.\n> Look around\nA Lantern hums.\nIt stops.\n> Ask Ren"
    assert storytext.messages(world, [], words)[1]["content"] == "Begin."
    assert storytext.messages(world, turns[:2], words)[1]["content"].endswith("A Lantern hums.\n> Go on")


def test_the_oldest_turns_give_way_first_and_the_choice_just_taken_last():
    turns = [Turn(f"Scene {n} is here. It has ten words, and {n} more.", f"Take {n}") for n in range(6)]
    shown = [storytext.messages(World("fantasy", HERO), turns, words, budget)[1]["content"] for budget in range(30, 120)]
    assert shown[-1].startswith("Scene 0") and all(text.endswith("> Take 5") for text in shown)
    assert all(longer.endswith(shorter) for shorter, longer in pairwise(shown))
    whole = {text.split(" is here")[0] for text in shown if text.startswith("Scene")}
    assert whole == {f"Scene {n}" for n in range(6)}
    assert any(text.startswith("It has ten words, and 5 more.") for text in shown)  # of the newest, the last sentence
    assert not any(text.startswith("It has ten words, and 4 more.") for text in shown)
    long = storytext.messages(World("fantasy", HERO), [Turn("You enter.", "run " * 100)], words, 60)[1]["content"]
    assert long.startswith("> run run") and 20 < words(long) < 60


def test_lore_fires_on_whole_words_of_the_newest_turns_and_gives_way_by_priority():
    def system(turns: list, *cards, budget: int = 320, memory: str = "") -> str:
        people = tuple(Person(f"P{n}", "she/her") for n in range(100))
        return storytext.messages(World("x", HERO, people if memory else (), memory, cards), turns, words, budget)[0]["content"]

    cat = Lore(("cat", " "), "Cats rule.")
    assert system([Turn("A CAT!", "Run")], cat).endswith("Cats rule.") and system([Turn("Hm.", "Pet the cat")], cat).endswith(
        "Cats rule."
    )
    assert "Cats" not in system([Turn("A catalog.", "Run")], cat) and "Cats" not in system([], cat)
    old = [Turn("A cat.", "Run"), *[Turn("Hm.", "Go")] * storytext.LORE_REACH]
    assert "Cats" not in system(old, cat) and "Cats" in system(old[:-1], cat)
    assert system([], Lore((), "Always so.", always=True)).endswith("Always so.")
    low, high = Lore(("cat",), "Low " * 20, priority=1), Lore(("cat",), "High " * 20, priority=2)
    both = system([Turn("A cat.", "Run")], low, high, budget=90)
    assert "High" in both and "Low" not in both
    assert "Remember: never forget this" in system([], low, memory="never forget this")  # however many people there are


def test_every_choice_is_learned_within_what_the_model_can_hold(tokenizer, count):
    shipped = [build(), *scenarios.load()[:8]]
    found = storytext.training_examples(shipped, count)
    for scenario in shipped:
        mine = [example for example in found if example.scenario == scenario.id]
        asked = {(example.messages[1]["content"].split("\n")[-1], example.scene) for example in mine}
        assert asked == {("Begin.", scenario.start)} | {
            (f"> {choice.text}", choice.to) for scene in scenario.scenes.values() for choice in scene.choices
        }
        assert len({(example.messages[1]["content"], example.scene) for example in mine}) == len(mine)
    for example in found:
        scene = next(s for s in shipped if s.id == example.scenario).scenes[example.scene]
        assert storytext.parse(example.response) == storytext.draft(scene)
        prompt = tokenizer.apply_chat_template(example.messages, add_generation_prompt=True, return_dict=False)
        assert len(prompt) <= storytext.BUDGET and len(prompt) + count(example.response) < 512
    remembered = ["Remember:" in example.messages[0]["content"] for example in found]
    assert 0.4 < sum(remembered) / len(found) < 0.6


def test_the_estimate_without_a_tokenizer_is_on_the_safe_side(count):
    for scenario in scenarios.load():
        for scene in scenario.scenes.values():
            assert count(scene.text) <= storytext.estimate(scene.text) * 1.1
