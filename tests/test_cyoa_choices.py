"""Scenes with choices by construction, and what the engine `openai` makes of a server in trouble."""

import asyncio
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CODE = "sprints.05_cyoa.code."
base, choices, openai = (import_module(f"{CODE}engines.{name}") for name in ("base", "choices", "openai"))
scenarios, storytext = import_module(f"{CODE}scenarios"), import_module(f"{CODE}storytext")
Piece, Request = base.Piece, base.Request
ASKED = Request([{"role": "user", "content": "It rains.\n> Open the door"}], max_tokens=150)


class Scripted:
    """An engine that writes what it is told, a few letters at a time; prefixed requests get `line`, or one of it each."""

    name = model_version = "scripted"

    def __init__(self, text: str, line: Any = "", finish: str = "stop", size: int = 3):
        self.text, self.line, self.finish, self.size, self.asked = text, line, finish, size, []

    async def submit(self, request):
        self.asked.append(request)
        line = self.line.pop(0) if isinstance(self.line, list) and request.prefix else self.line
        if isinstance(line, Exception) and request.prefix:
            raise line
        text = str(line) if request.prefix else self.text
        for at in range(0, len(text), self.size):
            yield Piece(text[at : at + self.size], 1)
        yield Piece("", 0, "stop" if request.prefix else self.finish)

    async def close(self):
        pass


def written(engine, genre="mecha", request=ASKED, ending=False, may_end=True):
    async def read():
        return [part async for part in choices.scene(engine, request, genre, ending, may_end)]

    *pieces, draft = asyncio.run(read())
    assert "".join(piece.text for piece in pieces) == draft.scene
    return draft


def check(draft, taken="Open the door"):
    assert draft.scene.strip() == draft.scene and draft.scene
    if draft.ending:
        assert draft.choices == ()
        return
    assert 2 <= len(draft.choices) <= 3
    keys = {choices._key(choice) for choice in draft.choices}
    assert len(keys) == len(draft.choices) and choices._key(taken) not in keys and "" not in keys
    for choice in draft.choices:
        assert 0 < len(choice) <= 80 and choice.isprintable() and choice == choice.strip() and not choice.startswith(">")


LINES = st.one_of(
    st.text(max_size=100),
    st.sampled_from(["> Go", "> go!", ">", "The end.", "> Open the door", "> " + "x" * 81, "<|end|>", "1. Run", "She waits.", ""]),
)


@settings(max_examples=150)
@given(
    *(st.lists(LINES, max_size=8), LINES, st.sampled_from(["stop", "length"]), st.integers(1, 9), st.booleans()),
    *(st.booleans(), st.sampled_from(["\n", " "])),
)
def test_whatever_a_model_writes_the_choices_are_valid(lines, line, finish, size, ending, may_end, joint):
    draft = written(Scripted(joint.join(lines), line, finish, size), ending=ending, may_end=may_end)
    check(draft)
    assert draft.ending or not ending
    assert may_end or ending or not (draft.ending or storytext.THE_END in draft.scene)


def test_what_a_model_writes_well_stays():
    engine = Scripted("The door creaks.\n\nIt is dark.\n\n> Light a match\n> Call out\n> Leave\n> Stay")
    assert written(engine) == storytext.Draft("The door creaks.\n\nIt is dark.", ("Light a match", "Call out", "Leave"))
    assert len(engine.asked) == 1
    assert written(Scripted("You are home at last.\n\nThe end.")) == storytext.Draft("You are home at last.", (), True)


@pytest.mark.parametrize("end", ["\n\nThe end.", " The end.", " The end.\n\n> Go to bed\n> Call out"])
@pytest.mark.parametrize("size", [1, 3, 99])
def test_a_story_that_may_not_end_yet_goes_on(end, size):
    engine = Scripted(f"You are home at last.{end}", " Go to bed", size=size)
    draft = written(engine, may_end=False)
    check(draft)
    assert draft.scene == "You are home at last." and draft.choices[0] == "Go to bed" and not draft.ending
    if ">" in end:
        assert draft.choices[1] == "Call out"
    else:  # the other is of the deck
        assert len(engine.asked) == 2
        assert engine.asked[1].prefix == "You are home at last.\n\n>"
        by_itself = Scripted(f"You are home at last.{end}", size=size)
        assert written(by_itself, ending=True) == storytext.Draft("You are home at last.", (), True)


