"""The store: stories as trees that only grow, in sqlite (WAL) or in PostgreSQL by URL.

Every method is one transaction and safe from any thread. What it returns is detached from the database.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from ..scenarios import Person
from ..storytext import Lore as Card
from ..storytext import Turn
from .database import Database, Key
from .document import Page, StoryDocument
from .errors import ApiError
from .tables import RUNNING, Choice, Feedback, Lore, Node, Story, new_id, now

NODES_PER_STORY = 2000
MOST_CHOICES = 4
FORGOTTEN = timedelta(hours=2)  # no scene takes that long


class Store(Database):
    # -- stories ---------------------------------------------------------------------------------------------------------------

    def add_story(self, document: StoryDocument, key: Key | None = None) -> Story:
        """Keep a story with all its pages, under fresh ids. A page of status `queued` is to be written by this server;
        one that has its text wants choices."""
        ids = {page.id: new_id() for page in document.pages}
        with self.once(key) as session:
            story = Story(
                **{
                    name: getattr(document, name)
                    for name in ("title", "genre", "rating", "scenario_id", "seed", "memory", "settings")
                },
                hero=asdict(document.hero),
                cast=[asdict(person) for person in document.cast],
                root_id=ids[document.pages[0].id],
                head_id=ids[document.head],
            )
            session.add(story)
            session.flush()
            depth: dict[str | None, int] = {None: -1}
            choices: dict[str | None, dict[str, str]] = {None: {}}
            for page in document.pages:
                depth[page.id] = depth[page.parent_id] + 1
                node = Node(
                    **{name: getattr(page, name) for name in ("text", "action", "ending", "kind", "actor", "status", "seed")},
                    id=ids[page.id],
                    story_id=story.id,
                    parent_id=ids[page.parent_id] if page.parent_id else None,
                    depth=depth[page.id],
                    choice_id=choices[page.parent_id].get(page.action or ""),
                    model_version=page.model_version,
                    owner=self.owner if page.status in RUNNING else None,
                    created=page.created or now(),
                )
                session.add(node)
                session.flush()
                source = page.actor if page.actor in ("author", "player") else "model"
                choices[page.id] = _offer(session, ids[page.id], page.choices, source)
            session.add_all(Lore(story_id=story.id, **asdict(card) | {"keys": list(card.keys)}) for card in document.lore)
            self.remember(session, key, story.id)
            session.flush()
            session.refresh(story)
        return story

    def stories(self, limit: int, offset: int = 0, deleted: bool = False) -> list[Story]:
        """The newest first; with `deleted` those that were put away instead."""
        shown = Story.deleted_at.is_not(None) if deleted else Story.deleted_at.is_(None)
        with self.session() as session:
            query = select(Story).where(shown).order_by(Story.updated.desc(), Story.id).limit(limit).offset(offset)
            return list(session.scalars(query))

    def story(self, story_id: str, deleted: bool = False) -> Story:
        """Raises ApiError 404; of a deleted one too, unless asked for."""
        with self.session() as session:
            return _story(session, story_id, deleted)

    def change_story(self, story_id: str, **values: Any) -> Story:
        """Set columns of a story; `deleted` hides or shows it, `head_id` has to be one of its nodes."""
        with self.session() as session:
            story = _story(session, story_id, deleted=True)
            if (deleted := values.pop("deleted", None)) is not None:
                story.deleted_at = now() if deleted else None
            elif story.deleted_at:
                raise ApiError(404, "there is no such story")
            if (head := values.get("head_id")) and _node(session, head).story_id != story_id:
                raise ApiError(404, "there is no such node in this story")
            for name, value in values.items():
                setattr(story, name, value)
            story.updated = now()
        return self.story(story_id, deleted=True)

    def tree(self, story_id: str) -> list[Node]:
        """Every node of a story, parents before children."""
        with self.session() as session:
            _story(session, story_id)
            return list(session.scalars(select(Node).where(Node.story_id == story_id).order_by(Node.number)))

    def document(self, story_id: str) -> StoryDocument:
        """The story as a whole, for export. A node that is being written counts as partial."""
        story, nodes, cards = self.story(story_id), self.tree(story_id), self.lore(story_id)
        return StoryDocument(
            **{
                name: getattr(story, name)
                for name in ("id", "title", "genre", "rating", "scenario_id", "seed", "memory", "settings")
            },
            hero=Person(**story.hero),
            cast=tuple(Person(**person) for person in story.cast),
            pages=tuple(page_of(node) for node in nodes),
            head=story.head_id,
            lore=tuple(card_of(card) for card in cards),
            created=story.created,
        )

    # -- nodes -----------------------------------------------------------------------------------------------------------------

    def node(self, node_id: str) -> Node:
        """Raises ApiError 404, also when its story is deleted."""
        with self.session() as session:
            node = _node(session, node_id)
            _story(session, node.story_id)
            return node

    def add_node(
        self, story_id: str, parent_id: str | None, key: Key | None = None, choices: Sequence[str] = (), **values: Any
    ) -> Node:
        """A new child of `parent_id` (None: another beginning); the head of the story moves to it.

        Raises ApiError: 404 when there is no such parent in the story, 409 when the story is full or the parent is not written.
        """
        with self.once(key) as session:
            story = _story(session, story_id)
            parent = _node(session, parent_id) if parent_id else None
            if parent and parent.story_id != story_id:
                raise ApiError(404, "there is no such node in this story")
            if parent and (parent.status in RUNNING or not parent.text):
                state = "is still being written" if parent.status in RUNNING else "has no text"
                raise ApiError(409, f"the node {state}: nothing can follow it")
            if story.node_count >= NODES_PER_STORY:
                raise ApiError(409, f"a story has at most {NODES_PER_STORY} nodes: export it and start another")
            owner = self.owner if values.get("status", "queued") in RUNNING else None
            node = Node(story_id=story_id, parent_id=parent_id, depth=parent.depth + 1 if parent else 0, owner=owner, **values)
            session.add(node)
            session.flush()
            _offer(session, node.id, choices, values.get("actor", "model"))
            story.head_id, story.updated = node.id, now()
            self.remember(session, key, node.id)
            session.flush()
            session.refresh(node)
        return node

    def write(self, node_id: str, choices: Sequence[str] = (), source: str = "model", **values: Any) -> None:
        """Set columns of a node that is being written, and offer choices; a finished node stays as it is."""
        with self.session() as session:
            query = update(Node).where(Node.id == node_id, Node.status.in_(RUNNING)).values(**values)
            if session.execute(query).rowcount:  # pyright: ignore[reportAttributeAccessIssue]
                _offer(session, node_id, choices, source)

    def offer(self, node_id: str, choices: Sequence[str], source: str) -> list[Choice]:
        """A new round of choices for a node: those that were taken, and behind them new ones, four together at most.

        Raises ApiError 409 where four were taken."""
        with self.session() as session:
            session.execute(update(Node).where(Node.id == node_id).values(status=Node.status))  # two tabs: one waits for the other
            node = _node(session, node_id)
            kept = _taken(session, node)
            newest = max((choice.round for choice in node.all_choices), default=-1) + 1
            for place, choice in enumerate(kept):
                choice.round, choice.ord = newest, place
            _offer(session, node_id, choices[: MOST_CHOICES - len(kept)], source, newest, len(kept))
        return self.node(node_id).choices

    def check_offer(self, node_id: str) -> None:
        """Raises ApiError 409 where `offer` would."""
        with self.session() as session:
            _taken(session, _node(session, node_id))

    def path(self, node_id: str) -> list[Node]:
        """The nodes from the root to this one."""
        with self.session() as session:
            up = select(Node.id, Node.parent_id).where(Node.id == node_id).cte("up", recursive=True)
            up = up.union_all(select(Node.id, Node.parent_id).join(up, Node.id == up.c.parent_id))
            return list(session.scalars(select(Node).where(Node.id.in_(select(up.c.id))).order_by(Node.number)))

    def turns(self, parent_id: str | None, action: str | None) -> list[Turn]:
        """The story up to a node and what is done there, as storytext.messages takes it."""
        nodes = self.path(parent_id) if parent_id else []
        actions = [*(node.action for node in nodes[1:]), action]
        return [Turn(node.text, taken) for node, taken in zip(nodes, actions, strict=bool(nodes))]

    def give_feedback(self, node_id: str, verdict: str, tags: list[str]) -> None:
        self.node(node_id)
        with self.session() as session:
            session.merge(Feedback(node_id=node_id, verdict=verdict, tags=tags, created=now()))

    def recover(self, choices: Any) -> int:
        """Nodes that a server of this name left unfinished when it died, and such of any name that are hours old (names change:
        a container's, a laptop's), become `partial`, or `failed` where they have no text; `choices(genre)` gives what a partial
        one offers. Returns how many."""
        old = (datetime.now(UTC) - FORGOTTEN).isoformat(timespec="milliseconds")
        with self.session() as session:
            query = select(Node).where(Node.status.in_(RUNNING), or_(Node.owner == self.owner, Node.created < old))
            found = list(session.scalars(query))
        for node in found:
            self.give_up(node, choices)
        return len(found)

    def give_up(self, node: Node, choices: Any, finish: str = "interrupted") -> None:
        """End a node that nobody writes any more, or that another server shall write no more: its text stays."""
        status = "cancelled" if finish == "cancelled" else "partial" if node.text else "failed"
        offered = choices(self.story(node.story_id, deleted=True).genre) if node.text else ()
        self.write(node.id, offered, "deck", status=status, finish=finish)

    # -- lore ------------------------------------------------------------------------------------------------------------------

    def lore(self, story_id: str) -> list[Lore]:
        with self.session() as session:
            _story(session, story_id)
            return list(session.scalars(select(Lore).where(Lore.story_id == story_id).order_by(Lore.created, Lore.id)))

    def put_lore(self, story_id: str, lore_id: str | None, **values: Any) -> Lore:
        """Make a card (lore_id None), or change one."""
        with self.session() as session:
            _story(session, story_id)
            card = _lore(session, story_id, lore_id) if lore_id else Lore(story_id=story_id)
            for name, value in values.items():
                setattr(card, name, value)
            session.add(card)
        return card

    def delete_lore(self, story_id: str, lore_id: str) -> None:
        with self.session() as session:
            session.delete(_lore(session, story_id, lore_id))


def page_of(node: Node) -> Page:
    names = ("id", "parent_id", "text", "action", "ending", "kind", "actor", "model_version", "seed", "created")
    status = "partial" if node.status in RUNNING else node.status
    return Page(**{name: getattr(node, name) for name in names}, status=status, choices=tuple(c.text for c in node.choices))


def card_of(card: Lore) -> Card:
    return Card(tuple(card.keys), card.text, card.always, card.priority)


def _story(session: Session, story_id: str, deleted: bool = False) -> Story:
    story = session.get(Story, story_id)
    if story is None or (story.deleted_at and not deleted):
        raise ApiError(404, "there is no such story")
    return story


def _node(session: Session, node_id: str) -> Node:
    node = session.scalar(select(Node).where(Node.id == node_id))
    if node is None:
        raise ApiError(404, "there is no such node")
    return node


def _lore(session: Session, story_id: str, lore_id: str) -> Lore:
    card = session.get(Lore, lore_id)
    if card is None or card.story_id != story_id:
        raise ApiError(404, "there is no such card")
    return card


def _taken(session: Session, node: Node) -> list[Choice]:
    """The choices of a node that led somewhere, which other choices do not replace. Raises ApiError 409 where none can be added."""
    led = set(session.scalars(select(Node.choice_id).where(Node.parent_id == node.id)))
    kept = [choice for choice in node.all_choices if choice.id in led]
    if len(kept) >= MOST_CHOICES:
        raise ApiError(409, f"{MOST_CHOICES} choices of this scene were taken and stay: your own words lead elsewhere")
    return kept


def _offer(session: Session, node_id: str, texts: Sequence[str], source: str, round: int = 0, first: int = 0) -> dict[str, str]:
    """Add choices; returns their ids by text."""
    choices = [
        Choice(id=new_id(), node_id=node_id, round=round, ord=ord, text=text, source=source)
        for ord, text in enumerate(texts, first)
    ]
    session.add_all(choices)
    session.flush()
    return {choice.text: choice.id for choice in choices}
