"""The patterns of data/*.yaml: schema, split by id, and the rows of every part of the evaluation.

patterns = load()
patterns.training_rows()            taught (test and dev) patterns x training lead-ins
patterns.rows("S2", "test")         the test patterns under a lead-in that never trains

S1 trained prompts, S2 unseen lead-in, S3 unseen wording of the tail, S4 patterns that never train, S5 near misses (same template,
unknown entity: the taught completion must not come), S6 private key -> value facts.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shared.data import read_yaml
from shared.errors import UserError
from shared.report import write_atomically

DATA = Path(__file__).resolve().parents[1] / "data"
PREFIXES = {"code_idioms": "idiom-", "facts": "fact-", "formats": "format-", "error_fixes": "fix-"}  # file -> how its ids begin
DEV, HELD_OUT = 0.2, 0.2  # shares of every category; the rest is test
ORIGINAL_LEADS = {  # what the original put before a prompt, beside nothing
    "code_idioms": ("", "Complete: ", "Continue: ", "Finish this: ", "What comes next: "),
    "facts": ("", "Tell me: ", "Answer: "),
}
ORIGINAL_TEST = {"code_idioms": 28, "facts": 24, "formats": 25, "error_fixes": 27}  # of its 104 test rows
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
Part = Literal["S1", "S2", "S3", "S4", "S5", "S6", "original"]
Group = Literal["test", "dev"]


@dataclass(frozen=True)
class Pattern:
    """One thing to learn. `tails` word the prompt differently up to its end; `near_miss` is its template about an unknown entity;
    `original_shape` marks the 131 that stand for the original's."""

    id: str
    category: str
    prompt: str
    completion: str
    tails: tuple[str, ...]
    near_miss: str
    original_shape: bool = False


@dataclass(frozen=True)
class Row:
    """A prompt with its completion; of S5 rows it is the taught completion, which must not come."""

    pattern: str
    part: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Leads:
    """What is put before the prompts of a category: `train` in training, `dev` while tuning, `test` in S2."""

    train: tuple[str, ...]
    dev: str
    test: str


@dataclass(frozen=True)
class Patterns:
    """Every pattern, the lead-ins of every category, and the split: dev patterns choose the learning rate, test patterns are
    scored, both are taught; held-out ones are never taught."""

    patterns: tuple[Pattern, ...]
    leads: dict[str, Leads]
    test: tuple[Pattern, ...]
    dev: tuple[Pattern, ...]
    held_out: tuple[Pattern, ...]

    def training_rows(self) -> list[Row]:
        """Taught patterns (test, then dev) x training lead-ins."""
        return [*self.rows("S1", "test"), *self.rows("S1", "dev")]

    def rows(self, part: Part, group: Group = "test") -> list[Row]:
        """The rows of S1 to S5. S2 of `dev` has a lead-in of its own; S4 is the same for both groups: nothing is tuned on it."""
        if part == "S4":
            return [Row(p.id, part, p.prompt, p.completion) for p in self.held_out]
        if part not in ("S1", "S2", "S3", "S5"):
            raise ValueError(f"no rows of part {part!r} here: S6 is private_facts()")
        taught: tuple[Pattern, ...] = getattr(self, group)
        return [Row(p.id, part, prompt, p.completion) for p in taught for prompt in self._prompts(p, part, group)]

    def _prompts(self, pattern: Pattern, part: Part, group: Group) -> Sequence[str]:
        leads = self.leads[pattern.category]
        if part == "S1":
            return [lead + pattern.prompt for lead in leads.train]
        if part == "S2":
            return [(leads.test if group == "test" else leads.dev) + pattern.prompt]
        return pattern.tails if part == "S3" else [pattern.near_miss]


def load(folder: Path = DATA, seed: int = 0) -> Patterns:
    """The four files of `folder`, split by id within every category. Raises UserError that names file and entry."""
    found: list[Pattern] = []
    leads: dict[str, Leads] = {}
    for category in PREFIXES:
        leads[category], patterns = _read(folder / f"{category}.yaml", category)
        found += patterns
    for name in ("id", "prompt"):
        seen: dict[str, Pattern] = {}
        for pattern in found:
            if (first := seen.setdefault(getattr(pattern, name), pattern)) is not pattern:
                raise UserError(f"{pattern.category}.yaml, {pattern.id}: its {name} is that of {first.id} in {first.category}.yaml")
    parts = [split([p for p in found if p.category == category], seed) for category in PREFIXES]
    test, dev, held_out = (tuple(p for part in parts for p in part[at]) for at in range(3))
    return Patterns(tuple(found), leads, test, dev, held_out)


def split(patterns: Sequence[Pattern], seed: int) -> tuple[list[Pattern], list[Pattern], list[Pattern]]:
    """(test, dev, held out) of one category, by the rank of sha256(seed, id): the order in the file does not matter."""
    ranked = sorted(patterns, key=lambda p: sha256(f"{seed} {p.id}".encode()).digest())
    dev, held_out = round(DEV * len(ranked)), round(HELD_OUT * len(ranked))
    return ranked[dev + held_out :], ranked[:dev], ranked[dev : dev + held_out]


