"""What the evaluation itself is worth: whether each measure sees its failure, and how many votes a comparison takes."""

from collections.abc import Sequence

import numpy as np

from shared import runlog

from . import bradley_terry, corruption, quality
from .genre import MOODS, Moods
from .panel import MEASURES, Panel, band, sight
from .panel_figures import LABELS, sight_figure
from .scenarios import Scenario
from .storytext import Example


def authored(run: runlog.Run, panel: Panel, training: Sequence[Scenario]) -> dict[str, np.ndarray]:
    """The measures of the authored answers, which are the reference of all others."""
    answers = [example.response for example in panel.examples]
    values = panel.measure(answers)
    for name, one in MEASURES.items():
        meaning = f"{one.meaning}: authored answers; in place of an interval the 5th to 95th percentile of groups of them"
        run.metric(f"{name}_authored", values[name].astype(float), unit=one.unit, meaning=meaning, interval=band(one, values[name]))
    scenes, genres = [draft.scene for draft in quality.drafts(answers)], [panel.genres[name] for name in panel.scenarios]
    taught = Moods.of_scenes(training).right(scenes, genres)
    meaning = "held-out authored scenes whose mood a classifier recognises that learned from the training scenes"
    run.metric("mood_accuracy_taught_by_scenes", taught, unit="fraction", higher_is_better=True, meaning=meaning)
    run.metric("mood_chance", 1 / len(MOODS), unit="fraction", meaning="the same by chance, were all moods equally frequent")
    return values


def validate(run: runlog.Run, panel: Panel, training: Sequence[Example]) -> set[str]:
    """Measure how well each measure tells authored answers from spoiled ones; the names of those that see what they are there for.
    The answers are others than those beside which systems are judged."""
    answers = [example.response for example in panel.examples]
    values, ways = panel.measure(answers), corruption.corruptions(training)
    areas, seen = np.zeros((len(MEASURES), len(ways))), np.zeros((len(MEASURES), len(ways)), dtype=bool)
    for column, way in enumerate(run.track(ways, "corruptions")):
        spoiled = panel.measure(corruption.spoiled(ways[way], answers))
        for row, (name, one) in enumerate(MEASURES.items()):
            areas[row, column], seen[row, column] = sight(one, values[name], spoiled[name])
    own = [(row, list(ways).index(one.sees)) for row, one in enumerate(MEASURES.values())]
    for (row, column), (name, one) in zip(own, MEASURES.items(), strict=True):
        meaning = f"area under the ROC curve by which {name.replace('_', ' ')} tells authored answers from: {one.sees}"
        run.metric(f"sight_{name}", areas[row, column], higher_is_better=True, meaning=meaning)
    caught = np.array([seen[cell] for cell in own])
    run.metric("measures_that_see", caught, unit="fraction", higher_is_better=True, meaning="measures that see their corruption")
    blind = {way: [name for row, name in enumerate(MEASURES) if not seen[row, at]] for at, way in enumerate(ways)}
    for way, names in blind.items():
        run.observe(f"Spoiled by {way}: unseen by: {', '.join(LABELS[name] for name in names) or 'none'}.")
    with runlog.style() as plt:
        run.figure(
            sight_figure(plt, areas, list(ways)),
            "sight",
            shows="How well each measure (row) tells spoiled from authored answers, by the area under the ROC curve: 1 sees "
            "all, half of it is blind, below that the spoiled text looks better. Framed is what a measure is there for.",
            matters="Most cells are blind: a model can pass any one of these measures with broken text.",
        )
    return {name for name, sees in zip(MEASURES, caught, strict=True) if sees}


def power(run: runlog.Run) -> None:
    """How many blind votes it takes."""
    for rate in (0.6, 0.7, 0.8):
        for count in (50, 100, 200, 400):
            meaning = f"probability that {count} blind votes show a model to be better that wins {rate:.0%}, when 15 % of votes err"
            key = f"power_{count}_votes_{rate * 100:.0f}_percent"
            run.metric(key, bradley_terry.power(rate, count), unit="fraction", higher_is_better=True, meaning=meaning)
