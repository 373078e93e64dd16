"""Look-up in little stories and in tables."""

import json
import random
from collections.abc import Callable
from functools import partial

from .sample import Sample
from .task_lookup import word
from .task_words import Families, distinct, parts, person, read

FILE = "tasks_passages.yaml"
LAYOUTS = (
    "{c}\n{q}",
    "{c} {q}",
    "{c}\n\n{q}",
    "Read the story. {c}\n{q}",
    "Text: {c}\nQuestion: {q}",
    "{c}\nQuestion: {q}",
    "{q}\n{c}",
)
TABLE_LAYOUTS = ("{c}\n\n{q}", "{c}\n{q}", "{q}\n\n{c}", "Here is a table.\n{c}\n\n{q}")


class Story:
    """Persons, each at one place with one object, of which one or two are given away; `text` tells it."""

    def __init__(self, rng: random.Random):
        texts = read(FILE)
        count = rng.choice((2, 2, 3))
        self.people = distinct(lambda: person(rng), count)
        self.places = rng.sample(parts(texts["places"], ","), count)
        self.objects = rng.sample(parts(texts["objects"], ","), count)
        self.holder = dict(zip(self.objects, self.people, strict=True))
        said = []
        for name, place, thing in zip(self.people, self.places, self.objects, strict=True):
            if rng.random() < 0.5:
                said.append(self.line(rng, "both", p=name, l=place, o=thing))
            else:
                said += [self.line(rng, "arrive", p=name, l=place), self.line(rng, "hold", p=name, o=thing)]
        self.gifts: list[tuple[str, str, str]] = []  # giver, object, receiver
        for _ in range(rng.choice((1, 1, 2))):
            thing = rng.choice(self.objects)
            giver = self.holder[thing]
            receiver = rng.choice([name for name in self.people if name != giver])
            if any(thing == other for _, other, _ in self.gifts):
                continue  # a thing goes on once, so that "who got it" has one answer
            self.gifts.append((giver, thing, receiver))
            self.holder[thing] = receiver
            said.append(self.line(rng, "give", p=giver, o=thing, r=receiver))
        if rng.random() < 0.3:
            said.insert(0, rng.choice(parts(texts["filler"])))
        self.text = " ".join(said)

    @staticmethod
    def line(rng: random.Random, key: str, **slots: str) -> str:
        return rng.choice(parts(read(FILE)[key])).format(**slots)

    def question(self, rng: random.Random, kind: str) -> tuple[dict[str, str], str]:
        """The slots of the question and the answer."""
        at = rng.randrange(len(self.people))
        name, place, thing = self.people[at], f"the {self.places[at]}", self.objects[at]
        giver, given, receiver = rng.choice(self.gifts)
        return {
            "place": ({"p": name}, place),
            "person_at": ({"l": self.places[at]}, name),
            "has": ({"o": thing}, self.holder[thing]),
            "first": ({"o": given}, giver),
            "object": ({"p": name}, f"a {thing}"),
            "receiver": ({"p": giver, "o": given}, receiver),
            "giver": ({"r": receiver, "o": given}, giver),
        }[kind]


def passage(kind: str, at: int, rng: random.Random) -> Sample:
    story = Story(rng)
    slots, answer = story.question(rng, kind)
    question = parts(read(FILE)["asks"][kind])[at].format(**slots)
    return Sample(f"passage/{kind}/{at}", (rng.choice(LAYOUTS).format(c=story.text, q=question), answer))


def cell(rng: random.Random, kind: str) -> str:
    return word(rng, "train", kind).removeprefix("a ").removeprefix("an ")


def show(form: str, columns: list[str], table: list[list[str]]) -> str:
    if form == "json":
        return json.dumps([dict(zip(columns, row, strict=True)) for row in table])
    if form == "csv":
        return "\n".join(",".join(row) for row in [columns, *table])
    if form == "block":
        return "\n\n".join("\n".join(f"{key}: {value}" for key, value in zip(columns, row, strict=True)) for row in table)
    marked = [columns, ["---"] * len(columns), *table]
    return "\n".join("| " + " | ".join(row) + " |" for row in marked)


def table(form: str, kind: str, at: int, rng: random.Random) -> Sample:
    """kind cell asks for a value, inverse for the name with a value, count and list for the names."""
    texts = read(FILE)
    count, used = rng.choice((2, 3, 3, 4, 5)), set()
    names = distinct(lambda: person(rng), count, used)
    columns = rng.sample(list(texts["columns"]), rng.choice((1, 2, 2, 3)))
    values = [distinct(partial(cell, rng, texts["columns"][column]), count, used) for column in columns]
    row, column = rng.randrange(count), rng.randrange(len(columns))
    answers: dict[str, Callable[[], str]] = {
        "cell": lambda: values[column][row],
        "inverse": lambda: names[row],
        "count": lambda: str(count),
        "list": lambda: ", ".join(names),
    }
    template = parts(texts["table_asks" if kind == "cell" else f"table_{kind}"])[at]
    question = template.format(c=columns[column], n=names[row], v=values[column][row])
    shown = show(form, ["name", *columns], [[name, *(value[i] for value in values)] for i, name in enumerate(names)])
    return Sample(f"table/{form}/{kind}/{at}", (rng.choice(TABLE_LAYOUTS).format(c=shown, q=question), answers[kind]()))


def kinds() -> dict[str, tuple[float, Families]]:
    texts = read(FILE)
    stories: Families = {
        f"passage/{kind}/{at}": partial(passage, kind, at) for kind, asks in texts["asks"].items() for at in range(len(parts(asks)))
    }
    forms = [("cell", "table_asks"), *((kind, f"table_{kind}") for kind in ("inverse", "count", "list"))]
    tables: Families = {
        f"table/{form}/{kind}/{at}": partial(table, form, kind, at)
        for form in texts["formats"]
        for kind, key in forms
        for at in range(len(parts(texts[key])))
    }
    return {"passage": (0.13, stories), "table": (0.07, tables)}
