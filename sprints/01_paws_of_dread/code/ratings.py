"""Blind marks of texts by hand: a sheet that shows no system, the key to it, and the marks as they are committed."""

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shared.data import read_yaml
from shared.errors import UserError
from shared.report import write_atomically

from .snippets import FILE as SNIPPETS
from .snippets import words
from .vote import digest

FILE = SNIPPETS.with_name("ratings.json")
SHEET, KEY = "sheet.yaml", "key.json"
MARKS = ("cat", "angst", "coherent")
HIGHEST = 2
TEXTS = 60
HOW = """# Fill in every cat, angst and coherent with 0 (no), 1 (partly) or 2 (yes); change nothing else. Leave key.json closed.
# cat: a cat speaks, or it sounds like one. angst: it carries dread, emptiness or death. coherent: the whole makes sense.
"""
Pool = Mapping[str, Sequence[tuple[str, str]]]  # (prompt, text) of each system


@dataclass(frozen=True)
class Rating:
    """One rater's marks of one text, each 0, 1 or 2; `system` wrote it."""

    prompt: str
    text: str
    system: str
    rater: str
    cat: int
    angst: int
    coherent: int

    @property
    def id(self) -> str:
        return digest(self.prompt, self.text)


def sample(pool: Pool, count: int, seed: int) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows {id, prompt, text} in random order and the key {id: system}; every system has equally many, or one more by lot.

    The data set is a system like the others. Texts without a word, and those that two systems wrote to the same prompt,
    are left out. Only the texts and the seed decide, not their order. Raises UserError where a system has too few.
    """
    rng = random.Random(seed)
    written = Counter(one for texts in pool.values() for one in set(texts))
    if not pool or count < len(pool):
        raise UserError(f"{count} texts of {len(pool)} systems: it needs a system, and a text of each")
    least, more = divmod(count, len(pool))
    lucky = set(rng.sample(sorted(pool), more))
    chosen: list[tuple[str, str, str]] = []
    for system in sorted(pool):
        able = sorted(one for one in set(pool[system]) if written[one] == 1 and words(one[1]))
        wanted = least + (system in lucky)
        if len(able) < wanted:
            raise UserError(f"{system} has {len(able)} texts to rate, {wanted} are wanted of it")
        chosen += [(system, *one) for one in rng.sample(able, wanted)]
    rng.shuffle(chosen)
    rows = [{"id": digest(prompt, text), "prompt": prompt, "text": text} for _, prompt, text in chosen]
    return rows, {row["id"]: system for row, (system, *_) in zip(rows, chosen, strict=True)}


def _style(text: str) -> str | None:
    """Double quotes escape what PyYAML would read back as another line break than it wrote."""
    return '"' if re.search(r"[\r\x85\u2028\u2029\ufeff]", text) else "|" if "\n" in text else None


class _Block(yaml.SafeDumper):
    """Texts of several lines stand as they are read."""


YAML = "tag:yaml.org,2002:"
_Block.add_representer(str, lambda to, text: to.represent_scalar(f"{YAML}str", text, style=_style(text)))
_Block.add_representer(type(None), lambda to, _: to.represent_scalar(f"{YAML}null", ""))


def write_sheet(folder: Path, pool: Pool, count: int = TEXTS, seed: int = 0) -> Path:
    """sheet.yaml with empty marks, and key.json apart from it. Raises UserError for a sheet that is there: it may hold marks."""
    sheet = folder / SHEET
    if sheet.exists() or (folder / KEY).exists():
        raise UserError(f"{folder} has a sheet already: take another folder, its marks would be lost")
    rows, key = sample(pool, count, seed)
    empty = [row | dict.fromkeys(MARKS) for row in rows]
    text = yaml.dump(empty, Dumper=_Block, sort_keys=False, allow_unicode=True, width=120)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / KEY, json.dumps(dict(sorted(key.items())), indent=1).encode())
    write_atomically(sheet, (HOW + text).encode())
    return sheet


def collect(folder: Path, rater: str, file: Path = FILE) -> list[Rating]:
    """Add the marks of a filled sheet to the committed ones. Raises UserError for marks that are missing, and changes nothing."""
    sheet, key = folder / SHEET, _parsed(folder / KEY)
    rows = _parsed(sheet)
    if not isinstance(rows, list) or not isinstance(key, dict):
        raise UserError(f"{folder}: its sheet must be a list, its key a table of id and system")
    found = []
    for number, row in enumerate(rows, 1):
        where = f"{sheet}, row {number}"
        _has(row, ("id", "prompt", "text", *MARKS), where)
        known = {"system": key.get(str(row["id"]), "unknown"), "rater": rater}
        found.append(_rating({name: value for name, value in row.items() if name != "id"} | known, where))
        if row["id"] != found[-1].id or row["id"] not in key:
            raise UserError(f"{where}: its id, prompt or text was changed; only marks are to be filled in")
    if missing := len(key) - len({rating.id for rating in found}):
        raise UserError(f"{sheet} lacks {missing} of the {len(key)} texts of its key")
    every = [*(read(file) if file.is_file() else []), *found]
    _once(every, f"{file.name} with {sheet}")
    write_atomically(file, (json.dumps([asdict(rating) for rating in every], indent=1, ensure_ascii=False) + "\n").encode())
    return found


def read(file: Path = FILE) -> list[Rating]:
    """The committed marks. Raises UserError that names the row and what is wrong with it."""
    rows = _parsed(file)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file} holds no ratings: it must be a list of {', '.join(Rating.__annotations__)}")
    found = [_rating(row, f"{file.name}, row {number}") for number, row in enumerate(rows, 1)]
    _once(found, file.name)
    return found


def averaged(ratings: Sequence[Rating], mark: str) -> tuple[list[str], list[float]]:
    """Every rated text once, and its mean mark over raters as a share of the highest: what judges.agreement takes."""
    if mark not in MARKS:
        raise ValueError(f"{mark!r} is no mark, it is one of {', '.join(MARKS)}")
    texts: dict[str, list[Rating]] = {}
    for rating in ratings:
        texts.setdefault(rating.id, []).append(rating)
    means = [float(np.mean([getattr(one, mark) for one in mine])) / HIGHEST for mine in texts.values()]
    return [mine[0].text for mine in texts.values()], means


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else read_yaml(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{file} is not JSON: {' '.join(str(error).split())}") from None


def _has(row: Any, keys: Collection[str], where: str) -> None:
    if not isinstance(row, dict) or set(row) != set(keys):
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: it needs exactly {', '.join(keys)}; it has {found}")


def _rating(row: Any, where: str) -> Rating:
    _has(row, Rating.__annotations__, where)
    for key in ("prompt", "text", "system", "rater"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise UserError(f"{where}: its {key} is empty or no text")
    for key in MARKS:
        if row[key] is None or row[key] == "":
            raise UserError(f"{where}: it has no mark {key} yet")
        if type(row[key]) is not int or not 0 <= row[key] <= HIGHEST:
            raise UserError(f"{where}: its {key} is {row[key]!r}, it must be 0, 1 or 2")
    return Rating(**row)


def _once(ratings: Sequence[Rating], where: str) -> None:
    """Each rater marks a text once, and one text has one author."""
    seen: dict[tuple[str, str], int] = {}
    systems: dict[str, str] = {}
    for number, rating in enumerate(ratings, 1):
        if (first := seen.setdefault((rating.id, rating.rater), number)) != number:
            raise UserError(f"{where}, row {number}: {rating.rater} has marked the text of row {first} already")
        if (system := systems.setdefault(rating.id, rating.system)) != rating.system:
            raise UserError(f"{where}, row {number}: the text is {rating.system}'s here and {system}'s in another row")
