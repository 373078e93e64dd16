"""The corpus: six sources, each split by family or by file, as token shards that training maps into memory.

story      the simulated small world (stories.py)              split by plot
recall     subjects and their values, again and again (ditto)  split by form, whose parts occur in others; it trains first
task       copying, look-up, instructions (tasks.py)           split by phrasing
prose      data/prose and data/dialogues, written for it       split by file
docstring  docstrings of installed packages (library.py)       split by file
code       their short functions                               split by file
"""

import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.report import replaced, write_atomically
from shared.runlog import console
from shared.sprints import ROOT

from . import library, stories, tasks, tokenizer
from .sample import Sample

SPRINT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "pocket" / "corpus"
SOURCES = ("story", "task", "recall", "prose", "docstring", "code")
MIX = {"story": 0.20, "task": 0.42, "recall": 0.08, "prose": 0.02, "docstring": 0.18, "code": 0.10}
FIRST_MIX = {"recall": 1.0}  # a model that can bind values to subjects learns to look up; one that cannot learns to guess
MEGABYTES = {"story": 80, "task": 60, "recall": 20}  # how much is generated; the others are as long as they are
HELD_OUT_MEGABYTES = 1


@cache
def held_out() -> frozenset[str]:
    """The families and files that never train, by name: a family that is added later changes nothing for those that are there."""
    return frozenset((SPRINT / "data" / "held_out.txt").read_text(encoding="utf-8").split())


def written(held: bool) -> list[Sample]:
    """The pieces of data/prose and data/dialogues that stand in held-out files, or in the others."""
    files = sorted((SPRINT / "data").glob("prose/*.txt")) + sorted((SPRINT / "data").glob("dialogues/*.txt"))
    names = {path: f"{path.parent.name}/{path.stem}" for path in files}
    found = []
    for path, family in names.items():
        text = path.read_text(encoding="utf-8").strip()
        if (family in held_out()) != held:
            continue
        if path.parent.name == "prose":  # "# Title" begins a piece
            found += [Sample(family, (f"# {piece.strip()}",)) for piece in f"\n{text}".split("\n# ")[1:]]
        else:  # an empty line ends a dialogue
            found += [Sample(family, turns(block)) for block in text.split("\n\n")]
    return found


