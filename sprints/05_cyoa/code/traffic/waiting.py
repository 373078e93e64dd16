"""What players of the real server meet: the experiments players, choices and crowd of `load`."""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shared import runlog
from shared.errors import UserError
from shared.report import AIM, verdict

from .. import registry, scenarios
from . import figures, servers
from .players import Turn, play, throng

USERS = 16  # at a time, for whom our aim is SCENE and FIRST
SCENE, FIRST = 2.0, 0.5  # seconds to the end of a scene and to its first text (p95)
CALM = (200, 429, 503)  # what a crowd may be answered
GROWTH = 50.0  # MiB that are still flat
GAME = 160  # tokens of a scene with its choices, as the game asks for
WARM = 9000  # number of a player who only warms the server up
Game = Callable[..., AbstractContextManager[servers.Server]]  # takes flags of the server


@contextmanager
def game(*flags: str) -> Iterator[servers.Server]:
    """The server as players start it, warmed up."""
    with tempfile.TemporaryDirectory() as folder:
        port = servers.free_port()
        with servers.running(servers.ours(port, Path(folder), *flags), port, "/readyz") as server:
            asyncio.run(play(server.url, names(), 2, 2, GAME, WARM))
            yield server


def names() -> list[str]:
    return [one.id for one in scenarios.load()]


def setup() -> dict[str, str]:
    champion = registry.champion()
    return {
        "server": "as make cyoa-serve starts it: one process, the engine fast (CTranslate2, int8) with one thread, sqlite",
        "model": f"{champion.name}: {champion.reason}",
        "load": "from another process of the same machine, which takes its share of the cores",
    }


