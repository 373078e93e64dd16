"""Our own JSON: a story without any loss, and the check that every imported story has to pass."""

import json
import unicodedata
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.errors import UserError

from ..api import shapes
from ..api.document import Page, StoryDocument
from ..scenarios import Person
from ..storytext import Lore

FORMAT, VERSION = "cyoa-story", 1
PAGES, CHOICES, TEXT = 2000, 100, 20_000  # pages of a story (as in the store), choices of a page, characters of its text
WHOLE = 16 * 1024 * 1024  # characters of all texts together


def write(story: StoryDocument) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, "story": asdict(story)}, ensure_ascii=False, indent=1) + "\n"


def read(text: str) -> StoryDocument:
    """Raises UserError that says what is wrong and where, never repeating what stands there."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("the file is not valid JSON: export the story again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f'the JSON is no story: it needs "format": "{FORMAT}", as an export has it')
    if data.get("version") != VERSION:
        raise UserError(f"the story has another version than {VERSION}: import it with the program that exported it")
    return check(data.get("story"))


def _storable(text: str) -> str:
    """Without what a database or a terminal stumbles over: control characters and lone surrogates."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


Clean = AfterValidator(_storable)
Id = Annotated[str, Clean, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[str, Clean, StringConstraints(min_length=1, max_length=80)]
Short = Annotated[str, Clean, StringConstraints(max_length=200)]
Offer = Annotated[str, Clean, StringConstraints(min_length=1, max_length=2000)]
Words = Annotated[str, Clean, StringConstraints(max_length=2000)]
Text = Annotated[str, Clean, StringConstraints(max_length=TEXT)]
Time = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9T:.+Z-]*$")]  # ISO 8601


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _Person(_Exact):
    name: Name
    pronouns: Name
    role: Short = ""


class _Card(_Exact):
    keys: Annotated[list[Name], Field(max_length=12)]
    text: Annotated[str, Clean, StringConstraints(max_length=500)]
    always: bool = False
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class _Page(_Exact):
    id: Id
    parent_id: Id | None
    text: Text
    action: Words | None = None
    choices: Annotated[list[Offer], Field(max_length=CHOICES)] = []
    ending: bool = False
    kind: Literal["start", "act", "retry", "continue", "edit"] = "act"
    actor: Literal["model", "author", "player"] = "model"
    status: Literal["done", "partial", "cancelled", "failed"] = "done"  # never queued: nothing of a file is to be written here
    model_version: Short | None = None
    seed: shapes.Seed | None = None
    created: Time = ""


class _Story(_Exact):
    title: Name
    genre: Name
    hero: _Person
    pages: Annotated[list[_Page], Field(min_length=1, max_length=PAGES)]
    head: str
    id: Annotated[str, Clean, StringConstraints(max_length=64)] = ""
    cast: Annotated[list[_Person], Field(max_length=12)] = []
    rating: shapes.Rating = "all"
    scenario_id: Name | None = None
    seed: shapes.Seed | None = None
    memory: Words = ""
    lore: Annotated[list[_Card], Field(max_length=500)] = []
    settings: shapes.Settings = shapes.Settings()
    created: Time = ""

    @model_validator(mode="after")
    def _is_a_forest(self) -> Self:
        known: set[str] = set()
        for page in self.pages:
            if page.id in known:
                raise ValueError("two pages have the same id")
            if page.parent_id is not None and page.parent_id not in known:
                raise ValueError("a page stands before its parent, or has none")
            known.add(page.id)
        if self.head not in known:
            raise ValueError("the head is none of the pages")
        if sum(len(page.text) for page in self.pages) > WHOLE:
            raise ValueError("the story is too long")
        return self


def check(story: Any) -> StoryDocument:
    """The values of a story as a document. Raises UserError at the first that cannot be one."""
    try:
        checked = _Story.model_validate(story)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(place) for place in first["loc"] if isinstance(place, int) or place in _NAMES)
        raise UserError(f"the story cannot be imported: {where + ': ' if where else ''}{first['msg']}") from None
    values: dict[str, Any] = checked.model_dump() | {"settings": checked.settings.model_dump(exclude_unset=True)}
    values["hero"] = Person(**values["hero"])
    values["cast"] = tuple(Person(**person) for person in values["cast"])
    values["lore"] = tuple(Lore(**card | {"keys": tuple(card["keys"])}) for card in values["lore"])
    values["pages"] = tuple(Page(**page | {"choices": tuple(page["choices"])}) for page in values["pages"])
    return StoryDocument(**values)


_NAMES = {name for model in (_Story, _Page, _Person, _Card, shapes.Settings) for name in model.model_fields}
