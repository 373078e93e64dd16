"""Anime-flavoured adventures: second person, present tense, scenes with numbered choices that are made of what is in the scene."""

import random
from dataclasses import dataclass
from functools import cache

from .sample import Sample
from .script import DATA, Step, compiled, run, sections
from .tale import Tale
from .world import articles


@dataclass(frozen=True)
class Option:
    text: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Scene:
    name: str
    steps: tuple[Step, ...]
    options: tuple[Option, ...]


@cache
def scenes() -> dict[str, Scene]:
    found = {}
    for name, lines in sections(DATA / "scenes.txt").items():
        parts: list[list[str]] = [[]]
        for line in lines:
            if line.startswith("> "):
                parts.append([])
            parts[-1].append(line)
        options = tuple(Option(first[2:], compiled(tuple(rest))) for first, *rest in parts[1:])
        found[name] = Scene(name, compiled(tuple(parts[0])), options)
    return found


@cache
def phrases() -> dict[str, tuple[Step, ...]]:
    """The beginnings, endings and requests (data/plots/quest_phrases)."""
    return {name: compiled(tuple(lines)) for name, lines in sections(DATA / "quest_phrases.txt").items()}


class Quest:
    """One adventure: the cast stays, the scenes change."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.tale = tale = Tale(rng)
        genre = rng.choice(tale.words["genres"])
        tale.bind["genre"] = tale.draw(f"title.{genre}")
        names = tale.words["quest_girl" if rng.random() < 0.5 else "quest_boy"]
        tale.bind["C"] = rng.choice(names)
        tale.names.append(tale.bind["C"])
        for category in ("role", "friend", "reward"):
            tale.bind[category] = tale.draw(f"{genre}.{category}")
        for key, category in (("G", "goal"), ("I", "item"), ("X", "foe")):
            tale.bind[key] = tale.draw(f"{genre}.{category}")
        self.genre = genre

    def tell(self, steps: tuple[Step, ...]) -> None:
        run(steps, self.tale)

    def take(self) -> str:
        """The text told since the last call, and a clean page."""
        tale = self.tale
        text = "\n\n".join(" ".join(paragraph) for paragraph in tale.paragraphs if paragraph)
        tale.paragraphs = [[]]
        return articles(text)

    def scene(self, scene: Scene) -> tuple[list[Option], list[str]]:
        """Tell a scene; the options on offer and their texts, all different."""
        tale = self.tale
        for key, category in (("F", "feature"), ("P", "place"), ("danger", "danger"), ("sight", "sight"), ("trick", "trick")):
            tale.bind[key] = tale.draw(f"{self.genre}.{category}")
        tale.bind["clue"] = tale.draw("clue")
        self.tell(scene.steps)
        options = self.rng.sample(scene.options, self.rng.choice((2, 3, 3, 4)))
        return options, [articles(tale.render(option.text)) for option in options]


def numbered(texts: list[str]) -> str:
    return "\n".join(f"{at}. {text}." for at, text in enumerate(texts, start=1))


def said(rng: random.Random, at: int, text: str) -> str:
    """The player's choice: the number, the text, or a sentence of one's own."""
    mine = text[0].lower() + text[1:].replace("your", "my").replace("yourselves", "us")
    answer = text.startswith("Answer: ")
    own = f'I say: "{text.removeprefix("Answer: ")}."' if answer else f"I {mine}." if "yourselves" not in text else f"{at}"
    return rng.choice((f"{at}", f"{at}", f"{at}.", f"{at}. {text}.", f"{text}.", own, f"I choose {at}.", f"Option {at}, please."))


def quest(rng: random.Random, family: str) -> Sample:
    """An adventure that begins with the scene of the family: one text, a request with its scene, or a game of several turns, in
    which any scene may follow: so none can be held out."""
    play = Quest(rng)
    form = rng.random()
    turns: list[str] = []
    system = ""
    if form > 0.4:
        play.tell(phrases()["request"])
        turns.append(play.take().replace(" / ", "\n"))
        if rng.random() < 0.5:
            play.tell(phrases()["system"])
            system = play.take()
    play.tell(phrases()["beginning"])
    play.tale.para()
    options, texts = play.scene(scenes()[family])
    if form < 0.2:  # the story is told to its end
        play.tale.para()
        chosen = rng.randrange(len(options))
        play.tell(options[chosen].steps)
        play.tell(phrases()["ending"])
        return Sample(family, (play.take(),), names=tuple(play.tale.names))
    play.tell(phrases()["question"])
    turns.append(f"{play.take()}\n{numbered(texts)}")
    if form > 0.6:
        for left in range(rng.choice((0, 1, 1)), -1, -1):
            chosen = rng.randrange(len(options))
            turns.append(said(rng, chosen + 1, texts[chosen]))
            play.tell(options[chosen].steps)
            play.tale.para()
            if left:
                play.tell(phrases()["onward"])
                others = [scene for name, scene in scenes().items() if name != family]
                options, texts = play.scene(rng.choice(others))
                play.tell(phrases()["question"])
                turns.append(f"{play.take()}\n{numbered(texts)}")
            else:
                play.tell(phrases()["ending"])
                turns.append(play.take())
    return Sample(family, tuple(turns), system, tuple(play.tale.names))
