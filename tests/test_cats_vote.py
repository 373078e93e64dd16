"""Sprint 01: the voting page in a real browser, and the votes it saves."""

import base64
import json
import math
import os
import re
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest

from shared.errors import UserError
from tests.chromium import CHROMIUM, WITHOUT

vote = import_module("sprints.01_paws_of_dread.code.vote")
Vote = vote.Vote

in_browser = pytest.mark.skipif(CHROMIUM is None or sys.platform == "win32", reason=WITHOUT)  # which a pipe can drive
NASTY = """</script><script>hit = 1</script><img src=x onerror="hit = 2"> & &amp; "it's" <!-- {{title}} ${hit}\n`two`"""
SYSTEMS = ("base", "fewshot", "tuned")
GOOD = {"id": "a", "left": "base", "right": "tuned", "choice": "equal", "seconds": 2.5}
LAUNCH = """import fcntl, os, sys
read, write = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])"""  # Chromium reads commands from file 3 and answers on file 4


class Browser:
    """Headless Chromium, driven by its DevTools protocol through a pipe."""

    def __init__(self, folder):
        self.folder, self.buffer, self.session, self.count = folder, b"", None, 0
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
        flags = [*flags.split(), "--disable-sync", f"--user-data-dir={folder}/profile", "--remote-debugging-pipe"]
        command = [sys.executable, "-c", LAUNCH, str(read), str(write), str(CHROMIUM), *flags]
        self.process = subprocess.Popen(command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (read, write):
            os.close(end)

    def call(self, method: str, **params) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                assert select.select([self.read], [], [], 60)[0], f"{method}: no answer within a minute"
                part = os.read(self.read, 1 << 16)
                assert part, f"{method}: the browser is gone"
                self.buffer += part
            answer, _, self.buffer = self.buffer.partition(b"\0")
            if (found := json.loads(answer)).get("id") == self.count:
                assert "error" not in found, found
                return found["result"]

    def open(self, path, found, title, width=1200):
        """A new visitor's look at the page of these pairs."""
        path.write_text(vote.page(found, title), encoding="utf-8")
        self.session = None
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context, width=width, height=800)["targetId"]
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.folder), browserContextId=context)
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        self.call("Page.navigate", url=path.as_uri())
        until(lambda: self.js("document.readyState === 'complete' && location.protocol === 'file:'"))

    def js(self, text: str):
        found = self.call("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, element: str):
        return self.js(f"$('{element}').textContent")

    def key(self, key: str, modifiers: int = 0, repeat: bool = False):
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Tab": 9}.get(key) or ord(key.upper())
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        time.sleep(0.3)  # the page takes two votes at once for a double click
        options = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeat, **text, **options)
        self.call("Input.dispatchKeyEvent", type="keyUp", **options)


def until(true, step=lambda: time.sleep(0.1)):
    for _ in range(300):
        if true():
            return
        step()
    raise AssertionError("it never comes true")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.process.terminate()
    browser.process.wait(60)
    for end in (browser.read, browser.write):
        os.close(end)


def pairs(count, systems=SYSTEMS):
    """Texts that say by a number who wrote them, and by no name."""
    texts = [{name: f"Text {at} by {n}" for n, name in enumerate(systems)} for at in range(count)]
    return [{"id": f"p{at}", "prompt": f"Prompt {at}?", "texts": texts[at]} for at in range(count)]


@in_browser
def test_votes_by_keys_to_the_end(browser, tmp_path):
    browser.open(tmp_path / "page.html", pairs(5), "A vote")
    expected = []
    keys, choices = ("ArrowLeft", "e", "u", "ArrowRight", "S", "Enter"), ("left", "equal", "", "right", "skip", "left")
    for key, choice in zip(keys, choices, strict=True):
        if key == "ArrowRight":
            browser.key("ArrowLeft", modifiers=1)  # with Alt it is the browser's way back
            browser.key("ArrowLeft", repeat=True)
        elif key == "Enter":  # the page goes on from what the browser kept; the buttons work without a mouse
            browser.js("state = null; state = load(); render()")  # Chromium itself forgets, now and then, when a file: reloads
            until(lambda: browser.js("document.activeElement.dataset.choice === 'left'"), lambda: browser.key("Tab"))
        seen = {side: browser.text(side) for side in ("left", "right")}
        browser.key(key)
        if not choice:
            expected.pop()
            continue
        expected.append({"id": f"p{seen['left'].split()[1]}", "choice": choice})
        expected[-1] |= {side: SYSTEMS[int(text[-1])] for side, text in seen.items()}
        browser.js("shown = performance.now(); document.querySelector('[data-choice=right]').click()")  # half of a double click
        assert browser.text("status") == f"{len(expected) + 1} of 5"
        assert not re.search("base|tuned|fewshot", browser.js("document.documentElement.outerHTML + document.title"))
    browser.key("e")
    assert "last pair" in browser.js("document.body.innerText")
    browser.js("$('back').click()")  # this vote too can be taken back
    browser.key("s")
    until(lambda: browser.js("document.activeElement.id === 'reveal'"), lambda: browser.key("Tab"))
    browser.key("Enter")
    assert "3 votes, 2 skipped." in browser.js("document.body.innerText")
    assert all(row[side] in browser.text("list") for row in expected for side in ("left", "right"))
    browser.key("u")  # too late
    browser.js("$('download').click()")
    until(lambda: list(browser.folder.glob("votes-*.json")))
    votes = vote.read_votes(browser.folder.glob("votes-*.json"))
    plain = [asdict(found) for found in votes]
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in plain[:4]] == expected
    assert len(votes) == 5 and votes[4].choice == "skip" and all(0.2 <= found.seconds < 600 for found in votes)
    assert plain == browser.js("JSON.parse(localStorage[KEY]).votes") == browser.js("JSON.parse($('json').value)")


