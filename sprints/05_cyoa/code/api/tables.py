"""The tables of the store. Nodes are only ever added: no operation deletes one, and a finished one never changes its text."""

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, Text, UniqueConstraint, Uuid, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

RUNNING = ("queued", "running")  # the statuses of a node that is being written
Number = BigInteger().with_variant(Integer, "sqlite")  # sqlite counts up in plain integers only


def new_id() -> str:
    return str(uuid.uuid4())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Base(DeclarativeBase):
    type_annotation_map = {str: Text, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Choice(Base):
    """What a node offers. A re-roll adds a round, into which the choices come that were taken; the others stay in theirs, valid."""

    __tablename__ = "choice"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=new_id)
    node_id: Mapped[str] = mapped_column(ForeignKey("node.id"), index=True)
    round: Mapped[int] = mapped_column(default=0)
    ord: Mapped[int]
    text: Mapped[str]
    source: Mapped[str] = mapped_column(String(16))  # model, deck, author or player


class Feedback(Base):
    __tablename__ = "feedback"
    node_id: Mapped[str] = mapped_column(ForeignKey("node.id"), primary_key=True)
    verdict: Mapped[str] = mapped_column(String(8))
    tags: Mapped[list[Any]]
    created: Mapped[str] = mapped_column(String(32), default=now)


class Node(Base):
    __tablename__ = "node"
    number: Mapped[int] = mapped_column(Number, primary_key=True)  # parents have lower ones than their children
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), unique=True, default=new_id)
    story_id: Mapped[str] = mapped_column(ForeignKey("story.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("node.id"), index=True)
    depth: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(String(16), default="model")
    action: Mapped[str | None]
    choice_id: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))  # of the parent; no key, since choice refers to node
    text: Mapped[str] = mapped_column(default="")
    ending: Mapped[bool] = mapped_column(default=False)
    status: Mapped[str] = mapped_column(String(16), default="queued")
    finish: Mapped[str | None] = mapped_column(String(16))
    owner: Mapped[str | None] = mapped_column(String(100))  # the server that writes it, see Store.recover
    seed: Mapped[int | None] = mapped_column(BigInteger)
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)
    messages: Mapped[list[Any]] = mapped_column(default=list)  # what the model saw
    model_version: Mapped[str | None]
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    tokens: Mapped[int] = mapped_column(default=0)
    ttft_ms: Mapped[int | None]
    ms: Mapped[int | None]
    created: Mapped[str] = mapped_column(String(32), default=now)
    all_choices: Mapped[list[Choice]] = relationship(
        lazy="selectin", foreign_keys=Choice.node_id, order_by=(Choice.round, Choice.ord)
    )
    feedback: Mapped[str | None] = column_property(
        select(Feedback.verdict).where(Feedback.node_id == id).correlate_except(Feedback).scalar_subquery()
    )

    @property
    def choices(self) -> list[Choice]:
        """The newest round; of an author's scene the author's own."""
        newest = 0 if self.actor == "author" else max((choice.round for choice in self.all_choices), default=0)
        return [choice for choice in self.all_choices if choice.round == newest]


class Story(Base):
    __tablename__ = "story"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=new_id)
    title: Mapped[str]
    genre: Mapped[str]
    rating: Mapped[str] = mapped_column(String(8))
    scenario_id: Mapped[str | None]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    hero: Mapped[dict[str, Any]]
    cast: Mapped[list[Any]]
    memory: Mapped[str] = mapped_column(default="")
    settings: Mapped[dict[str, Any]]
    root_id: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    head_id: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    created: Mapped[str] = mapped_column(String(32), default=now)
    updated: Mapped[str] = mapped_column(String(32), default=now)
    deleted_at: Mapped[str | None] = mapped_column(String(32))
    node_count: Mapped[int] = column_property(
        select(func.count(Node.number)).where(Node.story_id == id).correlate_except(Node).scalar_subquery()
    )


class Lore(Base):
    __tablename__ = "lore"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=new_id)
    story_id: Mapped[str] = mapped_column(ForeignKey("story.id"), index=True)
    keys: Mapped[list[Any]]
    text: Mapped[str]
    always: Mapped[bool] = mapped_column(default=False)
    priority: Mapped[int] = mapped_column(default=0)
    created: Mapped[str] = mapped_column(String(32), default=now)


class Pair(Base):
    """Two answers to one prompt, for blind comparison."""

    __tablename__ = "pair"
    __table_args__ = (UniqueConstraint("node_a", "node_b"),)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=new_id)
    prompt: Mapped[str]
    text_a: Mapped[str]
    text_b: Mapped[str]
    model_a: Mapped[str]
    model_b: Mapped[str]
    node_a: Mapped[str | None] = mapped_column(ForeignKey("node.id"))  # where both come from a story that was played
    node_b: Mapped[str | None] = mapped_column(ForeignKey("node.id"))


class Vote(Base):
    __tablename__ = "vote"
    __table_args__ = (UniqueConstraint("pair_id", "rater"),)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=new_id)
    pair_id: Mapped[str] = mapped_column(ForeignKey("pair.id"), index=True)
    rater: Mapped[str]
    winner: Mapped[str] = mapped_column(String(8))  # a, b or tie
    ms: Mapped[int | None]
    created: Mapped[str] = mapped_column(String(32), default=now)


class Idempotency(Base):
    """What a request with an Idempotency-Key made, so that the same request again makes nothing."""

    __tablename__ = "idempotency"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # a hash of the client's key
    fingerprint: Mapped[str] = mapped_column(String(64))  # of method, path and body
    made: Mapped[str] = mapped_column(Uuid(as_uuid=False))  # the id of the story or node
    created: Mapped[str] = mapped_column(String(32), default=now)
