"""The rules behind the gates: who is named in a text and whether they were introduced, and plain grammar."""

import re
from functools import cache
from typing import NamedTuple

from .text.script import DATA as PLOTS
from .text.world import DATA as WORLD
from .text.world import KIN, NOUNS, lexicon, species, trades

# words with a capital inside a sentence that are nobody's name; those of the small world come on top, see things()
CALENDAR = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September"
CAPITALS = frozenset(f"English Christmas Earth October November December {CALENDAR}".split())
MORE_PERSONS = (
    "mother father mum dad son daughter child kid baby toddler twin niece nephew wife husband parent grandma grandpa granny "
    "grandson granddaughter stranger traveller guest companion partner pupil student apprentice captain king queen prince "
    "princess knight wizard witch giant dragon fairy visitor ghost robot doctor guard hunter thief pirate driver lady "
    "gentleman person bird animal creature tomcat tom puss pup Elder"
)
NAME_LISTS = ("girl", "boy", "pet", "quest_girl", "quest_boy", "catname")
TITLES = (
    "Mr|Mrs|Miss|Ms|Dr|Aunt|Auntie|Uncle|Captain|Doctor|Professor|Grandma|Grandpa|Granny|King|Queen|Prince|Princess|Master|Lady|Sir"
)
SMALL_WORDS = (  # never stand between an article and its noun
    "and|or|to|of|with|by|at|for|from|on|in|into|that|than|as|but|then|who|not|is|was|were|are|be|had|has|have|did|do|does|could|can|"
    "would|will|should|must|might|may|he|she|it|they|we|you|him|them|me|us|said|saw|met|told|gave|a|an|the"
)
GIVING = ("gave", "give", "showed", "told", "handed", "brought", "sent", "lent", "offered", "bought", "fed", "read")


@cache
def known() -> frozenset[str]:
    """The first names of the small world."""
    return frozenset(name for kind in NAME_LISTS for name in lexicon()[kind])


@cache
def persons() -> str:
    """Nouns for those who bear a name, as alternatives of a pattern: kin, trades, animals, and the companions of the adventures."""
    words = lexicon()
    found = {noun for pairs in KIN.values() for pair in pairs for noun in pair.split("/" if "/" in pair else " ")}
    found |= {noun for pair in NOUNS.values() for noun in pair} | {trade.name for trade in trades()}
    found |= {animal.name for animal in species()} | {*words["bird"], *words["insect"], *words["zoo"], *MORE_PERSONS.split()}
    for kind in words:
        if kind.endswith((".friend", ".role")):  # "a retired robot that writes poems": the noun before what is said about it
            heads = (
                re.split(r" (?:who|that|with|without|in|from|of|on|for|made|asleep|disguised|promoted)\b", w)[0]
                for w in words[kind]
            )
            found |= {head.split()[-1] for head in heads}
    return "(?:" + "|".join(sorted(map(re.escape, found), key=len, reverse=True)) + r")(?![\w'-])"


@cache
def things() -> re.Pattern:
    """Places, ships, cups and the like: what the files of the small world write with a capital and is no first name."""
    found = set(lexicon()["town"])
    texts = [path.read_text(encoding="ascii") for path in (*WORLD.glob("*.txt"), *PLOTS.glob("*.txt")) if path.stem != "names"]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith(("titles:", "#"))]
    for match in re.finditer(r"((?:[a-z]+ )?[a-z]+ )([A-Z][a-z]+(?: [A-Z][a-z]+)*)", "\n".join(lines)):
        found.add(match[0] if match[2] in known() else match[2])  # Nimbus is a cat, "harbour of Nimbus" is none
    return re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, found), key=len, reverse=True)) + r")\b")


