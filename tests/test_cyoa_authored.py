"""Authored scenes in the API of CYOA: where the author's graph is followed, and where the model takes over; scenes that nobody
writes any more, and the list of stories."""

import json
from importlib import import_module
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from tests.cyoa_game import Parrot

CODE = "sprints.05_cyoa.code"
app, champion_module, evaluation, limits_module, store_module, tables = (
    import_module(f"{CODE}.api.{name}") for name in ("app", "champion", "evaluation", "limits", "store", "tables")
)
scenarios = import_module(f"{CODE}.scenarios")
STREAM = {"Accept": "text/event-stream"}
BY_HAND, BY_MODEL = ("author", None), ("model", "parrot")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    parrot = Parrot("You wait. It still rains.\n\n> Go left\n> Go right")
    champion = champion_module.Champion(lambda: (None, "parrot"), lambda *_: parrot)
    store = store_module.Store(f"sqlite:///{tmp_path_factory.mktemp('authored')}/stories.db")
    limits = limits_module.Limits(rate=1000, deadline=60)
    whole = app.create_app(store, champion, scenarios.load(), limits=limits, hosts=frozenset({"testserver"}))
    with TestClient(whole) as client:
        assert any(client.get("/readyz").status_code == 200 for _ in range(1000))
        yield SimpleNamespace(client=client, store=store, parrot=parrot)


@pytest.fixture(scope="module")
def client(served):
    return served.client


def begin(client, **body):
    made = client.post("/stories", json={"scenario_id": "silent-bell"} | body).json()
    return made["story"]["id"], made["root"]


def events(text):
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if "event: " in block]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def turn(client, story, parent, headers=None, **body):
    """Take a turn, the first choice where none is given; (its events, the node)."""
    body = body or {"choice_id": parent["choices"][0]["id"]}
    told = client.post(f"/stories/{story}/nodes", json={"parent_id": parent["id"], **body}, headers=STREAM | (headers or {}))
    assert told.status_code == 200, told.text
    found = events(told.text)
    return found, client.get(f"/nodes/{found[-1][1]['node_id']}").json()


def by(node):
    return node["actor"], node["model_version"]


def texts(node):
    return [choice["text"] for choice in node["choices"]]


def test_every_way_of_the_author_leads_to_the_authors_ending(client):
    scenario = next(one for one in scenarios.load() if one.id == "silent-bell")
    story, root = begin(client)
    todo, endings = [(root, scenario.scenes[scenario.start])], set()
    while todo:
        parent, before = todo.pop()
        for offered, choice in zip(parent["choices"], before.choices, strict=True):
            told, node = turn(client, story, parent, choice_id=offered["id"])
            scene = scenario.scenes[choice.to]
            assert [name for name, _ in told] == ["token", "scene", "choices", "done"]
            assert told[0][1]["t"] == told[1][1]["text"] == node["text"] == scene.text and told[-1][1]["actor"] == "author"
            assert by(node) == BY_HAND and node["status"] == "done" and node["finish"] == "stop" and node["tokens"] == 0
            assert node["action"] == choice.text and node["choice_id"] == offered["id"]
            assert texts(node) == [choice.text for choice in scene.choices] and node["ending"] == (scene.ending is not None)
            endings |= {scene.id} if scene.ending else set()
            todo.append((node, scene))
    assert endings == {scene.id for scene in scenario.scenes.values() if scene.ending}
    assert client.get(f"/nodes/{node['id']}/context").json()["messages"] == []


def test_the_model_writes_where_the_player_leaves_the_author(client):
    story, root = begin(client)
    _, hand = turn(client, story, root)
    assert by(hand) == BY_HAND
    choice = hand["choices"][0]["id"]
    own, retried = (
        turn(client, story, hand, **body)[1] for body in ({"text": texts(hand)[0]}, {"kind": "retry", "choice_id": choice})
    )
    edited = client.patch(f"/nodes/{hand['id']}", json={"text": hand["text"]}).json()
    assert texts(edited) == texts(hand) and edited["actor"] == "player"
    _, after_edit = turn(client, story, edited)
    _, onward = turn(client, story, hand, kind="continue")
    _, switched = turn(client, story, hand, choice_id=choice, settings={"authored": False})
    assert {by(node) for node in (own, retried, after_edit, onward, switched)} == {BY_MODEL}
    assert by(turn(client, story, own)[1]) == BY_MODEL  # there is no way back but undo
    story, root = begin(client, settings={"authored": False})
    assert by(turn(client, story, root)[1]) == BY_MODEL


def test_the_authors_choices_stay(served, client):
    story, root = begin(client)
    refused = client.post(f"/nodes/{root['id']}/choices:reroll")
    assert refused.status_code == 409 and "they stay" in refused.json()["detail"]
    served.store.offer(root["id"], ("Go left", "Go right"), "model")  # as it was done to stories before
    kept = client.get(f"/stories/{story}/tree").json()["nodes"][0]
    assert kept["choices"] == root["choices"] and by(turn(client, story, kept)[1]) == BY_HAND


