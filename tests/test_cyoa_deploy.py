"""CYOA beyond one process: the API's own tests with a model behind the OpenAI API, and the files of sprints/05_cyoa/deploy."""

import configparser
import inspect
import json
import re
import shlex
import shutil
import subprocess
from importlib import import_module
from types import SimpleNamespace

import httpx2
import pytest
import tyro
import yaml
from starlette.testclient import TestClient

from shared import models
from shared.sprints import ROOT
from tests.cyoa_game import serving, wait_until

CODE = "sprints.05_cyoa.code"
app, champions, store, limits, serve = (
    import_module(f"{CODE}.api.{name}") for name in ("app", "champion", "store", "limits", "serve")
)
scenarios, choose = import_module(f"{CODE}.scenarios"), import_module(f"{CODE}.engines.choose")
api = import_module("tests.test_cyoa_api")
DEPLOY = ROOT / "sprints/05_cyoa/deploy"
GENEROUS = limits.Limits(queue=64, parallel=64, rate=1000)
OF_THE_MODEL = {"test_feedback_model_metrics_and_the_document"}  # it wants the digest of the weights, which are elsewhere here
HANDED_OVER = [
    name
    for name, test in vars(api).items()
    if name.startswith("test_") and [*inspect.signature(test).parameters] == ["client"] and name not in OF_THE_MODEL
]


def made(database, place, open_engine, hosts):
    return app.create_app(
        store.Store(database), champions.Champion(lambda: place, open_engine), scenarios.load(), limits=GENEROUS, hosts=hosts
    )


@pytest.fixture(scope="module")
def engine_url(tmp_path_factory):
    """The /v1 of a server of ours with the engine fast."""
    behind = made(
        f"sqlite:///{tmp_path_factory.mktemp('engine')}/stories.db",
        (models.POCKET, "pocket"),
        lambda folder, version: choose.open_engine("fast", folder, version),
        app.LOCAL,
    )
    with serving(behind) as url:
        wait_until(lambda: httpx2.get(f"{url}/readyz", timeout=60).status_code == 200)
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(request, engine_url, tmp_path_factory):
    """A client of the app whose engine is that server, on PostgreSQL where it is installed."""
    try:
        url = request.getfixturevalue("postgres")
    except pytest.skip.Exception:  # the tests of the store say why
        url = f"sqlite:///{tmp_path_factory.mktemp('game')}/stories.db"
    game = made(
        url,
        (None, "openai"),
        lambda *_: choose.open_engine("openai", None, base_url=engine_url, model="pocket"),
        frozenset({"testserver"}),
    )
    with TestClient(game) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.mark.parametrize("name", HANDED_OVER)
def test_the_api_with_the_engine_openai(name, client):
    getattr(api, name)(client)


def test_choices_are_forced_through_the_other_server(client):
    """A beginning of an answer is continued: without that, choices asked one at a time would come from the deck only."""
    made = api.begin(client)
    node = api.turn(client, made["story"], made["root"])
    told = client.post(f"/nodes/{node['id']}/choices:reroll")
    assert told.status_code == 200 and len({choice["text"] for choice in told.json()["choices"]}) >= 2


