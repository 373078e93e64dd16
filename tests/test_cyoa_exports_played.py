"""Exports of CYOA in the programs they are for: the HTML in a real browser, ink in inkjs, Twee in extwee."""

import html
import json
import os
import random
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests.chromium import CHROMIUM, WITHOUT
from tests.cyoa_stories import Page, fuzzed, scenarios, told

code = "sprints.05_cyoa.code"
formats, reading, twee = (import_module(f"{code}.exports.{name}") for name in ("formats", "reading", "twee"))
export, book = formats.export, reading.book
SCENARIO = told(scenarios.read(min(scenarios.DATA.glob("*.yaml"))))
FUZZED = [fuzzed(random.Random(seed)) for seed in range(60)]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip(WITHOUT)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def wrong():
    """What went wrong in the pages of a test."""
    return []


@pytest.fixture
def opened(browser, tmp_path, wrong):
    """Opens the HTML of a story; at the end nothing was asked of a network and nothing went wrong in the page."""
    asked, contexts = [], []

    def open_story(story, **options):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_bytes(export(story, "html"))
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_story
    for context in contexts:
        context.close()
    assert all(url.startswith("file:") for url in asked) and not wrong


def shown(page):
    return page.locator("#scene p:not(.end)").all_text_contents(), page.locator("#choices .choice span").all_text_contents()


def test_every_page_of_the_html_is_reached_by_its_choices(opened):
    story = next(story for story in FUZZED if len(book(story).leaves) > 5 and len(book(story).starts) > 1)
    read, page = book(story), opened(story)
    assert page.locator("#title").text_content() == read.title and page.title() == read.title
    ways = [((place,), start.to) for place, start in enumerate(read.starts)]
    while ways:
        way, number = ways.pop()
        page.keyboard.press("r")
        for place in way:
            page.locator("#choices button.choice").nth(place).click()
        leaf = read.leaves[number - 1]
        taken = [link for link in leaf.links if link.to]
        assert page.locator("#title").text_content() == f"Page {number}"
        text, choices = shown(page)
        assert text == list(leaf.paragraphs) and choices == [link.text for link in taken]
        assert page.locator(".untaken").count() == len(leaf.links) - len(taken)
        assert page.locator(".end").count() == leaf.ending
        ways += [((*way, place), link.to) for place, link in enumerate(taken)]
    assert f"{len(read.leaves)} of {len(read.leaves)} pages seen" in str(page.locator("#where").text_content())


def test_a_story_is_played_to_its_end_by_keys_alone(opened):
    read, page = book(SCENARIO), opened(SCENARIO)
    page.keyboard.press("1")
    number = read.starts[0].to
    while links := read.leaves[number - 1].links:
        key = len(links)
        page.keyboard.press(str(key))
        before, number = number, links[key - 1].to
    assert page.locator(".end").text_content() == "The end."
    assert read.leaves[number - 1].paragraphs[0] in str(page.locator("#news").text_content())
    page.reload()
    assert page.locator("#title").text_content() == f"Page {number}", "a reload stays at the page"
    page.keyboard.press("Backspace")
    page.wait_for_function("number => document.getElementById('title').textContent === `Page ${number}`", arg=before)
    page.go_forward()
    page.wait_for_function("number => document.getElementById('title').textContent === `Page ${number}`", arg=number)
    page.keyboard.press("r")
    assert page.locator("#title").text_content() == read.title


