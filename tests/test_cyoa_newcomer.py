"""What somebody who plays CYOA for the first time met: in a real Chromium, on the real server with the pocket model behind it."""

import pytest

from tests.cyoa_game import written

pytest_plugins = ["tests.cyoa_browser"]


def begin(game, page, **body):
    """A story on the stage; its id."""
    story = game.client.post("/stories", json={"scenario_id": "rain-thief", **body}).json()["story"]["id"]
    page.goto(f"{game.base}/#/story/{story}")
    page.locator(".choice").first.wait_for()
    return story


def test_a_story_of_your_own_begins_with_your_words(game, tab):
    page = tab()
    page.goto(game.base)
    page.get_by_role("button", name="A story of your own").click()
    page.get_by_text("a small model goes on").wait_for()
    page.get_by_label("How does it begin?").fill("A snail delivers the post.\n\nToday it is late.")
    page.get_by_role("button", name="Begin the story").click()
    page.locator(".choice").first.wait_for()
    assert written(page, 1) == "A snail delivers the post. Today it is late."
    assert page.locator(".by").inner_text() == "Written by you" and page.locator(".choice").count() == 3
    page.keyboard.press("1")
    written(page, 2)


def test_a_sheet_opens_at_its_top(game, tab):
    page = tab(1280, 500)
    begin(game, page)
    page.get_by_role("button", name="Memory").click()
    page.get_by_label("the model is told").fill("The soda is alive.")
    page.get_by_role("button", name="Add the card").click()
    page.get_by_role("button", name="Throw away").wait_for()
    assert page.evaluate("document.querySelector('#sheet').scrollTop") > 0  # the same sheet, drawn anew
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.locator("#sheet-title", has_text="Settings of this story").wait_for()
    assert page.evaluate("document.querySelector('#sheet').scrollTop") == 0


def test_your_stories_have_no_horizontal_scrollbar(game, tab):
    page = tab()
    page.goto(game.base)
    page.get_by_role("button", name="All your stories").click()
    page.locator("#import").wait_for(state="attached")
    assert page.evaluate("document.querySelector('#sheet').scrollWidth - document.querySelector('#sheet').clientWidth") <= 0
    assert page.locator("#import").bounding_box()["width"] <= 1


def test_the_end_stands_on_a_panel(game, tab):
    page = tab()
    story = begin(game, page, settings={"authored": False, "length": 2})
    for scene in (2, 3):
        page.keyboard.press("1")
        written(page, scene)
    page.locator(".fin").wait_for()
    looks = "e => ['backgroundColor', 'borderTopColor', 'boxShadow'].map(name => getComputedStyle(e)[name])"
    assert page.locator(".more").evaluate(looks) == page.locator(".box").evaluate(looks)
    page.get_by_role("button", name="Go on with the model").click()
    written(page, 4)
    page.locator(".choice").first.wait_for()
    assert page.locator(".fin").count() == 0 and len(game.client.get(f"/stories/{story}/tree").json()["nodes"]) == 4


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_the_choices_are_in_sight(game, tab, width):
    page = tab(width, 780)
    begin(game, page, settings={"authored": False})
    page.locator("#words").fill("wait")
    page.keyboard.press("Enter")
    written(page, 2)
    page.get_by_role("button", name="Retry").wait_for()
    boxes = [button.bounding_box() for button in page.locator(".tools button").all()]
    assert len(boxes) == 5 and len({box["y"] for box in boxes}) == 1
    assert boxes[-1]["x"] + boxes[-1]["width"] <= width and page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".box").bounding_box()["y"] < 780 / 4


@pytest.mark.parametrize("name", ["Nobody Tell the Captain", "A story of your own"])
def test_the_button_that_begins_is_in_sight(game, tab, name):
    page = tab(1280, 757)
    page.goto(game.base)
    page.get_by_role("button", name=name).click()
    button = page.get_by_role("button", name="Begin the story")
    button.wait_for()
    button.evaluate("() => { document.querySelector('#sheet').scrollTop = 0; }")
    box, dialog = button.bounding_box(), page.locator("#sheet").bounding_box()
    assert box["y"] + box["height"] + 8 <= dialog["y"] + dialog["height"]


def test_exports_say_what_they_hold(game, tab):
    page = tab()
    begin(game, page)
    page.get_by_role("button", name="Export").click()
    told = page.locator(".exports").inner_text()
    assert told.count("every scene you have visited") == 5 and "every branch" not in told and "for Inky" in told
    with page.expect_download() as saved:
        page.get_by_role("link", name="Markdown").click()
    assert saved.value.suggested_filename == "who-stole-the-sound-of-rain.md"


def test_words_for_the_model_a_bad_link_and_nothing_found(game, tab, monkeypatch):
    monkeypatch.setattr(game.engine, "model_version", "shipped")
    page = tab()
    begin(game, page, settings={"authored": False})
    page.keyboard.press("1")
    written(page, 2)
    assert page.locator(".by").inner_text() == "Written by the model that comes with the game"
    page.get_by_role("button", name="What the model saw").click()
    page.get_by_text("read by the model that comes with the game").wait_for()
    for link in ("nonsense", "00000000-0000-4000-8000-000000000000"):
        page.goto(f"{game.base}/#/story/{link}")
        told = page.locator(".toast")
        told.get_by_text("There is no such story.").wait_for()
        page.locator(".card").first.wait_for()  # the shelf is there
        assert page.url.endswith("#/") and "UUID" not in told.inner_text()
        told.get_by_role("button", name="Your stories").click()
        page.locator("#sheet-title", has_text="Your stories").wait_for()
        page.keyboard.press("Escape")
    cards = page.locator(".card").count()
    page.get_by_role("button", name="Arena").click()
    page.get_by_label("Search").fill("zeppelin zebra")
    page.get_by_text("Try one short word").wait_for()
    page.get_by_role("button", name="Show every story").click()
    page.locator(".card").first.wait_for()
    assert page.locator(".card").count() == cards and page.get_by_label("Search").input_value() == ""
