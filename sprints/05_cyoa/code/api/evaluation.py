"""Blind pairs, votes and the leaderboard.

Pairs are put into the store by whoever compares models (`add_pairs`), and arise by themselves where a player had a scene written
again by another model: the same turn, answered twice.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from .. import votes as ballots
from ..bradley_terry import fit
from .errors import ApiError
from .shapes import Line, NewVote
from .store import Store
from .tables import Node, Pair, Vote, new_id


class BlindPair(BaseModel):
    pair_id: str
    prompt: str
    left: str
    right: str


class Rated(BaseModel):
    model: str
    votes: int
    wins: int
    losses: int
    ties: int
    rating: float
    low: float
    high: float


class Leaderboard(BaseModel):
    models: list[Rated]
    votes: int


def add_pairs(store: Store, pairs: Iterable[dict[str, str]]) -> None:
    """Keep pairs to vote on: prompt, text_a, text_b, model_a, model_b."""
    with store.session() as session:
        session.add_all(Pair(**pair) for pair in pairs)


def find_pairs(store: Store, limit: int = 100) -> int:
    """Turn siblings that two models wrote for the same turn into pairs; returns how many are new. Not those of a file that was
    imported, whose prompt nobody knows, nor where memory or lore changed in between."""
    a, b = aliased(Node), aliased(Node)
    same = a.parent_id == b.parent_id, a.action.is_not_distinct_from(b.action), a.number < b.number
    written = a.status == "done", b.status == "done", a.actor == "model", b.actor == "model", a.model_version != b.model_version
    asked = a.prompt_tokens > 0, a.prompt_tokens == b.prompt_tokens
    new = ~select(Pair.id).where(Pair.node_a == a.id, Pair.node_b == b.id).exists()
    with store.session() as session:
        found = list(session.execute(select(a, b).where(*same, *written, *asked, new).limit(limit)))
        rows = [
            {
                "id": new_id(),
                "prompt": "\n\n".join(message["content"] for message in first.messages),
                "text_a": first.text,
                "text_b": second.text,
                "model_a": first.model_version,
                "model_b": second.model_version,
                "node_a": first.id,
                "node_b": second.id,
            }
            for first, second in found
        ]
        if rows:  # another request may have found the same ones
            dialect = postgresql if store.engine.dialect.name == "postgresql" else sqlite
            session.execute(dialect.insert(Pair).on_conflict_do_nothing(), rows)
    return len(rows)


def votes(store: Store) -> list[ballots.Vote]:
    """The votes that count: no checks of attention, and none of a rater who fails them."""
    sides: dict[str, ballots.Side] = {"a": "left", "b": "right", "tie": "tie"}
    with store.session() as session:
        asked = select(Vote.rater, Pair.id, Pair.model_a, Pair.model_b, Vote.winner, Vote.ms)
        rows = session.execute(asked.join(Vote, Vote.pair_id == Pair.id))
        found = [ballots.Vote(rater, pair, a, b, sides[winner], ms or 0) for rater, pair, a, b, winner, ms in rows]
    return ballots.counted(found)


def _swapped(pair_id: str, rater: str) -> bool:
    """Whether this rater sees b on the left: by chance over pairs and raters, the same each time for one."""
    return hashlib.sha256(f"{pair_id} {rater}".encode()).digest()[0] % 2 == 1


def routes(store: Store) -> APIRouter:
    router = APIRouter(prefix="/eval")

    @router.get("/pair")
    def pair(rater: Annotated[Line, Query()] = "player") -> BlindPair:
        """Of the pairs that this rater has not seen, one with the fewest votes."""
        find_pairs(store)
        counted = select(func.count(Vote.id)).where(Vote.pair_id == Pair.id).scalar_subquery()
        mine = select(Vote.id).where(Vote.pair_id == Pair.id, Vote.rater == rater).exists()
        with store.session() as session:
            found = session.scalar(select(Pair).where(~mine).order_by(counted, Pair.id).limit(1))
        if found is None:
            raise ApiError(404, "there is no pair left for you")
        texts = (found.text_b, found.text_a) if _swapped(found.id, rater) else (found.text_a, found.text_b)
        return BlindPair(pair_id=found.id, prompt=found.prompt, left=texts[0], right=texts[1])

    @router.post("/votes", status_code=204)
    def vote(new: NewVote) -> None:
        sides = ("b", "a") if _swapped(new.pair_id, new.rater) else ("a", "b")
        winner = {"left": sides[0], "right": sides[1], "tie": "tie"}[new.winner]
        try:
            with store.session() as session:
                if session.get(Pair, new.pair_id) is None:
                    raise ApiError(404, "there is no such pair")
                session.add(Vote(pair_id=new.pair_id, rater=new.rater, winner=winner, ms=new.ms))
        except IntegrityError:
            raise ApiError(409, "you have voted on this pair") from None

    @router.get("/leaderboard")
    def leaderboard() -> Leaderboard:
        """Bradley-Terry ratings with 95 % intervals, best first."""
        if not (counted := votes(store)):
            return Leaderboard(models=[], votes=0)
        cast = ballots.cast(counted)
        ratings = {row.model: row for row in fit(cast, [vote.rater for vote in counted])}
        rows = []
        for model, row in ratings.items():
            mine = [(a == model, winner) for a, b, winner in cast if model in (a, b) and a != b]
            ties = sum(winner == "tie" for _, winner in mine)
            wins = sum(winner == ("a" if first else "b") for first, winner in mine)
            count = {"votes": len(mine), "wins": wins, "ties": ties, "losses": len(mine) - wins - ties}
            rows.append(Rated(model=model, rating=row.rating, low=row.low, high=row.high, **count))
        return Leaderboard(models=sorted(rows, key=lambda row: -row.rating), votes=len(cast))

    return router
