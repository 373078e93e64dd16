"""What the CYOA server promises, on the real program: it runs as `serve` does, behind it a slow server with the OpenAI API."""

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from shared.sprints import ROOT
from tests.cyoa_game import serving, wait_until

PROGRAM = "sprints.05_cyoa.code.api.serve"
STREAM = {"Accept": "text/event-stream"}
WORDS = ["fox", "rain", "lamp", "gate", "kite", "moss", "bell", "tide", "oar", "ash", "fern", "owl", "snow", "reed", "drum", "silk"]


@pytest.fixture(scope="module")
def upstream():
    """An OpenAI-compatible server that writes `words` words of `size` letters, `delay` seconds apart, or fails with `status`."""
    set_up = SimpleNamespace(words=8, size=4, delay=0.02, status=200, active=0)
    app, chance = FastAPI(), random.Random(0)

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "upstream"}]}

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def complete():
        words, size, delay = set_up.words, set_up.size, set_up.delay

        async def lines():
            set_up.active += 1
            try:
                for number in range(words):
                    await asyncio.sleep(delay)
                    word = chance.choice(WORDS) if size == 4 else "".join(chance.choices("abcdefgh ", k=size))
                    text = f"{number} {word} "
                    yield f"data: {json.dumps({'choices': [{'text': text, 'delta': {'content': text}}]})}\n\n"
                tail = "\n\n> Go left\n> Go right"
                last = {"text": tail, "delta": {"content": tail}, "finish_reason": "stop"}
                yield f"data: {json.dumps({'choices': [last]})}\n\ndata: [DONE]\n\n"
            finally:
                set_up.active -= 1

        return StreamingResponse(lines(), set_up.status, media_type="text/event-stream")

    with serving(app) as address:
        set_up.url = f"{address}/v1"
        yield set_up


def start(folder, upstream, *flags, port=None):
    """The program `serve` in a process, and a client of it."""
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
    command = [sys.executable, "-m", PROGRAM, "--engine", "openai", "--base-url", upstream.url, "--port", str(port), "--no-open"]
    command += ["--database", f"sqlite:///{folder}/stories.db", *flags]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    for _ in range(3000):
        try:
            if client.get("/readyz").status_code == 200:
                return SimpleNamespace(process=process, client=client, port=port)
        except httpx2.TransportError:
            assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    flags = ["--deadline", "6", "--grace", "1", "--heartbeat", "0.3"]
    started = start(tmp_path_factory.mktemp("serve"), upstream, *flags)
    yield started
    started.process.terminate()
    started.process.wait(60)


@pytest.fixture(autouse=True)
def _as_before(upstream):
    yield
    upstream.words, upstream.size, upstream.delay, upstream.status = 8, 4, 0.02, 200
    wait_until(lambda: upstream.active == 0)


def begin(client):
    """Where turns of a new story go, and the body of one."""
    made = client.post("/stories", json={"scenario_id": "two-kites"}).json()
    return f"/stories/{made['story']['id']}/nodes", {"parent_id": made["root"]["id"], "text": "Row on"}


def read(lines) -> Iterator[tuple[str, int, Any]]:
    """[(name, id, data)] of a stream, as it comes; ("", 0, None) for a heartbeat."""
    name, place = "", 0
    for line in lines:
        if line.startswith(":"):
            yield "", 0, None
        elif line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            place = int(line[4:])
        elif line.startswith("data: "):
            yield name, place, json.loads(line[6:])


def told(client, url):
    with client.stream("GET", url) as answer:
        return [event for event in read(answer.iter_lines()) if event[0]]