def seconds(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Of the turns that went well: to the first text, and to the end of the scene. Raises UserError where none did."""
    good = [turn for turn in turns if turn.told]
    if not good:
        raise UserError(f"no scene was told ({dict(mishaps(turns))}): start the server by hand to see why")
    return {"first_token": [turn.first or turn.whole for turn in good], "scene": [turn.whole for turn in good]}


def mishaps(turns: Sequence[Turn]) -> Counter[str]:
    return Counter(f"{turn.status} {turn.error}".strip() for turn in turns if not turn.told)


def listed(counted: Counter[Any]) -> str:
    return ", ".join(f"{number} x {what}" for what, number in counted.items()) or "none"


def players(args: Any, game: Game) -> dict:
    with runlog.Run(
        args,
        __file__,
        "load_players",
        title="CYOA: how long players wait",
        objective="Does a scene come fast enough for sixteen players at a time, who never pause?",
        setup=setup(),
    ) as run:
        waits: dict[tuple[str, int], list[np.ndarray]] = {}  # (what, players) -> median and p95 of each round, seconds
        paces: dict[int, list[float]] = {}
        errors: Counter[str] = Counter()
        with game() as server:
            for round, users in run.track([(round, users) for round in range(args.rounds) for users in args.users], "rounds"):
                started = time.perf_counter()
                turns = asyncio.run(play(server.url, names(), users, args.turns, args.tokens, 100 * round))
                paces.setdefault(users, []).append(len(turns) / (time.perf_counter() - started))
                for what, values in seconds(turns).items():
                    waits.setdefault((what, users), []).append(np.quantile(values, (0.5, 0.95)))
                errors += mishaps(turns)
        meanings = {"first_token": "the first text of a scene", "scene": "the end of a scene with its choices"}
        for (what, users), rounds in waits.items():
            for name, values in zip(("p50", "p95"), np.array(rounds).T, strict=True):
                meaning = f"{name} of the time to {meanings[what]} of {args.tokens} tokens at most, {users} players, per round"
                run.metric(f"{what}_{name}_seconds_{users}_users", values, unit="s", higher_is_better=False, meaning=meaning)
        for users, values in paces.items():
            meaning = f"scenes that {users} players together get in a second"
            run.metric(f"scenes_per_second_{users}_users", values, higher_is_better=True, meaning=meaning)
        run.metric("load_errors", errors.total(), higher_is_better=False, meaning="turns of players that went wrong")
        run.observe(f"Turns that went wrong: {listed(errors)}.")
        with runlog.style() as plt:
            run.figure(
                figures.latency(plt, waits),
                "latency",
                shows="Time to the first text and to the end of a scene against the number of players (logarithmic axis): median "
                "and p95, with the range of the rounds.",
                matters="From where twice the players wait twice as long one process is full; more processes on more cores help.",
            )
        p95 = {what: {users: float(np.mean(waits[what, users], axis=0)[1]) for users in sorted(args.users)} for what in meanings}
        claims(run, p95, args.tokens, errors.total())
        shown = USERS if USERS in args.users else max(args.users)
        scene, first = p95["scene"][shown], p95["first_token"][shown]
        run.conclude(
            f"{shown} players who never pause wait {scene:.2f} s (p95) for a scene and {first:.2f} s for its first text; "
            f"{errors.total()} turns went wrong."
        )
    return run.report


def claims(run: Any, p95: dict[str, dict[int, float]], tokens: int, errors: int) -> None:
    """What became of the original's target and of our aim; `p95` is in seconds, by the count of players, in its order."""
    scene, first = p95["scene"], p95["first_token"]
    quick = list(itertools.takewhile(lambda users: scene[users] <= SCENE, scene))
    least, wrong = min(scene), f"; turns that went wrong: {errors}" * bool(errors)
    run.claim(
        "API responds within 2 seconds",
        source=scenarios.SOURCE,
        protocol="a target, not ticked, for no stated number of users; no API is in its repository",
        ours=f"players: {least}, a scene of at most {tokens} tokens: {scene[least]:.2f} s (p95)",
        honest=f"players who never pause: it holds for {f'up to {quick[-1]}' if quick else 'no count'} of those tried ("
        + ", ".join(f"{users}: {seconds:.2f} s" for users, seconds in scene.items())
        + f"), with scenes of at most {tokens} tokens, where the game allows {GAME}{wrong}",
        verdict=verdict(bool(quick), len(quick) == len(scene) and not errors),
    )
    if USERS in scene:
        held = scene[USERS] <= SCENE, first[USERS] <= FIRST
        run.claim(
            f"{USERS} players who never pause get a scene within {SCENE:g} s and its first text within {FIRST:g} s (p95)",
            source=AIM,
            protocol="none",
            ours="none",
            honest=f"{scene[USERS]:.2f} s and {first[USERS]:.2f} s, at most {tokens} tokens, the load on the same machine{wrong}",
            verdict=verdict(any(held), all(held) and not errors),
        )


def choices(args: Any, game: Game) -> dict:
    with runlog.Run(
        args,
        __file__,
        "load_choices",
        title="CYOA: choices over HTTP",
        objective="Does every scene that players get offer two to four different choices, or end?",
        setup=setup(),
    ) as run:
        turns: list[Turn] = []
        with game() as server:
            users = min(USERS, args.scenes)
            for round in run.track(range(-(-args.scenes // (users * args.turns))), "rounds"):
                turns += asyncio.run(play(server.url, names(), users, args.turns, GAME, 100 * round))
        good = [turn for turn in turns if turn.told]
        seconds(turns)  # there are some
        meaning = "scenes over HTTP that end, or offer two to four choices, all different and none empty"
        run.metric("api_choice_validity", [sound(turn) for turn in good], unit="fraction", higher_is_better=True, meaning=meaning)
        run.observe(
            f"{sum(turn.ending for turn in good)} of {len(good)} scenes were endings. Went wrong: {listed(mishaps(turns))}."
        )
        run.conclude(f"{sum(map(sound, good))} of {len(good)} scenes offer valid choices or end.")
    return run.report


def sound(turn: Turn) -> bool:
    """Whether a player can go on from a scene, or has come to the end."""
    different = {choice.casefold().strip() for choice in turn.choices} - {""}
    return not turn.choices if turn.ending else 2 <= len(different) == len(turn.choices) <= 4


def crowd(args: Any, game: Game) -> dict:
    with runlog.Run(
        args,
        __file__,
        "load_crowd",
        title="CYOA: a crowd",
        objective="What happens when far more people come than one process can serve, for minutes?",
        setup=setup() | {"crowd": "users without patience, four behind each address: who is refused comes back when he may"},
    ) as run:
        time_span = 60 * args.minutes
        with game() as server:
            found = asyncio.run(
                throng(server.url, names(), args.crowd, time_span, args.tokens, server.memory, min(5.0, time_span / 40))
            )
        waits, memory = seconds(found.turns), [value for _, value in found.samples]
        tenth = -(-len(memory) // 10)
        growth = statistics.median(memory[-tenth:]) - statistics.median(memory[tenth : 2 * tenth])
        other = Counter({status: number for status, number in found.statuses.items() if status not in CALM})
        broken = Counter(turn.error for turn in found.turns if turn.status == 200 and turn.error)
        meaning = "memory of the server in the last tenth of the time, less that in the second tenth"
        run.metric("crowd_memory_growth", growth, unit="MiB", higher_is_better=False, meaning=meaning)
        run.metric("crowd_memory", max(memory), unit="MiB", higher_is_better=False, meaning="most memory that the server took")
        meaning = "answers that were neither 200, 429 nor 503"
        run.metric("crowd_other_statuses", other.total(), higher_is_better=False, meaning=meaning)
        meaning = "scenes that began and did not end well"
        run.metric("crowd_broken_scenes", broken.total(), higher_is_better=False, meaning=meaning)
        for status in CALM:
            run.metric(f"crowd_answers_{status}", found.statuses[status], meaning=f"answers with the status {status}")
        pace = len(waits["scene"]) / time_span
        run.metric("crowd_scenes_per_second", pace, higher_is_better=True, meaning="scenes told in a second, to all together")
        for what, values in waits.items():
            meaning = f"p95 of the time to the {'end' if what == 'scene' else 'first text'} of a scene, of those who were let in"
            run.metric(f"crowd_{what}_p95_seconds", np.quantile(values, 0.95), unit="s", higher_is_better=False, meaning=meaning)
        run.observe(f"Answers besides {', '.join(map(str, CALM))}: {listed(other)}. Broken scenes: {listed(broken)}.")
        with runlog.style() as plt:
            run.figure(
                figures.memory(plt, found.samples),
                "memory",
                shows="Resident memory of the server while the crowd is there.",
                matters="What is bounded stays flat: the queue, the streams, the allowances of the addresses.",
            )
        calm, told = not other and not broken and growth < GROWTH, found.statuses[200] / sum(found.statuses.values())
        run.claim(
            "System handles concurrent users",
            source=scenarios.SOURCE,
            protocol="a target, not ticked; how many is not said",
            ours=f"{args.crowd} users for {args.minutes:g} minutes: {other.total()} answers besides 200, 429 and 503, "
            f"{broken.total()} broken scenes, memory {growth:+.0f} MiB",
            honest=f"{told:.0%} of the answers were 200; the refused are told when to come back",
            verdict=verdict(calm, calm and told > 0.5),
        )
        run.conclude(
            f"{args.crowd} users for {args.minutes:g} minutes: {other.total()} answers besides 200, 429 and 503, "
            f"memory {'flat' if growth < GROWTH else 'not flat'} ({growth:+.0f} MiB)."
        )
    return run.report