@cache
def introductions() -> tuple[re.Pattern, ...]:
    """How a text says who somebody is."""
    name, person = r"(?P<name>[A-Z][a-z]+)\b", persons()
    between = rf"(?:(?!(?:{SMALL_WORDS})\b|{person})[a-z'-]+,? ){{0,3}}"
    owner = r"(?:\b(?i:a|an|the|his|her|my|their|your|our|its|one|another|this)|'s|s') "
    somebody = rf"{owner}{between}{person}"
    not_given = "".join(rf"(?<!\b{verb} )" for verb in GIVING)
    rules = (
        rf"{somebody} {name}",  # her old friend Tom
        rf"{somebody}, {name},",  # her old friend, Tom,
        rf"\bnamed {name}",
        rf"(?:{person},?|\b(?:is|was|were)) called {name}",
        rf"\b(?:call|calls|called|named) (?:me|him|her|it|them) {name}",
        rf"\b[Nn]ames? (?:is|was|were) {name}",
        rf"\b(?:I am|I'm|This is|Here is|They call me) {name}(?=[.,!\"])",
        rf"\b(?:{TITLES})\.? {name}",
        rf"\b{not_given}{name} the {between}{person}",  # Smudge the cat
        rf"\b{name}(?:, who)? (?:is|was) {somebody}",  # Tom was a clever boy
        # Tom, the baker's boy, but not: when she saw Tom, the dog barked
        rf"\b{name}, {somebody}(?=[.,;:!?]| (?:who|that|with|without|of|from|in|on|made|asleep|disguised)\b)",
        rf"\b(?:brothers|sisters|friends|twins|cousins) {name}",
        rf"\b(?:brothers|sisters|friends|twins|cousins) [A-Z][a-z]+ and {name}",
    )
    return tuple(map(re.compile, rules))


def mentions(text: str) -> list[re.Match]:
    """Every mention of a name: known ones, and whatever has a capital inside a sentence and is no thing and no place."""
    text = things().sub(lambda match: match[0].lower(), text)
    words = list(re.finditer(r"\b[A-Z][a-z]+\b", text))
    names = set()
    for word in words:
        before = text[: word.start()]
        inside = re.search(r"[\w,;] \(?$", before) and not re.search(r"\b(?:in|(?:town|village|city|land|island) of) $", before)
        if word[0] in known() or (
            inside
            and word[0] not in CAPITALS
            and word[0].lower() not in SMALL_WORDS.split("|")
            and not re.fullmatch(TITLES, word[0])
        ):
            names.add(word[0])
    found: list[re.Match] = []
    for word in words:
        surname = found and text[found[-1].end() : word.start()] == " "
        if word[0] in names and not surname:
            found.append(word)
    return found


def names_introduced(before: str, text: str) -> list[bool]:
    """For each mention in `text`: whether the name stands in the text before, or its first mention says who that is."""
    found = mentions(text)
    said = {match.start("name") for rule in introductions() for match in rule.finditer(text)}
    first = {match[0]: match.start() for match in reversed(found)}
    good = {name: bool(re.search(rf"\b{name}\b", before)) or start in said for name, start in first.items()}
    return [good[match[0]] for match in found]


class Rule(NamedTuple):
    """A fault, the pattern that finds it, a text that has it and one that only looks like it."""

    name: str
    pattern: str
    wrong: str
    right: str


def _not_after(words: str) -> str:
    return "".join(rf"(?<!\b(?i:{word}) )" for word in words.split())


