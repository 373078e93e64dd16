"""Blind votes on pairs of scenes: the page that collects them, and what follows from the files that it saves.

$ .venv/bin/python -m sprints.05_cyoa.code.votes votes-*.json                           ranking, agreement, who paid attention
$ .venv/bin/python -m sprints.05_cyoa.code.votes --add vote.html --database sqlite:///stories.db   the app asks for these pairs too

Some pairs are checks: an authored scene against the same scene with its words shuffled; who fails half or more is not counted.
"""

import base64
import hashlib
import json
import random
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from shared.errors import UserError
from shared.runlog import console

from . import bradley_terry, corruption
from .bradley_terry import SHUFFLED
from .storytext import Example

WEB = Path(__file__).with_name("web")
CHECK_EVERY = 6  # pairs per check
PAIRS = re.compile(r'(?<=id="pairs">)([^<]*)(?=<)')
Side = Literal["left", "right", "tie"]


@dataclass(frozen=True)
class Vote:
    """One answer: who, on which pair, which systems wrote the two texts, which one won, milliseconds."""

    rater: str
    id: str
    left: str
    right: str
    winner: Side
    ms: int

    @property
    def is_check(self) -> bool:
        return SHUFFLED in (self.left, self.right)

    @property
    def chosen(self) -> str | None:
        return {"left": self.left, "right": self.right, "tie": None}[self.winner]


def pairs(examples: Sequence[Example], answers: Mapping[str, Sequence[str]], seed: int = 0) -> list[dict[str, Any]]:
    """A pair per prompt, {id, prompt, texts: {system: text}}: the model against each other system in turn; and the checks."""
    others, due = [name for name in answers if name != "model"], False
    found = []
    for at, example in enumerate(examples):
        prompt, other = "\n\n".join(message["content"] for message in example.messages), others[at % len(others)]
        found.append(_pair(prompt, {"model": answers["model"][at], other: answers[other][at]}))
        due |= at % CHECK_EVERY == 0
        if due and other != "authored":  # who has seen an authored scene beside its shuffled words knows it in another pair
            due = False
            (worse,) = corruption.spoiled(corruption.shuffle_words, [example.response], seed + at)
            found.append(_pair(prompt, {"authored": example.response, SHUFFLED: worse}))
    return [pair for pair in found if len(set(pair["texts"].values())) == 2]


