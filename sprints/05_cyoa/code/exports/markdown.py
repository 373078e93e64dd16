"""Markdown: the story as it was played, and where it branches, every page of it as in a gamebook."""

import re

from .reading import UNTAKEN, Book, Leaf


def write(book: Book) -> str:
    lines = [f"# {escape(book.title)}", f"*{escape(book.about)}*"]
    for action, number in book.path:
        leaf = book.leaves[number - 1]
        lines += [f"> **{escape(action)}**"] if action else []
        lines += [*map(escape, leaf.paragraphs), *(["*The end.*"] if leaf.ending else [])]
    if len(book.leaves) > len(book.path):
        lines += ["---", "## Every page"]
        lines += [_items([(start.text, start.to) for start in book.starts])] if len(book.starts) > 1 else []
        for leaf in book.leaves:
            lines += [f"### Page {leaf.number}", *map(escape, leaf.paragraphs), *_foot(leaf)]
    return "\n\n".join(lines) + "\n"


def _foot(leaf: Leaf) -> list[str]:
    items = [_items([(link.text, link.to) for link in leaf.links])] if leaf.links else []
    return items + (["*The end.*"] if leaf.ending else [])


def _items(links: list[tuple[str, int | None]]) -> str:
    return "\n".join(f"- {escape(text)}: " + (f"[page {to}](#page-{to})" if to else f"*{UNTAKEN}*") for text, to in links)


def escape(text: str) -> str:
    """A line in which nothing is markup (CommonMark, and GitHub's tables and strikethrough)."""
    text = re.sub(r"[\\`*_{}\[\]<>&|~#]", r"\\\g<0>", text)
    return re.sub(r"^(\d*)([-+=:.)])", r"\1\\\2", text)