ASKING = "did does do can could would will should shall must may might let make made help helped saw see "
LINKING = "and or if though than wish wished as nor "
NEGATED = "".join(f" {word}n't" for word in ("did", "does", "do", "could", "would", "should"))
BEFORE_IT = " about above around at behind below beside by for from in inside into near of on over to under with like before after"
AUXILIARIES = "did not|didn't|could|can|would|should|must"
FINITE = "is|was|were|are|am|had|has|did|does|went|said|came|took|gave|knew|told|could|would|should"
PRONOUNS = "he|she|they|it|him|them|we|us|you|I"
DETERMINERS = "a|an|the|my|your|our|their|its|every"
ECHOES = "had|that|no|very|so|ha|now|bye|wait|there|tick|drip|knock|tap|well|please|come|her|is|was"
END = r"(?![\w'-])"
RULES = (
    Rule("a before a vowel", r"\b[Aa] (?!one|once|eu|ewe)[aeio]\w+", "She saw a owl.", "She saw a one-eyed cat."),
    Rule("an before a consonant", r"\b[Aa]n [bcdfgjklmnpqrstvwxyz]\w+", "He ate an pear.", "He waited an hour for an x-ray."),
    Rule("a word twice", rf"(?i:\b(?!(?:{ECHOES})\b)([a-z]+) \1\b)", "The the dog ran.", "He said that that was all he had had."),
    Rule(
        "he with a plural verb",
        rf"{_not_after(ASKING + LINKING + NEGATED + BEFORE_IT)}\b(?:[Hh]e|[Ss]he|[Ii]t) (?:are|were|have|do|am)\b",
        "Then she have a plan.",
        "What should he do? Did she have a plan, as if it were hers? Let it do what it likes. The boys behind it were loud.",
    ),
    Rule("they with a singular verb", r"\b(?:[Tt]hey|[Ww]e) (?:was|is|has|does|am)\b", "They was late.", "They were late."),
    Rule(
        "I with another's verb",
        rf"{_not_after(LINKING)}\bI (?:is|are|has|does|were)\b",
        "Now I are here.",
        "If I were you, I would wait. Tom and I are late. I wish I were tall.",
    ),
    Rule(
        "a past after an auxiliary",
        rf"\b(?:{AUXILIARIES}) (?:went|was|were|had been|saw|took|gave|came|knew|said|told|made)\b",
        "He did not went.",
        "He could go. She did not know what to say.",
    ),
    Rule(
        "two finite verbs",
        r"\b(?:is|was|were|are|am|had|has|could|would|should|must) (?:is|are|am|was|were|has|did|could|would|should|must)\b",
        "The dog was could see.",
        "All he could do was wait. The dog was seen.",
    ),
    Rule(
        "two determiners",
        r"\b(?i:a|an|the|my|your|our|their|its|every) (?:a|an|the|his|my|your|our|their|its|every)\b",
        "It was a the house.",
        "It was his, and all the others knew it.",
    ),
    Rule(
        "a determiner before a verb",
        rf"\b(?i:{DETERMINERS}) (?:{FINITE}|be|been){END}",
        "The was a bird.",
        "The did-not-do list was his.",
    ),
    Rule(
        "a determiner before a small word",
        rf"\b(?i:{DETERMINERS}) (?:{PRONOUNS}|of|at|from|with|into|to|for|and|or|but|because|if|not|there){END}",
        "She took the of bread.",
        "She took the off-road car and the to-do list.",
    ),
    Rule("a determiner at the end", r"\b(?i:an|the|my|your|our|their|every)[.,;!?]", "He saw the.", "He saw theirs. It is his."),
    Rule(
        "a small word at the end",
        r"\b(?:and|or|but|because|than|into|if|whose|as|upon|nor|very)[.!?]",
        "He ran into.",
        "That is what it is made of. Whom did he talk to?",
    ),
    Rule(
        "a preposition before a verb",
        r"\b(?:of|into|at|from|with|for|under) (?:is|was|were|are|am|has|did|went|said|came|knew|told|could|would|should)\b",
        "The roof of was red.",
        "The roof of the house was red.",
    ),
    Rule(
        "two small words",
        r"\b(?:(?:of|into|at|with|from) (?:of|into|and|or|but|than)|(?:and|or|but) (?:and|or|but))\b",
        "He went into of the house.",
        "He knew of it, and of how it went in and out of the house.",
    ),
    Rule(
        "a subject after a preposition",
        r"\b(?:of|at|from|with|into|to|under|behind) (?:he|she|they|I|we)\b",
        "She gave it to he.",
        "She gave it to him, and he laughed.",
    ),
    Rule(
        "two pronouns",
        r"\b(?:he|she|they|we|I) (?:he|she|they|we|I|him|them|us|his|my|their)\b",
        "Then he they saw.",
        "Then he saw them.",
    ),
    Rule(
        "one with a plural", r"\b(?:[Aa]|[Oo]ne) (?:children|mice|feet|teeth|men|women)\b", "One men sang.", "One of the men sang."
    ),
    Rule("a small letter after a full stop", r"[a-z]\. [a-z]", "It rained. he left.", "It rained... He left."),
    Rule("a lost or stray space", r"[a-z][.!?,;][A-Za-z]|\w\s[,;.!?](?!\.)", "He left ,then came.", "He left, then came."),
    Rule("three words repeated", r"\b(\w+ \w+ \w+) \1\b", "on the roof on the roof", "on the roof and on the hill"),
)


def faults(text: str) -> list[str]:
    """The grammar rules that a text breaks, by name; in a paragraph that is followed by another, quotes come in pairs."""
    broken = [rule.name for rule in RULES if re.search(rule.pattern, text)]
    unpaired = any(paragraph.count('"') % 2 for paragraph in text.split("\n\n")[:-1])
    return [*broken, "a quote left open"] if unpaired else broken


def keeps_capital(word: str) -> bool:
    """Whether the capital of a sentence's first word belongs to the word."""
    return word in known() or word in CAPITALS or word == "I"
