"""A whole story as plain values: what the store reads and writes at once, and what exports and imports are made of."""

from dataclasses import dataclass, field
from typing import Any

from ..scenarios import Person
from ..storytext import Lore


@dataclass(frozen=True)
class Page:
    """A node of the tree: a scene, and the words of the player that led to it.

    `action` is the choice taken or the player's own words, None at the root and where the player let the story go on. The tree is
    append-only: a retry or an edit is another child of the same parent with the same action.
    """

    id: str
    parent_id: str | None
    text: str
    action: str | None = None
    choices: tuple[str, ...] = ()  # in order; empty in an ending
    ending: bool = False
    kind: str = "act"  # start, act, retry, continue or edit
    actor: str = "model"  # who wrote the scene: model, author (of a scenario) or player
    status: str = "done"  # or partial, cancelled, failed: the text may stop in the middle of a sentence, or be empty
    model_version: str | None = None
    seed: int | None = None
    created: str = ""  # ISO 8601 in UTC


@dataclass(frozen=True)
class StoryDocument:
    """A story with every branch. `pages` holds parents before children, the first of them a root (parent_id None).

    A beginning that was written again is another root. `head` is the id of the page where the player is; the story as read runs
    from a root to it (`path`).
    """

    title: str
    genre: str
    hero: Person
    pages: tuple[Page, ...]
    head: str
    id: str = ""
    cast: tuple[Person, ...] = ()
    rating: str = "all"  # all or teen
    scenario_id: str | None = None
    seed: int | None = None
    memory: str = ""
    lore: tuple[Lore, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    def path(self) -> list[Page]:
        """The pages from the root to the head."""
        by_id, found, at = {page.id: page for page in self.pages}, [], self.head
        while at is not None:
            found.append(by_id[at])
            at = by_id[at].parent_id
        return found[::-1]

    def children(self) -> dict[str, list[Page]]:
        """The children of every page, in the order in which they were made."""
        found: dict[str, list[Page]] = {page.id: [] for page in self.pages}
        for page in self.pages:
            if page.parent_id is not None:
                found[page.parent_id].append(page)
        return found
