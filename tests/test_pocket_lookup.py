"""Sprint 00, look-up in context: every answer is recomputed from the prompt alone by inverting the templates; reserved names."""

import json
import random
import re
from collections import Counter
from importlib import import_module
from zlib import crc32

import pytest

CODE = "sprints.00_pocket_brain.code.text."
lookup, tasks, words = import_module(CODE + "task_lookup"), import_module(CODE + "tasks"), import_module(CODE + "task_words")
copying = import_module(CODE + "task_copy")


@pytest.fixture(scope="module")
def samples():
    """Four of every family, and the mix."""
    rng = random.Random(8)
    return [tasks.task(rng, family) for family in tasks.FAMILIES for _ in range(4)] + [tasks.task(rng) for _ in range(4000)]


def of_kind(samples, *kinds):
    return [sample for sample in samples if sample.family.split("/")[0] in kinds]


def test_what_trains_first_asks_for_every_pair_it_has_told(samples):
    """Told again in the same words, or asked one by one: each answer stands with its subject, and none is asked for twice."""
    for sample in of_kind(samples, "recall"):
        joint = next(joint for joint in lookup.read(lookup.FILE)["joints"] if joint in sample.turns[0])
        said = sample.turns[0].split(joint)
        assert set(Counter(said).values()) in ({2}, {3}, {4}), sample
    for sample in of_kind(samples, "recall_short", "recall_quiz"):
        answers = sample.turns[1::2]
        assert len(set(answers)) == len(answers) >= 2 and all(answer in sample.turns[0] for answer in answers)
        assert len(set(sample.turns[2::2])) == len(sample.turns[2::2])


# Invented names


def ordinary():
    """All words of the data files, which may look reserved by chance."""
    text = " ".join(path.read_text(encoding="ascii") for path in words.DATA.glob("*.yaml"))
    return {word.lower() for word in re.findall("[A-Za-z]+", text)} | set(copying.ORDINALS)


def is_reserved(name):
    return crc32(name.encode()) % 8 == 0


def test_train_never_shows_a_reserved_name(samples):
    known, rng = ordinary(), random.Random(3)
    recalled = [tasks.task(rng, group="recall") for _ in range(1000)]
    for sample in of_kind(
        [*samples, *recalled],
        *tasks.KINDS["lookup"],
        *tasks.KINDS["recall"],
        "copy_words",
        "copy_edit",
        "copy_place",
        "copy_pairs",
        "introduction",
        "tense",
    ):
        for name in re.findall("[A-Za-z]+", " ".join(sample.turns)):
            assert name.lower() in known or not is_reserved(name), (name, sample)


def test_test_names_are_all_reserved_and_invented():
    known, rng = ordinary(), random.Random(1)
    families = [family for family in tasks.FAMILIES if family.startswith("lookup/")]
    real = {name.lower() for name in words.parts(words.read("tasks_lookup.yaml")["pools"]["person"], ",")}
    for count in (1, 2, 4, 6, 10) * 40:
        sample = lookup.lookup(rng, "test", count, rng.choice(families))
        names = [name for name in re.findall("[A-Za-z]+", " ".join(sample.turns)) if name.lower() not in known - real]
        assert names and all(map(is_reserved, names)), sample


def test_there_are_millions_of_names():
    assert len(set(words.STARTS)) * len(set(words.ENDS)) > 500_000
    rng = random.Random(0)
    assert len({words.invented(rng) for _ in range(3000)}) > 2900


# Look-up


def form(kind):
    """What a subject or a value of this kind looks like."""
    numbers = {
        "age": r"\d+",
        "phone": r"[\d-]+",
        "code": r"\d{4}",
        "clock": r"\d+:\d\d",
        "price": r"\d+ coins",
        "weight": r"\d+ pounds",
    }
    pool = words.read("tasks_lookup.yaml")["pools"].get(kind, "") if kind != "person" else ""
    return numbers.get(kind) or "|".join(words.parts(pool, ",")) or (r"\w+(?: \w+)?" if kind == "thing" else r"\w+")


def inverted(template, relation):
    pattern = re.escape(template.removesuffix(".")).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(pattern.format(s=f"(?P<s>{form(relation.subject)})", v=f"(?P<v>{form(relation.value)})"), re.I)


SAYS = [(name, inverted(template, relation)) for name, relation in lookup.relations().items() for template in relation.says]


def parsed(prompt):
    """All (relation, subject, value) that the prompt tells, with every sentence read by the inverted templates."""
    found = []
    for clause in re.split(r"\n|(?<=\.)\s|, and ", prompt):
        clause = re.sub(r"^(- |(Context|Text|Read this|Facts|Remember this): ?(- )?)", "", clause).rstrip(".")
        found += [(name, match["s"], match["v"]) for name, pattern in SAYS if (match := pattern.fullmatch(clause))]
    return found


def asked(template, relation, prompt):
    """The subject or value in the question."""
    match = re.search(r"(?:(?<=\s)|^)" + inverted(template, relation).pattern, prompt)
    assert match, (template, prompt)
    return next(iter(match.groupdict().values()))


