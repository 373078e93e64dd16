"""What requests and answers look like in JSON (docs/api.md)."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Rating = Literal["all", "teen"]
Status = Literal["queued", "running", "done", "partial", "cancelled", "failed"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _clean(text: str) -> str:
    """Without control characters: PostgreSQL stores no NUL, and a terminal would obey the others."""
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0)).strip()


def _some(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


def _line(text: str) -> str:
    return _some(" ".join(text.split()))


Short = Annotated[str, StringConstraints(max_length=80), AfterValidator(_clean)]
Line = Annotated[Short, AfterValidator(_line)]
Long = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_clean)]
Words = Annotated[Long, AfterValidator(_some)]
CardText = Annotated[str, StringConstraints(max_length=500), AfterValidator(_clean), AfterValidator(_some)]
SceneText = Annotated[str, StringConstraints(max_length=8000), AfterValidator(_clean), AfterValidator(_some)]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class Person(Body):
    name: Line
    pronouns: Line = "they/them"
    role: Short = ""


class Settings(Body):
    """How scenes are written; what is not given stays as it is."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=200)] = 40
    max_tokens: Annotated[int, Field(ge=16, le=256)] = 160
    """Of a scene together with its choices."""
    length: Annotated[int, Field(ge=2, le=200)] | None = 12
    """The story closes with an ending at this depth at the latest, counted anew past an ending, and the model ends it no earlier
    than three quarters of the way; null: whenever the model or the author ends it."""
    authored: bool = True
    """In a story from a scenario, the author's choices lead to the author's scenes; false: the model writes all but the opening."""


class NewStory(Body):
    """From a scenario, or from a prompt with a genre."""

    scenario_id: Line | None = None
    prompt: Words | None = None
    genre: Line | None = None
    hero: Person | None = None
    cast: Annotated[list[Person], Field(max_length=6)] = []
    title: Line | None = None
    rating: Rating = "all"
    seed: Seed | None = None
    settings: Settings = Settings()

    @model_validator(mode="after")
    def _one_source(self):
        if (self.scenario_id is None) == (self.prompt is None):
            raise ValueError("give either scenario_id or prompt")
        if self.prompt and not self.genre:
            raise ValueError("a prompt needs a genre")
        return self


class StoryChange(Body):
    title: Line | None = None
    rating: Rating | None = None
    settings: Settings | None = None
    head_id: Id | None = None
    deleted: bool | None = None


class NewNode(Body):
    """A turn: a choice or own words; neither for `continue`, and for the retry of a beginning (parent_id null)."""

    parent_id: Id | None = None
    kind: Literal["act", "retry", "continue"] = "act"
    choice_id: Id | None = None
    text: Words | None = None
    seed: Seed | None = None
    settings: Settings | None = None

    @model_validator(mode="after")
    def _fits(self):
        given = (self.choice_id is not None) + (self.text is not None)
        if self.kind == "act" and given != 1:
            raise ValueError("give either choice_id or text")
        if given > 1 or (self.kind == "continue" and given):
            raise ValueError("give one of choice_id and text, and none to continue")
        if self.parent_id is None and (self.kind != "retry" or given):
            raise ValueError("parent_id is null only in the retry of a beginning")
        return self


class Edit(Body):
    text: SceneText
    choices: Annotated[list[Line], Field(min_length=2, max_length=4)] | None = None

    @model_validator(mode="after")
    def _distinct(self):
        if self.choices and len({choice.casefold() for choice in self.choices}) < len(self.choices):
            raise ValueError("two choices are the same")
        return self


class Verdict(Body):
    verdict: Literal["up", "down"]
    tags: Annotated[list[Line], Field(max_length=8)] = []


class Memory(Body):
    memory: Long


class NewLore(Body):
    keys: Annotated[list[Line], Field(max_length=12)] = []
    text: CardText
    always: bool = False
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class NewVote(Body):
    pair_id: Id
    rater: Line
    winner: Literal["left", "right", "tie"]
    ms: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class ChoiceOut(Out):
    id: str
    text: str


class NodeOut(Out):
    id: str
    story_id: str
    parent_id: str | None
    depth: int
    kind: Literal["start", "act", "retry", "continue", "edit"]
    actor: Literal["model", "author", "player"]
    action: str | None
    choice_id: str | None
    text: str
    ending: bool
    status: Status
    finish: str | None
    choices: list[ChoiceOut]
    seed: int | None
    model_version: str | None
    prompt_tokens: int
    tokens: int
    ttft_ms: int | None
    ms: int | None
    feedback: str | None
    created: str


class StoryOut(Out):
    id: str
    title: str
    genre: str
    rating: Rating
    scenario_id: str | None
    seed: int | None
    hero: dict[str, str]
    cast: list[dict[str, str]]
    memory: str
    settings: dict[str, Any]
    root_id: str
    head_id: str
    node_count: int
    created: str
    updated: str


class LoreOut(Out):
    id: str
    keys: list[str]
    text: str
    always: bool
    priority: int


class StartedStory(Out):
    story: StoryOut
    root: NodeOut
    stream_url: str | None


class Started(Out):
    node_id: str
    stream_url: str
    node: NodeOut


class Stories(Out):
    stories: list[StoryOut]


class TreeOut(Out):
    story: StoryOut
    nodes: list[NodeOut]


class Choices(Out):
    choices: list[ChoiceOut]


class Cards(Out):
    lore: list[LoreOut]


class Context(Out):
    messages: list[dict[str, str]]
    tokens: int
    budget: int