def _pair(prompt: str, texts: dict[str, str]) -> dict[str, Any]:
    content = json.dumps([prompt, texts], sort_keys=True)
    return {"id": hashlib.sha256(content.encode()).hexdigest()[:12], "prompt": prompt, "texts": texts}


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """The voting page of the app as one file that needs no network, with the pairs in it."""
    if not found:
        raise UserError("there are no pairs to vote on")
    html, css, script = ((WEB / f"vote.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    key = "votes-" + hashlib.sha256("".join(pair["id"] for pair in found).encode()).hexdigest()[:16]
    packed = base64.b64encode(json.dumps({"key": key, "pairs": list(found)}).encode()).decode()
    html = html.replace('<link rel="stylesheet" href="vote.css">', f"<style>\n{css}</style>")
    html = html.replace('<script src="vote.js" defer></script>', f"<script>\n{script}</script>")
    return PAIRS.sub(packed, html, count=1)


def read_page(path: Path) -> list[dict[str, Any]]:
    """The pairs of a page. Raises UserError where there are none."""
    try:
        packed = PAIRS.findall(path.read_text(encoding="utf-8"))[0]
        return json.loads(base64.b64decode(packed))["pairs"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} is no voting page with pairs in it") from None


def read(paths: Iterable[Path]) -> list[Vote]:
    """The votes of files that the page saved. Raises UserError for a damaged file, and for a rater's vote given twice."""
    found: dict[tuple[str, str], Vote] = {}
    for path in paths:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path} is not JSON: give the files that the page's `Download votes` saves") from None
        if not isinstance(rows, list):
            raise UserError(f"{path} is no list of votes")
        for number, row in enumerate(rows, 1):
            vote = _vote(row, f"{path}, vote {number}")
            if (vote.rater, vote.id) in found:
                raise UserError(f"{path}, vote {number}: {vote.rater} has voted on this pair before: give each file once")
            found[vote.rater, vote.id] = vote
    return list(found.values())


def _vote(row: Any, where: str) -> Vote:
    keys = [field.name for field in fields(Vote)]
    if not isinstance(row, dict) or set(row) != set(keys):
        raise UserError(f"{where}: it needs exactly {', '.join(keys)}")
    if not all(isinstance(row[key], str) and row[key] for key in keys[:-1]) or row["left"] == row["right"]:
        raise UserError(f"{where}: its fields are text, left and right two systems")
    if row["winner"] not in get_args(Side) or isinstance(row["ms"], bool) or not isinstance(row["ms"], int) or row["ms"] < 0:
        raise UserError(f"{where}: winner is one of {', '.join(get_args(Side))}, ms a whole number from 0 on")
    return Vote(**row)


def inattentive(votes: Iterable[Vote]) -> set[str]:
    """Raters who took the shuffled text for the better one, or for as good, in half of their checks or more."""
    passed: defaultdict[str, list[bool]] = defaultdict(list)
    for vote in votes:
        if vote.is_check:
            passed[vote.rater].append(vote.chosen not in (None, SHUFFLED))
    return {rater for rater, checks in passed.items() if 2 * sum(checks) <= len(checks)}


def counted(votes: Sequence[Vote]) -> list[Vote]:
    """The votes that count: no checks, and none of an inattentive rater."""
    out = inattentive(votes)
    return [vote for vote in votes if not vote.is_check and vote.rater not in out]


def cast(votes: Iterable[Vote]) -> list[bradley_terry.Cast]:
    return [(vote.left, vote.right, {"left": "a", "right": "b", "tie": "tie"}[vote.winner]) for vote in votes]


def agreement(votes: Iterable[Vote]) -> float | None:
    """Krippendorff's alpha, ordinal, of which text of a pair is better."""
    units: defaultdict[str, list[float]] = defaultdict(list)
    for vote in votes:
        first = min(vote.left, vote.right)
        units[vote.id].append(0.0 if vote.chosen is None else 1.0 if vote.chosen == first else -1.0)
    return bradley_terry.agreement(units.values())


def main(files: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), add: Path | None = None, database: str = "") -> None:
    """Rank the systems by the votes in these files; or, with --add PAGE --database URL, let the app ask for the page's pairs."""
    if add:
        _add(add, database)
        return
    votes = read(files)
    if not (kept := counted(votes)):
        raise UserError("no vote counts: give files of votes, of raters who pass the checks")
    for row in bradley_terry.fit(cast(kept), [vote.rater for vote in kept]):
        console.print(f"{row.model:12} {row.rating:5.0f}  [{row.low:.0f}, {row.high:.0f}]")
    alpha, out = agreement(kept), inattentive(votes)
    console.print(f"{len(kept)} votes; not counted for want of attention: {', '.join(sorted(out)) or 'nobody'}")
    console.print("no pair has two raters: agreement is unknown" if alpha is None else f"Krippendorff's alpha {alpha:.2f}")


def _add(path: Path, database: str) -> None:
    """Pairs and checks, each once: the id of a pair is made of its texts."""
    from sqlalchemy import select

    from .api import evaluation, store, tables

    if not database:
        raise UserError("--add needs --database URL, the one that the app is served with")
    found, kept = read_page(path), store.Store(database)
    with kept.session() as session:
        known = set(session.scalars(select(tables.Pair.id)))
    rows = []
    for pair in found:
        (model_a, text_a), (model_b, text_b) = random.sample(sorted(pair["texts"].items()), 2)
        row = {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, pair["id"])), "prompt": pair["prompt"]}
        rows.append(row | {"text_a": text_a, "text_b": text_b, "model_a": model_a, "model_b": model_b})
    new = [row for row in rows if row["id"] not in known]
    evaluation.add_pairs(kept, new)
    console.print(f"{len(new)} new pairs for {kept.engine.url!r}, {len(rows) - len(new)} were there")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
