"""Take the README's screenshots of the game from a real browser (Debian's package chromium) on the real server.

python -m sprints.05_cyoa.code.screens            into docs/screens
python -m sprints.05_cyoa.code.screens --out x    elsewhere
"""

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from shared import runlog
from shared.errors import UserError
from shared.runlog import console
from shared.sprints import ROOT

from .api import serve

FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
LARGEST = 300_000  # bytes of one picture
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
STORIES = {"light": "stone-lion", "dark": "rain-thief"}


@dataclass
class Args(runlog.Args):
    """Pictures go to docs/screens, or to --out; --smoke takes those of the phone only, into runs/."""


def take(page: Any, folder: Path, name: str) -> None:
    """One picture, packed well. Raises UserError for one that is too large."""
    from PIL import Image

    page.wait_for_timeout(900)  # until fonts, backdrop and the entry of the box have settled
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path.name} has {path.stat().st_size} bytes, more than {LARGEST}")
    console.print(f"{path.name}  {path.stat().st_size // 1000} kB")


def play(page: Any, base: str, folder: Path, theme: str, size: str) -> None:
    """The shelf, a scene with its choices, and on the desktop the map of a story with several branches."""
    page.goto(base)
    page.locator(".card").nth(3).wait_for()
    take(page, folder, f"shelf_{size}_{theme}")
    made = httpx2.post(f"{base}stories", json={"scenario_id": STORIES[theme], "seed": 7}).raise_for_status().json()
    story = made["story"]["id"]
    page.goto(f"{base}#/story/{story}")
    page.locator(".choice").first.wait_for()
    take(page, folder, f"scene_{size}_{theme}")
    if size == "phone":
        return
    for depth, choices in enumerate([(0, 1), (0, 1), (0,)]):  # the last of each goes on
        for number in choices:
            page.locator(".choice").nth(number).click()
            page.locator(".place", has_text=f"scene {depth + 2}").wait_for()
            page.locator(".box[aria-busy=false]").wait_for()
            if number != choices[-1]:
                page.get_by_role("button", name="Undo").click()
                page.locator(".choice").nth(1).wait_for()
    page.get_by_role("button", name="Map", exact=True).click()
    take(page, folder, f"map_{size}_{theme}")


def main(args: Args) -> None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("screenshots need playwright: pip install -e .[dev]") from None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("screenshots need Chromium: install the package chromium")
    folder = Path(args.out) if args.out else ROOT / ("runs/smoke/screens" if args.smoke else "sprints/05_cyoa/docs/screens")
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"phone": SIZES["phone"]} if args.smoke else SIZES
    with tempfile.TemporaryDirectory() as place:
        server, base = serve.build(serve.Args(port=0, database=f"sqlite:///{place}/stories.db", open=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            started = time.monotonic()
            while httpx2.get(f"{base}readyz").status_code != 200:
                if time.monotonic() - started > 120:
                    raise UserError("no model was loaded: run the step serve to see why")
                time.sleep(0.2)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
                for theme in STORIES:
                    for size, (width, height) in sizes.items():
                        scheme = "dark" if theme == "dark" else "light"
                        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                        play(page, base, folder, theme, size)
                        page.close()
                browser.close()
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    runlog.launch(main, Args)
