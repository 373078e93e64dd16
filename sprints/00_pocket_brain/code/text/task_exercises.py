"""Slots of the exercises with computed answers: arithmetic to twenty, counting, patterns, what Python prints."""

import random
from functools import cache
from string import Template

from .task_grammar import plural
from .task_words import Slots, parts, person, read, rows, vocabulary

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBERS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
SIGNS = {"+": "plus", "-": "minus", "*": "times"}


def calculation(rng: random.Random) -> Slots:
    """a sign b = c with all three in 0..20; a story for plus and minus is told with the same numbers by `purse`."""
    sign = rng.choice("+++---*")
    if sign == "+":
        c = rng.randint(0, 20)
        a = rng.randint(0, c)
        b = c - a
    elif sign == "-":
        a = rng.randint(0, 20)
        b = rng.randint(0, a)
        c = a - b
    else:
        a = rng.randint(0, 10)
        b = rng.randint(0, 20 // a if a > 1 else 10)
        c = a * b
    wrong = c + rng.choice((-2, -1, 1, 2))
    right = rng.random() < 0.5
    claimed = c if right or wrong < 0 else wrong
    return {
        "a": a,
        "b": b,
        "c": c,
        "sign": sign,
        "name": SIGNS[sign],
        "wa": NUMBERS[a],
        "wb": NUMBERS[b],
        "wc": NUMBERS[c],
        "Wa": NUMBERS[a].capitalize(),
        "claimed": claimed,
        "truth": "true" if claimed == c else "false",
        "verdict": "Yes." if claimed == c else f"No, it is {c}.",
    }


@cache
def portable() -> tuple[str, ...]:
    """Things that one can have and give."""
    kinds = read("knowledge_facts.yaml")["categories"]
    found = [word for kind in ("fruit", "vegetable", "tool", "flower") for word in parts(kinds[kind], ",")]
    return (*found, *parts(read("tasks_lookup.yaml")["pools"]["thing_noun"], ","))


def purse(rng: random.Random) -> Slots:
    """Somebody has things, gets some and gives some."""
    a, b = rng.randint(2, 10), rng.randint(1, 10)
    more = a + b
    less = rng.randint(1, a - 1)
    noun = rng.choice(portable())
    who, other = person(rng), person(rng)
    while other == who:
        other = person(rng)
    return {
        "who": who,
        "other": other,
        "things": plural(noun),
        "a": a,
        "b": b,
        "more": more,
        "less": less,
        "left": a - less,
        "larger": "Both have the same number." if a == b else who if a > b else other,
        "b_things": f"{b} {noun if b == 1 else plural(noun)}",
        "left_things": f"{a - less} {noun if a - less == 1 else plural(noun)}",
    }


def order(rng: random.Random) -> Slots:
    """Numbers to compare and to sort."""
    numbers = rng.sample(range(21) if rng.random() < 0.6 else range(100), rng.randint(3, 5))
    a, b = numbers[:2]
    return {
        "a": a,
        "b": b,
        "larger": max(a, b),
        "smaller": min(a, b),
        "sign": ">" if a > b else "<",
        "verdict": "Yes." if a > b else "No.",
        "list": ", ".join(map(str, numbers)),
        "largest": max(numbers),
        "smallest": min(numbers),
        "rising": ", ".join(map(str, sorted(numbers))),
        "falling": ", ".join(map(str, sorted(numbers, reverse=True))),
    }


def single(rng: random.Random) -> Slots:
    """Properties of one number."""
    n = rng.randint(1, 19)
    half = rng.randint(1, 10)
    return {
        "n": n,
        "word": NUMBERS[n],
        "next": n + 1,
        "before": n - 1,
        "wnext": NUMBERS[n + 1],
        "parity": "odd" if n % 2 else "even",
        "even": "No." if n % 2 else "Yes.",
        "half": half,
        "double": 2 * half,
    }


def counting(rng: random.Random) -> Slots:
    """Things to count: words, or one word that occurs several times among others."""
    count = rng.randint(2, 9)
    items = rng.sample(vocabulary(), count)
    asked, others = items[0], items[1:]
    times = rng.randint(1, 5)
    mixed = [asked] * times + rng.choices(others, k=rng.randint(1, 4))
    rng.shuffle(mixed)
    return {
        "commas": ", ".join(items),
        "lines": "- " + "\n- ".join(items),
        "count": count,
        "wcount": NUMBERS[count],
        "mixed": ", ".join(mixed),
        "asked": asked,
        "times": times,
    }


def sequence(rng: random.Random) -> Slots:
    """Numbers with a constant step."""
    step = rng.choice((1, 1, 2, 2, 3, 5, 10, -1, -2))
    length = rng.randint(3, 6)
    start = rng.randint(0, 20) - min(0, step * (length + 1))
    numbers = [start + step * at for at in range(length + 2)]
    return {
        "shown": ", ".join(map(str, numbers[:length])),
        "next": numbers[length],
        "two": ", ".join(map(str, numbers[length:])),
        "gap": ", ".join(["_" if at == 2 else str(n) for at, n in enumerate(numbers[: length + 1])]),
        "filled": numbers[2],
    }


PATTERNS = ("AB", "AB", "ABC", "AAB", "ABB", "ABCD", "AABB")


def pattern(rng: random.Random) -> Slots:
    """Words, letters or numbers that repeat by a pattern."""
    form = rng.choice(PATTERNS)
    draw = rng.random()
    pool = vocabulary() if draw < 0.5 else "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if draw < 0.75 else range(1, 21)
    signs = dict(zip("ABCD", map(str, rng.sample(list(pool), 4)), strict=True))
    length = 2 * len(form) + rng.randrange(len(form))
    items = [signs[form[at % len(form)]] for at in range(length + 3)]
    return {"shown": " ".join(items[:length]), "next": items[length], "three": " ".join(items[length:])}


def run_snippet(code: str) -> str:
    """What the snippet prints. It comes from our own templates."""
    printed: list[str] = []
    exec(compile(code, "snippet", "exec"), {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    return "\n".join(printed)


def snippet(rng: random.Random) -> Slots:
    """A snippet with random contents, and what it prints, by running it."""
    words = [word.replace(" ", "") for word in rng.sample(vocabulary(), 5)]
    code = output = ""
    while not output:  # a loop may print nothing
        (template,) = rng.choice(rows(read("knowledge_code.yaml")["prints"], " :: "))
        code = Template(template).substitute(
            a=rng.randint(0, 10),
            b=rng.randint(1, 9),
            i=rng.randrange(3),
            l=rng.sample(range(1, 13), rng.randint(3, 5)),
            s=str(words[: rng.randint(3, 4)]).replace("'", '"'),
            w=words[0] if rng.random() < 0.5 else words[4],
            v=words[1],
        )
        output = run_snippet(code)
    return {"code": code, "output": output}


SLOTS = {
    "calculate": calculation,
    "purse": purse,
    "order": order,
    "single_number": single,
    "counting": counting,
    "sequence": sequence,
    "pattern": pattern,
    "code_prints": snippet,
}
