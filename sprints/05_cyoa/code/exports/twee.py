"""Twee 3, the text format of Twine (https://github.com/iftechfoundation/twine-specs, twee-3-specification.md).

Passages are written for Harlowe, Twine's default: whatever could be markup of a story format becomes an HTML entity, which every
format shows as the character. Reading takes any Twee 3 file; macros of a story format stay in the text as they are.
"""

import html
import json
import re
import uuid
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

from shared.errors import UserError

from ..api.document import Page, StoryDocument
from ..scenarios import Person
from .native import CHOICES, PAGES, TEXT
from .reading import UNTAKEN, Book, Link, line

FORMAT, FORMAT_VERSION = "Harlowe", "3.3.9"
SPECIAL = ("StoryTitle", "StoryData")
BEGINNINGS, NOWHERE = "Beginnings", "Nowhere yet"  # passages that are no page of ours
LINK = re.compile(r"\[\[([^\[\]\n]+)\](?:\[[^\[\]\n]*\])?\]")  # with SugarCube's setter


def write(story: StoryDocument, book: Book) -> str:
    several = len(book.starts) > 1
    data: dict[str, Any] = {
        "ifid": ifid(story),
        "format": FORMAT,
        "format-version": FORMAT_VERSION,
        "start": BEGINNINGS if several else "Page 1",
    }
    data["cyoa"] = {
        "genre": story.genre,
        "rating": story.rating,
        "hero": asdict(story.hero),
        "cast": [asdict(p) for p in story.cast],
    }
    found = [f":: StoryTitle\n{_title(book.title)}", f":: StoryData\n{json.dumps(data, indent=1)}"]
    if several:
        found.append(f":: {BEGINNINGS} [beginnings]\n{entities(book.title)}\n\n{_links(book.starts)}")
    for leaf, place in zip(book.leaves, _places(book), strict=True):
        tag = " [ending]" if leaf.ending else "" if leaf.links else " [open]"
        text = "\n\n".join(map(entities, leaf.paragraphs))
        found.append(f':: Page {leaf.number}{tag} {{"position":"{place[0]},{place[1]}"}}\n{text}\n\n{_links(leaf.links)}'.rstrip())
    if any(link.to is None for leaf in book.leaves for link in leaf.links):
        found.append(f":: {NOWHERE} [nowhere]\n{UNTAKEN}")
    return "\n\n".join(found) + "\n"


def ifid(story: StoryDocument) -> str:
    """The same at every export of a story (The Treaty of Babel): its id, where that is a UUID."""
    try:
        return str(uuid.UUID(story.id)).upper()
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{story.title} {story.created} {story.pages[0].id}")).upper()


def entities(text: str) -> str:
    """A line in which nothing is markup of Twee, Harlowe, SugarCube, Chapbook or Snowman."""
    marks = r"[&<>\[\]{}$_*~`\\|#@^=+%]|--+|//+|''+|::+|\"\"+|\((?=\w[\w-]*:)|^[-:!?;'\"]|^\d+(?=[.)])"
    return re.sub(marks, lambda mark: "".join(f"&#{ord(c)};" for c in mark[0]), text)


def _links(links: tuple[Link, ...]) -> str:
    return "\n".join(f"[[{entities(link.text)}->{f'Page {link.to}' if link.to else NOWHERE}]]" for link in links)


def _title(text: str) -> str:
    return re.sub(r"^\\*::", r"\\\g<0>", text)


def _places(book: Book) -> list[tuple[int, int]]:
    """Where pages lie on Twine's map: down with the turns, a column for every branch."""
    places: dict[int, tuple[int, int]] = {}
    column = 0
    for leaf in book.leaves:
        if leaf.number not in places:  # a beginning
            column += bool(places)
            places[leaf.number] = (column, 0)
        x, y = places[leaf.number]
        for turn, link in enumerate(link for link in leaf.links if link.to):
            column += bool(turn)
            places[link.to or 0] = (column if turn else x, y + 1)
    return [(100 + 150 * x, 100 + 150 * y) for x, y in (places[leaf.number] for leaf in book.leaves)]


@dataclass(frozen=True)
class Passage:
    text: str
    tags: tuple[str, ...]

    def links(self) -> list[tuple[str, str]]:
        """(label, name of the passage) of every link, in Twine's three ways to write one."""
        return [_split(found[1]) for found in LINK.finditer(self.text)]

    def words(self) -> str:
        """The text as it is read: lines that hold only links go, links inside a sentence leave their words."""
        kept = [row for row in self.text.split("\n") if not LINK.search(row) or LINK.sub("", row).strip(" \t*-|·")]
        return html.unescape("\n".join(LINK.sub(lambda found: _split(found[1])[0], row) for row in kept)).strip()


