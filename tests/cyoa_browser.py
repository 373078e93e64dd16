"""The web game in a real Chromium for the tests of CYOA: fixtures, for `pytest_plugins`."""

from importlib import import_module

import pytest

from tests.chromium import CHROMIUM, WITHOUT
from tests.cyoa_game import played

screens = import_module("sprints.05_cyoa.code.screens")


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    with played(tmp_path_factory.mktemp("game")) as game:
        yield game


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip(WITHOUT)
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=screens.FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def tab(game, browser):
    """tab(width, **options) opens a page; at the end it must have asked no other host and logged no error."""
    contexts, asked, errors = [], [], []

    def open_tab(width=1280, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    game.engine.pause = 0.0
    assert [url for url in asked if not url.startswith((game.base, "blob:"))] == []
    assert errors == []
