"""ink, the language of inkle's stories (https://github.com/inkle/ink, Documentation/WritingWithInk.md): a knot for every page."""

import re

from .reading import UNTAKEN, Book, Leaf

MARKS = re.compile(r"[\\{}\[\]|#~<>/*]|^[-+=]|^(?:TODO|VAR|CONST|LIST|INCLUDE|EXTERNAL)\b")


def write(book: Book) -> str:
    """The choices can be taken again (`+`), so that a player who meets a way that nobody went comes back to the page."""
    first = f"-> page_{book.starts[0].to}" if len(book.starts) == 1 else "-> beginnings"
    lines = [f"# title: {escape(book.title)}", "", first]
    if len(book.starts) > 1:
        lines += [
            "",
            "=== beginnings ===",
            escape(book.title),
            *(f"+ [{escape(start.text)}] -> page_{start.to}" for start in book.starts),
        ]
    for leaf in book.leaves:
        lines += ["", f"=== page_{leaf.number} ===", *map(escape, leaf.paragraphs), *_choices(leaf)]
    return "\n".join(lines) + "\n"


def _choices(leaf: Leaf) -> list[str]:
    lines = []
    for link in leaf.links:
        lines += [f"+ [{escape(link.text)}]" + (f" -> page_{link.to}" if link.to else f" {UNTAKEN}")]
        lines += [] if link.to else [f"  -> page_{leaf.number}"]
    return lines or ["-> END"]


def escape(text: str) -> str:
    """A line in which nothing is ink: a backslash makes any character plain."""
    return MARKS.sub(r"\\\g<0>", text)
