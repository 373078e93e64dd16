"""Blind A/B votes: one HTML page that collects them, and the strengths that follow from them."""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from shared.errors import UserError

TEMPLATE = Path(__file__).with_name("vote.html")
SYSTEMS = ("base", "fewshot", "tuned")
BASE = SYSTEMS[0]
PAIRS = r'id="pairs">([^<]*)<'  # where the page keeps them
PRIOR = 0.5  # wins that either side of every two systems has before the first vote
Choice = Literal["left", "right", "equal", "skip"]


@dataclass(frozen=True)
class Vote:
    """One answer: the pair, the systems that wrote its left and right text, what was chosen, and the seconds it took."""

    id: str
    left: str
    right: str
    choice: Choice
    seconds: float


def digest(*parts: Any) -> str:
    """A short id that follows from texts alone: the first 12 digits of the sha256 of their JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def pair(prompt: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """A pair for `page`; its id changes with its prompt and texts, so that no vote is ever counted for other ones."""
    return {"id": digest(prompt, dict(texts)), "prompt": prompt, "texts": dict(texts)}


def known_ids(path: Path) -> set[str]:
    """The ids of the pairs on a page that `page` made. Raises UserError for another file."""
    try:
        return {pair["id"] for pair in json.loads(base64.b64decode(re.findall(PAIRS, path.read_text(encoding="utf-8"))[0]))}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} is not a voting page of this sprint") from None


def page(pairs: Sequence[Mapping[str, Any]], title: str) -> str:
    """The voting page: one file, no network, for pairs {id, prompt, texts: {system: text}} of two or more systems.

    A visitor sees every prompt once, in random order, with the texts of two of its systems on random sides; of three systems each
    two meet equally often. The page shows no system's name before the vote is over. Raises UserError for unusable pairs.
    """
    seen: set[str] = set()
    for number, pair in enumerate(pairs, 1):
        _check_pair(pair, f"pair {number}", seen)
    if not pairs:
        raise UserError("there are no pairs to vote on")
    content = json.dumps([{key: pair[key] for key in ("id", "prompt", "texts")} for pair in pairs])
    # base64 keeps texts from being read as HTML, and names from whoever glances at the source. It hides nothing from a debugger.
    values = {
        "title": escape(title),
        "key": "votes-" + hashlib.sha256(content.encode()).hexdigest()[:16],
        "pairs": base64.b64encode(content.encode()).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _check_pair(pair: Mapping[str, Any], where: str, seen: set[str]) -> None:
    if not {"id", "prompt", "texts"} <= set(pair) or not isinstance(pair["texts"], Mapping) or len(pair["texts"]) < 2:
        raise UserError(f"{where} needs id, prompt and the texts of two or more systems")
    texts = [pair["id"], pair["prompt"], *pair["texts"], *pair["texts"].values()]
    if not all(isinstance(text, str) for text in texts) or not all([pair["id"], *pair["texts"]]):
        raise UserError(f"{where}: id, prompt, systems and texts are text, and no id or system is empty")
    if pair["id"] in seen:
        raise UserError(f"{where}: the id {pair['id']!r} again")
    seen.add(pair["id"])


def read_votes(paths: Iterable[Path], known: Collection[str] | None = None) -> list[Vote]:
    """The votes in files that the page made, one file per visitor.

    Raises UserError for a damaged file, one given twice, a system that is none of SYSTEMS, and where `known` ids are given (see
    `known_ids`) for a vote on other texts.
    """
    found: list[Vote] = []
    files: dict[tuple[Vote, ...], Path] = {}
    for path in paths:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:  # neither UTF-8 nor JSON
            raise UserError(f"{path} is not JSON: {error}") from None
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{path} holds no votes: it must be the list that the page's `Download votes` saves")
        votes = tuple(_vote(row, f"{path}, vote {number}") for number, row in enumerate(rows, 1))
        if len({vote.id for vote in votes}) < len(votes):
            raise UserError(f"{path} has two votes on the same pair: one file is one visitor's")
        if known is not None and (other := [vote.id for vote in votes if vote.id not in known]):
            raise UserError(f"{path}: {len(other)} of {len(votes)} votes are on texts of another page, the first on {other[0]!r}")
        if votes in files:
            raise UserError(f"{path} holds the same votes as {files[votes]}: give each visitor's file once")
        files[votes] = path
        found += votes
    return found


def _vote(row: Any, where: str) -> Vote:
    keys = [field.name for field in fields(Vote)]
    if not isinstance(row, dict) or set(row) != set(keys):
        raise UserError(f"{where}: it needs exactly {', '.join(keys)}")
    if not all(isinstance(row[key], str) and row[key] for key in keys[:3]) or row["left"] == row["right"]:
        raise UserError(f"{where}: id, left and right are text, left and right two different systems")
    for side in ("left", "right"):
        if row[side] not in SYSTEMS:
            raise UserError(f"{where}: unknown system {row[side]!r}, it is one of {', '.join(SYSTEMS)}")
    if row["choice"] not in get_args(Choice):
        raise UserError(f"{where}: unknown choice {row['choice']!r}, it is one of {', '.join(get_args(Choice))}")
    seconds = row["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise UserError(f"{where}: seconds is no number from 0 on")
    return Vote(**row)


def bradley_terry(votes: Sequence[Vote], draws: int = 2000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """For every system but `base`: win_probability against `base`, its ci95, and n, the votes it took part in.

    Maximum likelihood (Bradley & Terry 1952); a tie is half a win to each side, a skip is no vote. Before the first vote either
    side of every two systems has half a win (PRIOR), so that a record of wins alone stays finite. The interval is a percentile
    bootstrap over pairs of texts, each with all its votes, drawn together with those half wins: without them, a record of wins
    alone would have an interval without width. With few visitors it is too narrow: they are not drawn.
    Raises UserError when no vote that counts has `base` in it.
    """
    votes = [vote for vote in votes if vote.choice != "skip"]
    names = sorted({name for vote in votes for name in (vote.left, vote.right)}, key=lambda name: (name != BASE, name))
    if BASE not in names:
        raise UserError(f"no vote counts that has {BASE!r} in it: there is nothing to compare with")
    place, k = {name: at for at, name in enumerate(names)}, len(names)
    pairs = {name: at for at, name in enumerate(dict.fromkeys(vote.id for vote in votes))}
    voted = np.zeros((len(pairs), 2, k, k))  # for each pair of texts: wins of the row over the column, ties
    for vote in votes:
        left, right = place[vote.left], place[vote.right]
        cell = {"left": (0, left, right), "right": (0, right, left), "equal": (1, *sorted((left, right)))}[vote.choice]
        voted[(pairs[vote.id], *cell)] += 1
    cells, size = voted.sum(0), len(votes) / len(pairs)
    half_wins = size * np.stack([np.stack([one, 0 * one]) for one in np.eye(k * k).reshape(-1, k, k) if not one.trace()])
    units = np.concatenate([voted, half_wins])
    weights = np.concatenate([np.ones(len(pairs)), np.full(len(half_wins), PRIOR / size)])
    rng = np.random.default_rng(seed)
    drawn = np.tensordot(rng.multinomial(len(pairs), weights / weights.sum(), draws), units, 1)
    probability, resampled = _beats_base(cells), _beats_base(drawn)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    took_part = (cells + cells.transpose(0, 2, 1)).sum((0, 2))
    return {
        name: {"win_probability": float(probability[at]), "ci95": (float(low[at]), float(high[at])), "n": int(took_part[at])}
        for name, at in place.items()
        if name != BASE
    }


def _beats_base(cells: np.ndarray) -> np.ndarray:
    """(..., 2, k, k) wins and ties -> (..., k) probability to win against the first; by the MM algorithm of Hunter (2004)."""
    k = cells.shape[-1]
    ties = cells[..., 1, :, :]
    wins = cells[..., 0, :, :] + (ties + ties.swapaxes(-1, -2)) / 2 + PRIOR * (1 - np.eye(k))
    met, won = wins + wins.swapaxes(-1, -2), wins.sum(-1)
    strength, change = np.ones_like(won), 1.0
    while change > 1e-10:
        better = won / (met / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        better /= better[..., :1]
        change = np.abs(np.log(better / strength)).max()
        strength = better
    return strength / (1 + strength)
