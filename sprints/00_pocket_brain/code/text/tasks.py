"""The task generator: copying, look-up in context and small instructions, every answer computed or given in data/."""

import random
from dataclasses import replace
from itertools import accumulate

from . import task_copy, task_exercises, task_grammar, task_knowledge, task_lookup, task_passages
from .sample import Sample
from .task_words import Families, phrased, read

GROUPS = {"copy": 0.25, "lookup": 0.50, "instructions": 0.25}  # recall is a source of its own
SYSTEM = 0.2  # share of the conversations with a system prompt
SLOTS = task_copy.SLOTS | task_exercises.SLOTS | task_grammar.SLOTS | task_knowledge.SLOTS


def _kinds() -> dict[str, dict[str, tuple[float, Families]]]:
    """Group, kind, (weight within the group, families). The phrasings of tasks.yaml name their kind and its weight."""
    groups: dict[str, dict[str, tuple[float, Families]]] = {
        "lookup": task_lookup.kinds() | task_passages.kinds(),
        "recall": task_lookup.recalls(),
    }
    for group in ("copy", "instructions"):
        groups[group] = {}
        for title, text in read("tasks.yaml")[group].items():
            kind, weight = title.split()
            groups[group][kind] = (float(weight), phrased(kind, text, SLOTS[kind]))
    return groups


KINDS = _kinds()
MAKERS: Families = {name: make for group in KINDS.values() for _, families in group.values() for name, make in families.items()}
FAMILIES: tuple[str, ...] = tuple(MAKERS)


def families(*groups: str) -> tuple[str, ...]:
    """Names of the families of these groups."""
    return tuple(name for group in groups for _, made in KINDS[group].values() for name in made)


_TABLES = {  # group: (cumulative weights, the families of each kind)
    group: (list(accumulate(weight for weight, _ in kinds.values())), [list(families.values()) for _, families in kinds.values()])
    for group, kinds in KINDS.items()
}


def task(rng: random.Random, family: str | None = None, group: str | None = None) -> Sample:
    """One task, of this family or of a random one: the group by GROUPS if none is given, the kind by its weight, the phrasing
    uniformly."""
    if family is None:
        weights, kinds = _TABLES[group or rng.choices(list(GROUPS), list(GROUPS.values()))[0]]
        sample = rng.choice(rng.choices(kinds, cum_weights=weights)[0])(rng)
    else:
        sample = MAKERS[family](rng)
    if len(sample.turns) > 1 and rng.random() < SYSTEM:
        return replace(sample, system=rng.choice(read("tasks.yaml")["systems"]))
    return sample