def test_choices_that_were_taken_stay_where_others_are_rolled(client):
    story, root = begin(client)
    _, node = turn(client, story, root, text="Listen")
    before = texts(node)
    _, led = turn(client, story, node, choice_id=node["choices"][1]["id"])
    url = f"/nodes/{node['id']}"
    for taken in (1, 2, 3):
        rolled = client.post(f"{url}/choices:reroll").json()["choices"]
        assert len(rolled) == 4 and rolled[0]["id"] == node["choices"][1]["id"] == led["choice_id"]
        assert len({choice["text"] for choice in rolled}) == 4 and before[0] not in {choice["text"] for choice in rolled}
        assert client.get(url).json()["choices"] == rolled
        turn(client, story, node, choice_id=rolled[taken]["id"])
    assert by(turn(client, story, node, choice_id=node["choices"][0]["id"])[1]) == BY_MODEL  # an old one stays valid
    assert client.post(f"{url}/choices:reroll").status_code == 409


def test_past_an_ending_the_model_goes_on(client):
    story, node = begin(client)
    while not node["ending"]:
        _, node = turn(client, story, node)
    assert by(node) == BY_HAND
    for ending in (False, True, False):  # the length counts anew
        _, node = turn(client, story, node, kind="continue", settings={"length": 2})
        assert by(node) == BY_MODEL and node["ending"] == ending
        assert node["text"].startswith("You wait. It still rains. In the end, You wait." if ending else "You wait.")
    for format in ("json", "txt", "twee", "ink", "epub", "html"):
        assert client.get(f"/stories/{story}/export", params={"format": format}).status_code == 200


def test_a_story_that_has_to_end_before_the_author_is_ended_by_the_model(client):
    story, root = begin(client, settings={"length": 2})
    _, first = turn(client, story, root)
    _, last = turn(client, story, first)
    assert (by(first), by(last), last["ending"], last["choices"]) == (BY_HAND, BY_MODEL, True, [])


def test_the_model_ends_no_story_before_its_last_quarter(served, client, monkeypatch):
    monkeypatch.setattr(served.parrot, "text", "You sleep in the warm tower.\n\nThe end.")
    story, node = begin(client, settings={"authored": False, "length": 8})
    while not node["ending"]:
        told, node = turn(client, story, node)
        assert "The end." not in told[1][1]["text"] and bool(node["choices"]) != node["ending"]
    assert node["depth"] == 6
    story, root = begin(client, settings={"authored": False, "length": None})
    assert turn(client, story, root)[1]["ending"]  # it was left to the model


def test_keys_imports_and_pairs_know_scenes_by_hand(served, client):
    story, root = begin(client)
    same = [turn(client, story, root, {"Idempotency-Key": "once"}, choice_id=root["choices"][0]["id"])[1] for _ in range(2)]
    assert same[0] == same[1] and client.get(f"/stories/{story}").json()["node_count"] == 2
    turn(client, story, root, kind="retry", choice_id=root["choices"][0]["id"])
    assert evaluation.find_pairs(served.store) == 0
    exported = client.get(f"/stories/{story}/export")
    copy = client.post("/stories:import", content=exported.content).json()["story"]["id"]
    node = client.get(f"/stories/{copy}/tree").json()["nodes"][1]
    assert by(node) == BY_HAND and by(turn(client, copy, node)[1]) == BY_HAND
    told = client.get(f"/stories/{story}/export", params={"format": "txt"})
    assert told.headers["content-disposition"] == 'attachment; filename="the-bell-that-must-not-ring.md"'
    markdown = told.text
    assert "Written in advance and by the model parrot." in markdown


def test_a_scene_that_nobody_writes_any_more_ends(served, client):
    story, root = begin(client)

    def left(created, text):
        with served.store.session() as session:
            node = tables.Node(story_id=story, parent_id=root["id"], depth=1, kind="act", owner="gone", created=created, text=text)
            session.add(node)
            session.flush()
            return node.id

    old = left("2020-01-01T00:00:00.000+00:00", "You wait")
    told = events(client.get(f"/nodes/{old}/stream").text)
    assert [name for name, _ in told] == ["token", "scene", "choices", "error"] and told[-1][1]["code"] == "interrupted"
    assert len(told[2][1]) >= 2 and client.get(f"/nodes/{old}").json()["status"] == "partial"
    for text in ("", "You wait"):
        node = client.delete(f"/nodes/{left(tables.now(), text)}/generation").json()
        assert node["status"] == node["finish"] == "cancelled" and bool(node["choices"]) == bool(text)
        assert events(client.get(f"/nodes/{node['id']}/stream").text)[-1][1]["code"] == "cancelled"


def test_every_story_is_listed_also_those_put_away(client):
    made = [begin(client, title=f"Bell {number}")[0] for number in range(5)]
    assert client.delete(f"/stories/{made[0]}").status_code == 204

    def listed(**asked):
        return [story["id"] for story in client.get("/stories", params=asked).json()["stories"]]

    pages = [story for offset in range(0, 100, 3) for story in listed(limit=3, offset=offset)]
    assert pages == listed(limit=200) and len(set(pages)) == len(pages) and set(made) - set(pages) == {made[0]}
    assert listed(deleted=True) == [made[0]]
    client.patch(f"/stories/{made[0]}", json={"deleted": False})
    assert listed(deleted=True) == [] and listed(limit=1) == [made[0]]
