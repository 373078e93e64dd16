"""The step load of CYOA: its players against a server that misbehaves as it is told, and how it counts."""

import asyncio
import json
import sys
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import httpx2
import matplotlib
import numpy as np
import psutil
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from shared import runlog
from shared.errors import UserError
from tests.cyoa_game import serving

CODE = "sprints.05_cyoa.code"
load, storytext, scenarios = (import_module(f"{CODE}.{name}") for name in ("load", "storytext", "scenarios"))
players, servers, waiting, rivals, figures = (
    import_module(f"{CODE}.traffic.{name}") for name in ("players", "servers", "waiting", "rivals", "figures")
)
Turn = players.Turn


def event(name, data):
    return f"event: {name}\nid: 0\ndata: {json.dumps(data)}\n\n"


@pytest.fixture(scope="module")
def server():
    """The two routes that players use. `plan` says how each turn goes, then `normal`; `turns` is what they asked for."""
    told = SimpleNamespace(plan=[], turns=[], stories=[])
    app = FastAPI()

    @app.post("/stories", status_code=201)
    async def begin(request: Request):
        told.stories.append(((await request.json())["scenario_id"], request.headers["x-forwarded-for"]))
        number = len(told.stories)
        return {"story": {"id": f"s{number}"}, "root": {"id": "root", "choices": [{"id": "c0", "text": "Go"}]}}

    @app.post("/stories/{story}/nodes")
    async def take(story: str, request: Request):
        how = told.plan.pop(0) if told.plan else "normal"
        told.turns.append((story, await request.json(), how))
        if how == "busy":
            return JSONResponse({}, 503, {"Retry-After": "0.05"})

        async def lines():
            yield event("token", {"i": 0, "t": "You "})
            await asyncio.sleep(0.05)
            yield ": heartbeat\n\n" + event("token", {"i": 4, "t": "wake."})
            offered = [] if how == "ending" else [{"id": f"c{n}", "text": f"Way {n}"} for n in range(3)]
            if how == "cut":
                return
            yield event("scene", {"text": "You wake."}) + event("choices", offered)
            if how == "deadline":
                yield event("error", {"code": "deadline", "message": "late"})
            else:
                yield event("done", {"node_id": f"n{len(told.turns)}", "ending": how == "ending"})

        return StreamingResponse(lines(), media_type="text/event-stream")

    with serving(app) as told.url:
        yield told


@pytest.fixture(autouse=True)
def _fresh(request):
    if "server" in request.fixturenames:
        told = request.getfixturevalue("server")
        told.plan, told.turns, told.stories = [], [], []


def test_a_player_follows_the_story_and_times_it(server):
    turns = asyncio.run(players.play(server.url, ["a", "b"], users=1, turns=3, tokens=64))
    assert all(turn.told and 0 < turn.first < turn.whole for turn in turns)
    assert [turn.choices for turn in turns] == [["Way 0", "Way 1", "Way 2"]] * 3
    (first, one, _), (_, two, _), (_, three, _) = server.turns
    assert first == "s1" and one == {"parent_id": "root", "choice_id": "c0"}
    assert two["parent_id"] == "n1" and three["parent_id"] == "n2" and two["choice_id"] in {"c0", "c1", "c2"}


@pytest.mark.parametrize(("how", "status", "error"), [("busy", 503, ""), ("deadline", 200, "deadline"), ("cut", 200, "broken off")])
def test_what_goes_wrong_is_told_and_another_story_begins(server, how, status, error):
    server.plan = [how]
    wrong, fine = asyncio.run(players.play(server.url, ["a"], users=1, turns=2, tokens=64))
    assert (wrong.status, wrong.error, wrong.told) == (status, error, False) and fine.told
    assert [story for story, *_ in server.turns] == (["s1", "s1"] if how == "busy" else ["s1", "s2"])


def test_a_story_ends_and_every_story_has_its_address(server):
    server.plan = ["ending"]
    ended, _ = asyncio.run(players.play(server.url, ["a", "b"], users=1, turns=2, tokens=64))
    assert ended.ending and ended.told and waiting.sound(ended)
    asyncio.run(players.play(server.url, ["a", "b"], users=3, turns=players.LENGTH + 1, tokens=64))
    assert [scenario for scenario, _ in server.stories[:2]] == ["a", "b"]
    addresses = [address for _, address in server.stories[2:]]
    assert len(addresses) == len(set(addresses)) == 6


def test_a_server_that_is_gone_is_an_error_not_an_exception():
    port = servers.free_port()
    (turn,) = asyncio.run(players.play(f"http://127.0.0.1:{port}", ["a"], users=1, turns=1, tokens=64))
    assert turn.status == 0 and turn.error == "ConnectError"
    with pytest.raises(UserError, match="no scene was told"):
        waiting.seconds([turn])


