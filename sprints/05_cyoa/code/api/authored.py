"""Authored scenes: an author's choice in an author's scene leads to the author's next scene, without the model.

The graph of the scenario is the only record: a node stands where its text stands, so stories that were imported, or begun before,
go on too; a scene that was changed since is nobody's place, and the model goes on from it.
"""

from collections.abc import Mapping

from ..scenarios import Scenario, Scene
from .shapes import NewNode, Settings
from .store import Store
from .tables import Node


def next_scene(store: Store, scenarios: Mapping[str, Scenario], story_id: str, new: NewNode) -> Scene | None:
    """The scene that a turn leads to in its scenario; None where the model writes: own words, retries, edited scenes,
    a story with `authored` off, and where the story has to end and the author's scene is no ending.

    Raises ApiError 404.
    """
    if new.kind != "act" or new.choice_id is None:
        return None
    story = store.story(story_id)
    settings = Settings(**story.settings | (new.settings.model_dump(exclude_unset=True) if new.settings else {}))
    if not settings.authored or (scenario := scenarios.get(story.scenario_id or "")) is None:
        return None
    parent = store.node(str(new.parent_id))
    scene = following(scenario, parent, new.choice_id)
    too_long = settings.length is not None and parent.depth + 1 >= settings.length
    return None if scene and too_long and not scene.ending else scene


def following(scenario: Scenario, parent: Node, choice_id: str) -> Scene | None:
    """Where a choice of a node leads, if both are the author's."""
    here = next((scene for scene in scenario.scenes.values() if scene.text == parent.text), None)
    if parent.actor != "author" or here is None:
        return None
    taken = next((choice.text for choice in parent.all_choices if choice.id == choice_id), None)
    return next((scenario.scenes[choice.to] for choice in here.choices if choice.text == taken), None)
