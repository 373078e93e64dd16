"""Exports of CYOA: nothing is lost, nothing is markup, and every page is reached."""

import html
import io
import random
import re
import zipfile
from importlib import import_module
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from shared.errors import UserError
from tests.cyoa_stories import Page, Person, StoryDocument, fuzzed

code = "sprints.05_cyoa.code"
formats, native, reading = (import_module(f"{code}.exports.{name}") for name in ("formats", "native", "reading"))
store = import_module(f"{code}.api.store")
export, import_story, book = formats.export, formats.import_story, reading.book

stories = st.integers(0, 2**40).map(lambda seed: fuzzed(random.Random(seed)))
quick = settings(max_examples=80)


@quick
@given(stories)
def test_json_loses_nothing(story):
    assert import_story(export(story, "json")) == story


@quick
@given(stories)
def test_twee_gives_every_page_and_choice_back(story):
    again = import_story(export(story, "twee"))
    before, after = book(story), book(again)
    assert after.leaves == before.leaves and after.starts == before.starts
    assert (again.title, again.genre, again.hero, again.cast, again.rating) == (
        before.title,
        story.genre,
        story.hero,
        story.cast,
        story.rating,
    )


@quick
@given(stories)
def test_every_written_page_can_be_reached_and_no_two_choices_read_the_same(story):
    read = book(story)
    assert len(read.leaves) >= sum(bool(reading.line(page.text)) for page in story.pages)
    reached, ways = set(), [start.to for start in read.starts]
    while ways:
        number = ways.pop()
        assert number not in reached, "the story is a tree"
        reached.add(number)
        links = read.leaves[number - 1].links
        assert len({link.text for link in links}) == len(links)
        ways += [link.to for link in links if link.to]
    assert reached == {leaf.number for leaf in read.leaves}


@quick
@given(stories)
def test_markdown_shows_every_word_as_written(story):
    read, shown = book(story), MarkdownIt("gfm-like", {"linkify": False}).render(export(story, "txt").decode())
    assert not re.search(r"<(?!/?(h[123]|p|em|strong|blockquote|ul|li|hr /|a href=\"#page-\d+\"|a)>)", shown)
    text = html.unescape(re.sub(r"<[^>]+>", "", shown))
    lines = {row.strip() for row in text.split("\n")}
    pages = read.leaves if len(read.leaves) > len(read.path) else [read.leaves[number - 1] for _, number in read.path]
    assert {paragraph for leaf in pages for paragraph in leaf.paragraphs} <= lines
    assert read.title in lines


@quick
@given(stories)
def test_epub_is_a_sound_book(story):
    content, read = export(story, "epub"), book(story)
    assert content[30:58] == b"mimetypeapplication/epub+zip", "first, unpacked, without an extra field"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None and archive.namelist()[0] == "mimetype"
        files = {name: archive.read(name) for name in archive.namelist()}
    trees = {name: ElementTree.fromstring(text) for name, text in files.items() if name.endswith((".xml", ".opf", ".xhtml"))}
    opf = "{http://www.idpf.org/2007/opf}"
    package = trees["OEBPS/book.opf"]
    items = {item.attrib["id"]: item.attrib["href"] for item in package.iter(f"{opf}item")}
    assert {f"OEBPS/{href}" for href in items.values()} == set(files) - {"mimetype", "META-INF/container.xml", "OEBPS/book.opf"}
    spine = [ref.attrib["idref"] for ref in package.iter(f"{opf}itemref")]
    assert set(spine) == set(items) - {"nav", "style"} and len(spine) == 1 + len(read.leaves)
    page = "{http://www.w3.org/1999/xhtml}"
    for leaf in read.leaves:
        tree = trees[f"OEBPS/page-{leaf.number}.xhtml"]
        assert [p.text for p in tree.iter(f"{page}p") if "class" not in p.attrib] == list(leaf.paragraphs)
        links = [(a.text, a.attrib["href"]) for a in tree.iter(f"{page}a")]
        assert [link for link in links if link[1] != "cover.xhtml"] == [
            (link.text, f"page-{link.to}.xhtml") for link in leaf.links if link.to
        ]
    assert all(f"OEBPS/{a.attrib['href']}" in files for tree in trees.values() for a in tree.iter(f"{page}a"))


def test_a_story_gives_the_same_files_every_time():
    story = fuzzed(random.Random(5))
    for name in formats.FORMATS:
        assert export(story, name) == export(story, name)
    with pytest.raises(UserError, match="choose one of json"):
        export(story, "pdf")


def test_limits_agree_with_the_store_and_a_full_story_is_exported():
    assert native.PAGES == store.NODES_PER_STORY
    chain = [
        Page(str(n), str(n - 1) if n else None, f"Scene {n}.", "On" if n else None, ("On", "Stop")) for n in range(native.PAGES)
    ]
    story = StoryDocument("Long", "slow", Person("Mio", "she/her"), tuple(chain), chain[-1].id)
    assert import_story(export(story, "json")) == story
    assert book(import_story(export(story, "twee"))).leaves == book(story).leaves
    for name in ("txt", "ink", "epub", "html"):
        assert len(export(story, name)) > 10_000


def test_a_story_that_is_not_written_yet_is_exported():
    story = StoryDocument("Soon", "sea", Person("Mio", "she/her"), (Page("r", None, "", status="partial"),), "r")
    for name in formats.FORMATS:
        assert export(story, name)
    assert reading.UNWRITTEN in export(story, "txt").decode()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Who Stole the Sound of Rain?", "who-stole-the-sound-of-rain.md"),
        ('  Café "; filename=x\r\n', "cafe-filename-x.md"),
        ("\u96e8", "story.md"),
        ("a" * 300, "a" * 120 + ".md"),
    ],
)
def test_files_are_named_after_the_title(title, name):
    story = StoryDocument(title, "cozy", Person("Rin", "she/her"), (Page("1", None, "Rain."),), "1")
    assert formats.file_name(story, "txt") == name and formats.file_name(story, "epub") == name[:-2] + "epub"


def test_a_book_says_in_words_who_wrote_it():
    pages = [Page(n, None, "Rain.", actor=a, model_version=v) for n, a, v in (("1", "player", None), ("2", "model", "shipped"))]
    story = StoryDocument("Rain", "cozy", Person("Rin", "she/her"), tuple(pages), "1")
    assert book(story).about.endswith("Written by the player and by the model that comes with the game.")