def test_usage_in_a_stream_counts_tokens_not_pieces(client, engine_url):
    body = {"messages": [{"role": "user", "content": "Begin."}], "max_tokens": 24, "stream": True, "temperature": 0}
    told = httpx2.post(f"{engine_url}/chat/completions", json=body | {"stream_options": {"include_usage": True}}, timeout=30).text
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    whole = httpx2.post(f"{engine_url}/chat/completions", json=body | {"stream": False}, timeout=30).json()
    assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
    text = "".join(choice["delta"]["content"] for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    half = text.index(" ", len(text) // 2)  # at the end of a word: elsewhere other tokens would go on
    begun = [*body["messages"], {"role": "assistant", "content": text[:half]}]
    asked = body | {"messages": begun, "stream": False, "continue_final_message": True}
    rest = httpx2.post(f"{engine_url}/chat/completions", json=asked, timeout=30).json()["choices"][0]["message"]["content"]
    assert (text[:half] + rest).startswith(text)


def flags(words):
    """What the flags of serve mean; fails on one that it does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", SimpleNamespace(write=lambda _: None, flush=lambda: None))
        return tyro.cli(serve.Args, args=words)


def containerfile():
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text(encoding="utf-8"))
    return [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]


def started(words):
    """The flags behind `python -m MODULE`, which is serve."""
    place = words.index("-m")
    assert words[place - 1].endswith("python") and import_module(words[place + 1]) is serve
    return words[place + 2 :]


def test_the_image_copies_what_exists_and_starts_the_server():
    lines = containerfile()
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for instruction, rest in lines:
        if instruction == "COPY":
            *sources, _ = rest.split()
            assert set(sources) <= kept and all((ROOT / source).exists() for source in sources)
    assert ignored[1] == "*" and not {"runs", ".venv"} & kept
    told = {name: json.loads(rest) for name, rest in lines if name in ("ENTRYPOINT", "CMD")}
    args = flags([*started(told["ENTRYPOINT"]), *told["CMD"]])
    assert (
        args.public and not args.open and args.port == int(dict(lines)["EXPOSE"]) and args.database.startswith("sqlite:////data/")
    )


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))


def settled(words, **values):
    """Words of the compose file with its variables put in."""
    return [re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1], found[2]), word) for word in words]


def test_the_compose_file_starts_two_sizes(compose):
    services = compose["services"]
    sizes = {size: {name for name, service in services.items() if size in service["profiles"]} for size in ("solo", "team")}
    assert sizes == {"solo": {"solo"}, "team": {"team", "engine", "mlflow", "postgres"}}
    values = {"CYOA_TOKEN": "t", "ENGINE_TOKEN": "e", "POSTGRES_PASSWORD": "p"}
    args = {name: flags(settled(services[name]["command"], **values)) for name in ("solo", "team", "engine")}
    assert args["solo"].token == args["team"].token == "t"
    assert args["solo"].database.startswith("sqlite:///") and args["engine"].engine == "fast"
    assert args["team"].database == "postgresql+psycopg://cyoa:p@postgres/cyoa"
    assert args["team"].engine == "openai" and args["team"].base_url == f"http://engine:{args['engine'].port}/v1"
    assert args["team"].key == args["engine"].token and args["engine"].per_client >= args["team"].queue
    assert services["engine"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    for service in services.values():
        for build in filter(None, [service.get("build")]):
            assert (DEPLOY / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()
        assert set(service.get("depends_on", ())) <= sizes[service["profiles"][0]]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_the_tracker_of_the_compose_file_has_flags_of_mlflow(compose):
    from mlflow.cli import cli

    service = compose["services"]["mlflow"]
    program, command, *words = [*service["entrypoint"], *settled(service["command"])]
    assert program == "mlflow"
    known = {flag for option in cli.commands[command].params for flag in option.opts}
    assert {word for word in words if word.startswith("--")} <= known
    database = settled([service["command"][1]])[0].rsplit("/", 1)[1]
    assert f"CREATE DATABASE {database};" in (DEPLOY / "databases.sql").read_text(encoding="utf-8")


def test_the_unit_starts_the_server(tmp_path):
    text = (DEPLOY / "cyoa.service").read_text(encoding="utf-8")
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(text)
    args = flags(started(shlex.split(unit["Service"]["ExecStart"])))
    state = f"sqlite:////var/lib/{unit['Service']['StateDirectory'].split()[0]}/"
    assert not args.open and not args.public and args.database.startswith(state)
    assert float(unit["Service"]["TimeoutStopSec"]) > args.drain
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed: its own check of the unit was left out")
    copy = tmp_path / "cyoa.service"
    copy.write_text(text.replace("/opt/cyoa", str(ROOT)), encoding="utf-8")
    told = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert str(copy) not in told.stderr and "cyoa.service:" not in told.stderr, told.stderr
