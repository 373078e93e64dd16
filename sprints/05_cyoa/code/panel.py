"""The panel: every measure of a set of answers to the same prompts, with the range of authored answers as its reference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import mannwhitneyu

from shared import models

from . import likelihood, quality
from .genre import Moods
from .storytext import Draft, Example

Better = Literal["higher", "lower", "band"]
GROUP, DRAWS = 8, 2000  # answers of a group, about as many as a scenario has scenes, and groups for a band
SEEN = 0.01  # p of the rank test, below which a measure is said to see a corruption


@dataclass(frozen=True)
class Panel:
    """The prompts, and what the measures need: a model that judges, moods, what was trained on, listed words. `genres` is by
    scenario."""

    examples: Sequence[Example]
    genres: Mapping[str, str]
    judge: models.LoadedModel
    moods: Moods
    memory: quality.Memory
    listed: set[str]

    def measure(self, answers: Sequence[str], only: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The values of every measure: one per answer, of sets one per scenario."""
        drafts = quality.drafts(answers)
        wanted = {name: one for name, one in MEASURES.items() if not only or name in only}
        return {name: np.asarray(one.values(self, list(answers), drafts)) for name, one in wanted.items()}

    @property
    def scenarios(self) -> list[str]:
        """The scenario of each prompt."""
        return [example.scenario for example in self.examples]

    def prompt(self, at: int) -> str:
        return "\n".join(message["content"] for message in self.examples[at].messages)


@dataclass(frozen=True)
class Measure:
    """`sees` is the corruption that it must see. `better` is band where text can have too little and too much of it."""

    better: Better
    unit: str
    meaning: str
    sees: str
    values: Callable[[Panel, list[str], list[Draft]], Sequence[Any] | np.ndarray]
    sets: bool = False  # a value is of all answers of a scenario


def _scenes(drafts: Sequence[Draft]) -> list[str]:
    return [draft.scene for draft in drafts]


def _distinct(n: int) -> Callable[[Panel, list[str], list[Draft]], Sequence[float]]:
    def values(panel: Panel, answers: list[str], drafts: list[Draft]) -> list[float]:
        stories: dict[str, list[str]] = {}
        for scenario, draft in zip(panel.scenarios, drafts, strict=True):
            stories.setdefault(scenario, []).append(draft.scene)
        return [quality.distinct(scenes, n) for scenes in stories.values()]

    return values


MEASURES: dict[str, Measure] = {
    "format_validity": Measure(
        "higher",
        "fraction",
        "answers that are a scene with 2 to 4 different choices, or an ending",
        "a choice twice",
        lambda p, a, d: [quality.valid_format(draft, quality.taken(example)) for draft, example in zip(d, p.examples, strict=True)],
    ),
    "choice_relevance": Measure(
        "higher",
        "nats/token",
        "log-probability of a choice after its scene minus after none, under the untuned base",
        "choices of other scenes",
        lambda p, a, d: likelihood.choice_relevance(p.judge, a),
    ),
    "scenario_distinct_1": Measure("band", "fraction", "different words in the scenes of a scenario", "loop", _distinct(1), True),
    "scenario_distinct_2": Measure("band", "fraction", "different word pairs in the same", "mode collapse", _distinct(2), True),
    "repetition_4": Measure(
        "band",
        "fraction",
        "4-grams of a scene that stood in it before",
        "loop",
        lambda p, a, d: [quality.repetition(scene) for scene in _scenes(d)],
    ),
    "sampled_self_bleu": Measure(
        "band", "", "BLEU of a scene against a sample of the others", "mode collapse", lambda p, a, d: quality.self_bleu(_scenes(d))
    ),
    "order_accuracy": Measure(
        "higher",
        "fraction",
        "other orders of a scene's sentences that the untuned base finds less likely",
        "shuffled sentences",
        lambda p, a, d: likelihood.order_accuracy(p.judge, a),
    ),
    "carry_over": Measure(
        "higher",
        "fraction",
        "names in a scene that its prompt knows",
        "answers to other prompts",
        lambda p, a, d: [quality.carry_over(scene, p.prompt(at)) for at, scene in enumerate(_scenes(d))],
    ),
    "mood_accuracy": Measure(
        "higher",
        "fraction",
        "scenes whose mood, of ten, a classifier recognises",
        "answers to other prompts",
        lambda p, a, d: p.moods.right(_scenes(d), [p.genres[example.scenario] for example in p.examples]),
    ),
    "longest_copy": Measure(
        "lower",
        "words",
        "longest run of words of a scene that stands in a training answer",
        "copied from training",
        lambda p, a, d: [p.memory.longest(scene) for scene in _scenes(d)],
    ),
    "copied_scenes": Measure(
        "lower",
        "fraction",
        "scenes with such a run of 12 words or more",
        "copied from training",
        lambda p, a, d: [p.memory.longest(scene) >= quality.COPIED for scene in _scenes(d)],
    ),
    "toxic_scenes": Measure(
        "lower",
        "fraction",
        "answers with a word of the word list",
        "a listed word",
        lambda p, a, d: [quality.toxic(answer, p.listed) for answer in a],
    ),
}


def band(measure: Measure, authored: np.ndarray) -> tuple[float, float]:
    """5th to 95th percentile of the means of groups of authored answers, drawn at random; of sets, of their values.
    Widened to the mean of all where that lies outside."""
    values = np.asarray(authored, dtype=float)
    if not measure.sets:
        rng, size = np.random.default_rng(0), min(GROUP, len(values))
        means = np.array([rng.choice(values, size, replace=False).mean() for _ in range(DRAWS)])
    else:
        means = values
    low, high = np.quantile(means, (0.05, 0.95))
    return min(float(low), float(values.mean())), max(float(high), float(values.mean()))


def gate(measure: Measure, values: np.ndarray, authored: np.ndarray, scenarios: Sequence[str]) -> dict[str, Any]:
    """A measure as the promotion gates read it: its value on each scenario, and which way is better. `scenarios` are those of the
    prompts."""
    names, found = list(dict.fromkeys(scenarios)), np.asarray(values, dtype=float)
    means = found if measure.sets else [found[[other == name for other in scenarios]].mean() for name in names]
    read: dict[str, Any] = {"values": dict(zip(names, map(float, means), strict=True)), "better": measure.better}
    return read | ({"band": list(band(measure, authored))} if measure.better == "band" else {})


def sight(measure: Measure, authored: np.ndarray, spoiled: np.ndarray) -> tuple[float, bool]:
    """How well a measure tells spoiled from authored answers: the area under the ROC curve in its bad direction (either one for a
    band; 0.5 is blind), and whether a rank test (Mann & Whitney 1947) finds the difference."""
    good, bad = np.asarray(authored, dtype=float), np.asarray(spoiled, dtype=float)
    if np.ptp(np.concatenate([good, bad])) == 0:
        return 0.5, False
    test = mannwhitneyu(bad, good)
    area = float(test.statistic) / (len(good) * len(bad))
    area = {"higher": 1 - area, "lower": area, "band": max(area, 1 - area)}[measure.better]
    return area, bool(test.pvalue < SEEN and area > 0.5)
