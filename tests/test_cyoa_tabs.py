"""The store of CYOA where several ask at once, or a server never came back."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

api = "sprints.05_cyoa.code.api"
store_module, document, tables, evaluation = (
    import_module(f"{api}.{name}") for name in ("store", "document", "tables", "evaluation")
)
Person = import_module("sprints.05_cyoa.code.scenarios").Person
Page = document.Page


@pytest.fixture
def store(tmp_path):
    store = store_module.Store(f"sqlite:///{tmp_path}/stories.db")
    yield store
    store.close()


def begin(store, *pages):
    root = Page("r", None, "A gate stands open.", choices=("Enter", "Wait"), kind="start", actor="author")
    told = document.StoryDocument(title="Gate", genre="isekai", hero=Person("Mio", "she/her"), pages=(root, *pages), head="r")
    return store.add_story(told)


def test_tabs_that_ask_for_other_choices_at_once_get_a_round_each(store):
    root = begin(store).root_id
    with ThreadPoolExecutor(4) as tabs:
        list(tabs.map(lambda number: store.offer(root, (f"Go {number}", f"Stay {number}"), "model"), range(12)))
    assert Counter(choice.round for choice in store.node(root).all_choices) == dict.fromkeys(range(13), 2)


def test_what_a_server_of_another_name_left_is_recovered_when_it_is_old(store):
    story = begin(store)
    with store.session() as session:
        for created in ("2020-01-01T00:00:00.000+00:00", tables.now()):
            session.add(tables.Node(story_id=story.id, depth=1, kind="act", status="running", owner="gone", created=created))
    assert store.recover(lambda genre: ("Go", "Stay")) == 1
    assert [node.status for node in store.tree(story.id)[1:]] == ["failed", "running"]


def test_siblings_of_two_models_are_a_pair_only_if_both_saw_the_same_prompt(store):
    imported = [Page(version, "r", "You enter.", action="Enter", model_version=version) for version in ("a", "b")]
    story = begin(store, *imported)
    assert evaluation.find_pairs(store) == 0
    for version, tokens in (("a", 50), ("b", 50), ("c", 60)):
        node = store.add_node(story.id, story.root_id, kind="retry", action="Enter")
        store.write(node.id, status="done", text="You enter.", model_version=version, prompt_tokens=tokens)
    assert evaluation.find_pairs(store) == 1