def test_a_reload_and_a_second_tab_lose_no_letter(server, upstream):
    upstream.delay = 0.06
    url, body = begin(server.client)
    node = server.client.post(url, json=body).json()
    with ThreadPoolExecutor() as pool:
        tab = pool.submit(told, server.client, node["stream_url"])
        with server.client.stream("GET", node["stream_url"]) as answer:
            _, place, data = next(event for event in read(answer.iter_lines()) if event[0] == "token")
        rest = told(server.client, f"{node['stream_url']}?from={place}")
    text = data["t"] + "".join(data["t"] for name, _, data in rest if name == "token")
    whole = server.client.get(f"/nodes/{node['node_id']}").json()
    assert (
        len(rest) > 4
        and text.rstrip() == whole["text"]
        and [choice["text"] for choice in whole["choices"]] == ["Go left", "Go right"]
    )
    assert "".join(data["t"] for name, _, data in tab.result() if name == "token").rstrip() == whole["text"]
    assert tab.result()[-1][0] == "done"


def test_the_deadline_keeps_the_text_and_silence_has_heartbeats(server, upstream):
    upstream.delay, upstream.words = 0.9, 100
    url, body = begin(server.client)
    with server.client.stream("POST", url, json=body, headers=STREAM) as answer:
        events = list(read(answer.iter_lines()))
    assert ("", 0, None) in events
    assert [name for name, *_ in events if name][-3:] == ["scene", "choices", "error"] and events[-1][2]["code"] == "deadline"
    node = server.client.get(url.replace("/nodes", "/tree")).json()["nodes"][-1]
    assert node["status"] == "partial" and node["text"] and len(node["choices"]) >= 2
    upstream.delay, upstream.words = 0.02, 8
    again = body | {"parent_id": node["id"]}
    assert server.client.post(url, json=again, headers=STREAM).text.count("event: done") == 1


def test_a_reader_who_leaves_frees_the_place(server, upstream):
    upstream.delay, upstream.words = 0.05, 1000
    url, body = begin(server.client)
    with server.client.stream("POST", url, json=body, headers=STREAM) as answer:
        next(answer.iter_lines())
    assert upstream.active == 1
    wait_until(lambda: upstream.active == 0)
    wait_until(lambda: server.client.get(url.replace("/nodes", "/tree")).json()["nodes"][-1]["finish"] == "disconnect")


def test_delete_stops_at_once(server, upstream):
    upstream.delay, upstream.words = 0.05, 1000
    url, body = begin(server.client)
    node = server.client.post(url, json=body).json()
    wait_until(lambda: server.client.get(f"/nodes/{node['node_id']}").json()["text"])
    stopped = server.client.delete(f"/nodes/{node['node_id']}/generation").json()
    assert stopped["status"] == "cancelled" and stopped["text"] and len(stopped["choices"]) >= 2
    wait_until(lambda: upstream.active == 0)
    assert told(server.client, node["stream_url"])[-1][2]["code"] == "cancelled"


def test_a_broken_upstream_is_502_a_silent_one_504_and_both_recover(server, upstream):
    ask = {"prompt": "The fox", "max_tokens": 8}
    upstream.status = 500
    assert server.client.post("/v1/completions", json=ask).status_code == 502
    url, body = begin(server.client)
    assert server.client.post(url, json=body, headers=STREAM).text.count('"code": "engine"') == 1
    upstream.status, upstream.delay = 200, 8
    assert server.client.post("/v1/completions", json=ask).status_code == 504
    upstream.delay = 0.02
    assert server.client.post("/v1/completions", json=ask).status_code == 200
    assert server.client.post("/v1/completions", json=ask | {"stream": True}).text.endswith("data: [DONE]\n\n")
    assert "event: done" in server.client.post(url, json=body, headers=STREAM).text


def test_a_body_of_200_mb_is_refused_without_being_held(server):
    memory = psutil.Process(server.process.pid).memory_info
    before, sent = memory().rss, 0
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /stories HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while sent < 200 * 2**20:
                connection.sendall(chunk)
                sent += 0x10000
        except OSError:
            pass
    assert memory().rss - before < 20 * 2**20
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /stories HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 209715200\r\n\r\n")
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]
    assert server.client.get("/livez").status_code == 200


