"""Look-up in context: facts about invented names, then a question. `lookup` is also the evaluation gate of the sprint.

Question phrasings from the third on occur only in their own lookup/ family, so holding that family out holds the phrasing out.
"""

import random
from dataclasses import dataclass
from functools import cache, partial

from .sample import Sample
from .task_words import Families, Split, distinct, invented, parts, person, read, sentence_case

FILE = "tasks_lookup.yaml"
LOWERED = ("The ", "In ", "To ", "On ", "By ", "At ", "Of ", "For ", "If ", "You ", "They ", "Someone ", "Nothing ", "No ", "Be ")
COMMON_ASKS = 2  # phrasings that the other kinds share


@dataclass(frozen=True)
class Relation:
    name: str
    subject: str
    value: str
    says: tuple[str, ...]
    asks: tuple[str, ...]
    inverse: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    relation: Relation
    subject: str
    value: str

    def say(self, at: int) -> str:
        return sentence_case(self.relation.says[at].format(s=self.subject, v=self.value))

    def ask(self, at: int) -> str:
        return self.relation.asks[at].format(s=self.subject)


@cache
def relations() -> dict[str, Relation]:
    found = {}
    for name, record in read(FILE)["relations"].items():
        texts = {key: parts(record[key]) for key in ("says", "asks", "inverse")}
        found[name] = Relation(name, record["subject"], record["value"], **texts)
    return found


@cache
def of_subject(kind: str) -> list[Relation]:
    return [relation for relation in relations().values() if relation.subject == kind]


def thing(rng: random.Random, split: Split) -> str:
    pools = read(FILE)["pools"]
    adjective = rng.choice(parts(pools["thing_adjective"], ","))
    if split == "test" or rng.random() < 0.5:
        noun = invented(rng, split, lower=True)
        return noun if rng.random() < 0.5 else f"{adjective} {noun}"
    return f"{adjective} {rng.choice(parts(pools['thing_noun'], ','))}"


def word(rng: random.Random, split: Split, kind: str) -> str:
    """A subject or a value of this kind; numbers are spelled with digits."""
    if kind in ("name", "land", "ship", "room"):
        return invented(rng, split)
    if kind == "person":
        return person(rng, split)
    if kind == "thing":
        return thing(rng, split)
    draw = rng.random()
    if kind == "age":
        return str(3 + int(95 * draw))
    if kind == "phone":
        return f"555-{int(10_000 * draw):04}" if draw * 100 % 1 < 0.5 else str(int(100_000 + 900_000 * draw))
    if kind == "code":
        return f"{int(10_000 * draw):04}"
    if kind == "clock":
        return f"{6 + int(14 * draw)}:{rng.choice(('00', '15', '30', '45'))}"
    if kind in ("price", "weight"):
        return f"{2 + int(98 * draw)} {read(FILE)['units'][kind]}"
    pool = parts(read(FILE)["pools"][kind], ",")
    return pool[int(draw * len(pool))]


