"""A story as a book of numbered pages with links between them: what every format for readers is written from.

Every scene that was ever written is a page, also those of retries and edits, and every page can be reached. A choice that nobody
has taken yet is a link to nowhere.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import count

from ..api.document import Page, StoryDocument
from ..storytext import GO_ON

UNWRITTEN = "This page is not written yet."
UNTAKEN = "Nobody has gone this way yet."


@dataclass(frozen=True)
class Link:
    """`to` is the number of a page, None where nobody has gone yet."""

    text: str
    to: int | None


@dataclass(frozen=True)
class Leaf:
    """A page of a book; its number is its place, from 1 on."""

    number: int
    paragraphs: tuple[str, ...]
    links: tuple[Link, ...]
    ending: bool


@dataclass(frozen=True)
class Book:
    title: str
    about: str
    starts: tuple[Link, ...]  # several where the beginning was written again
    leaves: tuple[Leaf, ...]
    path: tuple[tuple[str | None, int], ...]  # the story as it was played last: what was done, and the page that it led to


def line(text: str) -> str:
    """One line without what a format could stumble over: control characters, lone surrogates, characters that are none."""
    kept = (c for c in text if c.isspace() or not (unicodedata.category(c) in ("Cc", "Cs") or c in "\ufeff\ufffe\uffff"))
    return " ".join("".join(kept).split())


def paragraphs(text: str) -> tuple[str, ...]:
    return tuple(found for found in map(line, re.split(r"[\r\n]", text)) if found) or (UNWRITTEN,)


def book(story: StoryDocument) -> Book:
    """Pages in the order of a walk that follows every branch to its end before it turns to the next."""
    children = story.children()
    roots = [page for page in story.pages if page.parent_id is None]

    def counts(page: Page) -> bool:  # a scene that came to nothing is no page
        return bool(line(page.text) or children[page.id])

    starts = [page for page in roots if counts(page)] or roots[:1]
    following = {page.id: [child for child in children[page.id] if counts(child)] for page in story.pages}
    links = {page.id: _links(page, following[page.id]) for page in story.pages}
    walk, numbers = [page.id for page in starts[::-1]], {}
    while walk:
        at = walk.pop()
        numbers[at] = len(numbers) + 1
        walk += [to for _, to in links[at][::-1] if to]
    by_id, leaves = {page.id: page for page in story.pages}, []
    for at, number in numbers.items():
        led = tuple(Link(text, numbers[to] if to else None) for text, to in links[at])
        leaves.append(Leaf(number, paragraphs(by_id[at].text), led, by_id[at].ending))
    beginnings = tuple(Link(f"Beginning {place}" if place else "Begin", numbers[page.id]) for place, page in _counted(starts))
    path = tuple((page.action and line(page.action), numbers[page.id]) for page in story.path() if page.id in numbers)
    about = f"A story of the genre {line(story.genre)}. You are {line(story.hero.name)} ({line(story.hero.pronouns)})."
    about += f" Written {_writers(story)}."
    return Book(line(story.title) or "Untitled", about, beginnings, tuple(leaves), path)


def _writers(story: StoryDocument) -> str:
    """By whom the scenes were written, in the order in which they first come."""
    found = list(dict.fromkeys(_writer(page) for page in story.pages if line(page.text)))
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found or ["by nobody yet"])


def _writer(page: Page) -> str:
    if page.actor != "model":
        return "in advance" if page.actor == "author" else "by the player"
    shipped = page.model_version == "shipped"
    return "by the model that comes with the game" if shipped else line(f"by the model {page.model_version or ''}")


def _counted(pages: list[Page]) -> list[tuple[int, Page]]:
    return list(enumerate(pages, 1)) if len(pages) > 1 else [(0, page) for page in pages]


def _links(page: Page, following: list[Page]) -> list[tuple[str, str | None]]:
    """(text, id of the page it leads to) of the choices in their order, then of what the player did in own words. What led to
    several pages has a link to each of them, in the order in which they were made."""
    led: dict[str, list[str]] = {text: [] for choice in page.choices if (text := line(choice))}
    for child in following:
        led.setdefault(line(child.action or "") or GO_ON, []).append(child.id)
    found: list[tuple[str, str | None]] = []
    for text, targets in led.items():
        found.append((text, targets[0] if targets else None))
        numbered = (label for place in count(2) if (label := f"{text} ({place})") not in led)
        found += zip(numbered, targets[1:], strict=False)
    return found
