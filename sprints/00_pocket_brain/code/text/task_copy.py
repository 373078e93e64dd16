"""Slots of the copy tasks: lists, sentences and lines to repeat, reorder, reformat and edit."""

import json
import random
from functools import partial

from . import task_grammar
from .task_words import Slots, distinct, invented, person, sentence_case, vocabulary

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
SHARES = {"real": 0.4, "invented": 0.4}  # the rest mixes both


def word_list(rng: random.Random, count: int) -> list[str]:
    """Different words: real, invented (with or without capitals), or both."""
    real, draw, lower = vocabulary(), rng.random(), rng.random() < 0.7
    if draw < SHARES["real"]:
        return rng.sample(real, count)
    if draw < SHARES["real"] + SHARES["invented"]:
        return distinct(lambda: invented(rng, lower=lower), count)
    return distinct(lambda: rng.choice(real) if rng.random() < 0.5 else invented(rng, lower=True), count)


def forms(items: list[str]) -> Slots:
    return {
        "plain": " ".join(items),
        "commas": ", ".join(items),
        "lines": "\n".join(items),
        "bullets": "- " + "\n- ".join(items),
        "numbered": "\n".join([f"{at}. {item}" for at, item in enumerate(items, 1)]),
        "json": json.dumps(items),
        "joined": f"{', '.join(items[:-1])} and {items[-1]}",
    }


def words(rng: random.Random) -> Slots:
    return forms(word_list(rng, rng.randint(3, 12)))


def few_words(rng: random.Random) -> Slots:
    return forms(word_list(rng, rng.randint(2, 6)))


def sentence(rng: random.Random) -> Slots:
    """A sentence, sometimes about somebody with an invented name."""
    clause = task_grammar.clause(rng)
    return {"sentence": clause[rng.choice(("present", "past", "negative", "future"))], "name": person(rng)}


def backwards(rng: random.Random) -> Slots:
    items = word_list(rng, rng.randint(2, 5))
    return {**forms(items), "rplain": " ".join(items[::-1]), "rcommas": ", ".join(items[::-1])}


def places(rng: random.Random) -> Slots:
    """One item of a list by its place and by its neighbors."""
    items = word_list(rng, rng.randint(3, 8))
    at = rng.randrange(1, len(items) - 1)
    nth = rng.randrange(len(items))
    return {
        **forms(items),
        "ordinal": ORDINALS[nth],
        "number": nth + 1,
        "nth": items[nth],
        "word": items[at],
        "before": items[at - 1],
        "after": items[at + 1],
        "first": items[0],
        "last": items[-1],
    }


def edits(rng: random.Random) -> Slots:
    """A list with one item removed, replaced, added, moved or doubled."""
    items = word_list(rng, rng.randint(3, 7))
    at, new = rng.randrange(len(items)), invented(rng, lower=True)
    while new in items:
        new = invented(rng, lower=True)
    rest = items[:at] + items[at + 1 :]
    later = rng.randrange(at + 1, len(items) + 1)
    shuffled = rng.sample(rest, len(rest))
    present = rng.random() < 0.5
    return {
        **forms(items),
        "word": items[at],
        "new": new,
        "without": ", ".join(rest),
        "replaced": ", ".join([*items[:at], new, *items[at + 1 :]]),
        "added": ", ".join([*items, new]),
        "prefixed": ", ".join([new, *items]),
        "doubled": ", ".join([*items[:later], items[at], *items[later:]]),
        "shuffled": ", ".join(shuffled),
        "swapped": ", ".join([items[-1], *items[1:-1], items[0]]),
        "asked": rng.choice(items) if present else new,
        "contained": "yes" if present else "no",
    }


def alphabetical(rng: random.Random) -> Slots:
    """Words to sort; all lower case, so that every alphabet agrees."""
    items = [item.lower() for item in word_list(rng, rng.randint(3, 6))]
    ordered = sorted(items)
    return {**forms(items), "scommas": ", ".join(ordered), "splain": " ".join(ordered), "slines": "\n".join(ordered)}


def letters(rng: random.Random) -> Slots:
    word = rng.choice(vocabulary()) if rng.random() < 0.5 else invented(rng, lower=rng.random() < 0.5)
    word = word.replace(" ", "")
    return {
        "word": word,
        "spelled": " ".join(word),
        "dashed": "-".join(word),
        "backwards": word[::-1],
        "upper": word.upper(),
        "lower": word.lower(),
        "capital": sentence_case(word),
        "first": word[0],
        "last": word[-1],
        "length": len(word),
    }


def upper(rng: random.Random) -> Slots:
    plain = " ".join(word_list(rng, rng.randint(2, 6)))
    return {"plain": plain.lower(), "upper": plain.upper(), "titled": " ".join([word.capitalize() for word in plain.split()])}


def pairs(rng: random.Random) -> Slots:
    """key: value lines, their keys in another order, and the lines in that order."""
    count = rng.randint(2, 5)
    keys = word_list(rng, count)
    values = distinct(partial(_value, rng), count, set(keys))
    table = dict(zip(keys, values, strict=True))
    order = rng.sample(keys, count)
    asked = order[0]
    return {
        "lines": "\n".join([f"{key}: {value}" for key, value in table.items()]),
        "order": ", ".join(order),
        "ordered": "\n".join([f"{key}: {table[key]}" for key in order]),
        "reversed": "\n".join([f"{key}: {table[key]}" for key in keys[::-1]]),
        "flipped": "\n".join([f"{value}: {key}" for key, value in table.items()]),
        "equals": "\n".join([f"{key} = {value}" for key, value in table.items()]),
        "json": json.dumps(table),
        "keys": ", ".join(keys),
        "values": ", ".join(values),
        "key": asked,
        "value": table[asked],
    }


def _value(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.3:
        return str(rng.randrange(100))
    return rng.choice(vocabulary()) if draw < 0.6 else invented(rng, lower=draw < 0.8)


def digits(rng: random.Random) -> Slots:
    number = "".join([rng.choice("0123456789") for _ in range(rng.randint(3, 9))])
    return {"digits": number, "spaced": " ".join(number), "last": number[-1]}


SLOTS = {
    "copy_words": words,
    "copy_format": words,
    "copy_twice": few_words,
    "copy_loop": few_words,
    "copy_sentence": sentence,
    "copy_reverse": backwards,
    "copy_place": places,
    "copy_edit": edits,
    "copy_sort": alphabetical,
    "copy_letters": letters,
    "copy_upper": upper,
    "copy_pairs": pairs,
    "copy_digits": digits,
}