def _split(inside: str) -> tuple[str, str]:
    if "->" in inside:
        label, _, target = inside.rpartition("->")
    elif "<-" in inside:
        target, _, label = inside.partition("<-")
    else:
        label, _, target = inside.partition("|")
    return line(html.unescape(label)) or "Go on", (target or label).strip()


def passages(text: str) -> dict[str, Passage]:
    """The passages of a file by name, in order. What comes before the first header is no passage."""
    found = {}
    for part in re.split(r"^::", f"\n{text}", flags=re.M)[1:]:
        header, _, body = part.partition("\n")
        name, rest = _until(header, "[{")
        tags, _ = _until(rest[1:], "]") if rest.startswith("[") else ("", "")
        if not name.strip():
            raise UserError("a passage of the Twee file has no name: write one after the `::`")
        found[_plain(name.strip())] = Passage(body.strip(), tuple(map(_plain, tags.split())))
    return found


def _until(text: str, ends: str) -> tuple[str, str]:
    """Up to the first of `ends` that no backslash escapes, and the rest."""
    stop = next((m.start() for m in re.finditer(r"\\.|(.)", text) if m[1] and m[1] in ends), len(text))
    return text[:stop], text[stop:]


def _plain(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name)


def read(text: str) -> dict[str, Any]:
    """The values of a StoryDocument: a page for every way to a passage, as far as none repeats and there are not too many.

    Every passage that can be reached gets one page before any gets a second. A link that comes back to a passage on its own way,
    or leads to one that is not written, stays a choice that nobody took.
    """
    known = passages(text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
    data = _data(known.get("StoryData"))
    scenes = {name: p for name, p in known.items() if name not in SPECIAL and not {"script", "stylesheet"} & set(p.tags)}
    start = next((name for name in (str(data.get("start")), "Start", *scenes) if name in scenes), None)
    if start is None:
        raise UserError("the Twee file has no passage to start from")
    first = [target for _, target in scenes[start].links() if target in scenes] if "beginnings" in scenes[start].tags else []
    title = known["StoryTitle"].text if "StoryTitle" in known else ""
    own = found if isinstance(found := data.get("cyoa"), dict) else {}
    values: dict[str, Any] = {"genre": "imported", "hero": asdict(Person("You", "they/them"))}
    values |= {name: own[name] for name in ("genre", "rating", "hero", "cast") if name in own}
    pages = _unroll(scenes, first or [start])
    title = re.sub(r"^\\(?=\\*::)", "", line(title.partition("\n")[0]))[:80].strip() or "Untitled"
    return values | {"title": title, "head": pages[0].id, "pages": [asdict(page) for page in pages]}


def _data(passage: Passage | None) -> dict[str, Any]:
    """StoryData; what cannot be read is left out, as the specification recommends."""
    try:
        found = json.loads(passage.text) if passage else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _unroll(scenes: dict[str, Passage], starts: list[str]) -> list[Page]:
    pages: dict[str, Page] = {}
    passage_of: dict[str, str] = {}  # id of a page -> name
    written: dict[str, tuple[list[tuple[str, str]], Page]] = {}  # name -> its links, and a page without a place
    new: deque[tuple[str, str | None, str | None]] = deque((name, None, None) for name in starts)
    again: deque[tuple[str, str | None, str | None]] = deque()
    while (new or again) and len(pages) < PAGES:
        waiting, once = (new.popleft(), True) if new else (again.popleft(), False)
        name, parent, action = waiting
        if once and name in written:
            again.append(waiting)
            continue
        if name not in written:
            written[name] = _page(name, scenes[name])
        links, blank = written[name]
        page = replace(blank, id=str(len(pages) + 1), parent_id=parent, action=action, kind="act" if parent else "start")
        pages[page.id], passage_of[page.id], way, at = page, name, {name}, parent
        while at:
            way.add(passage_of[at])
            at = pages[at].parent_id
        open_to = [
            (to, page.id, label) for label, to in links if to in scenes and to not in way and "nowhere" not in scenes[to].tags
        ]
        new.extend(open_to)
    return list(pages.values())


def _page(name: str, passage: Passage) -> tuple[list[tuple[str, str]], Page]:
    """Raises UserError where a passage is larger than a scene may be, before many ways lead to copies of it."""
    links, words = passage.links(), passage.words()
    if len(links) > CHOICES or len(words) > TEXT:
        raise UserError(f"the passage `{line(name)[:40]}` has more than {CHOICES} links or {TEXT} characters: split it")
    choices = tuple(dict.fromkeys(label for label, _ in links))
    ending = "ending" in passage.tags or not (links or "open" in passage.tags)
    return links, Page("", None, words, choices=choices, ending=ending, actor="author")
