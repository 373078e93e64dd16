"""The figures of the data step: how many scenes each genre has, and one scenario as a map."""

from collections.abc import Sequence
from typing import Any

from .scenarios import Scenario, Split, paths

PARTS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
ENDINGS = {"triumph": "#F0E442", "bittersweet": "#CC79A7", "loss": "#BBBBBB", "secret": "#56B4E9"}


def genre_figure(plt: Any, parts: Split) -> Any:
    """A bar per genre: its scenes, in the colour of the split they are in."""
    counts: dict[str, dict[str, int]] = {}
    for part, scenarios in zip(PARTS, parts, strict=True):
        for scenario in scenarios:
            bars = counts.setdefault(scenario.genre, dict.fromkeys(PARTS, 0))
            bars[part] += len(scenario.scenes)
    names = sorted(counts, reverse=True)
    figure, axes = plt.subplots(figsize=(7.2, 1 + 0.17 * len(names)))
    left = [0] * len(names)
    for part, colour in PARTS.items():
        widths = [counts[name][part] for name in names]
        axes.barh(names, widths, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.01)
    axes.set(xlabel="scenes", title=f"{len(names)} genres")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=3)
    axes.grid(axis="y", visible=False)
    return figure


def depths(scenario: Scenario) -> dict[str, int]:
    """The longest way to each scene without a loop: every choice on such a way leads to the right."""
    found: dict[str, int] = {}
    for path in paths(scenario):
        for depth, step in enumerate(path):
            found[step.scene.id] = max(depth, found.get(step.scene.id, 0))
    return found


def branching_figure(plt: Any, scenario: Scenario) -> Any:
    """The scenes of one scenario from left to right, its endings in colour, an arrow per choice."""
    columns: dict[int, list[str]] = {}
    for name, depth in depths(scenario).items():
        columns.setdefault(depth, []).append(name)
    spot = {
        name: (depth, (len(names) - 1) / 2 - row + 0.25 * (depth % 2))  # odd columns are shifted: fewer arrows cross a box
        for depth, names in columns.items()
        for row, name in enumerate(names)
    }
    figure, axes = plt.subplots(figsize=(1.5 + 1.6 * len(columns), 1 + 1.1 * max(map(len, columns.values()))))
    for scene in scenario.scenes.values():
        for choice in scene.choices:
            back = spot[choice.to][0] <= spot[scene.id][0]
            bend = f"arc3,rad={0.4 if back else 0.15}"
            style = {"arrowstyle": "-|>", "color": "#666666", "shrinkA": 16, "shrinkB": 16, "connectionstyle": bend}
            axes.annotate("", spot[choice.to], spot[scene.id], arrowprops=style)
    for name, scene in scenario.scenes.items():
        colour = ENDINGS[scene.ending] if scene.ending else "white"
        label = name.removeprefix("ending_").replace("_", "\n")
        axes.text(*spot[name], label, ha="center", va="center", size=9, bbox={"boxstyle": "round", "fc": colour, "ec": "#333333"})
    for ending, colour in ENDINGS.items():
        if any(scene.ending == ending for scene in scenario.scenes.values()):
            axes.scatter([], [], color=colour, edgecolor="#333333", marker="s", s=80, label=ending)
    axes.legend(title="endings", loc="upper left", bbox_to_anchor=(1, 1))
    heights = [y for _, y in spot.values()]
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(min(heights) - 0.6, max(heights) + 0.6), title=scenario.title)
    axes.axis("off")
    return figure


def most_branching(scenarios: Sequence[Scenario]) -> Scenario:
    """The scenario with the most ways through it."""
    return max(scenarios, key=lambda scenario: (len(paths(scenario)), scenario.id))
