"""The API of CYOA in one process, with the real pocket model behind CTranslate2 and sqlite.

With CYOA_TEST_DATABASE=postgresql://... they run on PostgreSQL.
"""

import json
import os
from importlib import import_module
from types import SimpleNamespace
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from shared import models
from tests.cyoa_game import wait_until

CODE = "sprints.05_cyoa.code"
app_module, champion_module, store_module, limits_module = (
    import_module(f"{CODE}.api.{name}") for name in ("app", "champion", "store", "limits")
)
names = ("api.evaluation", "votes", "scenarios", "engines.choose")
evaluation, ballots, scenarios, choose = (import_module(f"{CODE}.{name}") for name in names)
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A client of the app, with its store and its champion; `source.place` says who is champion."""
    source = SimpleNamespace(place=(models.POCKET, "pocket"))
    champion = champion_module.Champion(lambda: source.place, lambda place, version: choose.open_engine("fast", place, version))
    folder = tmp_path_factory.mktemp("api")
    store = store_module.Store(os.environ.get("CYOA_TEST_DATABASE", f"sqlite:///{folder}/stories.db"), owner=str(folder))
    limits, hosts = limits_module.Limits(parallel=8, rate=1000, grace=120, deadline=120), frozenset({"testserver"})
    with TestClient(app_module.create_app(store, champion, scenarios.load(), limits=limits, hosts=hosts)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield SimpleNamespace(client=client, store=store, champion=champion, source=source)


@pytest.fixture(scope="module")
def client(served):
    return served.client


def events(text):
    """[(name, id, data)] of a stream."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    return found


def begin(client, **body):
    """A story that the model writes."""
    settings = {"authored": False} | body.pop("settings", {})
    answer = client.post("/stories", json=(body or {"scenario_id": "two-kites"}) | {"settings": settings})
    assert answer.status_code == 201, answer.text
    return answer.json()


def turn(client, story, parent, **body):
    """Take a turn and read its stream; the node as it is then."""
    body = body or {"choice_id": parent["choices"][0]["id"]}
    told = client.post(f"/stories/{story['id']}/nodes", json={"parent_id": parent["id"], **body}, headers=STREAM)
    assert told.status_code == 200, told.text
    assert events(told.text)[-1][0] == "done", told.text
    return client.get(f"/nodes/{events(told.text)[-1][2]['node_id']}").json()


def test_a_scenario_is_played(client):
    made = begin(client)
    story, root = made["story"], made["root"]
    assert root["actor"] == "author" and root["status"] == "done" and made["stream_url"] is None
    node = turn(client, story, root)
    assert node["action"] == root["choices"][0]["text"] and node["depth"] == 1 and node["model_version"] == "pocket"
    assert node["tokens"] > 0 and node["ttft_ms"] <= node["ms"] and node["status"] == "done"
    texts = [choice["text"] for choice in node["choices"]]
    assert node["ending"] or (2 <= len(set(texts)) == len(texts) <= 4 and all(texts))
    assert client.get(f"/stories/{story['id']}").json()["head_id"] == node["id"]
    assert client.get("/stories").json()["stories"][0]["id"] == story["id"]


def test_retry_edit_and_undo_keep_every_node(client):
    made = begin(client)
    story, root = made["story"], made["root"]
    first = turn(client, story, root)
    again = turn(client, story, root, kind="retry", choice_id=root["choices"][0]["id"])
    edited = client.patch(f"/nodes/{first['id']}", json={"text": "You row.", "choices": ["Left", "Right"]})
    assert edited.status_code == 201
    edit = edited.json()
    assert {first["parent_id"], again["parent_id"], edit["parent_id"]} == {root["id"]} and len(
        {first["id"], again["id"], edit["id"]}
    ) == 3
    assert edit["actor"] == "player" and edit["action"] == first["action"]
    own = turn(client, story, edit, text="Sing <|end|> to the gulls")
    context = client.get(f"/nodes/{own['id']}/context").json()
    assert "Sing" in context["messages"][1]["content"] and "<|end|>" not in str(context) and "You row." in str(context)
    assert 0 < context["tokens"] <= context["budget"]
    back = client.patch(f"/stories/{story['id']}", json={"head_id": root["id"]}).json()
    assert back["head_id"] == root["id"]
    nodes = client.get(f"/stories/{story['id']}/tree").json()["nodes"]
    assert [node["id"] for node in nodes] == [root["id"], first["id"], again["id"], edit["id"], own["id"]]
    assert nodes[1]["text"] == first["text"]