def test_missing_choices_are_asked_for_one_line_at_a_time():
    engine = Scripted("Rain falls on the bridge.\n\n> Run\n> run!", " Wait under the bridge")
    assert written(engine).choices == ("Run", "Wait under the bridge")
    first, second = engine.asked
    assert second.prefix == "Rain falls on the bridge.\n\n> Run\n>" and second.stop == ("\n",)
    assert first.messages == ASKED.messages  # for a choice the new scene is enough: the story before it would be read again
    assert second.messages == [{"role": "user", "content": "> Open the door"}]


@pytest.mark.parametrize("line", ["", "Open the door", "x" * 200, base.UpstreamDown("gone")])
def test_the_deck_of_the_genre_fills_what_stays_missing(line):
    draft = written(Scripted("Rain falls on the bridge.", line), "chess")
    check(draft)
    assert set(draft.choices) <= set(choices._deck()["chess"])


@pytest.mark.parametrize("scene", ["\n ", "Sure of the broom\n"])
def test_a_scene_of_less_than_five_words_is_asked_for_again_and_then_stands_still(scene):
    engine = Scripted(f"{scene}\n> Go\n> Stay")
    assert written(engine).scene == choices.STILL
    assert len(engine.asked) == 2


def test_a_scene_that_goes_in_circles_is_ended():
    draft = written(Scripted("You walk. " + "The rain falls on the roof of the old station again. " * 30))
    assert len(draft.scene) < 200
    check(draft)


def test_a_scene_that_was_cut_off_trails_away():
    assert written(Scripted("You open the door and", finish="length")).scene == "You open the door and..."
    assert written(Scripted("It rains on the roof.\n\n> Run\n> Wait under the bri", finish="length", line=" Hide")).choices == (
        "Run",
        "Hide",
    )


def test_the_last_sentence_of_a_story_is_written_to_its_end():
    engine = Scripted("You open the door and", line=[" walk out. The rain", ""], finish="length")
    assert written(engine, ending=True) == storytext.Draft("You open the door and walk out.", (), True)
    assert engine.asked[1].prefix == "You open the door and" and engine.asked[1].messages == ASKED.messages
    for line in (" walk on and on", base.UpstreamDown("gone")):
        assert written(Scripted("You open the door and", line, "length"), ending=True).scene == "You open the door and..."


def test_a_story_that_has_to_end_is_closed():
    engine = Scripted("It rains on the roof.\n\n> Run\n> Hide", line=" Mr. Fox keeps the lamp. You")
    draft = written(engine, ending=True)
    assert storytext.render(draft) == "It rains on the roof. In the end, Mr. Fox keeps the lamp.\n\nThe end."
    assert engine.asked[1].prefix == "It rains on the roof. In the end," and engine.asked[1].messages == [
        {"role": "user", "content": "> Open the door"}
    ]
    by_itself = Scripted("You are home at last.\n\nThe end.", line=" no.")
    assert written(by_itself, ending=True).scene == "You are home at last." and len(by_itself.asked) == 1
    for line in (" on and on", " .", base.UpstreamDown("gone")):
        assert written(Scripted("It rains on the roof.", line), ending=True) == storytext.Draft("It rains on the roof.", (), True)
    assert (
        written(Scripted("You go up the hill\n> Run", " it is over!"), ending=True).scene
        == "You go up the hill... In the end, it is over!"
    )


def test_rerolled_choices_are_new():
    old = ("Check the cockpit", "Run")
    found = asyncio.run(choices.reroll(Scripted("", " Run"), ASKED, "Rain.", "mecha", old))
    check(storytext.Draft("Rain.", found))
    assert len(found) == 3 and not set(found) & set(old)


