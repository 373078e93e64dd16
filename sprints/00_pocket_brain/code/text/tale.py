"""A story while it is told: who and what is in it (the state), and the sentences so far.

Templates: `{A}` the name of role A, `{A.his}` a word about it, `{T}` a bound thing, `{*fruit}` a word of the lexicon that the story
has not used yet, `{A*body_sad}` the same with A's pronouns, `^` behind the brace for a capital, `[a|b|]` one of the alternatives.
"""

import random
from collections.abc import Sequence
from functools import cache

from .world import Species, Trade, animal, fears, human, lexicon, places, sentence_case, species, things, trades

PLAIN = frozenset(("said", "asked", "whispered", "cried", "sobbed", "laughed"))  # words that nobody minds to read twice
Node = str | tuple  # literal | ("slot", key, capital) | ("draw", category, capital, role) | ("pick", alternatives)


@cache
def compiled(template: str) -> tuple[Node, ...]:
    nodes, at = _parse(template, 0)
    if at != len(template):
        raise ValueError(f"unbalanced bracket in {template!r}")
    return nodes[0]


def _parse(text: str, at: int) -> tuple[list[tuple[Node, ...]], int]:
    """The alternatives up to the closing bracket or the end, and where they ended."""
    alternatives: list[list[Node]] = [[]]
    literal = at
    while at < len(text) and text[at] != "]":
        if text[at] not in "[{|":
            at += 1
            continue
        if literal < at:
            alternatives[-1].append(text[literal:at])
        if text[at] == "|":
            alternatives.append([])
            at += 1
        elif text[at] == "[":
            inner, at = _parse(text, at + 1)
            alternatives[-1].append(("pick", tuple(inner)))
            at += 1
        else:
            end = text.index("}", at)
            alternatives[-1].append(_slot(text[at + 1 : end]))
            at = end + 1
        literal = at
    if literal < at:
        alternatives[-1].append(text[literal:at])
    return [tuple(nodes) for nodes in alternatives], at


def _slot(key: str) -> Node:
    capital = key.startswith("^")
    role, star, category = key.lstrip("^").partition("*")
    return ("draw", category, capital, role) if star else ("slot", role, capital)


