"""The CYOA web game in a real Chromium, on the real server with the real pocket model behind it."""

import pytest

from tests.cyoa_game import written

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytest_plugins = ["tests.cyoa_browser"]
TITLE = "Who Stole the Sound of Rain"
NASTY = '<img src=x onerror="hit = 1"><script>hit = 2</script> & "rain" \U0001f409'


def begin(game, page):
    """A story on the stage that the model writes, made without the shelf; its id."""
    body = {"scenario_id": "rain-thief", "settings": {"authored": False}}
    story = game.client.post("/stories", json=body).json()["story"]["id"]
    page.goto(f"{game.base}/#/story/{story}")
    page.locator(".choice").first.wait_for()
    return story


def tree(game, story):
    return game.client.get(f"/stories/{story}/tree").json()


def test_a_story_is_played_to_its_ending_and_put_away(game, tab):
    page = tab()
    page.goto(game.base)
    page.get_by_role("button", name=TITLE).click()
    page.get_by_role("button", name="Begin the story").click()  # the second click: the first scene is there
    assert written(page, 1).startswith("Neon rain falls on Level Nine")
    assert page.get_by_role("button", name="Other choices").count() == 0  # the author's stay
    ways = ["Hide inside the vending machine", "Drop a soda and keep still", "Ask him to open the tower door", "Upload the rain"]
    for scene, way in enumerate(ways, 2):
        page.locator(".choice", has_text=way).click()
        written(page, scene)
        assert page.locator(".by").inner_text() == "Written in advance"
    page.locator(".fin").wait_for()
    assert page.locator(".choice").count() == 0 and page.locator(".text").inner_text().endswith("that is how it felt.")
    page.get_by_role("button", name="Go on with the model").click()
    written(page, 6)
    assert page.locator(".by").inner_text() == "Written by the model pocket"
    page.goto(f"{game.base}/#/")
    page.get_by_role("button", name="All your stories").click()
    page.get_by_role("button", name=f"Put away {TITLE}").first.click()
    page.get_by_role("button", name="Put away", exact=True).click()
    page.get_by_role("button", name=f"Bring back {TITLE}").click()
    page.get_by_role("button", name=f"Put away {TITLE}").first.wait_for()
    assert game.client.get("/stories?deleted=true").json()["stories"] == []


def test_play_undo_and_branch(game, tab):
    page = tab()
    begin(game, page)
    page.locator(".choice").nth(0).click()
    first = written(page, 2)
    assert first and 2 <= page.locator(".choice").count() <= 4
    assert page.locator(".action").inner_text() == "Hide inside the vending machine"
    page.get_by_role("button", name="Undo").click()
    written(page, 1)
    assert "taken before" in page.locator(".choice").nth(0).inner_text()
    page.locator(".choice").nth(1).click()
    second = written(page, 2)
    story = tree(game, page.url.split("/")[-1])
    assert [node["depth"] for node in story["nodes"]] == [0, 1, 1]
    assert [" ".join(node["text"].split()) for node in story["nodes"][1:]] == [first, second]
    page.get_by_role("button", name="Map").click()
    page.get_by_role("treeitem", name="Hide inside the vending machine").last.click()
    page.locator(".action", has_text="Hide inside").wait_for()
    assert written(page, 2) == first and tree(game, story["story"]["id"])["story"]["head_id"] == story["nodes"][1]["id"]


def test_own_words_retry_and_edit_stay_text(game, tab):
    page = tab()
    story = begin(game, page)
    page.fill("#words", NASTY)
    page.keyboard.press("Enter")
    written(page, 2)
    assert page.locator(".action").inner_text() == NASTY
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("2 of 2").wait_for()
    written(page, 2)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Scene").fill(NASTY)
    page.get_by_role("textbox", name="Choices").fill("Look up\nLook down")
    page.get_by_role("button", name="Keep this version").click()
    page.get_by_text("3 of 3").wait_for()
    assert written(page, 2) == NASTY and page.locator(".choice").all_inner_texts() == ["1\nLook up", "2\nLook down"]
    page.reload()
    assert written(page, 2) == NASTY
    assert page.evaluate("typeof hit") == "undefined"
    assert [node["kind"] for node in tree(game, story)["nodes"]] == ["start", "act", "retry", "edit"]


def test_reload_in_the_middle_of_a_scene_loses_nothing(game, tab):
    page = tab()
    story = begin(game, page)
    game.engine.pause = 0.04
    page.locator(".choice").first.click()
    seen = written(page, 2, busy="true").split()[:-1]
    page.reload()
    written(page, 2, busy="true")
    game.engine.pause = 0.0
    text = written(page, 2)
    node = tree(game, story)["nodes"][-1]
    assert node["status"] == "done" and text == " ".join(node["text"].split())
    assert text.split()[: len(seen)] == seen


def test_stop_keeps_the_text_and_the_way_on(game, tab):
    page = tab()
    story = begin(game, page)
    game.engine.pause = 0.05
    page.locator(".choice").first.click()
    written(page, 2, busy="true")
    page.get_by_role("button", name="Stop").click()
    text = written(page, 2)
    node = tree(game, story)["nodes"][-1]
    assert node["status"] == "cancelled" and text == " ".join(node["text"].split())
    assert page.locator(".choice").count() >= 2


