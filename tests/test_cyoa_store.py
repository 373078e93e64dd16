"""The store of CYOA: whatever is done to a story, no node is ever lost; sqlite, and PostgreSQL where Debian's is installed."""

import time
from importlib import import_module
from typing import ClassVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from shared.errors import UserError

api = "sprints.05_cyoa.code.api"
store_module, document, tables, database = (import_module(f"{api}.{name}") for name in ("store", "document", "tables", "database"))
ApiError = import_module(f"{api}.errors").ApiError
scenarios, storytext = (import_module(f"sprints.05_cyoa.code.{name}") for name in ("scenarios", "storytext"))
Store, Page, StoryDocument = store_module.Store, document.Page, document.StoryDocument
HERO = scenarios.Person("Mio", "she/her")


def begin(**values):
    root = Page("r", None, "A gate stands open.", choices=("Enter", "Wait"), kind="start", actor="author")
    return StoryDocument(**{"title": "Gate", "genre": "isekai", "hero": HERO, "pages": (root,), "head": "r"} | values)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path}/cyoa.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    store = Store(url, owner=str(tmp_path))
    yield store
    store.close()


def test_a_story_grows_and_is_read_back(store):
    story = store.add_story(begin(memory="It rains.", lore=(storytext.Lore(("gate",), "The gate hums."),)))
    (root,) = store.tree(story.id)
    assert story.root_id == story.head_id == root.id and [choice.text for choice in root.choices] == ["Enter", "Wait"]
    first = store.add_node(story.id, root.id, kind="act", action="Enter", choice_id=root.choices[0].id)
    assert store.story(story.id).head_id == first.id and store.story(story.id).node_count == 2
    with pytest.raises(ApiError, match="still being written"):
        store.add_node(story.id, first.id, kind="act")
    store.write(first.id, ("Run", "Hide"), text="Light.", status="done")
    store.write(first.id, ("Never",), text="Another text", status="failed")  # it is finished
    second = store.add_node(story.id, first.id, kind="act", action="Run", status="done", text="You run.", ending=True)
    assert [node.text for node in store.path(second.id)] == ["A gate stands open.", "Light.", "You run."]
    assert store.turns(first.id, "Run") == [storytext.Turn("A gate stands open.", "Enter"), storytext.Turn("Light.", "Run")]
    assert [choice.text for choice in store.offer(first.id, ("Dance", "Sing"), "model")] == ["Dance", "Sing"]
    store.give_feedback(second.id, "up", ["funny"])
    store.give_feedback(second.id, "down", [])
    assert store.node(second.id).feedback == "down"
    whole = store.document(story.id)
    assert [page.text for page in whole.path()] == ["A gate stands open.", "Light.", "You run."]
    assert whole.memory == "It rains." and whole.lore[0].text == "The gate hums."
    again = store.document(store.add_story(whole).id)
    assert strip(again) == strip(whole) and not {p.id for p in whole.pages} & {p.id for p in again.pages}


def strip(whole):
    """Without ids, which are never the same twice."""
    place = {page.id: at for at, page in enumerate(whole.pages)}
    pages = [{**vars(page), "id": 0, "parent_id": place.get(page.parent_id)} for page in whole.pages]
    return vars(whole) | {"id": 0, "created": 0, "pages": pages, "head": place[whole.head]}


def test_an_idempotency_key_makes_one_node(store):
    story = store.add_story(begin(), ("key-story" + str(time.time()), "f"))
    key = ("key" + str(time.time()), "fingerprint")
    node = store.add_node(story.id, story.root_id, key, kind="act")
    assert store.recall(key) == node.id
    with pytest.raises(database.AlreadyMadeError, match=node.id):
        store.add_node(story.id, story.root_id, key, kind="act")
    assert store.story(story.id).node_count == 2
    with pytest.raises(ApiError, match="another request"):
        store.recall((key[0], "another"))


def test_a_dead_server_leaves_partial_nodes_and_takes_only_its_own(store):
    story = store.add_story(begin())
    mine, empty = (store.add_node(story.id, story.root_id, kind="act") for _ in range(2))
    store.write(mine.id, text="Half a sce", status="running")
    with store.session() as session:
        session.add(other := tables.Node(story_id=story.id, depth=1, kind="act", status="running", owner="elsewhere"))
    assert store.recover(lambda genre: ("Go", "Stay")) == 2 and store.recover(lambda genre: ()) == 0
    node = store.node(mine.id)
    assert (node.status, node.finish, node.text) == ("partial", "interrupted", "Half a sce") and len(node.choices) == 2
    assert store.node(empty.id).status == "failed" and store.node(other.id).status == "running"


