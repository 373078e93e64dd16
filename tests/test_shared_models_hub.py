"""Model names, a hub (a stand-in on this machine) that answers or does not, its cache, and files that must never run."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from shared import models
from shared.device import Device
from shared.errors import UserError
from tests.test_shared_models import CPU, MLX, both, build, edit, needs_mlx, needs_nf4, save_4bit

ROOT = Path(__file__).parents[1]
POCKET = models.POCKET
SMOLLM, PHI3, TWIN = models.HUB["smollm"], models.HUB["phi3"], "mlx-community/Phi-3-mini-4k-instruct-4bit"
SHA = "0123456789abcdef0123456789abcdef01234567"
ADVICE = "connect to the network, set HF_HOME to a cache that has it, or use pocket (`make pocket-train`)"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("tiny"))


def point_hub_at(monkeypatch, port: int, cache: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture(autouse=True)
def hub_is_off(monkeypatch, tmp_path):
    """No test reaches the real hub, this machine's cache or its pocket; nothing listens on port 9."""
    point_hub_at(monkeypatch, 9, tmp_path / "cache")
    monkeypatch.setattr(models, "POCKET", tmp_path / "no_pocket")


class FakeHub(ThreadingHTTPServer):
    """Serves one folder as any repository, in the hub's protocol; refuses "gone" and "gated", leaves "silent" waiting."""

    folder: Path
    asked: int = 0


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self):
        self.server.asked += 1
        files = sorted(path for path in self.server.folder.iterdir() if path.is_file())
        tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name} for path in files]
        if "silent" in self.path:
            time.sleep(5)
        elif "gone" in self.path:
            self.send(404, b"", "RepoNotFound")
        elif self.path.startswith("/api/"):
            self.send(200, json.dumps(tree if "/tree/" in self.path else {"id": "org/name", "sha": SHA}).encode())
        elif "gated" in self.path:
            self.send(403, b"", "GatedRepo")
        else:
            self.send(200, (self.server.folder / self.path.rsplit("/", 1)[1]).read_bytes())

    def do_HEAD(self):
        self.do_GET()

    def send(self, status: int, body: bytes, error: str = ""):
        self.send_response(status)
        name = self.path.rsplit("/", 1)[1]
        for key, value in {"Content-Length": len(body), "X-Repo-Commit": SHA, "ETag": f'"{name}"', "X-Error-Code": error}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tiny, monkeypatch, tmp_path):
    with FakeHub(("127.0.0.1", 0), Handler) as hub:
        hub.folder = Path(shutil.copytree(tiny, tmp_path / "served"))
        for name in ("pytorch_model.bin", "modeling_evil.py", "README.md"):
            (hub.folder / name).write_text("not wanted")
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        point_hub_at(monkeypatch, hub.server_port, tmp_path / "cache")
        yield hub
        hub.shutdown()


# -- names -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pokcet", "pocket"), ("phi-3", "phi3"), ("smolm", "smollm"), ("Auto", "auto"), ("../nowhere", ""), ("a/b/c", ""), ("", "")],
)
def test_misspelt_name_gets_a_hint(name, hint):
    with pytest.raises(UserError) as caught:
        models.load(name, CPU)
    choice = "choose auto, pocket, smollm, phi3, a hub id org/name, or a folder that exists"
    assert str(caught.value) == f"unknown model {name!r}{hint and f', did you mean {hint}?'}: {choice}"


def test_pocket_is_what_auto_means_on_a_cpu(tiny, monkeypatch):
    assert POCKET == ROOT / "sprints" / "00_pocket_brain" / "results" / "model"
    for name in ("auto", "pocket"):
        with pytest.raises(UserError, match=r"^the model pocket is not trained yet: run `make pocket-train`$"):
            models.load(name, CPU)
    monkeypatch.setattr(models, "POCKET", tiny)
    loaded = models.load("auto", CPU)
    assert (loaded.name, loaded.revision) == ("pocket", None)
    assert loaded.reason.startswith("auto: Phi-3 in 4 bit needs CUDA or MLX; float32 on cpu")
    assert models.load("pocket", CPU).reason.startswith("asked for; ")


# -- without the hub -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_named_model_without_network_is_one_line_at_once(variables, tmp_path):
    """As a program meets it: a fresh process with real variables."""
    code = "from shared import models, device; models.load('smollm', device.Device('cpu', 'float32', ''))"
    start, environment = time.monotonic(), os.environ | {"HF_HOME": str(tmp_path)} | variables
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot get {SMOLLM} from the hub (") and last.endswith(f"): {ADVICE}")
    assert time.monotonic() - start < 30  # most of it is imports


