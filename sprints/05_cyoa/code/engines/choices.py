"""A scene and its choices, so that the choices are valid whatever the model writes.

    async for part in scene(engine, request, "mecha"):   # pieces of the scene as it is written, then a Draft

The model writes both in one go. Of its choices the valid ones stay: distinct, with a word in them, of at most 80 letters, and not
the choice just taken. Are there fewer than two, it is asked for one line at a time behind `>`, and sees for that the new scene
without the story before it, which would be read anew for every line; what is still missing comes from the deck of the genre.

A scene that has to be the ending is closed: where the model does not come to `The end.` by itself, it writes one sentence more that
begins `In the end,`. One that may not be the ending stops before that mark, wherever it stands, and gets choices like any other.
"""

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from pathlib import Path
from zlib import crc32

from shared.data import read_yaml

from ..storytext import THE_END, Draft, plain
from .base import Engine, EngineError, Piece, Request
from .prompts import overlap

DECK = Path(__file__).resolve().parents[2] / "data" / "choice_deck.yaml"
FEWEST, MOST, LONGEST = 2, 3, 80
LOOP = 48  # letters: a scene that repeats so many is going in circles and is ended
LAST = 48  # tokens at most to end the last sentence of a story, and for the one that closes it
CLOSING = " In the end,"  # how that one begins: no prompt tells the model that the story has to end, but these words do
STOPS = ".!?\"'"  # what a sentence ends with
SENTENCE = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr)\.|[^.!?])*[.!?]+[\"']?")
WORDS = 5  # of fewer, it is no scene
STILL = "For a moment nothing stirs."  # stands in for one


async def scene(
    engine: Engine, request: Request, genre: str, ending: bool = False, may_end: bool = True
) -> AsyncGenerator[Piece | Draft, None]:
    """The answer to a prompt of `storytext.messages`: pieces of the scene's text, at last the Draft, whose scene is these pieces
    joined. It has 2 or 3 valid choices or is an ending; with `ending` it is one: a sentence that reaches `max_tokens` is still
    written to its end, and a closing one follows. Without `may_end` it is none, and its text is without `The end.`. Raises
    EngineError before the scene is whole."""
    for again in (0, 1):  # a model may answer with a word or none; then once more
        writer = _Writer(THE_END if ending or not may_end else f"\n{THE_END}")
        async with aclosing(engine.submit(_reseeded(request, again))) as pieces:
            async for piece in pieces:
                text = writer.add(piece)
                yield Piece(text, piece.token_count, piece.finish)
                if writer.enough(ending or (writer.ending and may_end)):
                    break
        if ending and writer.cut_off:
            last = await _last_words(engine, request, writer.written)
            yield Piece(writer.add(last), last.token_count, last.finish)
        if rest := writer.rest():
            yield Piece(rest, 0)
        if writer.shown:
            break
    else:
        yield Piece(STILL, 0)
    written = writer.shown or STILL
    if ending and not writer.ending and (closing := await _closing(engine, request, written)):
        yield closing
        written += closing.text
    if ending or (writer.ending and may_end):
        yield Draft(written, (), True)
        return
    taken = _taken(request)
    found = valid(writer.lines(), [taken])
    wanted = 1 if writer.ending else FEWEST  # a model that had come to the end has little more to offer than the deck
    if len(found) < wanted:
        found = await _forced(engine, request, written, found, [taken], wanted)
    yield Draft(written, _filled(found, genre, [taken], written))


async def given(engine: Engine, request: Request, scene: str, genre: str) -> AsyncGenerator[Piece | Draft, None]:
    """A scene that the player wrote, as `scene` gives one of the model's: the Draft with three choices for it."""
    yield Draft(scene, await reroll(engine, request, scene, genre, ()))


async def reroll(engine: Engine, request: Request, scene: str, genre: str, old: Iterable[str]) -> tuple[str, ...]:
    """Three other choices for a scene that stands; `request` is the one that it answered. What a player wrote into it
    is no markup to the model."""
    scene, avoid = "\n".join(map(plain, scene.split("\n"))), [_taken(request), *old]
    found = await _forced(engine, request, scene, (), avoid, MOST)
    return _filled(found, genre, avoid, scene, MOST)


def deck(genre: str, taken: Iterable[str] = (), salt: str = "") -> tuple[str, ...]:
    """Three choices that fit any scene of a genre, without a model; `salt` varies which."""
    cards = _deck()
    own, common = cards.get(genre, []), cards["any"]
    turn = crc32(salt.encode())
    order = [cards[(turn + at) % len(cards)] for cards in (own, common) if cards for at in range(len(cards))]
    return valid(order, taken)


def valid(lines: Iterable[str], avoid: Iterable[str] = ()) -> tuple[str, ...]:
    """The first three lines that can be choices, tidied."""
    found, seen = [], {_key(text) for text in (*avoid, THE_END)}
    for line in lines:
        text = re.sub(r"^\(?\d[.):]\s*", "", plain(line)).strip(' "*-')
        if len(text) <= LONGEST and re.search(r"[^\W\d_]{2}", text) and (key := _key(text)) not in seen:
            seen.add(key)
            found.append(text)
    return tuple(found[:MOST])