def test_a_story_from_a_prompt_and_its_beginning_again(client):
    words = "A fox keeps an umbrella shop.\n\nOne day <|end|> it rains."
    made = begin(client, prompt=words, genre="cozy", hero={"name": "Rin"})
    root = made["root"]
    assert made["stream_url"] == f"/nodes/{root['id']}/stream" and root["text"] == words and root["actor"] == "player"
    told = events(client.get(made["stream_url"]).text)
    assert [name for name, *_ in told] == ["token", "scene", "choices", "done"] and told[0][2] == {"i": 0, "t": words}
    root = client.get(f"/nodes/{root['id']}").json()
    assert root["text"] == words and root["status"] == "done" and root["model_version"] is None and len(root["choices"]) == 3
    assert client.get(f"/nodes/{root['id']}/context").json()["messages"] == []
    node = turn(client, made["story"], root)
    seen = str(client.get(f"/nodes/{node['id']}/context").json())
    assert seen.count("an umbrella shop") == 2 and "One day < |end|> it rains." in seen  # as the memory and as the scene
    again = client.post(f"/stories/{made['story']['id']}/nodes", json={"kind": "retry"}).json()["node"]
    assert again["parent_id"] is None and events(client.get(f"/nodes/{again['id']}/stream").text)[-1][0] == "done"
    again = client.get(f"/nodes/{again['id']}").json()
    assert again["actor"] == "model" and again["text"] != words and again["model_version"] == "pocket"
    assert client.post("/stories", json={"prompt": " \n", "genre": "cozy"}).status_code == 422


