"""Measures by a language model that wrote none of the texts it judges: do choices follow from a scene, do sentences follow from
each other?"""

import random
import re
from collections.abc import Sequence

from shared import models

from .encoding import Row, nats
from .quality import drafts

SHUFFLES = 4  # orders of sentences that the true one is compared with


def sentences(scene: str) -> list[str]:
    """The sentences of a scene, each with the quotation mark that closes it."""
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"'])\s+", scene.strip()) if part]


def shuffled(scene: str, rng: random.Random) -> str:
    """The sentences of a scene in another order; the same text where it has a single one."""
    before = sentences(scene)
    after = before[:]
    while len(set(before)) > 1 and after == before:
        rng.shuffle(after)
    return " ".join(after)


def score(judge: models.LoadedModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
    """Nats and tokens of the second text of each pair after the first; what does not fit is cut off the first's beginning."""
    room = judge.context or 1 << 20
    rows = []
    for before, text in pairs:
        ids = [judge.tokenizer(part, add_special_tokens=False, verbose=False).input_ids for part in (before, text)]
        behind = ids[1][: room // 2]
        kept = [judge.stop_ids[0], *ids[0]][-(room - len(behind)) :]
        rows.append(Row(kept + behind, len(kept)))
    return [(loss, len(row.ids) - row.start) for loss, row in zip(nats(judge, rows), rows, strict=True)]


def choice_relevance(judge: models.LoadedModel, answers: Sequence[str]) -> list[float]:
    """How much likelier the choices of each answer are after its scene than after none, nats per token; 0 without choices."""
    asked, owner = [], []
    for place, draft in enumerate(drafts(answers)):
        for choice in draft.choices:
            asked += [(f"{draft.scene}\n>", f" {choice}"), (">", f" {choice}")]
            owner.append(place)
    scored, gains = score(judge, asked), [[] for _ in answers]
    for place, (with_scene, tokens), (without, _) in zip(owner, scored[::2], scored[1::2], strict=True):
        gains[place].append((without - with_scene) / max(tokens, 1))
    return [sum(found) / len(found) if found else 0.0 for found in gains]


def order_accuracy(judge: models.LoadedModel, answers: Sequence[str], seed: int = 0) -> list[float]:
    """Share of other orders of its sentences that are less likely than a scene as it stands; one half where none can be told.

    After the sentence-order tasks of Barzilay & Lapata (2008), with a language model as the judge.
    """
    rng = random.Random(seed)
    scenes = [draft.scene for draft in drafts(answers)]
    texts = [text for scene in scenes for text in (" ".join(sentences(scene)), *(shuffled(scene, rng) for _ in range(SHUFFLES)))]
    losses = iter(loss for loss, _ in score(judge, [("", text or ".") for text in texts]))
    found = []
    for _ in scenes:
        true, *others = (next(losses) for _ in range(SHUFFLES + 1))
        found.append(sum((true < other) + 0.5 * (true == other) for other in others) / SHUFFLES)
    return found
