"""The routes of stories and nodes."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from shared.errors import UserError

from ..exports.formats import export, file_name, import_story
from ..scenarios import Person, Scenario, Scene
from . import shapes
from .authored import next_scene
from .database import AlreadyMadeError, Key
from .document import Page, StoryDocument
from .errors import ApiError
from .generation import Generations, context
from .shapes import NodeOut, Started, StartedStory, StoryOut
from .store import Store
from .tables import Node, Story

MEDIA = {"json": "application/json", "txt": "text/markdown", "twee": "text/plain", "ink": "text/plain", "html": "text/html"}
MEDIA |= {"epub": "application/epub+zip"}
STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}}
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


def stream_url(node: Node) -> str:
    return f"/nodes/{node.id}/stream"


async def _key(request: Request, key: str | None) -> Key | None:
    whole = f"{request.method} {request.url.path} ".encode() + await request.body()
    return (key, hashlib.sha256(whole).hexdigest()) if key else None


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def routes(store: Store, generations: Generations, scenarios: Sequence[Scenario]) -> APIRouter:
    router, by_id, thread = APIRouter(), {scenario.id: scenario for scenario in scenarios}, asyncio.to_thread

    def opening(new: shapes.NewStory) -> StoryDocument:
        common: dict[str, Any] = {"seed": new.seed, "settings": new.settings.model_dump(), "head": "root"}
        if new.scenario_id is None:
            hero, people = new.hero or shapes.Person(name="Aoi"), [Person(**person.model_dump()) for person in new.cast]
            memory = new.prompt or ""
            root = Page("root", None, memory, kind="start", actor="player", status="queued", seed=new.seed)
            title = new.title or " ".join(memory.split()[:6])
            place = {"hero": Person(**hero.model_dump()), "cast": tuple(people), "rating": new.rating, "genre": new.genre}
            return StoryDocument(title=title[:80], memory=memory, pages=(root,), **place, **common)
        if (scenario := by_id.get(new.scenario_id)) is None:
            raise ApiError(404, "there is no such scenario")
        scene = scenario.scenes[scenario.start]
        offered = tuple(choice.text for choice in scene.choices)
        root = Page("root", None, scene.text, choices=offered, kind="start", actor="author", ending=scene.ending is not None)
        named = {name: getattr(scenario, name) for name in ("genre", "rating", "hero", "cast")}
        return StoryDocument(
            title=new.title or scenario.title, memory=scenario.summary, pages=(root,), scenario_id=scenario.id, **named, **common
        )

    def started(story: Story) -> StartedStory:
        root = store.node(story.root_id)
        url = stream_url(root) if root.status in ("queued", "running") else None
        return StartedStory(story=StoryOut.model_validate(story), root=NodeOut.model_validate(root), stream_url=url)

    @router.post("/stories", status_code=201)
    async def begin_story(
        request: Request, response: Response, new: shapes.NewStory, idempotency_key: IdempotencyKey = None
    ) -> StartedStory:
        """Begin a story from a scenario, or from a prompt: then that is its first scene, whose choices are being written."""
        key = await _key(request, idempotency_key)
        made = await thread(store.recall, key)
        if made is None:
            document = opening(new)
            story: Story | None = None

            def add() -> Node:
                nonlocal story
                story = store.add_story(document, key)
                return store.node(story.root_id)

            try:
                await (thread(add) if new.scenario_id else generations.start(_client(request), add))
            except AlreadyMadeError as error:
                made = str(error)
            if story:
                return await thread(started, story)
        response.headers["Idempotent-Replayed"] = "true"
        return await thread(lambda: started(store.story(str(made))))

    @router.get("/stories")
    def stories(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        deleted: bool = False,
    ) -> shapes.Stories:
        """The newest first; with `deleted` those that were put away."""
        return shapes.Stories(stories=[StoryOut.model_validate(story) for story in store.stories(limit, offset, deleted)])

    @router.get("/stories/{story_id}")
    def story(story_id: UUID) -> StoryOut:
        return StoryOut.model_validate(store.story(str(story_id)))

    @router.patch("/stories/{story_id}")
    def change_story(story_id: UUID, change: shapes.StoryChange) -> StoryOut:
        """Rename, set, go to another node (undo: to the parent), delete and bring back."""
        values = change.model_dump(exclude_none=True)
        if change.settings:
            before = store.story(str(story_id)).settings
            values["settings"] = before | change.settings.model_dump(exclude_unset=True)
        return StoryOut.model_validate(store.change_story(str(story_id), **values))

    @router.delete("/stories/{story_id}", status_code=204)
    def delete_story(story_id: UUID) -> None:
        """Hide a story; nothing is erased."""
        store.story(str(story_id))
        store.change_story(str(story_id), deleted=True)

    @router.get("/stories/{story_id}/tree")
    async def tree(story_id: UUID) -> shapes.TreeOut:
        whole, nodes = await thread(store.story, str(story_id)), await thread(store.tree, str(story_id))
        return shapes.TreeOut.model_validate({"story": whole, "nodes": [generations.live(node) for node in nodes]})

    @router.get("/stories/{story_id}/export", response_class=Response)
    def export_story(story_id: UUID, format: Literal["json", "txt", "twee", "ink", "epub", "html"] = "json") -> Response:
        document = store.document(str(story_id))
        named = {"Content-Disposition": f'attachment; filename="{file_name(document, format)}"'}
        return Response(export(document, format), media_type=MEDIA[format], headers=named)

    @router.post("/stories:import", status_code=201, openapi_extra={"requestBody": {"content": {"application/json": {}}}})
    async def import_document(request: Request) -> StartedStory:
        """A story from a JSON export, under new ids."""
        try:
            document = await thread(import_story, await request.body())
        except UserError as error:
            raise ApiError(422, str(error)) from None
        return await thread(lambda: started(store.add_story(document)))

    @router.post("/stories/{story_id}/nodes", status_code=202, responses={200: EVENTS[200]}, response_model=Started)
    async def take_turn(
        request: Request, response: Response, story_id: UUID, new: shapes.NewNode, idempotency_key: IdempotencyKey = None
    ) -> Any:
        """Take a turn: the answer says where its stream is, or with `Accept: text/event-stream` is the stream.

        An author's choice leads to the author's next scene, which is whole at once; the model writes every other."""
        key = await _key(request, idempotency_key)
        made = await thread(store.recall, key)

        def add(scene: Scene | None = None) -> Node:
            action = new.text
            if new.choice_id:
                parent = store.node(str(new.parent_id))
                texts = {choice.id: choice.text for choice in parent.all_choices}
                if new.choice_id not in texts:
                    raise ApiError(404, "this node has no such choice")
                action = texts[new.choice_id]
            sampling = new.settings.model_dump(exclude_unset=True) if new.settings else {}
            values = {"kind": new.kind, "action": action, "choice_id": new.choice_id, "seed": new.seed, "sampling": sampling}
            if scene is None:
                return store.add_node(str(story_id), new.parent_id, key, **values)
            values |= {
                "actor": "author",
                "text": scene.text,
                "ending": scene.ending is not None,
                "status": "done",
                "finish": "stop",
            }
            return store.add_node(str(story_id), new.parent_id, key, [choice.text for choice in scene.choices], **values)

        if made is None:
            scene = await thread(next_scene, store, by_id, str(story_id), new)
            try:
                node = await (thread(add, scene) if scene else generations.start(_client(request), add))
            except AlreadyMadeError as error:
                made = str(error)
        if made is not None:
            response.headers["Idempotent-Replayed"] = "true"
            node = await thread(store.node, made)
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(generations.events(node.id, 0), media_type="text/event-stream", headers=STREAM)
        return Started(node_id=node.id, stream_url=stream_url(node), node=NodeOut.model_validate(node))

    @router.get("/nodes/{node_id}")
    async def node(node_id: UUID) -> NodeOut:
        return NodeOut.model_validate(generations.live(await thread(store.node, str(node_id))))

    @router.patch("/nodes/{node_id}", status_code=201)
    async def edit_node(node_id: UUID, edit: shapes.Edit) -> NodeOut:
        """A sibling with the player's text; the node itself stays."""
        old = await thread(store.node, str(node_id))
        if old.status in ("queued", "running"):
            raise ApiError(409, "the node is still being written")
        texts = edit.choices or [choice.text for choice in old.choices]
        values = {"action": old.action, "choice_id": old.choice_id, "text": edit.text, "ending": old.ending and not edit.choices}
        made = await thread(
            lambda: store.add_node(old.story_id, old.parent_id, None, texts, kind="edit", actor="player", status="done", **values)
        )
        return NodeOut.model_validate(made)

    @router.get("/nodes/{node_id}/stream", response_class=StreamingResponse, responses=EVENTS)
    async def stream(
        node_id: UUID,
        start: Annotated[int, Query(alias="from", ge=0, le=1_000_000)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """The scene as it is written, from a character on."""
        await thread(store.node, str(node_id))
        seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 8 else start
        return StreamingResponse(generations.events(str(node_id), seen), media_type="text/event-stream", headers=STREAM)

    @router.delete("/nodes/{node_id}/generation")
    async def stop(node_id: UUID) -> NodeOut:
        """Stop writing; what is there stays."""
        await thread(store.node, str(node_id))
        await generations.stop(str(node_id))
        return NodeOut.model_validate(await thread(store.node, str(node_id)))

    @router.post("/nodes/{node_id}/choices:reroll")
    async def reroll(request: Request, node_id: UUID) -> shapes.Choices:
        """Other choices for the same scene, beside those that were taken; an author's choices stay."""
        old = await thread(store.node, str(node_id))
        if old.ending or not old.text or old.status in ("queued", "running"):
            raise ApiError(409, "only a written scene that is no ending has choices")
        if old.actor == "author":
            raise ApiError(409, "an author wrote this scene with its choices, and they stay: say in your own words what you do")
        await thread(store.check_offer, old.id)
        offered = await generations.reroll(_client(request), old, await thread(store.story, old.story_id))
        return shapes.Choices.model_validate({"choices": offered})

    @router.get("/nodes/{node_id}/context")
    def seen(node_id: UUID) -> shapes.Context:
        """What the model saw; no messages where a person wrote the scene."""
        return shapes.Context.model_validate(context(store.node(str(node_id))))

    @router.post("/nodes/{node_id}/feedback", status_code=204)
    def feedback(node_id: UUID, verdict: shapes.Verdict) -> None:
        store.give_feedback(str(node_id), verdict.verdict, list(verdict.tags))

    @router.get("/stories/{story_id}/memory")
    def memory(story_id: UUID) -> shapes.Memory:
        return shapes.Memory(memory=store.story(str(story_id)).memory)

    @router.put("/stories/{story_id}/memory")
    def remember(story_id: UUID, memory: shapes.Memory) -> StoryOut:
        return StoryOut.model_validate(store.change_story(str(story_id), memory=memory.memory))

    @router.get("/stories/{story_id}/lore")
    def lore(story_id: UUID) -> shapes.Cards:
        return shapes.Cards.model_validate({"lore": store.lore(str(story_id))})

    @router.post("/stories/{story_id}/lore", status_code=201)
    def add_lore(story_id: UUID, card: shapes.NewLore) -> shapes.LoreOut:
        return shapes.LoreOut.model_validate(store.put_lore(str(story_id), None, **card.model_dump()))

    @router.put("/stories/{story_id}/lore/{lore_id}")
    def change_lore(story_id: UUID, lore_id: UUID, card: shapes.NewLore) -> shapes.LoreOut:
        return shapes.LoreOut.model_validate(store.put_lore(str(story_id), str(lore_id), **card.model_dump()))

    @router.delete("/stories/{story_id}/lore/{lore_id}", status_code=204)
    def delete_lore(story_id: UUID, lore_id: UUID) -> None:
        store.delete_lore(str(story_id), str(lore_id))

    return router
