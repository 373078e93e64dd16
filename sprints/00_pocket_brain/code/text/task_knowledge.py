"""Slots of the tasks about what everybody knows: definitions, facts, categories, opposites, choices, small talk, code idioms."""

import random
from functools import cache
from string import Template
from typing import NamedTuple

from .task_exercises import calculation
from .task_grammar import language
from .task_words import Slots, article, invented, parts, person, read, rows, sentence_case

FACTS = "knowledge_facts.yaml"


class Entry(NamedTuple):
    word: str
    definition: str
    section: str

    def sentence(self) -> str:
        """The definition as a sentence of its own."""
        if self.section == "count":
            return f"{sentence_case(article(self.word))} is {self.definition}."
        if self.section == "mass":
            return f"{sentence_case(self.word)} is {self.definition}."
        if self.section == "verb":
            return f"To {self.word} means {self.definition}."
        return f"{sentence_case(self.word)} means {self.definition}."

    def question(self) -> str:
        if self.section == "count":
            return f"What is {article(self.word)}?"
        if self.section == "mass":
            return f"What is {self.word}?"
        return f"What does it mean to {self.word}?" if self.section == "verb" else f"What does {self.word} mean?"


@cache
def entries() -> tuple[Entry, ...]:
    words = read("knowledge_words.yaml")
    return tuple(Entry(word, text, section) for section, lines in words.items() for word, text in rows(lines, ": "))


class Fact(NamedTuple):
    question: str
    answer: str
    sentence: str
    false: tuple[str, ...]  # sentences of the same form that are not true


@cache
def facts() -> tuple[Fact, ...]:
    found = []
    for group in read(FACTS)["groups"].values():
        pairs = rows("\n".join(parts(group["pairs"], ";")))
        for a, b in pairs:
            others = {other for _, other in pairs if other != b} if group["swap"] else set()
            said = [group["say"].format(a=a, b=v, A=sentence_case(a), B=sentence_case(v)) for v in (b, *sorted(others))]
            found.append(Fact(group["ask"].format(a=a), b, said[0], tuple(said[1:])))
    found += [Fact(question, answer, sentence, ()) for question, answer, sentence in rows(read(FACTS)["single"])]
    return tuple(found)


@cache
def categories() -> dict[str, tuple[str, ...]]:
    return {kind: parts(words, ",") for kind, words in read(FACTS)["categories"].items()}


@cache
def apart() -> tuple[tuple[str, str], ...]:
    """Ordered pairs of categories that share no member, even in a wider sense."""
    overlap = {frozenset(pair.split(" ")) for pair in parts(read(FACTS)["overlap"], ",")}
    return tuple((a, b) for a in categories() for b in categories() if a != b and frozenset((a, b)) not in overlap)


@cache
def definition(entry: Entry) -> Slots:
    return {"word": entry.word, "question": entry.question(), "sentence": entry.sentence(), "text": entry.definition}


def define(rng: random.Random) -> Slots:
    return definition(rng.choice(entries()))


def fact(rng: random.Random) -> Slots:
    one = rng.choice(facts())
    return {"question": one.question, "answer": one.answer, "sentence": one.sentence}


def truth(rng: random.Random) -> Slots:
    """A sentence, whether it is true, and the true one."""
    draw = rng.random()
    if draw < 0.4:
        one = rng.choice(swappable())
        right = rng.random() < 0.5
        claim, correct = (one.sentence if right else rng.choice(one.false)), one.sentence
    elif draw < 0.7:
        a, b = rng.choice(apart())
        word, right = rng.choice(categories()[a]), rng.random() < 0.5
        correct = member(word, a)
        claim = correct if right else member(word, b)
    else:
        sums = calculation(rng)
        claim, right = f"{sums['Wa']} {sums['name']} {sums['wb']} is {sums['claimed']}.", sums["truth"] == "true"
        correct = f"{sums['Wa']} {sums['name']} {sums['wb']} is {sums['c']}."
    return {
        "claim": claim,
        "truth": "true" if right else "false",
        "Truth": "True." if right else "False.",
        "verdict": "True." if right else f"False. {correct}",
        "yes": "Yes." if right else f"No. {correct}",
    }


@cache
def swappable() -> tuple[Fact, ...]:
    return tuple(one for one in facts() if one.false)


def a(word: str, kind: str) -> str:
    return word if kind in parts(read(FACTS)["no_article"], ",") else article(word)


def member(word: str, kind: str) -> str:
    return f"{sentence_case(a(word, categories_of(word)))} is {article(kind)}."


@cache
def categories_of(word: str) -> str:
    return next(kind for kind, words in categories().items() if word in words)


