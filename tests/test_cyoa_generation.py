"""A scene that is stopped, or whose engine fails, leaves the store as its last write made it."""

import asyncio
import threading
from importlib import import_module

import pytest

CODE = "sprints.05_cyoa.code."
api = {name: import_module(f"{CODE}api.{name}") for name in ("champion", "generation", "limits", "metrics", "store", "document")}
base, scenarios = import_module(f"{CODE}engines.base"), import_module(f"{CODE}scenarios")


class Endless:
    """An engine that writes for ever, or fails after `words`."""

    name = model_version = "endless"

    def __init__(self, words=10**9):
        self.words = words

    async def submit(self, request):
        for number in range(self.words):
            yield base.Piece(f"word {number} ", 2)
            await asyncio.sleep(0.01)
        raise base.EngineError("broken")

    async def close(self):
        pass


class Slow(api["store"].Store):
    """A store that takes its time for a text that grows."""

    def __init__(self, url):
        super().__init__(url)
        self.begun, self.order = threading.Event(), []

    def write(self, node_id, *args, **values):
        if "status" not in values:
            self.begun.set()
            threading.Event().wait(0.4)
        super().write(node_id, *args, **values)
        self.order.append(values.get("status"))


@pytest.fixture
def story(tmp_path):
    """(the store, the id of a story, the id of its only node)"""
    store = Slow(f"sqlite:///{tmp_path}/stories.db")
    page = api["document"].Page("root", None, "You row.", choices=("Left", "Right"), actor="author")
    hero = scenarios.Person("Rin", "she/her")
    made = store.add_story(api["document"].StoryDocument("Kites", "cozy", hero, (page,), "root"))
    yield store, made.id, made.root_id
    store.close()


def told(story, engine, end):
    """The node that `engine` writes until `await end(generations, node)`, and the states in the order of the writes."""
    store, story_id, root = story

    async def run():
        champion = api["champion"].Champion(lambda: (None, "endless"), lambda *_: engine)
        await champion.refresh()
        limits = api["limits"].Limits(drain=0.1)
        clients, metrics = api["limits"].Clients(limits), api["metrics"].Metrics()
        generations = api["generation"].Generations(store, champion, clients, metrics, limits)
        node = await generations.start("me", lambda: store.add_node(story_id, root, action="Left", kind="act"))
        await end(generations, node)
        assert not generations.jobs and generations.admission.inside == 0
        before = list(store.order)
        await asyncio.sleep(0.6)
        assert store.order == before  # nothing is written behind the end of a job: the store may be closed by then
        return store.node(node.id)

    return asyncio.run(run()), store.order


async def stop(generations, node):
    await asyncio.to_thread(generations.store.begun.wait)
    await generations.stop(node.id)


async def drain(generations, node):
    await asyncio.to_thread(generations.store.begun.wait)
    await generations.drain()


async def wait(generations, node):
    await asyncio.wait([generations.jobs[node.id].task])


@pytest.mark.parametrize(
    ("end", "words", "status", "finish"),
    [(stop, 10**9, "cancelled", "cancelled"), (drain, 10**9, "partial", "shutdown"), (wait, 60, "partial", "error")],
)
def test_the_last_write_of_a_scene_is_the_last(story, end, words, status, finish):
    node, order = told(story, Endless(words), end)
    assert (node.status, node.finish) == (status, finish) and node.text.startswith("word 0 word 1") and len(node.choices) >= 2
    assert order[0] == "running" and order[-1] == status and None in order
