"""Authored answers, each spoiled in one known way: what a measure must see."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from . import likelihood, quality
from .storytext import Draft, Example, render

Spoil = Callable[[Sequence[Draft], random.Random], list[Draft]]
LOOP = 12  # words that are said over and over
COLLAPSED = 5  # answers that stand for all


def loop(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """Each scene says its first words over and over, to its length."""

    def again(scene: str) -> str:
        said = scene.split()
        return " ".join((said[:LOOP] * len(said))[: len(said)])

    return [replace(draft, scene=again(draft.scene)) for draft in drafts]


def shuffle_words(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    return [replace(draft, scene=" ".join(rng.sample(said := draft.scene.split(), len(said)))) for draft in drafts]


def shuffle_sentences(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    return [replace(draft, scene=likelihood.shuffled(draft.scene, rng)) for draft in drafts]


def collapse(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """The same few answers to all prompts."""
    few = rng.sample(list(drafts), min(COLLAPSED, len(drafts)))
    return [few[place % len(few)] for place in range(len(drafts))]


def swap_answers(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """Each prompt gets the answer to another one; prompts of one scenario stand next to each other, so of another story."""
    half = len(drafts) // 2
    return [*drafts[half:], *drafts[:half]]


def swap_choices(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """Each scene that offers choices gets those of the next one of another story."""
    places = [place for place, draft in enumerate(drafts) if draft.choices]
    half, found = len(places) // 2, list(drafts)
    for place, other in zip(places, [*places[half:], *places[:half]], strict=True):
        found[place] = replace(drafts[place], choices=drafts[other].choices)
    return found


def repeat_choice(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """The first choice stands there twice, and nothing else; an ending goes on with it."""
    return [replace(draft, choices=(draft.choices or ("Go on",))[:1] * 2, ending=False) for draft in drafts]


def swear(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
    """One word of each scene is one of the word list."""
    listed = sorted(quality.word_list())

    def spoil(scene: str) -> str:
        said = scene.split()
        said[rng.randrange(len(said))] = rng.choice(listed)
        return " ".join(said)

    return [replace(draft, scene=spoil(draft.scene)) for draft in drafts]


def copied(training: Sequence[Example]) -> Spoil:
    """Each answer is one that the models were trained on."""

    def copy(drafts: Sequence[Draft], rng: random.Random) -> list[Draft]:
        return quality.drafts([rng.choice(training).response for _ in drafts])

    return copy


def corruptions(training: Sequence[Example]) -> dict[str, Spoil]:
    """Every way by its name."""
    return {
        "loop": loop,
        "shuffled words": shuffle_words,
        "shuffled sentences": shuffle_sentences,
        "mode collapse": collapse,
        "answers to other prompts": swap_answers,
        "choices of other scenes": swap_choices,
        "a choice twice": repeat_choice,
        "a listed word": swear,
        "copied from training": copied(training),
    }


def spoiled(spoil: Spoil, answers: Sequence[str], seed: int = 0) -> list[str]:
    """The answers after one corruption, in the text format."""
    return [render(draft) for draft in spoil(quality.drafts(answers), random.Random(seed))]