class _Writer:
    """Parts what a model writes into the scene, as far as it may be shown, and the lines after it; `the_end` marks an ending."""

    def __init__(self, the_end: str):
        self._marks = ("\n>", the_end)  # what ends a scene
        self._text = "\n"  # so that a mark at the very beginning is one
        self._end: int | None = None
        self._cut = False
        self.shown = ""

    def add(self, piece: Piece) -> str:
        """Take a piece; what of the scene can be shown now."""
        self._text += piece.text
        self._cut = piece.finish == "length"
        if self._end is None:
            found = [at for mark in self._marks if (at := self._text.find(mark)) >= 0]
            self._end = min(found, default=None)
        held = 0 if self._end is not None else max(overlap(self._text, mark) for mark in self._marks)
        return self._show(self._text[: len(self._text) - held if self._end is None else self._end])

    def rest(self) -> str:
        """What is left to show after the last piece; a sentence that was cut off trails away."""
        if self._end is not None:
            return ""
        text = self._show(self._text)
        if self.cut_off and self.shown:
            self.shown += "..."
            text += "..."
        return text

    @property
    def written(self) -> str:
        return self._text[1:]

    @property
    def cut_off(self) -> bool:
        """Whether the scene stops in the middle of a sentence, for want of tokens."""
        text = self.written.rstrip()
        return self._cut and self._end is None and bool(text) and text[-1] not in STOPS

    def _show(self, text: str) -> str:
        new = text.strip()[len(self.shown) :] if len(text.split()) >= WORDS else ""
        self.shown += new
        return new

    def enough(self, ending: bool) -> bool:
        """Whether the model may stop: the scene is all we need, it goes in circles, or there are three choices."""
        if self._end is None:
            return len(self.shown) > LOOP and self.shown.count(self.shown[-LOOP:]) > 1
        return ending or len(self.lines(whole=True)) >= MOST

    @property
    def ending(self) -> bool:
        return self._end is not None and self._text.startswith(self._marks[1], self._end)

    def lines(self, whole: bool = False) -> list[str]:
        """The choices as they were written; `whole` leaves out a last one that may go on."""
        lines = [] if self._end is None else self._text[self._end :].split("\n")
        lines = lines[:-1] if whole or self._cut else lines
        return [line for line in lines if line.startswith(">")]


async def _forced(
    engine: Engine, request: Request, scene: str, found: tuple[str, ...], avoid: list[str], wanted: int
) -> tuple[str, ...]:
    """Ask for the missing choices one line at a time, each at most twice."""
    for attempt in range(2 * (wanted - len(found))):
        prefix = "\n".join([scene, "", *(f"> {choice}" for choice in found), ">"])
        warmer = request.temperature + 0.2 * attempt  # what was no choice at first shall not come again
        asked = replace(request, messages=_short(request), prefix=prefix, max_tokens=24, stop=("\n",), temperature=warmer)
        line = await _line(engine, _reseeded(asked, 2 + attempt))
        if line is None:
            break
        if line.finish == "stop":
            found = valid([*found, line.text], avoid)
        if len(found) >= wanted:
            break
    return found


async def _last_words(engine: Engine, request: Request, written: str) -> Piece:
    """The end of the sentence in which an ending was cut off; nothing, and cut off still, where that takes too long."""
    line = await _line(engine, _reseeded(replace(request, prefix=written, max_tokens=LAST, stop=("\n",)), 1))
    if line and (end := SENTENCE.match(line.text)):
        return Piece(end[0], line.token_count, "stop")
    return Piece("", line.token_count if line else 0, "length")


async def _closing(engine: Engine, request: Request, written: str) -> Piece | None:
    """The sentence that closes a story behind its last scene; None where the model finds none."""
    lead = CLOSING if written[-1] in STOPS else f"...{CLOSING}"
    asked = replace(request, messages=_short(request), prefix=written + lead, max_tokens=LAST, stop=("\n",))
    line = await _line(engine, _reseeded(asked, 2))
    end = SENTENCE.match(line.text) if line else None
    if not (line and end and re.search(r"[^\W\d_]{2}", end[0])):
        return None
    return Piece(f"{lead} {end[0].strip()}", line.token_count, "stop")


async def _line(engine: Engine, request: Request) -> Piece | None:
    """The whole answer to a small request; None where the engine fails, which does not cost the scene."""
    text, count, finish = "", 0, None
    try:
        async with aclosing(engine.submit(request)) as pieces:
            async for piece in pieces:
                text, count, finish = text + piece.text, count + piece.token_count, piece.finish
    except EngineError:
        return None
    return Piece(text, count, finish)


def _filled(found: tuple[str, ...], genre: str, avoid: list[str], scene: str, wanted: int = FEWEST) -> tuple[str, ...]:
    missing = max(0, wanted - len(found))
    return (*found, *deck(genre, [*avoid, *found], scene)[:missing])


def _taken(request: Request) -> str:
    """The choice that the request goes on from."""
    last = (request.messages[-1]["content"] if request.messages else "").rsplit("\n", 1)[-1]
    return last.removeprefix(">").strip() if last.startswith(">") else ""


def _short(request: Request) -> list[dict[str, str]]:
    """Its messages with the last line alone of what was told last: the choice just taken, or that this is a beginning."""
    *before, last = request.messages
    return [*before, last | {"content": last["content"].rsplit("\n", 1)[-1]}]


def _reseeded(request: Request, by: int) -> Request:
    return request if request.seed is None else replace(request, seed=(request.seed + by) % 2**32)


def _key(text: str) -> str:
    """Choices with the same key are the same to a player."""
    return "".join(c for c in text.casefold() if c.isalnum())


@cache
def _deck() -> dict[str, list[str]]:
    return read_yaml(DECK)
