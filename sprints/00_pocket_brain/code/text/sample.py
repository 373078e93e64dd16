"""One document of the corpus, before it becomes tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A text of one template family (or one file), which is the unit of the held-out split.

    turns: one string is plain text; two or more alternate user, assistant, user, assistant.
    names: the characters a story introduces, for the checks of name consistency.
    """

    family: str
    turns: tuple[str, ...]
    system: str = ""
    names: tuple[str, ...] = ()
