"""Requests that nobody should send to the CYOA server: by schemathesis from its OpenAPI document, wrong ones, and without the token."""

from importlib import import_module
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from tests.cyoa_game import Parrot, serving

CODE = "sprints.05_cyoa.code"
app, champion, store, limits, metrics = (
    import_module(f"{CODE}.api.{name}") for name in ("app", "champion", "store", "limits", "metrics")
)
scenarios = import_module(f"{CODE}.scenarios")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
QUIET = {"suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    served = app.create_app(
        store.Store(f"sqlite:///{tmp_path_factory.mktemp('schema')}/stories.db"),
        champion.Champion(lambda: (None, "parrot"), lambda *_: Parrot("A lamp.\n\n> Look\n> Leave")),
        scenarios.load(),
        limits=limits.Limits(parallel=100, rate=1e6, burst=10**6, queue=100),
    )
    with serving(served) as address:
        yield address


def test_every_route_keeps_to_the_document(address):
    with httpx2.Client(base_url=address) as client:
        begun = client.post("/stories", json={"scenario_id": "two-kites"}).json()
        document = client.get("/openapi.json").json()
    ids = {"story_id": begun["story"]["id"], "node_id": begun["root"]["id"]}
    schema = schemathesis.openapi.from_dict(document)
    found: list[Any] = list(schema.get_all_operations())
    operations = [operation.ok() for operation in found]
    assert len(operations) > 30
    for operation in operations:
        walk(operation, address, {}, 1)
        if operation.method != "delete":
            walk(operation, address, ids, 3)


def walk(operation, address, ids, examples):
    """Call a route with what its schema allows; `ids` replaces parameters by what there is."""

    @settings(max_examples=examples, derandomize=True, database=None, **QUIET)
    @given(case=operation.as_strategy())
    def call(case):
        for name in ids.keys() & (case.path_parameters or {}).keys():
            case.path_parameters[name] = ids[name]
        case.call_and_validate(base_url=address, checks=CHECKS, timeout=20)

    call()


def test_wrong_requests_say_what_is_wrong_and_repeat_nothing(address):
    client, secret = httpx2.Client(base_url=address), "s3cr3t-words"
    made = client.post("/stories", json={"scenario_id": "two-kites"}).json()
    url = f"/stories/{made['story']['id']}/nodes"
    wrong = [
        ("/stories", {"prompt": secret * 200, "genre": "x"}, 422),
        ("/stories", {"prompt": secret}, 422),
        ("/stories", {"scenario_id": secret}, 404),
        ("/stories", {"scenario_id": "two-kites", secret: 1}, 422),
        ("/stories", {"scenario_id": "two-kites", "settings": {"top_k": secret}}, 422),
        ("/stories", {"scenario_id": "two-kites", "rating": secret}, 422),
        ("/stories", {"scenario_id": "two-kites", "seed": -1}, 422),
        (url, {"parent_id": secret, "text": "x"}, 422),
        (url, {"parent_id": str(uuid4()), "text": secret}, 404),
        (url, {"parent_id": made["root"]["id"], "choice_id": str(uuid4())}, 404),
        (url, {"parent_id": made["root"]["id"]}, 422),
        (url, {"parent_id": made["root"]["id"], "text": "\u0000 \u0007"}, 422),
        (f"/nodes/{secret}/feedback", {"verdict": "up"}, 422),
        (f"/nodes/{made['root']['id']}/feedback", {"verdict": secret}, 422),
        ("/v1/completions", {"prompt": "x", "model": secret}, 404),
    ]
    for path, body, status in wrong:
        answer = client.post(path, json=body)
        assert (answer.status_code, secret in answer.text) == (status, False), (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json" and answer.json()["status"] == status
    json_type = {"Content-Type": "application/json"}
    for raw in (b"[" * 60_000, b'{"a":' * 10_000, b"{", b"\xff\xfe", b'{"scenario_id": ' + b"1" * 5000 + b"}", b'"\\ud800"'):
        assert client.post("/stories", content=raw, headers=json_type).status_code in (400, 422)
    surrogate = client.post("/stories", content=b'{"genre": "x", "prompt": "\\ud800"}', headers=json_type)
    assert surrogate.status_code in (400, 422)


def test_a_server_with_a_token_lets_nobody_else_in():
    inner = FastAPI()
    for path in ("/genres", "/livez"):
        inner.get(path)(lambda: "here")
    guard = limits.Guard(inner, metrics.Metrics(), None, "open-sesame")
    with TestClient(guard, follow_redirects=False) as client:
        assert client.get("/genres").status_code == 401 and client.get("/livez").status_code == 200
        assert client.get("/genres", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/genres", headers={"Authorization": "Bearer open-sesame", "Host": "any.example"}).status_code == 200
        assert client.get("/?token=wrong").status_code == 401 and client.get("/genres?token=open-sesame").status_code == 401
        entered = client.get("/?token=open-sesame")
        assert entered.status_code == 303 and "HttpOnly" in entered.headers["set-cookie"]
        assert client.get("/genres").status_code == 200  # by the cookie