def category(rng: random.Random) -> Slots:
    """A word, the category it is in, one it is not in, and an odd one out."""
    kind, other = rng.choice(apart())
    chosen = rng.sample(categories()[kind], 4)
    word, stranger = chosen[0], rng.choice(categories()[other])
    group = [*chosen[:3], stranger]
    rng.shuffle(group)
    right = rng.random() < 0.5
    plural_kind = kind.replace(" of", "s of") if " of" in kind else f"{kind}s"
    named = a(word, kind)
    options = [kind, other] if rng.random() < 0.5 else [other, kind]
    pair = [word, stranger] if rng.random() < 0.5 else [stranger, word]
    return {
        "word": word,
        "a_word": named,
        "kind": kind,
        "a_kind": article(kind),
        "asked": article(kind if right else other),
        "short": "yes" if right else "no",
        "reply": f"Yes, {named} is {article(kind)}." if right else f"No, {named} is {article(kind)}, not {article(other)}.",
        "sentence": f"{sentence_case(named)} is {article(kind)}.",
        "group": ", ".join(group),
        "odd": stranger,
        "why": f"{sentence_case(stranger)}, because the others are {plural_kind}.",
        "options": " or ".join(map(article, options)),
        "list": ", ".join(chosen[:3]),
        "pair": " or ".join(pair),
    }


def opposite(rng: random.Random) -> Slots:
    left, right = rng.choice(language("opposites")).split()
    if rng.random() < 0.5 and (right, left) not in one_way():
        left, right = right, left
    return {"word": left, "other": right}


@cache
def one_way() -> frozenset[tuple[str, str]]:
    """Reversed pairs whose first word already has another opposite or that would be ambiguous (light: dark or heavy)."""
    pairs = [tuple(pair.split()) for pair in language("opposites")]
    words = [word for pair in pairs for word in pair]
    return frozenset((b, a) for a, b in pairs if words.count(b) > 1)


def synonym(rng: random.Random) -> Slots:
    left, right = rng.choice(language("synonyms")).split()
    return {"word": left, "other": right}


def choice(rng: random.Random) -> Slots:
    """A goal and two things to do, of which one helps."""
    goal, good, why, bad = rng.choice(rows(read("knowledge_language.yaml")["choices"]))
    first = rng.random() < 0.5
    one, two = (good, bad) if first else (bad, good)
    number = 1 if first else 2
    return {"goal": goal, "one": one, "two": two, "number": number, "good": good, "why": why, "bad": bad, "other": 3 - number}


def reason(rng: random.Random) -> Slots:
    question, short, why = rng.choice(rows(read("knowledge_language.yaml")["reasons"]))
    return {"question": question, "short": short, "why": why}


def blank(rng: random.Random) -> Slots:
    text, word = rng.choice(rows(read("knowledge_language.yaml")["blanks"]))
    return {"text": text, "word": word, "full": text.replace("___", word)}


def talk(rng: random.Random) -> Slots:
    said, answers = rng.choice(rows(read("knowledge_talk.yaml")["talk"], "=>"))
    return {"said": said, "answer": rng.choice(parts(answers, " / "))}


def introduction(rng: random.Random) -> Slots:
    """Somebody says a name and what they like; later the name is asked for."""
    pools = read("tasks_lookup.yaml")["pools"]
    food, color = rng.choice(parts(pools["food"], ",")), rng.choice(parts(pools["color"], ","))
    return {"name": person(rng), "food": food, "color": color, "town": invented(rng), "friend": person(rng)}


def unknown(rng: random.Random) -> Slots:
    texts = read("knowledge_talk.yaml")
    name = invented(rng)
    question = rng.choice((*parts(texts["unknown"], ";"), *parts(texts["unknown_about"], ";") * 2))
    return {"question": question.format(name=name, lower=name.lower()) if "{" in question else question}


NAMES = {
    "x": ("items", "numbers", "values", "words", "names", "data", "things", "entries"),
    "n": ("n", "x", "value", "number", "price", "count"),
    "t": ("text", "line", "word", "s", "message", "title"),
    "d": ("ages", "prices", "counts", "d", "table", "scores"),
}


def idiom(rng: random.Random) -> Slots:
    """A task, the Python for it and what that does, with random variable names."""
    texts = rng.choice(rows(read("knowledge_code.yaml")["idioms"], " :: "))
    names = {key: rng.choice(options) for key, options in NAMES.items()}
    task, code, explanation = (Template(text).substitute(names) if "$" in text else text for text in texts)
    return {"task": task, "Task": sentence_case(task), "code": code, "explanation": explanation}


SLOTS = {
    "define": define,
    "fact": fact,
    "truth": truth,
    "category": category,
    "opposite": opposite,
    "synonym": synonym,
    "choice": choice,
    "reason": reason,
    "blank": blank,
    "talk": talk,
    "introduction": introduction,
    "unknown": unknown,
    "code_idiom": idiom,
}