def test_keyboard_alone(game, tab):
    page = tab()
    page.goto(game.base)
    page.locator(".card").first.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "card":
            break
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Begin the story").wait_for()
    page.keyboard.press("Enter")  # the focus is on the button
    written(page, 1)
    page.keyboard.press("1")
    text = written(page, 2)
    said = page.locator("#announce").inner_text()
    assert text.split()[0] in said and "choices are 1:" in said
    assert page.locator(".text[aria-live], .box[aria-live]").count() == 0
    page.get_by_role("button", name="Map").focus()
    page.keyboard.press("Enter")
    page.get_by_role("tree").wait_for()
    while page.evaluate("document.activeElement.role") != "treeitem":
        page.keyboard.press("Tab")
    assert "you are here" in page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.ariaLabel") == "The beginning"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.title") == "Map"  # the focus comes back
    page.locator("#words").focus()
    page.keyboard.type("2 lamps")  # figures are words here, not choices
    page.keyboard.press("Enter")
    written(page, 3)
    assert page.locator(".action").inner_text() == "2 lamps"


def test_memory_lore_and_what_the_model_saw(game, tab):
    page = tab()
    begin(game, page)
    page.get_by_role("button", name="Memory").click()
    page.get_by_label("Always remember").fill("The chip hums in B flat.")
    page.get_by_role("button", name="Remember").click()
    page.get_by_label("When the story says").fill("vending, soda")
    page.get_by_label("the model is told").fill("The soda is alive.")
    page.get_by_role("button", name="Add the card").click()
    page.get_by_role("button", name="Keep", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    written(page, 2)
    page.get_by_role("button", name="What the model saw").click()
    seen = page.locator("pre").first.inner_text()
    assert "The chip hums in B flat." in seen and "The soda is alive." in seen


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_and_axe(game, tab, theme):
    page = tab(390, 844, color_scheme=theme)
    inspector = axe.Axe()

    def inspect(where):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, where
        inside = page.evaluate("document.querySelector('#sheet').scrollWidth - document.querySelector('#sheet').clientWidth")
        assert inside <= 0, where
        if theme == "dark" and where not in ("shelf", "stage", "Settings"):
            return  # only the colours differ, and axe takes most of the time
        found = inspector.run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == [], where

    page.goto(game.base)
    page.locator(".card").first.wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    inspect("shelf")
    page.get_by_role("button", name=TITLE).click()
    inspect("cover")
    page.get_by_role("button", name="Begin the story").click()
    written(page, 1)
    page.keyboard.press("2")
    written(page, 2)
    inspect("stage")
    for name in ("Story so far", "Map", "Memory", "What the model saw", "Settings", "Export"):
        page.get_by_role("button", name=name, exact=True).click()
        page.locator("#sheet-title", has_text=name if name not in ("Map", "Settings", "Export") else "").wait_for()
        inspect(name)
        page.keyboard.press("Escape")
    assert page.evaluate("document.getAnimations().length") == 0  # reduced motion


def test_troubles_are_told_with_a_way_out(game, tab):
    page = tab()
    story = begin(game, page)
    page.context.set_offline(True)
    page.locator(".choice").first.click()
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    written(page, 2)
    assert len(tree(game, story)["nodes"]) == 2  # the same key: one scene, however often it was sent

    game.engine.pause = 0.2
    root = tree(game, story)["story"]["root_id"]
    others = [game.client.post(f"/stories/{story}/nodes", json={"parent_id": root, "text": "wait"}).json() for _ in range(2)]
    page.locator("#words").fill("hurry")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="wait for one of your 2 scenes").wait_for()
    game.engine.pause = 0.0
    for other in others:
        game.client.delete(f"/nodes/{other['node_id']}/generation")
    page.get_by_role("button", name="Try again", exact=True).click()
    written(page, 3)

    page.goto(f"{game.base}/#/")
    page.get_by_role("button", name="All your stories").click()
    big = {"name": "big.json", "mimeType": "application/json", "buffer": b"[" + b" " * (2 << 20) + b"]"}
    page.locator("#import").set_input_files(big)
    page.get_by_role("alert").filter(has_text="more than the server takes").wait_for()


def test_a_scene_whose_stream_fails_leaves_the_way_on(game, tab):
    page = tab()
    story = begin(game, page)
    page.route("**/stream?*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))  # a proxy in between
    page.locator(".choice").first.click()
    page.get_by_role("alert").filter(has_text="That did not work").wait_for()
    page.get_by_role("button", name="Undo").click()
    written(page, 1)
    page.unroute_all()
    page.locator(".choice").nth(1).click()
    second = written(page, 2)
    page.get_by_role("button", name="Try again").click()  # of what was left behind: the story is read anew, nobody is moved
    page.get_by_role("alert").wait_for(state="detached")
    assert written(page, 2) == second
    page.get_by_role("button", name="Undo").click()
    written(page, 1)
    page.locator(".choice").first.click()  # the server wrote on: the scene is there
    first = written(page, 2)
    assert [" ".join(node["text"].split()) for node in tree(game, story)["nodes"][1:]] == [first, second]