def draw_facts(rng: random.Random, split: Split, count: int, asked: Relation) -> list[Fact]:
    """`count` facts of which the first is the one to ask for. No subject or value occurs twice in the same role, so that every
    question has one answer in both directions. The others share its relation, or its subjects, or nothing."""
    used: set[str] = set()
    style = rng.random()
    if style < 0.45:
        pairs = [(asked, subject) for subject in distinct(partial(word, rng, split, asked.subject), count, used)]
    elif style < 0.8:
        near = of_subject(asked.subject)
        fewest = -(-count // len(near))
        subjects = distinct(partial(word, rng, split, asked.subject), max(fewest, rng.randint(1, 3)), used)
        others = [(relation, subject) for relation in near for subject in subjects if (relation, subject) != (asked, subjects[0])]
        pairs = [(asked, subjects[0]), *rng.sample(others, count - 1)]
    else:
        kinds = [asked, *rng.choices(list(relations().values()), k=count - 1)]
        pairs = [(relation, distinct(partial(word, rng, split, relation.subject), 1, used)[0]) for relation in kinds]
    return [Fact(r, subject, distinct(partial(word, rng, split, r.value), 1, used)[0]) for r, subject in pairs]


def tell(rng: random.Random, facts: list[Fact]) -> str:
    """The facts in random order and wording, as running text, lines or bullets."""
    said = [fact.say(int(rng.random() * len(fact.relation.says))) for fact in facts]
    rng.shuffle(said)
    style = rng.random()
    if style < 0.15:
        return "- " + "\n- ".join(said)
    if style < 0.4:
        return "\n".join(said)
    if style < 0.5 and len(said) > 2:
        second = said.pop()
        said[0] = f"{said[0][:-1]}, and {second[0].lower() + second[1:] if second.startswith(LOWERED) else second}"
    return " ".join(said)


def lay_out(rng: random.Random, context: str, question: str) -> str:
    layout = rng.choice(read(FILE)["layouts"])
    if "\n" in context:
        layout = layout.replace("{c} {q}", "{c}\n{q}")  # else the question would join the last line
    return layout.format(c=context, q=question)


def size(rng: random.Random) -> int:
    return rng.choice((2, 2, 3, 3, 3, 4, 4, 5, 6))


def direct(relation: Relation, at: int, split: Split, count: int, rng: random.Random) -> Sample:
    facts = draw_facts(rng, split, count or size(rng), relation)
    return Sample(f"lookup/{relation.name}/{at}", (lay_out(rng, tell(rng, facts), facts[0].ask(at)), facts[0].value))


def lookup(rng: random.Random, split: Split, facts: int, family: str) -> Sample:
    """One question about `facts` facts; the last turn is the exact short answer. Test names are all invented and reserved."""
    _, name, number = family.split("/")
    return direct(relations()[name], int(number), split, facts, rng)


def inverse(relation: Relation, at: int, rng: random.Random) -> Sample:
    """Who has this value?"""
    facts = draw_facts(rng, "train", size(rng), relation)
    answer = f"the {facts[0].subject}" if relation.subject == "thing" else facts[0].subject
    question = relation.inverse[at].format(v=facts[0].value)
    return Sample(f"lookup_inverse/{relation.name}/{at}", (lay_out(rng, tell(rng, facts), question), answer))


def drawn(rng: random.Random) -> list[Fact]:
    return draw_facts(rng, "train", size(rng), rng.choice(list(relations().values())))


def common_ask(rng: random.Random, fact: Fact) -> str:
    return fact.ask(int(rng.random() * COMMON_ASKS))


def sentence(at: int, rng: random.Random) -> Sample:
    facts = drawn(rng)
    question = read(FILE)["sentence"][at].format(q=common_ask(rng, facts[0]))
    return Sample(f"lookup_sentence/{at}", (lay_out(rng, tell(rng, facts), question), facts[0].say(0)))


def missing(at: int, rng: random.Random) -> Sample:
    """A question that the text does not answer; where the prompt names the fallback, half of the questions do have an answer."""
    facts = drawn(rng)
    form, answer = read(FILE)["missing"][at]
    asked, told = facts[0], {(fact.relation.name, fact.subject) for fact in facts}
    if at and rng.random() < 0.5:
        answer = asked.value
    else:
        near = [other for other in of_subject(asked.relation.subject) if (other.name, asked.subject) not in told]
        if near and rng.random() < 0.5:
            asked = Fact(rng.choice(near), asked.subject, "")
        else:
            used = {fact.subject for fact in facts} | {fact.value for fact in facts}
            stranger = distinct(partial(word, rng, "train", asked.relation.subject), 1, used)[0]
            asked = Fact(asked.relation, stranger, "")
    return Sample(f"lookup_missing/{at}", (lay_out(rng, tell(rng, facts), form.format(q=common_ask(rng, asked))), answer))


def conversation(at: int, rng: random.Random) -> Sample:
    """A question about every fact of one text: many answers for a model to learn from, and each needs another of the facts."""
    facts = drawn(rng)
    context = tell(rng, facts)
    asked = rng.sample(facts, len(facts))
    openings = read(FILE)["openings"]
    turns: list[str] = []
    if at < len(openings):
        turns += [openings[at][0].format(c=context), openings[at][1]]
    for fact in asked:
        question = common_ask(rng, fact)
        turns += [question if turns else lay_out(rng, context, question), fact.value]
    return Sample(f"lookup_conversation/{at}", tuple(turns))


def pairs(rng: random.Random) -> list[Fact]:
    """Facts of one relation."""
    relation, count = rng.choice(list(relations().values())), rng.randint(2, 6)
    used: set[str] = set()
    subjects = distinct(partial(word, rng, "train", relation.subject), count, used)
    values = distinct(partial(word, rng, "train", relation.value), count, used)
    return [Fact(relation, subject, value) for subject, value in zip(subjects, values, strict=True)]


def recall(at: int, rng: random.Random) -> Sample:
    """Bare pairs, told again in other orders: after a subject comes its value, which a model learns before any question."""
    link, joint = read(FILE)["links"][at], rng.choice(read(FILE)["joints"])
    said = [fact.subject + link + fact.value for fact in pairs(rng)]
    again = [pair for _ in range(rng.randint(1, 3)) for pair in rng.sample(said, len(said))]
    return Sample(f"recall/{at}", (joint.join(said + again),))


def short(at: int, rng: random.Random) -> Sample:
    """Bare pairs, then every subject as a message: the step from telling again to answering."""
    facts, link, form = pairs(rng), rng.choice(read(FILE)["links"]), read(FILE)["short_asks"][at]
    context = rng.choice(read(FILE)["joints"]).join([fact.subject + link + fact.value for fact in facts])
    asked = [(form.format(s=fact.subject, l=link.rstrip()), fact.value) for fact in rng.sample(facts, len(facts))]
    return Sample(f"recall_short/{at}", (f"{context}\n{asked[0][0]}", asked[0][1], *sum(asked[1:], ())))


def quiz(at: int, rng: random.Random) -> Sample:
    """Sentences of one relation in the layout `at`, then a question about every one of them."""
    facts = pairs(rng)
    asked = [(common_ask(rng, fact), fact.value) for fact in rng.sample(facts, len(facts))]
    first = read(FILE)["layouts"][at].format(c=tell(rng, facts), q=asked[0][0])
    return Sample(f"recall_quiz/{at}", (first, asked[0][1], *sum(asked[1:], ())))


def recalls() -> dict[str, tuple[float, Families]]:
    """Weight and families of what trains first: to find the value that belongs to a subject. Questions alone teach it far later."""
    texts = read(FILE)
    return {
        "recall": (0.3, {f"recall/{at}": partial(recall, at) for at in range(len(texts["links"]))}),
        "recall_short": (0.3, {f"recall_short/{at}": partial(short, at) for at in range(len(texts["short_asks"]))}),
        "recall_quiz": (0.4, {f"recall_quiz/{at}": partial(quiz, at) for at in range(len(texts["layouts"]))}),
    }


def kinds() -> dict[str, tuple[float, Families]]:
    """Weight and families of every kind of look-up in this file."""
    known, texts = relations().values(), read(FILE)
    asks = {f"lookup/{r.name}/{at}": partial(direct, r, at, "train", 0) for r in known for at in range(len(r.asks))}
    inverses = {f"lookup_inverse/{r.name}/{at}": partial(inverse, r, at) for r in known for at in range(len(r.inverse))}
    return {
        "lookup": (0.30, asks),
        "lookup_inverse": (0.12, inverses),
        "lookup_sentence": (0.06, {f"lookup_sentence/{at}": partial(sentence, at) for at in range(len(texts["sentence"]))}),
        "lookup_missing": (0.07, {f"lookup_missing/{at}": partial(missing, at) for at in range(len(texts["missing"]))}),
        "lookup_conversation": (
            0.35,
            {f"lookup_conversation/{at}": partial(conversation, at) for at in range(len(texts["openings"]) + 1)},
        ),
    }