def test_a_crowd_counts_every_answer_and_waits_when_told(server):
    server.plan = ["busy"] * 4
    found = asyncio.run(players.throng(server.url, ["a"], users=8, seconds=1, tokens=64, sample=lambda: 7.0, every=0.1))
    assert found.statuses[503] == 4 and found.statuses[200] == len(server.turns) - 4 + len(server.stories)
    assert set(found.statuses) == {200, 503} and len(found.turns) == len(server.turns)
    assert len(found.samples) >= 2 and {value for _, value in found.samples} == {7.0}
    assert len({address for _, address in server.stories}) == 2, "four behind each address"


@pytest.mark.parametrize(
    ("choices", "ending", "sound"),
    [
        (["a", "b"], False, True),
        (["a"], False, False),
        (["a", "A "], False, False),
        (["a", ""], False, False),
        (list("abcde"), False, False),
        ([], False, False),
        ([], True, True),
        (["a", "b"], True, False),
    ],
)
def test_sound_choices(choices, ending, sound):
    assert waiting.sound(Turn(200, choices=choices, ending=ending)) == sound


def test_mishaps_are_named():
    turns = [Turn(200, 0.1, 0.2), Turn(503), Turn(200, error="deadline"), Turn(503)]
    assert waiting.mishaps(turns) == {"503": 2, "200 deadline": 1} and waiting.listed(Counter()) == "none"
    assert waiting.seconds(turns) == {"first_token": [0.1], "scene": [0.2]}


def test_a_server_is_started_measured_and_stopped(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, http.server as h\n"
        "class S(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        sum(range(10**7)) if self.path == '/work' else None\n"
        "        self.send_response(200); self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), S).serve_forever()\n"
    )
    port = servers.free_port()
    with servers.running([sys.executable, str(program), str(port)], port, "/") as running:
        before = running.cpu_seconds()
        httpx2.get(f"{running.url}/work", timeout=30)
        assert 0.05 < running.cpu_seconds() - before < 10
        assert 5 < running.memory() < 200
        process = running.process
    assert not psutil.pid_exists(process.pid)
    with (
        pytest.raises(UserError, match=r"\(no such port\): start it by hand"),
        servers.running([sys.executable, "-c", "raise SystemExit('no such port')"], port, "/"),
    ):
        pass


def test_chats_are_short_at_the_beginning_and_full_in_the_middle():
    short, long = (rivals.chats(16, storytext.estimate, kind) for kind in (False, True))
    sizes = [[sum(storytext.estimate(message["content"]) for message in chat) for chat in chats] for chats in (short, long)]
    assert len(short) == len(long) == 16 and max(sizes[1]) <= storytext.BUDGET and np.mean(sizes[1]) > 1.5 * np.mean(sizes[0])
    assert all(chat[-1]["content"] == storytext.BEGIN for chat in short)


def test_wrong_flags_are_one_line():
    for flags in ({"only": ("player",)}, {"users": ()}, {"turns": 0}, {"tokens": 8}, {"minutes": 0}):
        with pytest.raises(UserError, match="--"):
            load.main(load.Args(**flags))


def test_figures_are_drawn():
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    waits = {(what, users): [np.array([0.1, 0.2])] * 2 for what in ("scene", "first_token") for users in (1, 16)}
    names = {"fast": "the fast one", "naive": "the naive one"}
    measured = {name + kind: [100.0, 200.0] for name in names for kind in ("", "_long")}
    for figure in (
        figures.latency(plt, waits),
        figures.memory(plt, [(0, 300.0), (60, 310.0)]),
        figures.engines(plt, measured, names, {"": "short", "_long": "long"}),
    ):
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize(
    ("waits", "errors", "verdicts", "says"),
    [
        ({1: 0.2, 16: 1.9, 32: 2.0}, 0, ["reproduced", "reproduced"], "up to 32"),
        ({1: 0.2, 16: 1.9, 32: 2.0}, 3, ["partly reproduced", "partly reproduced"], "went wrong: 3"),
        ({1: 0.2, 8: 1.7, 16: 3.3}, 0, ["partly reproduced", "not reproduced"], "up to 8"),
        ({1: 0.2, 8: 2.1, 16: 1.9}, 0, ["partly reproduced", "reproduced"], "up to 1 "),
        ({2: 2.5}, 0, ["not reproduced"], "no count"),
    ],
)
def test_claims_of_speed_say_for_how_many_players_they_hold(waits, errors, verdicts, says, tmp_path):
    first = {users: seconds / 4 for users, seconds in waits.items()}
    with runlog.Run(
        runlog.Args(device="cpu", out=tmp_path, mlflow=False), str(load.__file__), "waits", title="", objective="", setup={}
    ) as run:
        waiting.claims(run, {"scene": waits, "first_token": first}, 64, errors)
    assert [claim["verdict"] for claim in run.report["claims"]] == verdicts
    assert says in run.report["claims"][0]["honest"] and "64 tokens" in run.report["claims"][0]["ours"]
