"""The figures of the data step: how many ways there are through the scenarios of each genre, and one scenario as a map."""

from collections.abc import Sequence
from typing import Any

from .scenarios import Scenario, Split, paths

PARTS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
ENDINGS = {"triumph": "#F0E442", "bittersweet": "#CC79A7", "loss": "#BBBBBB", "secret": "#56B4E9"}


def genre_figure(plt: Any, parts: Split) -> Any:
    """A bar per genre: the ways from an opening to an ending, in the colour of the split they are in."""
    counts: dict[str, dict[str, int]] = {}
    for part, scenarios in zip(PARTS, parts, strict=True):
        for scenario in scenarios:
            bars = counts.setdefault(scenario.genre, dict.fromkeys(PARTS, 0))
            bars[part] += len(paths(scenario))
    names = sorted(counts, reverse=True)
    figure, axes = plt.subplots(figsize=(7.2, 1 + 0.17 * len(names)))
    left = [0] * len(names)
    for part, colour in PARTS.items():
        widths = [counts[name][part] for name in names]
        axes.barh(names, widths, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.01)
    axes.set(xlabel="ways from the opening to an ending", title=f"{len(names)} genres")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=3)
    axes.grid(axis="y", visible=False)
    return figure


def columns(scenario: Scenario) -> list[list[str]]:
    """The scenes by the least number of choices that lead to them; the endings apart, in the last column."""
    found, seen = [[scenario.start]], {scenario.start}
    while found[-1]:
        following = (choice.to for name in found[-1] for choice in scenario.scenes[name].choices)
        found.append([name for name in dict.fromkeys(following) if name not in seen and not scenario.scenes[name].ending])
        seen.update(found[-1])
    return [*found[:-1], [name for name, scene in scenario.scenes.items() if scene.ending]]


def branching_figure(plt: Any, scenario: Scenario) -> Any:
    """The scenes of one scenario from left to right, its endings in colour, an arrow per choice."""
    placed = columns(scenario)
    spot = {
        name: (x, (len(names) - 1) / 2 - row + 0.3 * (x % 2)) for x, names in enumerate(placed) for row, name in enumerate(names)
    }  # odd columns are shifted: fewer arrows cross a box
    figure, axes = plt.subplots(figsize=(1.5 + 1.6 * len(placed), 0.5 + 1.1 * max(map(len, placed))))
    for scene in scenario.scenes.values():
        for choice in scene.choices:
            back = spot[choice.to][0] <= spot[scene.id][0]
            bend = f"arc3,rad={0.35 if back else 0.12}"
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
    axes.set(xlim=(-0.5, len(placed) - 0.5), ylim=(min(heights) - 0.6, max(heights) + 0.6), title=scenario.title)
    axes.axis("off")
    return figure


def most_branching(scenarios: Sequence[Scenario]) -> Scenario:
    """The scenario with the most ways through it."""
    return max(scenarios, key=lambda scenario: (len(paths(scenario)), scenario.id))