def test_auto_falls_back_to_pocket_and_says_so(tiny, monkeypatch):
    on_cuda = Device("cuda", "bfloat16", "tests")
    for device, name in [(on_cuda, PHI3), (MLX, TWIN)]:
        with pytest.raises(models.HubError, match=rf"^cannot get {name} from the hub \(.*`make pocket-train`\)$"):
            models.load("auto", device)
    monkeypatch.setattr(models, "POCKET", tiny)
    with pytest.raises(models.HubError, match=f"^cannot get {PHI3} "):  # a model that was named is never replaced
        models.load("phi3", on_cuda)


@needs_mlx
def test_auto_falls_back_to_pocket_on_mlx(tiny, monkeypatch):
    monkeypatch.setattr(models, "POCKET", tiny)
    loaded = models.load("auto", MLX)
    assert (loaded.name, loaded.backend) == ("pocket", "mlx")
    assert loaded.reason.startswith(f"auto: pocket stands in for Phi-3 (cannot get {TWIN} from the hub (")


def test_silent_hub_is_not_waited_for(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    with pytest.raises(models.HubError, match="timed out"):
        models.load("org/silent", CPU)


# -- with it ---------------------------------------------------------------------------------------------------------------------


def test_download_then_the_cache_alone(hub, monkeypatch, tmp_path):
    loaded = models.load("smollm", CPU)
    assert (loaded.name, loaded.revision) == (SMOLLM, SHA)
    fetched = {path.name for path in (tmp_path / "cache").rglob(f"snapshots/{SHA}/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not {"pytorch_model.bin", "modeling_evil.py", "README.md"} & fetched
    asked = hub.asked
    again = models.load("smollm", CPU)
    assert hub.asked == asked and again.revision == SHA
    assert torch.equal(again.model.lm_head.weight, loaded.model.lm_head.weight)
    point_hub_at(monkeypatch, 9, tmp_path / "cache")
    assert models.load("smollm", CPU).revision == SHA


def test_half_a_model_in_the_cache_is_completed(hub, monkeypatch, tmp_path):
    models.load("org/name", CPU)
    half = shutil.ignore_patterns("trees", "model.safetensors")  # transformers' own downloads leave no list of files in trees
    shutil.copytree(tmp_path / "cache", tmp_path / "half", symlinks=True, ignore=half)
    point_hub_at(monkeypatch, hub.server_port, tmp_path / "half")
    assert models.load("org/name", CPU).revision == SHA
    assert len(list((tmp_path / "half").rglob("snapshots/*/model.safetensors"))) == 1


def test_refusals_of_the_hub(hub):
    for name, hint in [("org/gone", ""), ("org/gated", ""), ("HuggingFaceTB/SmolLM-135M-gone", rf", did you mean {SMOLLM}\?")]:
        advice = rf"if it is gated or private, get access at http://\S+/{name} and run `hf auth login`"
        with pytest.raises(models.HubError, match=rf"^the hub gives no model {name}{hint}: {advice}$"):
            models.load(name, CPU)


@needs_mlx
def test_auto_does_not_hide_a_damaged_model(hub, tiny, monkeypatch):
    monkeypatch.setattr(models, "POCKET", tiny)
    (hub.folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"snapshots/\w+ cannot be loaded"):
        models.load("auto", MLX)


def test_hub_model_of_pickles_is_refused(hub, tmp_path):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot be loaded \(it has no model\.safetensors\)"):
        models.load("org/pickles", CPU)
    assert not list((tmp_path / "cache").rglob("*.bin"))


@needs_nf4
def test_phi3_is_4_bit_by_itself(hub):
    assert "nf4 on cpu" in models.load("phi3", CPU).reason
    for name, quantization in [("phi3", "none"), ("smollm", None)]:
        assert "float32 on cpu" in models.load(name, CPU, quantization).reason


@needs_mlx
def test_phi3_on_mlx_is_its_4_bit_twin(hub, tiny, tmp_path):
    hub.folder = save_4bit(tiny, tmp_path / "4bit")
    loaded = models.load("auto", MLX)
    assert (loaded.name, loaded.revision) == (TWIN, SHA) and loaded.reason.startswith("auto: mlx is here; mlx4 on mlx")
    assert models.load("phi3", MLX).name == TWIN
    hub.folder = tiny
    assert models.load("phi3", MLX, "none").name == PHI3


# -- what must never run ---------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@both
@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.safetensors"])
def test_pickles_are_refused_and_not_run(tiny, tmp_path, device, name):
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refusal = f"has no model.safetensors; {name} is never loaded, since a pickle can run code"
    with pytest.raises(UserError, match="cannot be loaded" if name == "model.safetensors" else refusal):
        models.load(str(copy), device)
    assert not (tmp_path / "ran").exists()
    pickle.loads((copy / name).read_bytes())
    assert (tmp_path / "ran").exists()  # the bomb does work


@both
def test_code_in_a_folder_is_not_run(tiny, tmp_path, device):
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (copy / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    edit(copy / "config.json", model_type="evil", auto_map=dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.Evil"))
    edit(copy / "config.json", model_file="evil.py")  # mlx-lm's way
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load(str(copy), device)
    assert not (tmp_path / "ran").exists()
