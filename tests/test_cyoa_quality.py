"""Sprint 05: every measure sees the failure it is there for, and reads the format as the game does."""

import random
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import models

CODE = "sprints.05_cyoa.code."
quality, corruption, panel, storytext, scenarios, genre, baselines, likelihood, encoding = (
    import_module(CODE + name)
    for name in ["quality", "corruption", "panel", "storytext", "scenarios", "genre", "baselines", "likelihood", "encoding"]
)
evaluate = import_module(CODE + "evaluate")


@pytest.fixture(scope="module")
def base():
    return models.load("pocket", "cpu")


@pytest.fixture(scope="module")
def data(base):
    return evaluate.load(evaluate.Args(), base.tokenizer)


@pytest.fixture(scope="module")
def judged(data, base):
    """The panel on which measures are tried."""
    return evaluate.judges(data, data.validation, base)


CHEAP = [name for name in panel.MEASURES if name not in ("order_accuracy", "choice_relevance", "mood_accuracy")]


@pytest.fixture(scope="module")
def authored(judged):
    answers = [example.response for example in judged.examples]
    return answers, judged.measure(answers, CHEAP)


@pytest.mark.parametrize("name", CHEAP)
def test_a_measure_sees_its_corruption(name, data, judged, authored):
    measure = panel.MEASURES[name]
    way = corruption.corruptions(data.training)[measure.sees]
    answers, values = authored
    area, seen = panel.sight(measure, values[name], judged.measure(corruption.spoiled(way, answers), [name])[name])
    assert area > 0.75 and seen, "the gates read it"


def test_the_judge_prefers_choices_to_those_of_other_scenes(judged):
    """Of single scenes it is unsure; over all of them their own choices win."""
    answers = [example.response for example in judged.examples[::3]]
    swapped = corruption.spoiled(corruption.swap_choices, answers)
    own, other = (likelihood.choice_relevance(judged.judge, texts) for texts in (answers, swapped))
    assert sum(own) > sum(other)
    order = likelihood.order_accuracy(judged.judge, [*answers[:8], "One sentence alone.", ""])
    assert all(0 <= value <= 1 for value in order) and order[-2:] == [0.5, 0.5]


def test_authored_answers_are_valid_and_broken_ones_are_not(data):
    for example in [*data.validation, *data.test]:
        assert quality.valid_format(storytext.parse(example.response), quality.taken(example))
    scene = "You wait at the gate until the rain is over."
    for choices in ((), ("Go",), ("Go", "go!"), ("Go", "..."), ("Go", "x" * 81), ("Go", "Ask"), tuple("ABCDE")):
        assert not quality.valid_format(storytext.Draft(scene, choices), taken="Ask"), choices
    assert quality.valid_format(storytext.Draft(scene, ("Go", "Stay")), taken="Ask")
    assert quality.valid_format(storytext.Draft(scene, (), ending=True))
    assert not quality.valid_format(storytext.Draft("", ("Go", "Stay")))


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=24), st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=24))
def test_the_longest_copy_is_that_of_a_search_through_all_runs(mine, theirs):
    runs = {tuple(theirs[i:j]) for i in range(len(theirs)) for j in range(i + 1, len(theirs) + 1)}
    slow = max((j - i for i in range(len(mine)) for j in range(i + 1, len(mine) + 1) if tuple(mine[i:j]) in runs), default=0)
    assert quality.Memory([" ".join(theirs)]).longest(" ".join(mine)) == slow


def test_what_is_copied_ends_where_a_training_text_ends():
    memory = quality.Memory(["the gate is open", "the rain is over"])
    assert memory.longest("Open the gate! The gate is open; the rain is over.") == 4


def test_repetition_and_likeness_at_their_ends():
    assert quality.repetition("one two three four five six seven") == 0
    assert quality.repetition("go on now then " * 10) == pytest.approx(1 - 4 / 37)
    assert quality.distinct(["a b c", "a b c"], 2) == 0.5
    assert quality.bleu("the rain is over now", ["the rain is over now"]) == pytest.approx(1)
    assert quality.repetition("") == quality.distinct([], 2) == quality.carry_over("", "") == 0