def test_text_is_never_markup_and_the_policy_allows_no_other_script(opened, wrong):
    nasty = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'><!-- @@SCRIPT@@"
    root = Page("r", None, nasty, choices=(nasty, "Stay"))
    story = formats.native.check(json.loads(export(SCENARIO, "json"))["story"] | {"title": nasty[:80], "genre": nasty[:80]})
    story = type(story)(**vars(story) | {"pages": (root, Page("c", "r", "Safe.", action=nasty)), "head": "c"})
    page = opened(story)
    page.keyboard.press("1")
    assert shown(page) == ([nasty], [nasty]) and page.evaluate("window.stolen") is None
    other = """() => new Promise((done) => { document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        const script = document.createElement("script"); script.textContent = "window.stolen = 3"; document.body.append(script); })"""
    assert page.evaluate(other) == "script-src-elem" and page.evaluate("window.stolen") is None
    assert "Content Security Policy" in wrong.pop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_html_is_accessible_and_fits_a_phone(opened, scheme):
    page = opened(SCENARIO, color_scheme=scheme, viewport={"width": 390, "height": 780}, reduced_motion="reduce")
    assert page.locator("html").get_attribute("data-theme") == scheme
    for _ in range(2):
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not found, [(v["id"], [node["html"] for node in v["nodes"]]) for v in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.keyboard.press("1")
    page.keyboard.press("d")
    assert page.locator("html").get_attribute("data-theme") != scheme


INK = """import { Compiler } from "inkjs/full"; import { readFileSync } from "fs";
const told = JSON.parse(readFileSync(process.argv[2])).map(({ source, pages }) => {
  const story = new Compiler(source).Compile(), lines = () => { const found = []; while (story.canContinue) found.push(story.Continue().trim()); return found; };
  const opening = [lines(), story.currentChoices.map((choice) => choice.text)];
  return { title: story.globalTags[0], opening, pages: Array.from({ length: pages }, (_, at) => {
    story.ChoosePathString(`page_${at + 1}`);
    const text = lines(), choices = story.currentChoices.map((choice) => choice.text), state = story.state.ToJson();
    return { text, choices: choices.map((choice, place) => { story.state.LoadJson(state); story.ChooseChoiceIndex(place); return [choice, lines()]; }) };
  }) };
});
console.log(JSON.stringify(told));
"""
TWEE = """import { parseTwee } from "extwee"; import { readFileSync } from "fs";
console.log(JSON.stringify(JSON.parse(readFileSync(process.argv[2])).map((source) => { const story = parseTwee(source);
  return { name: story.name, ifid: story.IFID, start: story.start, format: story.format, passages: story.passages.map(({ name, tags, text }) => ({ name, tags, text })) }; })));
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs a script under node with inkjs and extwee, which npm brings into a folder of its own."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("node")
    if not npm or not shutil.which("node"):
        pytest.skip("node and npm are not installed (on Debian: apt-get install npm)")

    def call(*command, timeout=60.0):
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=os.environ | {"NO_COLOR": "1"}
        )

    try:
        if call(npm, "view", "inkjs", "version", timeout=8).returncode:
            raise TimeoutError
        (folder / "package.json").write_text('{"type": "module"}')
        installed = call(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "inkjs@2.4.0", "extwee@2.3.18")
    except (subprocess.TimeoutExpired, TimeoutError):
        pytest.skip("the npm registry cannot be reached")
    assert installed.returncode == 0, installed.stderr

    def run(script: str, data):
        (folder / "script.mjs").write_text(script, encoding="utf-8")
        Path(folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
        done = call("node", "script.mjs", "data.json")
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_ink_compiles_and_plays_in_inkjs(node):
    stories = [SCENARIO, *FUZZED]
    data = [{"source": export(story, "ink").decode(), "pages": len(book(story).leaves)} for story in stories]
    for story, told_by_ink in zip(stories, node(INK, data), strict=True):
        read = book(story)
        texts = {leaf.number: list(leaf.paragraphs) for leaf in read.leaves}
        one = len(read.starts) == 1
        assert told_by_ink["title"] == f"title: {read.title}"
        assert told_by_ink["opening"][0] == (texts[1] if one else [read.title])
        assert one or told_by_ink["opening"][1] == [start.text for start in read.starts]
        for leaf, page in zip(read.leaves, told_by_ink["pages"], strict=True):
            assert page["text"] == texts[leaf.number]
            after = [texts[link.to] if link.to else [reading.UNTAKEN, *texts[leaf.number]] for link in leaf.links]
            assert page["choices"] == [[link.text, text] for link, text in zip(leaf.links, after, strict=True)]


def test_twee_is_parsed_by_extwee(node):
    stories = [SCENARIO, *FUZZED]
    for story, parsed in zip(stories, node(TWEE, [export(story, "twee").decode() for story in stories]), strict=True):
        read, passages = book(story), {passage["name"]: passage for passage in parsed["passages"]}
        assert parsed["ifid"] == story.id.upper() and parsed["format"] == twee.FORMAT and parsed["start"] in passages
        assert twee._plain(parsed["name"]) == twee._plain(read.title)
        for leaf in read.leaves:
            passage = passages[f"Page {leaf.number}"]
            links = [f"[[{twee.entities(link.text)}->{f'Page {link.to}' if link.to else twee.NOWHERE}]]" for link in leaf.links]
            rows = [row for row in passage["text"].split("\n") if row]
            assert rows[len(leaf.paragraphs) :] == links and [html.unescape(row) for row in rows[: len(leaf.paragraphs)]] == list(
                leaf.paragraphs
            )
            assert ("ending" in passage["tags"]) == leaf.ending
            assert all(link.to is None or f"Page {link.to}" in passages for link in leaf.links)