def turns(block: str) -> tuple[str, ...]:
    """The turns of a written dialogue, without their USER: and ASSISTANT: marks."""
    parts = re.split(r"^(USER|ASSISTANT): ", block.strip(), flags=re.M)[1:]
    if parts[::2] != ["USER", "ASSISTANT"] * (len(parts) // 4):
        raise ValueError(f"a dialogue alternates USER: and ASSISTANT:, this one does not: {block[:80]!r}")
    return tuple(part.strip() for part in parts[1::2])


def samples(make: Callable[..., Sample], families: Iterable[str], held: bool, rng: random.Random) -> Iterator[Sample]:
    """Endless samples of the training families, or of the held-out ones."""
    kept_back = sorted(held_out() & set(families))
    while True:
        sample = make(rng, rng.choice(kept_back)) if held else make(rng)
        if held or sample.family not in kept_back:
            yield sample


def limited(texts: Iterable[str], megabytes: float) -> Iterator[str]:
    """Texts without exact repetitions, up to so many characters; of a shared source, each worker looks at its own."""
    seen, left = set(), megabytes * 1e6
    for text in texts:
        if (key := hash(text)) not in seen:
            seen.add(key)
            left -= len(text)
            yield text
            if left <= 0:
                return


def synthetic(source: str, held: bool, megabytes: float, seed: int) -> Iterator[str]:
    make, families = {
        "story": (stories.story, stories.FAMILIES),
        "task": (tasks.task, tasks.families(*tasks.GROUPS)),
        "recall": (partial(tasks.task, group="recall"), tasks.families("recall")),
    }[source]
    rng = random.Random(seed)
    return limited((tokenizer.render(sample, rng) for sample in samples(make, families, held, rng)), megabytes)


def encode(brain: PreTrainedTokenizerFast, texts: Iterable[str]) -> tuple[np.ndarray, int]:
    """All texts as one array of tokens, each followed by the end-of-text token, and their length in characters."""
    parts, characters, texts = [], 0, iter(texts)
    while some := list(islice(texts, 1000)):
        characters += sum(map(len, some))
        encoded = brain(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts += [np.array([*tokens, brain.eos_token_id], dtype=np.uint16) for tokens in encoded]
    return np.concatenate(parts), characters


def encode_part(job: tuple[Path, str, bool, float, int] | tuple[Path, list[str]]) -> tuple[np.ndarray, int]:
    """What one worker process does: tokens of given texts, or of texts it generates."""
    brain = AutoTokenizer.from_pretrained(job[0])
    return encode(brain, job[1] if len(job) == 2 else synthetic(*job[1:]))


def one_thread() -> None:
    """A worker process tokenises with one thread: there is a process per core already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def build(folder: Path = FOLDER, *, smoke: bool = False, brain: PreTrainedTokenizerFast | None = None) -> dict:
    """Write tokenizer, shards (uint16, {source}.train.bin and {source}.heldout.bin) and manifest.json; returns the manifest.

    A corpus that is there already is used as it is; half of one is never seen. A given tokenizer is used instead of a new one.
    """
    if (folder / "manifest.json").exists():
        return json.loads((folder / "manifest.json").read_text())
    with replaced(folder) as part:
        return write(part, smoke, brain)


def write(part: Path, smoke: bool, brain: PreTrainedTokenizerFast | None) -> dict:
    megabytes = dict.fromkeys(MEGABYTES, 0.4) if smoke else MEGABYTES
    held_megabytes = 0.1 if smoke else HELD_OUT_MEGABYTES
    console.print("corpus: reading the installed libraries")
    library_texts = library.texts(smoke)
    fixed = {
        (source, held): [text.text for text in library_texts if text.source == source and text.held_out == held]
        for source in ("docstring", "code")
        for held in (False, True)
    }
    for held in (False, True):
        fixed["prose", held] = [tokenizer.render(sample, random.Random(place)) for place, sample in enumerate(written(held))]
    if brain is None:
        console.print("corpus: learning the tokenizer")
        brain = tokenizer.train(tokenizer_texts(fixed, smoke))
    tokenizer.save(brain, part)
    jobs, names = [], []
    for source in SOURCES:
        for held in (False, True):
            if source in megabytes:
                total = held_megabytes if held else megabytes[source]
                count = 1 if held or smoke else 10
                mine = [(part, source, held, total / count, 1000 * held + place) for place in range(count)]
            else:
                mine = [(part, fixed[source, held][start : start + 10_000]) for start in range(0, len(fixed[source, held]), 10_000)]
            jobs += mine
            names += [(source, held)] * len(mine)
    parts: dict[tuple[str, bool], list[tuple[np.ndarray, int]]] = {}
    sizes: dict[str, dict[str, dict[str, int]]] = {source: {} for source in SOURCES}
    with ProcessPoolExecutor(1 if smoke else None, get_context("spawn"), one_thread) as pool:
        for name, encoded in track(zip(names, pool.map(encode_part, jobs), strict=True), len(jobs)):
            parts.setdefault(name, []).append(encoded)
    for (source, held), members in parts.items():
        side = "heldout" if held else "train"
        tokens = np.concatenate([tokens for tokens, _ in members])
        tokens.tofile(part / f"{source}.{side}.bin")
        sizes[source][side] = {"tokens": len(tokens), "characters": sum(length for _, length in members)}
    manifest = {"sources": sizes, "packages": library.manifest(library_texts)}
    write_atomically(part / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def track(items: Iterable, total: int) -> Iterable:
    from rich.progress import track as bar

    return bar(items, "corpus: writing and counting", total=total, console=console, disable=not console.is_terminal, transient=True)


def tokenizer_texts(fixed: dict[tuple[str, bool], list[str]], smoke: bool) -> Iterator[str]:
    """A sample of the training texts, more of the plain English, for the merges."""
    size = 0.2 if smoke else 4.0
    yield from synthetic("story", False, size, 77)
    yield from synthetic("task", False, size, 78)
    yield from fixed["prose", False]
    for source, share in (("docstring", 1.0), ("code", 0.5)):
        yield from limited(random.Random(0).sample(fixed[source, False], len(fixed[source, False])), size * share)