def test_names_are_known_from_the_prompt_or_strangers():
    prompt = "You are Rokuro (he/him). With: Granny Nine (she/her).\n> Ask Nine"
    assert quality.names("She waits. Then Granny Nine laughs, and Tamsin's dog barks.") == {"Granny", "Nine", "Tamsin"}
    assert quality.carry_over("Then Granny Nine laughs.", prompt) == 1
    assert quality.carry_over("Then Tamsin laughs at Nine.", prompt) == 0.5


def test_moods_are_recognised_above_chance():
    """Chance is to deal the genres to the stories by lot, as often as they are; the scenes of one story stay together."""
    every, moods, rng = scenarios.load(), genre.Moods.of_cards(), random.Random(0)
    scenes = [scene.text for one in every for scene in one.scenes.values()]
    told = {name: moods.right(scenes, [name] * len(scenes)) for name in {one.genre for one in every}}

    def accuracy(genres):
        of_scene = [name for one, name in zip(every, genres, strict=True) for _ in one.scenes]
        return sum(told[name][at] for at, name in enumerate(of_scene)) / len(scenes)

    genres = [one.genre for one in every]
    by_lot = [accuracy(rng.sample(genres, len(genres))) for _ in range(200)]
    assert accuracy(genres) > max(by_lot) + 0.05
    assert accuracy(genres) > 2 * sum(by_lot) / len(by_lot)


@given(st.text("Go. !?\"' \n", max_size=40))
def test_sentences_lose_nothing_but_white_space(text):
    assert "".join(likelihood.sentences(text)).split() == "".join(likelihood.sentences(" ".join(text.split()))).split()
    assert "".join("".join(likelihood.sentences(text)).split()) == "".join(text.split())


def test_a_sentence_keeps_its_quotation_marks():
    assert likelihood.sentences('"Wait!" You turn. "Why?"\n\n\'Go.\' He goes.') == [
        '"Wait!"',
        "You turn.",
        '"Why?"',
        "'Go.'",
        "He goes.",
    ]


def test_every_genre_has_a_mood():
    found = {genre.mood(scenario.genre) for scenario in scenarios.load()}
    assert found == set(genre.MOODS) and len(genre.MOODS) == 10


def test_the_ngram_model_is_a_distribution_and_draws_from_itself(base, data):
    rows = encoding.encode(base, data.training[:40])
    model = baselines.NGrams(rows, len(base.tokenizer), order=3)
    before = tuple(rows[0].ids[rows[0].start : rows[0].start + 2])
    for context in (before, before[1:], (), (-1, -1), (5, 7)):
        assert sum(model.probability(token, context) for token in range(len(base.tokenizer))) == pytest.approx(1)
    drawn = model.draw(random.Random(0), base.stop_ids, 50)
    assert drawn and not set(drawn) & set(base.stop_ids) and set(drawn) <= {token for row in rows for token in row.ids}
    assert model.nats(rows[0]) < model.nats(encoding.encode(base, data.test[:1])[0])


def test_retrieval_answers_a_training_prompt_with_its_own_answer(data):
    assert baselines.retrieve(data.training, data.training[:5]) == [example.response for example in data.training[:5]]


def test_prompts_are_scenes_of_families_that_never_train(data):
    trained = {scenario.family for scenario in data.parts.train}
    families = {scenario.id: scenario.family for scenario in data.every}
    tried, judged = ({families[example.scenario] for example in part} for part in (data.validation, data.test))
    assert not tried & trained and not judged & (trained | tried), "validation families chose the epoch"
    scenes = {(scenario.id, scene) for scenario in data.parts.test for scene in scenario.scenes}
    assert {(example.scenario, example.scene) for example in data.test} == scenes and len(data.test) == len(scenes)