def test_a_reader_who_takes_nothing_stalls_nobody(server, upstream):
    upstream.delay, upstream.words, upstream.size = 0.002, 60, 10_000  # more than a stuck connection takes
    url, body = begin(server.client)
    node = server.client.post(url, json=body).json()
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", server.port))
        stuck.sendall(f"GET {node['stream_url']} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        events = told(server.client, node["stream_url"])
        assert events[-1][0] == "done"
        upstream.delay, upstream.words, upstream.size = 0.02, 8, 4
        assert "event: done" in server.client.post(url, json=body, headers=STREAM).text


def test_sizes_hosts_origins_tokens_and_headers(server, upstream):
    client = server.client
    assert client.post("/stories", content=b"x" * 70_000).status_code == 413
    assert client.get("/genres", headers={"Host": "evil.example"}).status_code == 403
    for foreign in ("http://evil.example", "http://[", "null", "127.0.0.1", f"http://127.0.0.1:{server.port + 1}"):
        assert client.post("/stories", json={}, headers={"Origin": foreign}).status_code == 403, foreign
    assert client.post("/stories", json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    for ours in (f"http://127.0.0.1:{server.port}", f"https://127.0.0.1:{server.port}"):
        assert client.post("/stories", json={}, headers={"Origin": ours}).status_code == 422
    headers = client.get("/genres").headers
    assert "default-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers and "server" not in headers
    addresses = {
        connection.laddr.ip for connection in psutil.Process(server.process.pid).net_connections() if connection.status == "LISTEN"
    }
    assert addresses == {"127.0.0.1"}


def test_429_503_kill_9_during_50_turns_and_sigterm(tmp_path, upstream):
    upstream.delay, upstream.words = 0.1, 1000
    server = start(tmp_path, upstream, "--queue", "50", "--grace", "60", "--deadline", "60")
    url, body = begin(server.client)
    clients = [0, 0, 0, *range(1, 49), 49]
    answers = [server.client.post(url, json=body, headers={"X-Forwarded-For": f"10.0.1.{client}"}) for client in clients]
    assert [answer.status_code for answer in answers] == [202, 202, 429, *[202] * 48, 503]
    for refused in (answers[2], answers[-1]):
        assert int(refused.headers["Retry-After"]) >= 1 and refused.headers["content-type"] == "application/problem+json"
    wait_until(lambda: upstream.active == 50)
    time.sleep(1)  # some text is stored
    server.process.kill()
    server.process.wait()
    wait_until(lambda: upstream.active == 0)
    with sqlite3.connect(tmp_path / "stories.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    upstream.delay, upstream.words = 0.02, 8
    server = start(tmp_path, upstream, "--drain", "4", "--deadline", "60", "--grace", "60", port=server.port)
    nodes = server.client.get(url.replace("/nodes", "/tree")).json()["nodes"]
    assert len(nodes) == 51 and {node["status"] for node in nodes[1:]} <= {"partial", "failed"}
    partial = [node for node in nodes[1:] if node["status"] == "partial"]
    assert len(partial) > 25 and all(node["text"] and node["choices"] and node["finish"] == "interrupted" for node in partial)

    upstream.delay, upstream.words = 0.1, 8  # ends in time
    short = server.client.post(url, json=body).json()
    wait_until(lambda: upstream.active == 1)
    upstream.delay, upstream.words = 0.1, 1000  # does not
    long = server.client.post(url, json=body).json()
    with ThreadPoolExecutor() as pool:
        streams = [
            pool.submit(told, httpx2.Client(base_url=server.client.base_url, timeout=30), n["stream_url"]) for n in (short, long)
        ]
        wait_until(lambda: upstream.active == 2)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        ends = [stream.result()[-1] for stream in streams]
    assert ends[0][0] == "done" and ends[1][2]["code"] == "shutdown"
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    with sqlite3.connect(tmp_path / "stories.db") as database:
        rows = database.execute("SELECT status, finish, length(text) FROM node ORDER BY number DESC LIMIT 2").fetchall()
    assert rows[1][:2] == ("done", "stop") and rows[0][:2] == ("partial", "shutdown") and rows[0][2]