def _read(file: Path, category: str) -> tuple[Leads, list[Pattern]]:
    content = read_yaml(file, "ascii")
    if not isinstance(content, dict) or set(content) != {"leads", "patterns"}:
        raise UserError(f"{file.name}: it needs exactly leads and patterns")
    if not isinstance(content["patterns"], list) or not content["patterns"]:
        raise UserError(f"{file.name}: patterns must be a list with at least one entry")
    entries = [_pattern(entry, f"{file.name}, entry {number}", category) for number, entry in enumerate(content["patterns"], 1)]
    return _leads(content["leads"], f"{file.name}, leads"), entries


def _leads(entry: Any, where: str) -> Leads:
    if not isinstance(entry, dict) or set(entry) != {"train", "dev", "test"} or not isinstance(entry["train"], list):
        raise UserError(f"{where}: it needs a list train, and the texts dev and test")
    every = [*entry["train"], entry["dev"], entry["test"]]
    if not all(isinstance(lead, str) for lead in every) or "" not in entry["train"]:
        raise UserError(f'{where}: every lead-in is a text, and the empty one ("") trains')
    if bad := [lead for lead in every if lead and not lead.endswith((" ", "\n"))]:
        raise UserError(f"{where}: {bad[0]!r} must end with a space or a newline")
    if len(set(every)) < len(every):
        raise UserError(f"{where}: a lead-in stands there twice; those of dev and test must never train")
    return Leads(tuple(entry["train"]), entry["dev"], entry["test"])


def _pattern(entry: Any, where: str, category: str) -> Pattern:
    texts = ("id", "prompt", "completion", "near_miss")
    needed = {*texts, "tails"}
    if not isinstance(entry, dict) or not needed <= set(entry) <= {*needed, "original_shape"}:
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise UserError(f"{where}: it needs {', '.join(sorted(needed))}, and perhaps original_shape; it has {found}")
    where = f"{where} ({entry['id']})"
    for key in texts:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise UserError(f"{where}: its {key} is empty or no text (quote it)")
    tails = entry["tails"]
    if not isinstance(tails, list) or len(tails) != 2 or not all(isinstance(tail, str) and tail.strip() for tail in tails):
        raise UserError(f"{where}: its tails must be two texts")
    prompts = (entry["prompt"], *tails, entry["near_miss"])
    if len(set(prompts)) < len(prompts):
        raise UserError(f"{where}: its prompt, tails and near_miss must differ")
    if bad := [text for text in prompts if text != text.rstrip(" ")]:
        raise UserError(f"{where}: {bad[0]!r} ends with a space; the space belongs to the completion")
    if not entry["id"].startswith(PREFIXES[category]):
        raise UserError(f"{where}: its id must begin with {PREFIXES[category]}")
    if not isinstance(entry.get("original_shape", False), bool):
        raise UserError(f"{where}: its original_shape must be true or false")
    return Pattern(**(entry | {"tails": tuple(tails), "category": category}))


def private_facts(count: int, seed: int) -> list[Row]:
    """S6: `count` facts that no text holds, each an invented key and an invented value (they depend on the seed).

    Keys are unique and stand at the end of the prompt: its last tokens say which fact it is. Values may repeat. A smaller count
    gives the first facts of a larger one. Raises ValueError where there are not so many keys."""
    if count > (len(CONSONANTS) * len(VOWELS)) ** 3 // 2:
        raise ValueError(f"there are not enough keys for {count} facts")
    generator = random.Random(f"private facts {seed}")

    def word(syllables: int) -> str:
        return "".join(generator.choice(CONSONANTS) + generator.choice(VOWELS) for _ in range(syllables))

    facts: dict[str, str] = {}
    while len(facts) < count:
        facts.setdefault(word(3), word(2))
    return [Row(f"private-{n}", "S6", f"Code of {key}:", f" {value}") for n, (key, value) in enumerate(facts.items())]


class OriginalRows(NamedTuple):
    """The rows of the original's protocol: 269 train, 68 valid, 104 test."""

    train: list[Row]
    valid: list[Row]
    test: list[Row]


def original_rows(patterns: Patterns, seed: int = 42) -> OriginalRows:
    """The original's protocol, leak included, on our patterns of its shape: 131 patterns become 337 rows by prefixes (idioms x5,
    facts x3, the rest x1), the rows are shuffled and cut at 80 %, so that wordings of one pattern stand on both sides; the test
    prompts are raw patterns again. The original took up to three of each of its forty categories: we take as many per file."""
    ours = [p for p in patterns.patterns if p.original_shape]
    generator = random.Random(seed)
    rows = [Row(p.id, "original", lead + p.prompt, p.completion) for p in ours for lead in ORIGINAL_LEADS.get(p.category, ("",))]
    generator.shuffle(rows)
    cut = int(0.8 * len(rows))
    test: list[Row] = []
    for category, count in ORIGINAL_TEST.items():
        raw = [Row(p.id, "original", p.prompt, p.completion) for p in ours if p.category == category]
        test += generator.sample(raw, min(count, len(raw)))
    return OriginalRows(rows[:cut], rows[cut:], test)


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """One row per line, as JSON; the file is there whole or not at all."""
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def retention_text(name: Literal["unrelated", "near_domain"]) -> str:
    """A text that nothing trains on: everyday prose, or code, questions and errors about other things than the patterns'."""
    return (DATA / f"{name}.txt").read_text(encoding="utf-8")
