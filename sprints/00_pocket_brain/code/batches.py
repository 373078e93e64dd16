"""What a pretraining run is made of, and the batches that its tokens make."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from shared import data
from shared.errors import UserError
from shared.report import write_atomically

from .text.tokenizer import ASSISTANT, END, END_OF_TEXT, SPECIALS

ANSWERING = ("task", "recall")  # sources of questions and answers


@dataclass(frozen=True)
class Settings:
    """What a run is made of. tokens, step_tokens and micro_tokens count tokens, context is the length of a sequence; rates are per
    step. Sources are drawn by first_mix for the first_share of the steps, then by mix, which names all of them. dtype is that of
    the weights in the forward pass; their masters are float32. answer_weight is the weight in the loss of a token that answers a
    task: there the context decides, and such tokens are few. text is the fingerprint of the corpus once a run has begun."""

    corpus: str
    mix: dict[str, float]
    first_mix: dict[str, float]
    size: str = "6M"
    optimizer: str = "muon"
    dtype: str = "bfloat16"
    tokens: int = 96_000_000
    step_tokens: int = 8192
    micro_tokens: int = 1024
    context: int = 256
    final_context: int = 512
    first_share: float = 0.08
    warmup_steps: int = 50
    decay_share: float = 0.5
    learning_rate: float = 4e-3
    matrix_rate: float = 0.02
    weight_decay: float = 0.05
    answer_weight: float = 4.0
    evaluate_every: int = 100
    windows: int = 16
    checkpoint_seconds: float = 120.0
    seed: int = 0
    text: str = ""

    def __post_init__(self):
        if self.steps < 1 or self.warmup_steps < 1 or not 0 < self.decay_share <= 1:
            raise UserError("a run needs at least one step of step_tokens, one step of warm-up, and decay_share in (0, 1]")
        if self.step_tokens % self.context or self.step_tokens % self.final_context:
            raise UserError("step_tokens must be a multiple of context and of final_context")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises UserError when they were written by another version of this program."""
        try:
            return cls(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError):
            raise UserError(f"the run in {folder} is of another version of this program: delete it to begin anew") from None

    def write(self, folder: Path) -> Self:
        """Keep these settings in the folder of a run. One that stands there goes on, in the dtype it was begun with: only with the
        same settings, and on the same text, wherever that lies now. Raises UserError for others."""
        folder.mkdir(parents=True, exist_ok=True)
        chosen = replace(self, text=fingerprint(Path(self.corpus), self.mix))
        if (folder / "settings.json").exists():
            old = self.read(folder)
            chosen = replace(chosen, dtype=old.dtype)
            if differing := [key for key, value in asdict(chosen).items() if value != getattr(old, key) and key != "corpus"]:
                raise UserError(f"the run in {folder} has another {', '.join(differing)}: delete it to begin anew")
        write_atomically(folder / "settings.json", json.dumps(asdict(chosen), indent=1).encode())
        return chosen

    @property
    def shares(self) -> dict[str, float]:
        """The share of each source in the whole of the training."""
        first, rest = ({name: part / sum(mix.values()) for name, part in mix.items()} for mix in (self.first_mix, self.mix))
        return {name: self.first_share * first.get(name, 0) + (1 - self.first_share) * part for name, part in rest.items()}

    @property
    def steps(self) -> int:
        return self.tokens // self.step_tokens

    def scale(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, constant, then linear decay to zero over the last `decay_share`."""
        left = (self.steps - step) / (self.steps * self.decay_share)
        return min(1.0, (step + 1) / self.warmup_steps, left)

    def length(self, step: int) -> int:
        """Tokens per sequence: short while the rate is constant, which is faster, and the full context in the decay."""
        return self.context if step < self.steps * (1 - self.decay_share) else self.final_context


def fingerprint(corpus: Path, sources: Iterable[str]) -> str:
    """A digest of the training tokens of these sources. Raises UserError where they are missing."""
    try:
        parts = [bytes.fromhex(data.digest(corpus / f"{name}.train.bin")) for name in sorted(sources)]
    except FileNotFoundError as error:
        raise UserError(f"the corpus is not whole, {error.filename} is missing: delete its folder, then it is built anew") from None
    return data.digest(b"".join(parts))[:16]


class Shards:
    """The tokens of every source, memory-mapped, and the batches drawn from them."""

    def __init__(self, settings: Settings):
        self.settings, self.sources = settings, list(settings.mix)
        folder = Path(settings.corpus)
        self.train = {name: np.memmap(folder / f"{name}.train.bin", np.uint16, "r") for name in self.sources}
        self.heldout = {name: np.memmap(folder / f"{name}.heldout.bin", np.uint16, "r") for name in self.sources}
        end = SPECIALS.index(END_OF_TEXT)
        self.starts = {name: np.flatnonzero(self.train[name] == end) + 1 for name in ANSWERING if name in self.train}
        for name in self.sources:
            if min(len(self.train[name]), len(self.heldout[name])) < settings.final_context + 2:
                raise UserError(f"the source {name} has fewer tokens than a sequence of {settings.final_context}")

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of one step, (step_tokens / length, length + 1), and the weight of each of their tokens in the loss; the
        same for every process that asks. Tasks are read from their beginning, since an answer needs the whole of its question."""
        rng = np.random.default_rng((self.settings.seed, step))
        length = self.settings.length(step)
        mix = self.settings.first_mix if step < self.settings.first_share * self.settings.steps else self.settings.mix
        weights = np.array(list(mix.values()))
        chosen = rng.choice(list(mix), self.settings.step_tokens // length, p=weights / weights.sum())
        rows = []
        for source in chosen:
            tokens = self.train[source]
            last = len(tokens) - length
            if source in self.starts:
                starts = self.starts[source]
                start = starts[rng.integers(np.searchsorted(starts, last))]
            else:
                start = rng.integers(last)
            rows.append(tokens[start : start + length + 1])
        rows = np.stack(rows).astype(np.int64)
        return rows, np.where(answers(rows) & np.isin(chosen, ANSWERING)[:, None], self.settings.answer_weight, 1.0)

    def windows(self, source: str) -> torch.Tensor:
        """Fixed held-out windows of one source, spread evenly over it."""
        tokens, length = self.heldout[source], self.settings.context
        starts = np.linspace(0, len(tokens) - length - 1, self.settings.windows).astype(int)
        return torch.from_numpy(np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64))


def answers(rows: np.ndarray) -> np.ndarray:
    """Which tokens of the sequences (B, T) an assistant says in the chat format, its end sign included."""
    places = np.arange(rows.shape[1])
    opened, closed = (
        np.maximum.accumulate(np.where(rows == SPECIALS.index(mark), places, -1), axis=1) for mark in (ASSISTANT, END)
    )
    return np.pad(opened > closed, ((0, 0), (1, 0)))[:, :-1]  # the mark itself is not said
