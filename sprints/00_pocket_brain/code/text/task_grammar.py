"""Slots of the rewriting tasks: one clause in every tense and person, requests, plurals, comparisons, moods of a text."""

import random
from functools import cache

from .task_words import Slots, article, invented, parts, read, rows, sentence_case

MINE = {"he": "his", "she": "her", "they": "their", "I": "my", "we": "our", "you": "your"}


def language(key: str, separator: str = ";") -> tuple[str, ...]:
    return parts(read("knowledge_language.yaml")[key], separator)


@cache
def verbs() -> tuple[tuple[tuple[str, ...], tuple[str, ...], bool], ...]:
    """Forms (base, past, third, -ing), objects, and whether the verb has no -ing sentence."""
    stative = set(read("knowledge_language.yaml")["stative"].split())
    table = [(forms.split(), objects) for forms, objects in rows(read("knowledge_language.yaml")["verbs"])]
    return tuple((tuple(forms), parts(objects, ";"), forms[0] in stative) for forms, objects in table)


@cache
def subjects() -> tuple[tuple[str, str, str], ...]:
    """(the girl, she, the girls), ..."""
    found = []
    for text in language("subjects"):
        words = text.split()
        at = next(i for i, word in enumerate(words) if word in ("he", "she"))
        found.append((" ".join(words[:at]), words[at], " ".join(words[at + 1 :])))
    return tuple(found)


def clause(rng: random.Random) -> Slots:
    """One clause in every form. Capital {Who} begins a sentence; `they` forms use the plural subject."""
    (base, past, third, ing), objects, stative = verbs()[int(rng.random() * len(verbs()))]
    subject, pronoun, plural = subjects()[int(rng.random() * len(subjects()))]
    if rng.random() < 0.5:  # an invented name, known as he or she from the prompt only
        subject = invented(rng)
    end = objects[int(rng.random() * len(objects))]
    now = end.replace("MY", MINE[pronoun])
    if rng.random() < 0.25:
        end = f"{end} {rng.choice(language('times', '|'))}"
    mine = {key: end.replace("MY", own) for key, own in MINE.items()} if "MY" in end else dict.fromkeys(MINE, end)
    own, who = mine[pronoun], sentence_case(subject)
    return {
        "who": subject,
        "pronoun": pronoun,
        "gender": "man" if pronoun == "he" else "woman",
        "present": f"{who} {third} {own}.",
        "past": f"{who} {past} {own}.",
        "future": f"{who} will {base} {own}.",
        "simple": f"{who} {third} {now}.",
        "going": f"{who} {third} {now}." if stative else f"{who} is {ing} {now}.",  # without "every day"
        "negative": f"{who} does not {base} {own}.",
        "negative_past": f"{who} did not {base} {own}.",
        "question": f"Does {subject} {base} {own}?",
        "question_past": f"Did {subject} {base} {own}?",
        "pronominal": f"{sentence_case(pronoun)} {third} {own}.",
        "pronominal_past": f"{sentence_case(pronoun)} {past} {own}.",
        "first": f"I {base} {mine['I']}.",
        "first_past": f"I {past} {mine['I']}.",
        "we": f"We {base} {mine['we']}.",
        "we_past": f"We {past} {mine['we']}.",
        "you": f"You {base} {mine['you']}.",
        "plural": f"{sentence_case(plural)} {base} {mine['they']}.",
        "singular": f"{sentence_case(PLURAL_OF[plural])} {third} {own}.",
        "yes": f"Yes, {pronoun} does.",
        "no": f"No, {pronoun} does not.",
    }


PLURAL_OF = {plural: subject for subject, _, plural in subjects()}


def request(rng: random.Random) -> Slots:
    """A command and its polite forms."""
    order = rng.choice(language("commands"))
    return {
        "order": f"{sentence_case(order)}.",
        "polite": f"Could you please {order}?",
        "please": f"Please {order}.",
        "never": f"Do not {order}.",
    }


@cache
def nouns() -> tuple[str, ...]:
    names = read("knowledge_facts.yaml")["categories"]
    chosen = [word for kind, words in names.items() if kind not in ("color", "drink", "sport") for word in parts(words, ",")]
    return tuple(sorted({*chosen, *(pair.split()[0] for pair in language("irregular_plurals"))}))


@cache
def plural(noun: str) -> str:
    """English plural: the irregular ones from the data, else by spelling."""
    irregular = dict(pair.split() for pair in language("irregular_plurals"))
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def number(rng: random.Random) -> Slots:
    noun = rng.choice(nouns())
    count = rng.randint(2, 12)
    return {"one": noun, "many": plural(noun), "count": count, "a": article(noun)}


def comparison(rng: random.Random) -> Slots:
    """Degrees of an adjective, and two invented things compared."""
    base, more, most = rng.choice(language("comparisons")).split()
    a, b = invented(rng), invented(rng)
    return {"base": base, "more": more, "most": most, "a": a, "b": b}


def mood(rng: random.Random) -> Slots:
    """A text that is positive or negative."""
    good = rng.random() < 0.5
    if rng.random() < 0.4:
        text = rng.choice(language("positive" if good else "negative"))
    else:
        thing = rng.choice(language("judged", ","))
        judgement = rng.choice(language("praise" if good else "blame", ","))
        text = rng.choice(("The {0} was {1}.", "I think that the {0} was {1}.", "We found the {0} {1}.")).format(thing, judgement)
    return {
        "text": text,
        "mood": "positive" if good else "negative",
        "face": "happy" if good else "unhappy",
        "liked": "Yes." if good else "No.",
    }


SLOTS = {
    "tense": clause,
    "person": clause,
    "negation": clause,
    "questions": clause,
    "polite": request,
    "number": number,
    "compare_words": comparison,
    "sentiment": mood,
}
