"""The server under load: how long a scene takes, what a crowd does to it, and how much text a second of a core gives.

$ make cyoa-load                            about half an hour, on two cores that nobody else uses
$ make cyoa-load ARGS="--only players"      one of players, choices, crowd, engines
$ make cyoa-load ARGS=--smoke               toy size
"""

from contextlib import nullcontext
from dataclasses import dataclass

from shared import runlog
from shared.errors import UserError

from .traffic import comparison, waiting


@dataclass
class Args(runlog.Args):
    """How many, how often, how long."""

    devices = ("cpu",)  # of the engine that serves the shipped model

    users: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Players at a time, each without a pause."""
    rounds: int = 7
    """Interleaved rounds of the players and of the engines."""
    turns: int = 6
    """Turns of each player in a round."""
    tokens: int = 64
    """Longest scene with its choices, and longest answer of an engine."""
    scenes: int = 1000
    """Scenes whose choices are checked, at the length of the game."""
    crowd: int = 200
    """Users of the crowd."""
    minutes: float = 10.0
    """How long the crowd stays."""
    prompts: int = 16
    """Answers at a time where engines are compared."""
    only: tuple[str, ...] = ()
    """Which experiments: players, choices, crowd, engines (all when not given)."""


EXPERIMENTS = {"players": waiting.players, "choices": waiting.choices, "crowd": waiting.crowd, "engines": comparison.engines}


def main(args: Args) -> dict:
    runlog.check_only(args.only, EXPERIMENTS)
    if args.smoke:
        args.users, args.rounds, args.turns, args.scenes = (2,), 2, 2, 4
        args.crowd, args.minutes, args.prompts, args.tokens = 12, 0.03, 3, 16
    if not args.users or min(*args.users, args.rounds, args.turns, args.scenes, args.crowd, args.prompts) < 1:
        raise UserError("--users, --rounds, --turns, --scenes, --crowd and --prompts are at least 1")
    if args.tokens < 16 or args.minutes <= 0:
        raise UserError("--tokens is at least 16, --minutes more than 0")
    if not args.smoke:
        return measured(args, waiting.game)
    with waiting.game() as server:  # one for all: most of the time would go into starting them
        return measured(args, lambda *_: nullcontext(server))


def measured(args: Args, game: waiting.Game) -> dict:
    return {name: EXPERIMENTS[name](args, game) for name in args.only or EXPERIMENTS}


if __name__ == "__main__":
    runlog.launch(main, Args)