def test_the_migrations_make_the_tables_of_the_code(store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.Base.metadata) == []


def test_deleted_stories_come_back_and_bad_ids_are_404(store):
    story = store.add_story(begin())
    store.change_story(story.id, deleted=True)
    for call in (store.story, store.tree, store.lore):
        with pytest.raises(ApiError) as error:
            call(story.id)
        assert error.value.status == 404
    with pytest.raises(ApiError):
        store.node(story.root_id)
    assert store.change_story(story.id, deleted=False).node_count == 1
    other = store.add_story(begin())
    for wrong in (tables.new_id(), other.root_id):
        with pytest.raises(ApiError):
            store.add_node(story.id, wrong, kind="act")
        with pytest.raises(ApiError):
            store.change_story(story.id, head_id=wrong)


def test_sqlite_is_in_wal_mode_and_a_bad_url_is_one_line(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/new/cyoa.db")
    with store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    for url in ("nonsense", "nodatabase://x", f"sqlite:///{tmp_path}"):
        with pytest.raises(UserError, match="--database"):
            Store(url)


class Tree(RuleBasedStateMachine):
    """Any mix of turns, retries, edits, undos and deletions: what was once there stays there, with its text and its parent."""

    nodes = Bundle("nodes")
    open_nodes = Bundle("open_nodes")

    stores: ClassVar[list] = []  # one for all runs: the migrations take a while

    def __init__(self):
        super().__init__()
        if not self.stores:
            self.stores.append(Store("sqlite://"))
        self.store = self.stores[0]
        self.story = self.store.add_story(begin()).id
        self.known: dict[str, tuple] = {}

    @rule(target=nodes)
    def root(self):
        return self.store.story(self.story).root_id

    @rule(target=nodes, parent=nodes, words=st.text(max_size=20), kind=st.sampled_from(["act", "edit", "retry", "continue"]))
    def turn(self, parent, words, kind):
        return self.add(parent, kind=kind, action=words, text=f"{words}.", status="done").id

    @rule(target=open_nodes, parent=nodes)
    def start(self, parent):
        return self.add(parent, kind="act", status="running").id

    @rule(target=nodes, node=consumes(open_nodes), status=st.sampled_from(["done", "partial", "cancelled"]))
    def end(self, node, status):
        self.store.write(node, ("A", "B"), text="Written.", status=status)
        return node

    @rule(target=nodes, beginning=st.just(None))
    def another_beginning(self, beginning):
        return self.add(beginning, kind="retry", text="Again.", status="done").id

    @rule(node=nodes)
    def undo(self, node):
        self.store.change_story(self.story, head_id=self.store.node(node).parent_id or node)

    @rule(node=nodes)
    def overwrite(self, node):
        self.store.write(node, text="vandalism", status="failed")

    @rule(node=nodes)
    def reroll(self, node):
        self.store.offer(node, ("C", "D"), "model")

    @rule()
    def delete_and_restore(self):
        self.store.change_story(self.story, deleted=True)
        self.store.change_story(self.story, deleted=False)

    def add(self, parent, **values):
        node = self.store.add_node(self.story, parent, **values)
        self.known[node.id] = (parent, node.action)
        return node

    @invariant()
    def nothing_is_lost(self):
        nodes = {node.id: node for node in self.store.tree(self.story)}
        for node_id, (parent, action) in self.known.items():
            assert (nodes[node_id].parent_id, nodes[node_id].action) == (parent, action)
        assert len(nodes) == len(self.known) + 1 == self.store.story(self.story).node_count
        assert all("vandalism" not in node.text for node in nodes.values())
        seen: set[str | None] = {None}
        for node in nodes.values():
            assert node.parent_id in seen
            seen.add(node.id)
        head = self.store.story(self.story).head_id
        up = self.store.path(head)
        assert up[-1].id == head and [node.parent_id for node in up] == [None, *(node.id for node in up[:-1])]


def test_no_operation_loses_a_node():
    run_state_machine_as_test(Tree, settings=settings(max_examples=8, stateful_step_count=20))
