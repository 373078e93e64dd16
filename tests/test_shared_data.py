"""Dataset access, against a real HTTP server, real files and real processes."""

import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from shared import data

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DOWN = data.Remote("http://127.0.0.1:9/file", SHA256)  # port 9 (discard): nothing answers there
FAILURES = {"/wrong": SHA256, "/cut": "closed 10 bytes too early", "/missing": "404", "down": "Connection refused"}
CELL = st.none() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text() | st.lists(st.integers(0, 2), max_size=2)
SHARE, SEED = st.floats(0.1, 0.9), st.integers(0, 2**32 - 1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("X-No-Length" if self.path == "/unsized" else "Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"/wrong": CONTENT[::-1], "/cut": CONTENT[:-10], "/stalled": b"x"}.get(self.path, CONTENT))
        if self.path == "/stalled":
            self.rfile.read(1)  # returns when the client goes away


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.mark.parametrize("route", ["/file", "/unsized"])
def test_fetch_downloads_once_and_mends_the_cache(server, cache, route):
    path = data.fetch("set/file", data.Remote(server + route, SHA256))
    assert path.read_bytes() == CONTENT and list(cache.rglob("*")) == [path.parent, path]
    assert data.fetch("set/file", DOWN) == path
    path.write_bytes(CONTENT[:100])
    with pytest.warns(UserWarning, match="damaged"):
        data.fetch("set/file", data.Remote(server + route, SHA256))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("route", FAILURES)
def test_a_failed_download_is_one_line_and_leaves_nothing(server, cache, route):
    with pytest.raises(data.DataError, match=f"{FAILURES[route]}.*{cache}/set/file") as caught:
        data.fetch("set/file", DOWN if route == "down" else data.Remote(server + route, SHA256))
    assert "\n" not in str(caught.value) and os.listdir(cache / "set") == []


def test_fetch_prefers_the_offline_folder_and_refuses_a_wrong_file_there(tmp_path, monkeypatch, server, cache):
    data.fetch("set/file", data.Remote(server + "/file", SHA256))
    offline = shutil.copytree(cache, tmp_path / "offline")
    monkeypatch.setenv("SPRINTS_DATA", str(offline))
    assert data.fetch("set/file", DOWN) == offline / "set" / "file"
    (offline / "set" / "file").write_bytes(b"other")
    with pytest.raises(data.DataError, match=f"{offline}/set/file.*{SHA256}.*{data.digest(b'other')}"):
        data.fetch("set/file", DOWN)


def start(setup: str, url: str) -> subprocess.Popen:
    code = f"import sys; from shared import data; {setup}; data.fetch('set/file', data.Remote(*sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, url, SHA256], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_leaves_nothing(server, cache):
    # a process started in the background inherits an ignored SIGINT
    with start("import signal; signal.signal(2, signal.default_int_handler)", server + "/stalled") as process:
        deadline = time.monotonic() + 10
        while not (parts := list(cache.glob("set/file.*.part"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert parts and process.communicate(timeout=10)[1].endswith("interrupted\n")
    assert os.listdir(cache / "set") == []


def test_full_disk_leaves_nothing(server, cache):
    with start("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))", server + "/file") as process:
        assert "error: cannot download set/file ([Errno 27]" in process.communicate(timeout=10)[1]
    assert os.listdir(cache / "set") == []


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../../x", "/etc/passwd", "C:/x", "a\\..\\x", "mnist/nope.gz"])
def test_fetch_refuses_unknown_names_and_those_that_leave_the_folder(name):
    with pytest.raises(data.DataError, match="choose one of mnist/train.*fashion_mnist/" if "nope" in name else "bad"):
        data.fetch(name, None if "nope" in name else DOWN)


@pytest.mark.skipif(not os.environ.get("SPRINTS_DATA"), reason="SPRINTS_DATA, with the real MNIST files, is not set")
def test_real_mnist():
    images, labels, *_ = [data.read_idx(data.fetch(name)) for name in data.REGISTRY]  # all eight sha256 are checked
    assert images.shape == (60000, 28, 28) and round(images.mean() / 255, 4) == 0.1307  # known from every tutorial
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")])
def test_read_idx_reads_whole_files_only(tmp_path, code, dtype):
    array = np.arange(100, 124).reshape(2, 3, 4).astype(dtype)
    whole = bytes([0, 0, code, 3]) + np.array(array.shape, ">u4").tobytes() + array.astype(f">{dtype}").tobytes()
    for path, content in ((tmp_path / "a", whole), (tmp_path / "a.gz", gzip.compress(whole))):
        path.write_bytes(content)
        np.testing.assert_array_equal(data.read_idx(path), array, strict=True)
        scrambled = content[:12] + b"\xff" * 20  # in gzip: an impossible block
        for damaged in (b"", content[:3], content[:-1], b"\1" + content[1:], whole + b"x", b"\0\0\7\0", scrambled):
            path.write_bytes(damaged)
            with pytest.raises(data.DataError):
                data.read_idx(path)


@given(st.lists(CELL, min_size=1, max_size=8), CELL, st.data())
def test_digest_sees_any_changed_cell(cells, other, draw):
    row = draw.draw(st.integers(0, len(cells) - 1))
    assume(cells[row] != other)
    changed = [*cells[:row], other, *cells[row + 1 :]]
    digests = [data.digest(pd.DataFrame({"same": 1, "cell": column})) for column in (cells, list(cells), changed)]
    assert digests[0] == digests[1] != digests[2]


def test_digest_tells_apart_or_refuses():
    long, square = pd.DataFrame({"a": range(10_002)}), np.arange(4).reshape(2, 2)
    cells = [None, float("nan"), pd.NA, 0, False, 0.0, "0", [0], ["0"], [[0]], {"a": 0}, {"b": 0}, b"0", np.float32(0)]
    for items in (
        [square, square.T, square.ravel(), square.astype("f8"), square.view("m8[s]")],
        [long, long.replace(10_001, 0), long[::-1], long.set_axis(["b"], axis=1), long.astype("i4"), long + 1],
        [pd.DataFrame({"a": pd.Categorical(["u"], categories=order)}) for order in (["u", "v"], ["v", "u"])],
        [pd.DataFrame({"a": pd.Series([cell], dtype=object)}) for cell in cells],
        [[b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [[b"ab"], b"c"], b"abc"],
    ):
        assert len({data.digest(item) for item in items}) == len(items)
    for refused in ("text", {1}, np.array([None]), pd.DataFrame({"a": [{1}]})):
        with pytest.raises(TypeError, match="cannot digest"):
            data.digest(refused)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_digest_is_the_same_in_every_process(hash_seed):
    frame = "pd.DataFrame({'a': ['x', None], 'b': [{'k': 1, 'j': [2]}, 0.1], 'c': pd.to_datetime(['2020', None])})"
    code = f"import pandas as pd; from shared.data import digest; print(digest([b'x', {frame}]), end='')"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True)
    assert output == "b54f6f60736a4a832eb6dce9cbc3db9da94d816d38ec7004d57bd39b4f6afbdf"


@given(groups=st.lists(st.integers(0, 9), min_size=2, max_size=60), grouped=st.booleans(), test=SHARE, seed=SEED)
def test_split_is_disjoint_complete_reproducible_and_private(groups, grouped, test, seed):
    n_test = round(test * len(set(groups) if grouped else groups))
    assume(0 < n_test < len(set(groups) if grouped else groups))
    choice = {"test": test, "seed": seed, "groups": groups if grouped else None}
    state = repr(np.random.get_state())  # noqa: NPY002
    sides, again = ([side.tolist() for side in data.split(len(groups), **choice)] for _ in range(2))
    assert sides == again and repr(np.random.get_state()) == state  # noqa: NPY002
    assert sides == [sorted(side) for side in sides] and sorted(sides[0] + sides[1]) == list(range(len(groups)))
    ids = [{groups[row] if grouped else row for row in side} for side in sides]
    assert not ids[0] & ids[1] and len(ids[1]) == n_test


def test_split_stratifies_and_depends_on_the_seed():
    sides = [data.split(100, test=0.25, seed=seed, stratify=["a"] * 80 + ["b"] * 20)[1] for seed in (1, 2)]
    assert [(side >= 80).sum() for side in sides] == [5, 5] and sides[0].tolist() != sides[1].tolist()


def test_split_refuses():
    refused = {
        "side empty": [{"test": 0.0}, {"test": 1.0}, {"test": float("nan")}, {"test": 0.9}, {"groups": [1, 1, 1]}],
        "each of the 3 rows": [{"groups": [1, 2]}, {"stratify": [1, 2, 1, 2]}],
        "cannot be combined": [{"groups": [1, 1, 2], "stratify": [1, 1, 2]}],
    }
    for message, choices in refused.items():
        for choice in choices:
            with pytest.raises(ValueError, match=message):
                data.split(3, **{"test": 0.5, "seed": 0} | choice)


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (b"a: [", "utf-8", "is not YAML in utf-8"),
        (b"a: caf\xc3\xa9", "ascii", "is not YAML in ascii"),
        (b"a: \xff", "utf-8", "is not YAML in utf-8"),
        (b"!!python/object/apply:os.getcwd []", "utf-8", "could not determine a constructor"),
        (b"[" * 100_000, "utf-8", "is not YAML"),
        (b"born: 2024-02-30", "utf-8", "is not YAML"),
        (None, "utf-8", "there is no file"),
    ],
)
def test_what_is_no_yaml_is_one_line(tmp_path, content, encoding, said):
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(data.DataError, match=said) as caught:
        data.read_yaml(file, encoding)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_yaml_is_read_as_safe_load_reads_it(tmp_path):
    text = "a: [1, 2.5, yes, null, 2026-01-02]\nb: {c: caf\u00e9, d: 'two: lines'}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    assert data.read_yaml(tmp_path / "x.yaml") == yaml.safe_load(text)