def test_a_scene_of_the_players_is_no_markup_to_the_model():
    engine = Scripted("", [" Run", " Hide", " Wait"])

    async def read():
        return [part async for part in choices.given(engine, ASKED, "<|end|>Rain.\n\n> It [INST] stops.", "mecha")]

    assert asyncio.run(read()) == [storytext.Draft("<|end|>Rain.\n\n> It [INST] stops.", ("Run", "Hide", "Wait"))]
    assert engine.asked[0].prefix == "< |end|>Rain.\n\nIt [ INST] stops.\n\n>"


def test_every_genre_has_a_deck_that_always_gives_three():
    genres = {scenario.genre for scenario in scenarios.load()}
    assert genres <= set(choices._deck())
    for genre in [*choices._deck(), "a genre nobody knows"]:
        first = choices.deck(genre)
        assert len(first) == 3 and len(choices.deck(genre, first)) == 3
        check(storytext.Draft("x", first))


@contextmanager
def server(respond):
    """A server on loopback that treats every connection with `respond`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=respond, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


def http(status, body, more="", cut=0):
    def respond(connection):
        with connection:
            connection.recv(65536)
            head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body) + cut}\r\nConnection: close\r\n{more}\r\n"
            connection.sendall((head + body).encode())

    return respond


async def ask(url, timeout=5.0):
    engine = openai.OpenAI(url, "m", timeout=timeout)
    try:
        return [piece async for piece in engine.submit(ASKED)]
    finally:
        await engine.close()


BEGUN = 'data: {"choices": [{"delta": {"content": "It "}}]}\n\n'
TROUBLE = {
    "down": (http(500, "oops"), "UpstreamDown", 502),
    "busy": (http(503, "", "Retry-After: 7\r\n"), "QueueFull", 503),
    "gateway": (http(504, ""), "UpstreamTimeout", 504),
    "refuses": (http(422, "no such field"), "BadRequest", 400),
    "no api": (http(200, "data: <html>\n\n"), "UpstreamDown", 502),
    "breaks off": (http(200, BEGUN, cut=100), "UpstreamDown", 502),
    "no end": (http(200, BEGUN), "UpstreamDown", 502),
    "fails on the way": (http(200, BEGUN + 'data: {"error": "out of memory"}\n\n'), "UpstreamDown", 502),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_behind_the_engine_has_a_type(name):
    respond, kind, status = TROUBLE[name]
    with server(respond) as url, pytest.raises(base.EngineError) as raised:
        asyncio.run(ask(url))
    assert type(raised.value).__name__ == kind and raised.value.status == status
    if kind == "QueueFull":
        assert raised.value.retry_after == 7


def test_a_silent_server_times_out_and_an_absent_one_is_down():
    with server(lambda connection: threading.Event().wait(3)) as url, pytest.raises(base.UpstreamTimeout):
        asyncio.run(ask(url, timeout=0.3))
    with pytest.raises(base.UpstreamDown):
        asyncio.run(ask("http://127.0.0.1:9/v1"))


def test_a_server_that_knows_no_extras_is_asked_without_them():
    seen = Counter()

    def strict(connection):
        while not (text := connection.recv(65536, socket.MSG_PEEK)).endswith(b"}"):  # the body comes after the head
            assert text, "closed"
            time.sleep(0.01)
        seen[b"top_k" in text] += 1
        end = 'data: {"choices": [{"delta": {"content": "Hi."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        (http(422, "Unexpected fields") if b"top_k" in text else http(200, end))(connection)

    async def twice(url):
        engine = openai.OpenAI(url, "m")
        found = [[piece.text async for piece in engine.submit(ASKED)] for _ in range(2)]
        await engine.close()
        return found

    with server(strict) as url:
        assert asyncio.run(twice(url)) == [["Hi.", ""]] * 2
    assert seen == {True: 1, False: 2}
