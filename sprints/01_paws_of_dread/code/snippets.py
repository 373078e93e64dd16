"""The snippets of data/cats.yaml: schema, splits, tokens and labels; the same for every backend.

A row is held out when its theme or its form is: it shares its subject with training rows, or its template, or (`unseen` "both")
neither.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shared.data import read_yaml
from shared.errors import UserError

FILE = Path(__file__).resolve().parents[1] / "data" / "cats.yaml"
FORMS = ("musing", "dialogue", "diary", "review", "meme", "letter", "list", "oracle", "report")
FORMS += ("poem", "advert", "haiku", "bulletin", "advice")
HELD_OUT = {  # the forms and the themes that never train
    "validation": ({"poem", "advert"}, {"rain", "keyboard"}),
    "test": ({"haiku", "bulletin", "advice"}, {"mirror", "vacuum", "sunbeam", "names"}),
}
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Snippet:
    theme: str
    form: str
    prompt: str
    completion: str

    @property
    def split(self) -> Split:
        """test before validation: what either of them keeps back does not train."""
        for split in ("test", "validation"):
            forms, themes = HELD_OUT[split]
            if self.form in forms or self.theme in themes:
                return split
        return "train"

    @property
    def unseen(self) -> str:
        """What of a test row never trains: form, theme or both."""
        form, theme = (any(value in names[at] for names in HELD_OUT.values()) for at, value in enumerate((self.form, self.theme)))
        return "both" if form and theme else "form" if form else "theme"


def read(file: Path = FILE) -> list[Snippet]:
    """All rows. Raises UserError that names the row and what is wrong with it."""
    rows = read_yaml(file)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file} has no rows: it must be a list of theme, form, prompt, completion")
    found = [_checked(row, f"{file.name}, row {number}") for number, row in enumerate(rows, 1)]
    seen: dict[str, int] = {}
    for number, snippet in enumerate(found, 1):
        if (first := seen.setdefault(normal(snippet.completion), number)) != number:
            raise UserError(f"{file.name}, row {number}: the completion of row {first} again")
    return found


def _checked(row: Any, where: str) -> Snippet:
    keys = ("theme", "form", "prompt", "completion")
    if not isinstance(row, dict) or set(row) != set(keys):
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: it needs exactly {', '.join(keys)}; it has {found}")
    for key in keys:
        if not isinstance(row[key], str) or not row[key].strip():
            raise UserError(f"{where}: its {key} is empty or no text")
    if row["form"] not in FORMS:
        raise UserError(f"{where}: unknown form {row['form']!r}, choose one of {', '.join(FORMS)}")
    return Snippet(**{key: row[key].strip() for key in keys})


def normal(text: str) -> str:
    """The words of a text, for comparing."""
    return " ".join(words(text))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + n]) for at in range(len(found) - n + 1)}


def split(snippets: Iterable[Snippet], name: Split) -> list[Snippet]:
    return [snippet for snippet in snippets if snippet.split == name]


def digest(snippets: Sequence[Snippet]) -> str:
    """sha256 of the rows, in their order."""
    return hashlib.sha256(repr(list(snippets)).encode()).hexdigest()


def shuffled(snippet: Snippet, seed: int) -> Snippet:
    """A control: the same words in random order, so that whoever only knows the vocabulary gains as much on it."""
    tokens = re.findall(r"\S+|\n", snippet.completion)
    plain = [token for token in tokens if token != "\n"]
    random.Random(f"{seed} {snippet.completion}").shuffle(plain)
    left = iter(plain)
    text = " ".join("\n" if token == "\n" else next(left) for token in tokens)
    return replace(snippet, completion=re.sub(r" ?\n ?", "\n", text))


def mixed(snippets: Iterable[Snippet]) -> list[Snippet]:
    """The other control: rows whose training completions have their words in random order. Whoever trains on them learns the
    vocabulary and the length, and no sentence."""
    return [shuffled(snippet, 0) if snippet.split == "train" else snippet for snippet in snippets]


def toy(snippets: Sequence[Snippet]) -> list[Snippet]:
    """A few training and validation rows, for runs of seconds."""
    return [*split(snippets, "train")[:16], *split(snippets, "validation")[:4]]


def chat(snippet: Snippet, examples: Sequence[Snippet] = ()) -> list[dict[str, str]]:
    """The messages before the completion; examples become earlier turns (few-shot)."""
    turns = [(e.prompt, e.completion) for e in examples]
    said = [{"role": role, "content": text} for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [*said, {"role": "user", "content": snippet.prompt}]


@dataclass(frozen=True)
class Encoded:
    """Tokens of a conversation; those from `start` on are the completion and its end sign."""

    ids: list[int]
    start: int


def encode(
    tokenizer: Any, stop_ids: Sequence[int], snippet: Snippet, *, end: bool = True, examples: Sequence[Snippet] = ()
) -> Encoded:
    """Prompt and completion in the chat template, up to and with the end sign of the turn (`end` False: without it)."""
    messages = chat(snippet, examples)
    quiet = {"return_dict": False, "tokenizer_kwargs": {"verbose": False}}  # of its lengths we speak ourselves
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **quiet)
    answer = {"role": "assistant", "content": snippet.completion}
    ids = tokenizer.apply_chat_template([*messages, answer], **quiet)
    if ids[: len(prompt)] != prompt:
        raise UserError("the chat template of this model writes a prompt differently once its answer is there: use another model")
    stops = [place for place in range(len(prompt), len(ids)) if ids[place] in stop_ids]
    if not stops:
        raise UserError("the chat template of this model ends no answer: it would never learn to stop; use another model")
    return Encoded(ids[: stops[0] + end], len(prompt))


def encode_all(
    tokenizer: Any, stop_ids: Sequence[int], snippets: Sequence[Snippet], max_length: int, *, end: bool = True
) -> tuple[list[Encoded], int]:
    """Every row, and how many were cut to max_length tokens; rows whose prompt alone is longer raise UserError."""
    found, cut = [], 0
    for snippet in snippets:
        encoded = encode(tokenizer, stop_ids, snippet, end=end)
        if encoded.start >= max_length:
            raise UserError(f"a prompt has {encoded.start} tokens, more than --max-length {max_length}: {snippet.prompt[:60]!r}...")
        cut += len(encoded.ids) > max_length
        found.append(Encoded(encoded.ids[:max_length], encoded.start))
    return found, cut
