"""Examples as tokens of a model, and what a model loses on them."""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shared import models
from shared.errors import UserError

from .storytext import Example

BATCH = 16  # rows that are scored together


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and its answer, which begins at `start` and ends with the end sign."""

    ids: list[int]
    start: int


def encode(loaded: models.LoadedModel, examples: Sequence[Example]) -> list[Row]:
    """The examples in the model's chat template. Raises UserError for a template that cannot be trained on, or for no examples."""
    if not examples:
        raise UserError("there are no examples: a split of the scenarios is empty, write more of them")
    return [_row(loaded, example) for example in examples]


def _row(loaded: models.LoadedModel, example: Example) -> Row:
    template = functools.partial(loaded.tokenizer.apply_chat_template, return_dict=False, tokenizer_kwargs={"verbose": False})
    try:
        prompt = template(example.messages, add_generation_prompt=True)
        ids = template([*example.messages, {"role": "assistant", "content": example.response}])
    except Exception as error:  # whatever a template raises, most often that it knows no system message
        raise UserError(f"the chat template of {loaded.name} refuses a story ({error}): use another --base") from None
    ends = [place for place in range(len(prompt), len(ids)) if ids[place] in loaded.stop_ids]
    if ids[: len(prompt)] != prompt or not ends:
        raise UserError(f"the chat template of {loaded.name} rewrites its prompt or ends no answer: use another --base")
    if loaded.context and ends[0] >= loaded.context:
        raise UserError(f"an example has {ends[0] + 1} tokens, {loaded.name} takes {loaded.context}: use another --base")
    return Row(ids[: ends[0] + 1], len(prompt))


def nats(loaded: models.LoadedModel, rows: Sequence[Row]) -> list[float]:
    """Nats of the answer of each row, its end sign with it."""
    import torch

    loaded.model.eval()
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))  # little padding
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[place].ids) for place in places], batch_first=True)
        tokens = tokens.to(loaded.model.device)  # padding stands behind the text, which cannot see it
        with torch.no_grad():
            logits = loaded.model(input_ids=tokens[:, :-1]).logits.float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        for place, loss in zip(places, losses, strict=True):
            found[place] = float(loss[rows[place].start - 1 : len(rows[place].ids) - 1].sum())
    return found


def bits_per_byte(loaded: models.LoadedModel, examples: Sequence[Example]) -> dict[str, float]:
    """Bits per byte of the answers of each scenario; comparable between models whose tokens differ."""
    bits, size = defaultdict(float), defaultdict(int)
    for example, loss in zip(examples, nats(loaded, encode(loaded, examples)), strict=True):
        bits[example.scenario] += loss / math.log(2)
        size[example.scenario] += len(example.response.encode())
    return {scenario: bits[scenario] / size[scenario] for scenario in bits}
