"""Imports of CYOA: our JSON, Twee 3 of any program, a zip with one of them; everything else is refused in one line."""

import io
import json
import random
import re
import zipfile
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UserError
from tests.cyoa_stories import fuzzed, scenarios, told

code = "sprints.05_cyoa.code.exports"
formats, native, reading, twee = (import_module(f"{code}.{name}") for name in ("formats", "native", "reading", "twee"))
export, import_story, book = formats.export, formats.import_story, reading.book

FOREIGN = r"""This file was written by a person.

:: StoryTitle
The \[Old\] Well

:: StoryData
{"ifid": "D674C58C-DEFA-4F70-B7A2-27742230C0FC", "start": "Well [deep]", "format": "SugarCube"

:: Look [script]
window.steal = 1;

:: Start [a b] {"position":"1,2"}
You stand at a well. It is [[deep|The bottom]] and [[cold]].

* [[Jump in->In the water]]
* [[In the water<-Climb down][$wet to true]]

:: cold {"position":"broken
Brr &amp; brr. [[Back->Start]]

:: In the water
You float. [[Sleep->Dream]]
"""


def test_twee_of_other_programs_is_read():
    story = import_story(FOREIGN[FOREIGN.index("::") :].replace("\n", "\r\n").encode("utf-8-sig"))
    first = story.pages[0]
    assert (story.title, story.genre, story.hero.name) == (r"The \[Old\] Well", "imported", "You")
    assert first.text == "You stand at a well. It is deep and cold."
    assert first.choices == ("deep", "cold", "Jump in", "Climb down") and not first.ending
    below = {page.action: page for page in story.pages[1:]}
    assert set(below) == {"cold", "Jump in", "Climb down"}, "`deep` is not written; the way back to the start stays open"
    assert below["cold"].text == "Brr & brr. Back" and below["cold"].choices == ("Back",)
    assert below["Jump in"].text == below["Climb down"].text == "You float. Sleep"
    header = ':: A \\{b\\} \\[c\\] \\\\ [t\\]u v] {"size":"1,1"}\nHello'
    assert list(twee.passages(header)) == ["A {b} [c] \\"] and twee.passages(header)["A {b} [c] \\"].tags == ("t]u", "v")


def test_a_twee_file_whose_ways_explode_stays_small():
    rows = [f":: {n}\nRoom {n}.\n[[Left->{n + 1}]]\n[[Right->{n + 1}]]" for n in range(300)]
    story = import_story("\n\n".join([*rows, ":: 300\nOut."]).encode())
    assert len(story.pages) == native.PAGES and {page.text for page in story.pages} >= {f"Room {n}." for n in range(300)}
    ring = import_story(b":: a\nA [[b]]\n\n:: b\nB [[a]]")
    assert [page.text for page in ring.pages] == ["A b", "B a"]


def packed(*files, **extra):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content, **extra)
    return made.getvalue()


def test_a_zip_with_a_story_in_it_is_read():
    story = fuzzed(random.Random(9))
    for name, content in (("my story.json", export(story, "json")), ("a/b.twee", export(story, "twee"))):
        again = import_story(packed(("readme.txt", b"hi"), (name, content)))
        assert book(again).leaves == book(story).leaves


def link():
    entry = zipfile.ZipInfo("story.json")
    entry.external_attr = 0o120777 << 16
    return entry


BOMB = packed(("story.json", b'{"format": "' + b" " * 20_000_000 + b'"}'))
LIAR = BOMB.replace((20_000_014).to_bytes(4, "little"), (3_000).to_bytes(4, "little"))
BAD_ZIPS = {
    "times its size": packed(("story.json", b"{" + b" " * 1_000_000)),
    "times its size or MiB": BOMB,
    "damaged": LIAR,
    "damaged ": packed(("story.json", b"{}"))[:-30],
    "points out": packed(("../story.json", b"{}")),
    "points out ": packed(("/story.json", b"{}")),
    "points out  ": packed(("C:\\story.json", b"{}")),
    "points out   ": packed(("s" * 200 + ".json", b"{}")),
    "holds a link": packed((link(), b"/etc/passwd")),
    "more than 16 files": packed(*((f"{n}.json", b"{}") for n in range(17))),
    "holds 2 files": packed(("a.json", b"{}"), ("b.json", b"{}")),
    "holds 0 files": packed(("a.txt", b"{}")),
    "not valid JSON": packed(("a.json", b"{")),
    "neither": packed(("a.json", packed(("a.json", b"{}")).hex().encode())),
    "unusual way": packed(("a.json", b"{}"), compress_type=zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("reason", BAD_ZIPS)
def test_bad_zips_are_refused(reason):
    with pytest.raises(UserError, match=reason.strip().replace(" or ", "|")):
        import_story(BAD_ZIPS[reason])


def changed(**values):
    whole = json.loads(export(told(SCENARIO), "json"))
    for path, value in values.items():
        *way, last = path.split("__")
        at = whole["story"]
        for name in way:
            at = at[int(name)] if name.isdigit() else at[name]
        at[last] = value
    return json.dumps(whole).encode()


SCENARIO = scenarios.read(next(iter(sorted(scenarios.DATA.glob("*.yaml")))))
SECRET = "mellon" * 30
BAD = {
    "larger than 2 MiB": b"{" + b" " * 3_000_000,
    "not text in UTF-8": b'{"a": "\xff\xfe"}',
    "neither": b"",
    "neither a": b"<html>",
    "not valid JSON": b'{"a": }',
    "valid JSON": b'{"a":' * 100_000,
    "is no story": b'{"format": "other"}',
    "another version": b'{"format": "cyoa-story", "version": 2}',
    "cannot be imported": b'{"format": "cyoa-story", "version": 1, "story": [1]}',
    "two pages have the same id": changed(pages__1__id="0"),
    "before its parent": changed(pages__1__parent_id="99"),
    "head is none": changed(head="99"),
    "pages.1.status": changed(pages__1__status="queued"),
    "pages.0.text": changed(pages__0__text=7),
    "hero.name": changed(hero__name=SECRET),
    "title: ": changed(title=SECRET),
    "Extra inputs": changed(surprise=SECRET),
    "settings.max_tokens": changed(settings={"max_tokens": 10**9}),
    "pages": changed(pages=[]),
    "has no name": b"::  \nx",
    "no passage to start": b":: StoryTitle\nx",
    "more than 100 links": b":: a\n" + b"[[b]] " * 101,
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_are_refused_in_one_line_that_repeats_nothing(reason):
    with pytest.raises(UserError, match=re.escape(reason.strip()).replace("neither\\ a", "neither a")) as refused:
        import_story(BAD[reason])
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value) and len(str(refused.value)) < 200


@settings(max_examples=150)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (":: a\n" + text).encode("utf-8", "replace")), st.data())
def test_any_bytes_are_a_story_or_a_user_error(content, data):
    whole = bytearray(export(fuzzed(random.Random(len(content))), data.draw(st.sampled_from(("json", "twee")))))
    at = data.draw(st.integers(0, len(whole)))
    for damaged in (content, bytes(whole[:at] + content + whole[at:]), packed(("a.json", content))[: at or None]):
        try:
            story = import_story(damaged)
        except UserError:
            continue
        assert import_story(export(story, "json")) == story and export(story, "html")
