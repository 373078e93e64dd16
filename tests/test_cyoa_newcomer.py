"""What somebody who plays CYOA for the first time met: in a real Chromium, on the real server with the pocket model behind it."""

from tests.cyoa_game import written

pytest_plugins = ["tests.cyoa_browser"]
PIRATES = "Nobody Tell the Captain"


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