class Tale:
    """The state of one story and its paragraphs."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.random = rng.random
        self.bind: dict[str, str] = {}
        self.names: list[str] = []
        self.paragraphs: list[list[str]] = [[]]
        self.used: set[str] = set()
        self.words = lexicon()
        self.sky = rng.choice(("sun", "sun", "rain", "snow", "wind", "fog"))
        self.bind["town"] = self.draw("town")
        self.bind["when"] = self.draw(f"when.{self.sky}" if self.random() < 0.4 else "morning")

    # what is in the story

    def cast(self, role: str, kind: str = "child", of: str = "") -> None:
        """Bring in a child, adult, elder, trade (an adult with one), house, farm, wild or a species; of: whose they are."""
        owner = self.bind[f"{of}.his"] if of else ""
        taken = tuple(self.names)
        if kind == "anyone":
            kind = self.rng.choice(("child", "child", "child", "trade", "adult", "elder", "cat", "dog"))
        elif kind == "person":
            kind = self.rng.choice(("child", "child", "trade", "adult", "elder"))
        trade = self.rng.choice(trades()) if kind == "trade" else None
        if kind in ("child", "adult", "elder", "trade"):
            friend = "friend" if f"{of}.sound" in self.bind else ""  # an animal has no cousins among the humans
            one = human(self.rng, "adult" if kind == "trade" else kind, taken, owner, trade, friend)
        else:
            found: Sequence[Species] = species(*kind.split("+"))
            one = animal(self.rng, self.rng.choice(found), taken, owner)
        self.names.append(one.name)
        self.bind[role], self.bind[f"{role}.feels"] = one.name, "content"
        for key, value in one.words.items():
            self.bind[f"{role}.{key}"] = value
        if trade:
            self.at_work(role, trade)

    def at_work(self, role: str, trade: Trade) -> None:
        tools, goods, work = (self.rng.sample(some, len(some)) for some in (trade.tools, trade.goods, trade.work))
        here = {
            "job": trade.name,
            "at": trade.at,
            "shop": trade.at.split(" ", 1)[1],
            "tool": tools[0],
            "tool2": tools[1],
            "tool3": tools[2],
        }
        here |= {
            "goods": goods[0],
            "goods2": goods[1],
            "work": work[0],
            "work2": work[1],
            "mishap": trade.mishap,
            "advice": trade.advice,
        }
        self.bind |= {f"{role}.{key}": value for key, value in here.items()}

    def place(self, key: str, *kinds: str) -> None:
        """Bind a place that the story has not used yet, with its spots, sights, sounds and smells in random order."""
        found = places(*kinds)
        chosen = self.rng.choice(found)
        while chosen.name in self.used:
            chosen = self.rng.choice(found)
        self.used.add(chosen.name)
        bind = self.bind
        bind[key], bind[f"{key}.at"], bind[f"{key}.the"] = chosen.name, chosen.at, chosen.the
        bind[f"{key}.kind"] = chosen.kind
        for name, values in (("spot", chosen.spots), ("sight", chosen.sights), ("sound", chosen.sounds), ("smell", chosen.smells)):
            for at, value in enumerate(self.rng.sample(values, min(3, len(values)))):
                bind[f"{key}.{name}{at + 1 if at else ''}"] = value

    def thing(self, key: str, *kinds: str) -> None:
        """Bind an object: T "brass key", T.n "key", T.full "dented brass key"."""
        kind = self.rng.choice(kinds or ("toy", "keepsake", "cloth", "gear"))
        material, noun = self.rng.choice(things(kind))
        while noun in self.used:
            material, noun = self.rng.choice(things(kind))
        self.used.add(noun)
        look = self.rng.choice([word for word in self.rng.sample(self.words[f"{kind}.is"], 3) if word != material])
        name = f"{material} {noun}" if material else noun if " " in noun else f"{look} {noun}"
        self.bind |= {key: name, f"{key}.n": noun, f"{key}.full": f"{look} {material} {noun}" if material else name}
        self.bind[f"{key}.is"] = look

    def fear(self, key: str) -> None:
        chosen = self.rng.choice(fears())
        self.bind |= {key: chosen.of, f"{key}.moment": chosen.moment, f"{key}.truth": chosen.truth}

    def several(self, key: str, category: str, count: int) -> None:
        """Bind key1, key2, ... to different words of a category."""
        found = self.rng.sample(self.words[category], count)
        self.used.update(found)
        self.bind |= {f"{key}{at}": word for at, word in enumerate(found, start=1)}

    def set(self, key: str, template: str) -> None:
        """Bind a template, rendered now: later mentions repeat exactly these words."""
        self.bind[key] = self.render(template)

    def alias(self, new: list[str], old: list[str]) -> None:
        """Let roles or words go by another key, with all that is said about them."""
        for to, of in zip(new, old, strict=True):
            found = {to + key[len(of) :]: word for key, word in self.bind.items() if key == of or key.startswith(of + ".")}
            self.bind |= found

    def feel(self, role: str, mood: str) -> None:
        """The mood of somebody changes: `{A.feels}`."""
        self.bind[f"{role}.feels"] = self.draw(mood)

    # how it is told

    def draw(self, category: str) -> str:
        words = self.words[self.sky if category == "sky" else category]
        if category in PLAIN:
            return words[int(self.random() * len(words))]
        for _ in range(6):
            word = words[int(self.random() * len(words))]
            if word not in self.used:
                break
        self.used.add(word)
        return word

    def render(self, template: str) -> str:
        out: list[str] = []
        self._write(compiled(template), out)
        return "".join(out)

    def _write(self, nodes: tuple[Node, ...], out: list[str]) -> None:
        for node in nodes:
            if isinstance(node, str):
                out.append(node)
            elif node[0] == "slot":
                text = self.bind[node[1]]
                out.append(text[0].upper() + text[1:] if node[2] else text)
            elif node[0] == "pick":
                self._write(node[1][int(self.random() * len(node[1]))], out)
            else:
                text = self.draw(node[1])
                if node[3] and "{" in text:
                    his, him, he = (self.bind[f"{node[3]}.{form}"] for form in ("his", "him", "he"))
                    text = text.replace("{his}", his).replace("{him}", him).replace("{he}", he)
                out.append(text[0].upper() + text[1:] if node[2] else text)

    def say(self, *alternatives: str) -> None:
        """Tell one of the alternatives; an empty one tells nothing."""
        text = self.render(alternatives[int(self.random() * len(alternatives))])
        if text:
            self.paragraphs[-1].append(sentence_case(text))

    def para(self) -> None:
        if self.paragraphs[-1]:
            self.paragraphs.append([])