@pytest.mark.parametrize("split", ["train", "test"])
def test_lookup_answers_are_the_only_ones_in_the_text(split):
    rng = random.Random(2)
    families = [f for f in tasks.FAMILIES if f.startswith("lookup/")]
    for family in families * 3:
        sample = lookup.lookup(rng, split, rng.randint(2, 6), family)
        assert sample.family == family
        relation, (prompt, answer) = lookup.relations()[family.split("/")[1]], sample.turns
        subject = asked(relation.asks[int(family.split("/")[2])], relation, prompt)
        assert [v for name, s, v in parsed(prompt) if (name, s) == (relation.name, subject)] == [answer], sample
        assert answer in prompt


def test_inverse_answers_are_the_only_ones_in_the_text(samples):
    for sample in of_kind(samples, "lookup_inverse"):
        _, name_asked, at = sample.family.split("/")
        relation, (prompt, answer) = lookup.relations()[name_asked], sample.turns
        value = asked(relation.inverse[int(at)], relation, prompt)
        assert [s for name, s, v in parsed(prompt) if (name, v) == (name_asked, value)] == [answer.removeprefix("the ")], sample


def test_sentences_missing_facts_and_conversations(samples):
    for sample in of_kind(samples, "lookup_sentence"):
        (said,) = parsed(sample.turns[-1])
        assert said in parsed(sample.turns[0]), sample
    fallbacks = {answer for _, answer in words.read("tasks_lookup.yaml")["missing"]}
    missing = of_kind(samples, "lookup_missing")
    assert {True, False} == {sample.turns[-1] in fallbacks for sample in missing}
    for sample in missing:
        values = {v for _, _, v in parsed(sample.turns[0])}
        assert (sample.turns[-1] in fallbacks) != (sample.turns[-1] in values), sample
    for sample in of_kind(samples, "lookup_conversation"):
        assert len(sample.turns) >= 4
        assert set(sample.turns[3::2]) <= {v for _, _, v in parsed(sample.turns[0])}, sample


def test_passages_by_replaying_the_story(samples):
    texts = words.read("tasks_passages.yaml")

    def replay(key, story):
        for template in words.parts(texts[key]):
            pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
            groups = {slot: rf"(?P<{slot}>\w+)" for slot in "plor"}
            yield from (match.groupdict() | {"at": match.start()} for match in re.finditer(pattern.format(**groups), story))

    for sample in of_kind(samples, "passage"):
        (story, answer), (_, kind, at) = sample.turns, sample.family.split("/")
        stays = {event["p"]: event["l"] for key in ("arrive", "both") for event in replay(key, story)}
        first = {event["o"]: event["p"] for key in ("hold", "both") for event in replay(key, story)}
        gifts = sorted(replay("give", story), key=lambda event: event["at"])
        last = first | {gift["o"]: gift["r"] for gift in gifts}
        assert all(first[gift["o"]] == gift["p"] for gift in gifts) and len({gift["o"] for gift in gifts}) == len(gifts)
        template = re.escape(words.parts(texts["asks"][kind])[int(at)])
        asked = re.search(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\w+)", template), story)
        assert asked, sample
        slots = asked.groupdict()
        if kind in ("receiver", "giver"):
            expected = [g for g in gifts if all(g[key] == value for key, value in slots.items())]
            assert [g["r" if kind == "receiver" else "p"] for g in expected] == [answer], sample
        else:
            expected = {
                "place": lambda s: f"the {stays[s['p']]}",  # noqa: B023
                "person_at": lambda s: {place: name for name, place in stays.items()}[s["l"]],  # noqa: B023
                "has": lambda s: last[s["o"]],  # noqa: B023
                "first": lambda s: first[s["o"]],  # noqa: B023
                "object": lambda s: "a " + {name: thing for thing, name in first.items()}[s["p"]],  # noqa: B023
            }[kind](slots)
            assert answer == expected, sample


def test_tables(samples):
    for sample in of_kind(samples, "table"):
        (prompt, answer), (_, form, kind, _) = sample.turns, sample.family.split("/")
        if form == "json":
            table = [list(row.values()) for row in json.loads(re.findall(r"\[.*\]", prompt)[0])]
        elif form == "block":
            table = [re.findall(r"^\w+: (.+)$", f"name: {part}", re.M) for part in re.split(r"(?<!\w)name: ", prompt)[1:]]
        else:
            mark = re.compile(r"^\| (.+) \|$" if form == "markdown" else r"^([^ ,\n]+(?:,[^,?\n]+)+)$", re.M)
            table = [re.split(r" \| |,", row) for row in mark.findall(prompt) if "---" not in row and not row.startswith("name")]
        names = [row[0] for row in table]
        if kind == "count":
            assert answer == str(len(names)), sample
        elif kind == "list":
            assert answer == ", ".join(names), sample
        else:
            question = max(prompt.split("\n"), key=lambda line: line.endswith("?") or line.startswith("Give me"))
            row = [row for row in table if answer in row]
            assert len(row) == 1 and (row[0][0] in question if kind == "cell" else row[0][0] == answer), sample
            assert kind == "cell" or any(value in question for value in row[0][1:]), sample