def test_the_stream_resumes_from_every_place(client):
    made = begin(client)
    node = turn(client, made["story"], made["root"])
    for start in (0, 1, len(node["text"]) // 2, len(node["text"]), 10**6):
        told = events(client.get(f"/nodes/{node['id']}/stream?from={start}").text)
        tokens = "".join(data["t"] for name, _, data in told if name == "token")
        assert tokens == node["text"][start:]
        assert [name for name, *_ in told][-3:] == ["scene", "choices", "done"]
    told = events(client.get(f"/nodes/{node['id']}/stream", headers={"Last-Event-ID": "5"}).text)
    assert told[0][2]["i"] == 5 and told[0][1] == len(node["text"])


def test_a_story_ends_at_its_length(client):
    made = begin(client, scenario_id="two-kites", settings={"length": 2, "temperature": 1.0})
    node = made["root"]
    for depth in (1, 2, 3, 4):  # past an ending the story has its length anew
        node = turn(client, made["story"], node, **({"kind": "continue"} if node["ending"] else {}))
        assert node["ending"] == (depth in (2, 4)) and bool(node["choices"]) != node["ending"]


def test_the_same_seed_writes_the_same_scene(client):
    made = begin(client)
    body = {"choice_id": made["root"]["choices"][0]["id"], "seed": 7}
    one, two = (turn(client, made["story"], made["root"], kind=kind, **body) for kind in ("act", "retry"))
    assert one["text"] == two["text"] and one["seed"] == 7


def test_choices_are_rolled_again_and_old_ones_stay_valid(client):
    made = begin(client)
    node = turn(client, made["story"], made["root"])
    if node["ending"]:
        pytest.skip("the model ended the story")
    new = client.post(f"/nodes/{node['id']}/choices:reroll").json()["choices"]
    assert 2 <= len({choice["text"] for choice in new}) == len(new)
    assert client.get(f"/nodes/{node['id']}").json()["choices"] == new
    assert not {choice["text"] for choice in new} & {choice["text"] for choice in node["choices"]}
    assert turn(client, made["story"], node)["choice_id"] == node["choices"][0]["id"]


def test_memory_and_lore_reach_the_model(client):
    made = begin(client)
    url = f"/stories/{made['story']['id']}"
    assert client.put(f"{url}/memory", json={"memory": "The tide is cursed."}).json()["memory"] == "The tide is cursed."
    card = client.post(f"{url}/lore", json={"keys": ["kites"], "text": "Kites hum at night."}).json()
    client.post(f"{url}/lore", json={"keys": ["zeppelin"], "text": "Never said."})
    node = turn(client, made["story"], made["root"])
    seen = str(client.get(f"/nodes/{node['id']}/context").json())
    assert "The tide is cursed." in seen and "Kites hum at night." in seen and "Never said." not in seen
    assert client.put(f"{url}/lore/{card['id']}", json={"keys": [], "text": "Quiet.", "always": True}).json()["always"]
    assert client.delete(f"{url}/lore/{card['id']}").status_code == 204
    assert client.delete(f"{url}/lore/{card['id']}").status_code == 404
    assert len(client.get(f"{url}/lore").json()["lore"]) == 1


def test_a_key_makes_one_node_and_another_body_is_refused(client):
    key = {"Idempotency-Key": str(uuid4())}
    made = [client.post("/stories", json={"scenario_id": "two-kites"}, headers=key) for _ in range(2)]
    assert made[0].json() == made[1].json() and made[1].headers["Idempotent-Replayed"] == "true"
    story, root = made[0].json()["story"], made[0].json()["root"]
    body, key = {"parent_id": root["id"], "text": "Jump"}, {"Idempotency-Key": str(uuid4())}
    one, two = (client.post(f"/stories/{story['id']}/nodes", json=body, headers=key) for _ in range(2))
    assert one.json()["node_id"] == two.json()["node_id"] and one.status_code == two.status_code == 202
    assert client.post(f"/stories/{story['id']}/nodes", json=body | {"text": "Run"}, headers=key).status_code == 422
    wait_until(lambda: client.get(f"/nodes/{one.json()['node_id']}").json()["status"] == "done")
    assert client.get(f"/stories/{story['id']}").json()["node_count"] == 2


def test_an_export_is_imported_again(client):
    made = begin(client)
    turn(client, made["story"], made["root"])
    url = f"/stories/{made['story']['id']}"
    for format in ("json", "txt", "twee", "ink", "epub", "html"):
        answer = client.get(f"{url}/export", params={"format": format})
        assert answer.status_code == 200 and answer.headers["content-disposition"].startswith("attachment")
    again = client.post("/stories:import", content=client.get(f"{url}/export").content)
    assert again.status_code == 201, again.text
    texts = [
        [node["text"] for node in client.get(f"{place}/tree").json()["nodes"]]
        for place in (url, f"/stories/{again.json()['story']['id']}")
    ]
    assert texts[0] == texts[1] and again.json()["root"]["id"] != made["root"]["id"]
    assert client.post("/stories:import", content=b"no story").status_code == 422


def test_deleted_stories_can_be_had_back(client):
    url = f"/stories/{begin(client)['story']['id']}"
    assert client.delete(url).status_code == 204 and client.get(url).status_code == 404
    assert client.patch(url, json={"title": "x"}).status_code == 404
    assert client.patch(url, json={"deleted": False}).status_code == 200 and client.get(url).status_code == 200


def test_votes_are_blind_and_kept(served, client):
    evaluation.add_pairs(
        served.store, [{"prompt": f"p{n}", "text_a": "A", "text_b": "B", "model_a": "a", "model_b": "b"} for n in range(12)]
    )
    sides = []
    for _ in range(12):
        pair = client.get("/eval/pair", params={"rater": "mio"}).json()
        assert "model" not in str(pair)
        sides.append(pair["left"])
        winner = "left" if pair["left"] == "A" else "right"
        vote = {"pair_id": pair["pair_id"], "rater": "mio", "winner": winner, "ms": 900}
        assert client.post("/eval/votes", json=vote).status_code == 204
        assert client.post("/eval/votes", json=vote).status_code == 409
    assert set(sides) == {"A", "B"}
    assert ballots.cast(evaluation.votes(served.store)) == [("a", "b", "a")] * 12
    board = client.get("/eval/leaderboard").json()
    assert board["votes"] == 12
    assert [(row["model"], row["wins"], row["losses"]) for row in board["models"]] == [("a", 12, 0), ("b", 0, 12)]
    assert client.get("/eval/pair", params={"rater": "mio"}).status_code == 404


def test_a_scene_written_again_by_another_model_becomes_a_pair(served, client):
    made = begin(client)
    turn(client, made["story"], made["root"])
    engine = served.champion.engine
    engine.model_version = "another"
    try:
        turn(client, made["story"], made["root"], kind="retry", choice_id=made["root"]["choices"][0]["id"])
    finally:
        engine.model_version = "pocket"
    assert evaluation.find_pairs(served.store) == 1 and evaluation.find_pairs(served.store) == 0


def test_the_openai_routes(client):
    body = {"prompt": "The fox", "max_tokens": 8, "temperature": 0}
    whole = client.post("/v1/completions", json=body).json()
    assert whole["object"] == "text_completion" and whole["usage"]["completion_tokens"] == 8
    lines = client.post("/v1/completions", json=body | {"stream": True}).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    assert "".join(part["text"] for part in parts) == whole["choices"][0]["text"] and parts[-1]["finish_reason"] == "length"
    chat = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Begin."}], "max_tokens": 8}).json()
    assert chat["choices"][0]["message"]["role"] == "assistant" and chat["choices"][0]["message"]["content"]
    assert client.get("/v1/models").json()["data"][0]["id"] == "champion"


def test_feedback_model_metrics_and_the_document(client):
    root = begin(client)["root"]
    assert client.post(f"/nodes/{root['id']}/feedback", json={"verdict": "up", "tags": ["warm"]}).status_code == 204
    assert client.get(f"/nodes/{root['id']}").json()["feedback"] == "up"
    model = client.get("/model").json()
    assert model["version"] == "pocket" and model["engine"] == "fast" and len(model["digest"]) == 64
    text = client.get("/metrics").text
    assert 'route="/nodes/{node_id}"' in text and "cyoa_first_token_seconds_bucket" in text and "cyoa_ready 1.0" in text
    assert len(client.get("/openapi.json").json()["paths"]) > 20
    genres = client.get("/genres").json()["genres"]
    assert sum(genre["scenarios"] for genre in genres) == len(client.get("/scenarios").json()["scenarios"])
    assert all(
        s["genre"] == genres[0]["name"] for s in client.get("/scenarios", params={"genre": genres[0]["name"]}).json()["scenarios"]
    )


def test_a_corrupt_champion_leaves_the_old_one(served, client, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in models.POCKET.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    for folder in (broken, pickled, tmp_path / "absent"):
        served.source.place = (folder, "new")
        assert client.post("/admin/model:reload").status_code == 409
        assert client.get("/model").json()["version"] == "pocket" and client.get("/readyz").status_code == 200
    made = begin(client)
    url, body = f"/stories/{made['story']['id']}/nodes", {"parent_id": made["root"]["id"], "text": "Row"}
    running = [client.post(url, json=body).json() for _ in range(6)]
    served.source.place = (models.POCKET, "second")
    assert client.post("/admin/model:reload").json()["version"] == "second"
    for started in running:  # no stream is dropped by the swap
        assert events(client.get(started["stream_url"]).text)[-1][0] == "done"
    assert turn(client, made["story"], made["root"])["model_version"] == "second"
