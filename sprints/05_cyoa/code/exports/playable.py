"""One HTML file in which a story is played, without a network: player.html with its style and script inside.

The story stands in it as data, and the script shows it through textContent only. The page's own policy allows nothing but this
style and this script, by their hashes.
"""

import base64
import hashlib
import json
import re
from html import escape
from pathlib import Path

from ..api.document import StoryDocument
from .reading import UNTAKEN, Book

HERE = Path(__file__).resolve().parent


def write(story: StoryDocument, book: Book) -> str:
    page, style, script = ((HERE / f"player.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    data = {
        "title": book.title,
        "about": book.about,
        "genre": " ".join(story.genre.split()),
        "hue": int(hashlib.sha256(story.genre.encode("utf-8", "replace")).hexdigest()[:8], 16) % 360,
        "untaken": UNTAKEN,
        "starts": [[link.text, link.to] for link in book.starts],
        "pages": [
            {"text": leaf.paragraphs, "links": [[link.text, link.to] for link in leaf.links], "ending": leaf.ending}
            for leaf in book.leaves
        ],
    }
    story_data = (
        json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )
    parts = {"TITLE": escape(book.title), "POLICY": policy, "STYLE": style, "SCRIPT": script, "STORY": story_data}
    return re.sub(r"@@(\w+)@@", lambda mark: parts[mark[1]], page)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