@in_browser
def test_texts_are_only_text(browser, tmp_path):
    nasty = [{"id": f"{NASTY}{at}", "prompt": NASTY, "texts": {NASTY: NASTY, "base": "x" * 500}} for at in range(2)]
    browser.open(tmp_path / "page.html", nasty, NASTY, width=360)
    assert browser.text("prompt") == NASTY and NASTY in (browser.text("left"), browser.text("right"))
    assert browser.js("[document.querySelector('h1').textContent, document.title]") == [NASTY, " ".join(NASTY.split())]
    assert browser.js("document.documentElement.scrollWidth") <= 360, "scrolls sideways"
    for _ in nasty:
        browser.key("ArrowLeft")
    browser.js("$('reveal').click()")
    browser.js("document.querySelector('details').open = true")
    assert NASTY in browser.text("tallies") and NASTY in browser.text("list")
    assert browser.js("document.documentElement.scrollWidth") <= 360, "scrolls sideways"
    assert browser.js("window.hit") is None and browser.js("document.images.length") == 0
    browser.js("$('copy').click()")
    until(lambda: browser.text("said"))


@in_browser
def test_every_visitor_sees_another_order_and_the_systems_meet_equally_often(browser, tmp_path):
    plans = []
    for _ in range(3):
        browser.open(tmp_path / "page.html", pairs(60), "A vote")
        plans.append(browser.js("state.shows"))
        assert sorted(show["at"] for show in plans[-1]) == list(range(60))
        met = Counter(tuple(sorted((show["left"], show["right"]))) for show in plans[-1])
        assert set(met.values()) == {20} and len(met) == 3
    assert plans[0] != plans[1] != plans[2]
    left = Counter(show["left"] for plan in plans for show in plan)
    assert all(abs(left[name] - 60) < 35 for name in SYSTEMS), left  # more than five standard deviations


def test_page_is_blind_to_glances_and_loads_nothing():
    text = vote.page(pairs(3), "A vote")
    assert not re.search("tuned|fewshot|Text 0|https?:|url\\(|@import|src=|<link", text)
    assert json.loads(base64.b64decode(text.split('id="pairs">')[1].split("<")[0])) == pairs(3)
    assert vote.page(pairs(3), "A vote") == text != vote.page(pairs(4), "A vote")


@pytest.mark.parametrize(("found", "message"), [
    ([], "no pairs"), ([{"id": "a", "prompt": "p"}], "pair 1 needs id, prompt"), (pairs(1, ["base"]), "two or more systems"),
    ([*pairs(1), *pairs(1)], "pair 2: the id 'p0' again"), ([pairs(1)[0] | {"id": ""}], "no id or system is empty"),
    ([{"id": "a", "prompt": "p", "texts": {"base": "x", "tuned": None}}], "are text")])  # fmt: skip
def test_unusable_pairs(found, message):
    with pytest.raises(UserError, match=message):
        vote.page(found, "A vote")


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is not JSON"), ("\xff", "is not JSON"), ("[]", "holds no votes"), ({"votes": [GOOD]}, "holds no votes"),
    ([GOOD, "left"], "vote 2: it needs exactly id, left, right, choice, seconds"), ([GOOD | {"name": "x"}], "1: it needs exactly"),
    ([GOOD | {"left": "tuned"}], "two different systems"), ([GOOD | {"right": 3}], "left and right are text"),
    ([GOOD | {"right": "tunned"}], "unknown system 'tunned', it is one of base, fewshot, tuned"),
    ([GOOD | {"choice": "up"}], "unknown choice 'up'"), ([GOOD | {"choice": ["left"]}], "unknown choice"),
    ([GOOD | {"seconds": -1}], "is no number"), ([GOOD | {"seconds": True}], "is no number"),
    ([GOOD | {"seconds": math.nan}], "is no number"), ([GOOD, GOOD], "two votes on the same pair")])  # fmt: skip
def test_malformed_votes(tmp_path, content, message):
    path = tmp_path / "votes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
    with pytest.raises(UserError, match=message):
        vote.read_votes([path])


def test_files_given_twice_or_missing(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD]))
    assert vote.read_votes([tmp_path / "a.json"]) == [Vote(**GOOD)]
    with pytest.raises(UserError, match="the same votes as"):
        vote.read_votes([tmp_path / "a.json", tmp_path / "a.json"])
    for name in ("none.json", "."):
        with pytest.raises(UserError, match="cannot be read"):
            vote.read_votes([tmp_path / name])
