"""Invariants of decoding beside a public retrofit, engram-peft 1.2.7: the same checks on the same base. Called by bench.py.

The wheel is looked for in runs/engram/engram_peft and runs in a process of its own (below Python 3.12 it needs a name that
`typing` does not have yet). Without it, what was measured with it before stands in the report as a quotation.
"""

import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from shared import models, runlog
from shared.report import AIM
from shared.sprints import ROOT

from .engram.adapter import EngramAdapter
from .engram.memory import EngramConfig, within_budget
from .patterns import load
from .teaching.training import encode

WHEEL = ROOT / "runs" / "engram" / "engram_peft"
BUDGET = 245_760  # trainable parameters, about
LENGTH, PADS, NEW, BEAMS = 24, 5, 12, 4
CLOSE = 1e-3  # logits that differ by less are equal: order of summation
PROMPTS = 6
CHECKS = {
    "identity": "attached, not trained: change of the logits",
    "cached": "half of the text, then token by token with a cache, against the whole text",
    "chunked": "two chunks with a cache against the whole text",
    "padding": "left padding against none",
    "beams": "beam searches whose answer changes with the cache",
    "untaught": "positions of a text of random tokens, never taught, whose logits change",
}
QUOTED = (
    "cached decoding off by 0.08 to 0.16, a second chunk by 0.86, left padding by 0.22 (logit spread 0.16) once its convolution "
    "has weights, as its default has after training; beam search changes with the cache; Python below 3.12 cannot import it"
)


@dataclass(frozen=True)
class Attached:
    """A causal LM with a memory; parameters: of the memory, to be moved away from their start."""

    model: Any
    parameters: Iterable[torch.Tensor]


def ours(convolution: bool = False, prompts: int = PROMPTS) -> dict[str, float]:
    """The checks on the guarded memory, which knows the rows it is asked."""

    def attach(loaded: models.LoadedModel, taught: Sequence[list[int]]) -> Attached:
        config = replace(EngramConfig(), layers=(1, 3), convolution=convolution)
        adapter = EngramAdapter(loaded.model, loaded.tokenizer, within_budget(config, loaded.model.config.hidden_size, BUDGET))
        adapter.learn(taught)
        return Attached(loaded.model, adapter.trainable_parameters())

    return checked(attach, prompts)


def engram_peft(folder: str, convolution: bool = True) -> dict[str, float]:
    """The same on engram-peft's memory; its convolution is on by default. Runs in a process of its own."""
    import typing_extensions

    typing.override = typing_extensions.override  # pyright: ignore[reportAttributeAccessIssue]
    sys.path.insert(0, folder)
    import engram_peft as library  # pyright: ignore[reportMissingImports]

    def attach(loaded: models.LoadedModel, taught: Sequence[list[int]]) -> Attached:
        sizes = {"engram_vocab_size_per_ngram": [8000, 8000], "ngram_sizes": [2, 3], "n_head_per_ngram": 4, "embedding_dim": 64}
        config = library.EngramConfig(**sizes, target_layers=[1, 3], hc_mult=1, pad_id=loaded.tokenizer.pad_token_id)
        memory = library.get_engram_model(loaded.model, config, loaded.tokenizer).eval()
        named = memory.engram_layers.named_parameters()
        return Attached(memory.base_model, [one for name, one in named if convolution or "short_conv.conv" not in name])

    return checked(attach)


def in_own_process(folder: Path, convolution: bool) -> dict[str, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(engram_peft, str(folder), convolution).result()


@torch.no_grad()
def checked(attach: Callable[[models.LoadedModel, Sequence[list[int]]], Attached], prompts: int = PROMPTS) -> dict[str, float]:
    """Every check: largest differences of logits, or shares; 0 is right everywhere."""
    loaded = models.load("pocket", "cpu")
    rows = [encode(loaded, row.prompt, row.completion).ids for row in load().training_rows()]
    taught = sorted((ids for ids in rows if len(ids) > LENGTH), key=len)[:prompts]
    asked = [torch.tensor([ids[:LENGTH]]) for ids in taught]
    torch.manual_seed(0)  # of the retrofit's start
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(len(loaded.tokenizer), (1, LENGTH), generator=generator)
    before = [whole(loaded.model, ids) for ids in [*asked, text]]
    memory = attach(loaded, taught)
    model = memory.model
    after = [whole(model, ids) for ids in [*asked, text]]
    found = {"identity": largest(before, after)}
    for parameter in memory.parameters:  # as if it had been trained
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    expected = [whole(model, ids) for ids in asked]
    found["effect"] = largest(before[:-1], expected)
    found["cached"] = largest(expected, [cached(model, ids, [LENGTH // 2, *[1] * (LENGTH // 2)]) for ids in asked])
    found["chunked"] = largest(expected, [cached(model, ids, [LENGTH // 2] * 2) for ids in asked])
    found["padding"] = largest(expected, [padded(model, ids, loaded.tokenizer.pad_token_id) for ids in asked])
    found["beams"] = sum(beams(model, ids, True) != beams(model, ids, False) for ids in asked) / len(asked)
    found["untaught"] = float((before[-1] != whole(model, text)).any(-1).float().mean())
    return found


def whole(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def cached(model: Any, ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Logits of the text given in parts of these lengths, with a cache."""
    past, parts = None, []
    for part in ids.split(list(lengths), 1):
        output = model(input_ids=part, past_key_values=past, use_cache=True)
        past = output.past_key_values
        parts.append(output.logits)
    return torch.cat(parts, 1)


def padded(model: Any, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Logits of the text behind some padding."""
    mask = torch.nn.functional.pad(torch.ones_like(ids), (PADS, 0))
    places = (mask.cumsum(1) - 1).clamp(min=0)
    left = torch.nn.functional.pad(ids, (PADS, 0), value=pad)
    return model(input_ids=left, attention_mask=mask, position_ids=places, use_cache=False).logits[:, PADS:]


def beams(model: Any, ids: torch.Tensor, cache: bool) -> list[int]:
    options: dict = {"num_beams": BEAMS, "do_sample": False, "max_new_tokens": NEW, "use_cache": cache}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()


def largest(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(a, b, strict=True))


def run(args: Any) -> dict:
    """Recorded as experiment `invariants`."""
    setup = {
        "base": "the Pocket Brain in float32; memories in layers 1 and 3, moved from their start by noise of 0.1",
        "engram-peft": "version 1.2.7, n-grams of 2 and 3 tokens, " + ("run here" if WHEEL.is_dir() else "not installed: quoted"),
        "checks": f"{PROMPTS} texts of {LENGTH} tokens; largest difference of logits, or a share; 0 is right",
    }
    title, objective = "Invariants", "Does decoding give what the whole text gives?"
    with runlog.Run(args, __file__, "invariants", title=title, objective=objective, setup=setup) as recorded:
        found = {"ours": ours(prompts=1)} if args.smoke else {"ours": ours(), "ours_convolution": ours(convolution=True)}
        if WHEEL.is_dir() and not args.smoke:
            found["engram_peft"] = in_own_process(WHEEL, convolution=True)
            found["engram_peft_no_convolution"] = in_own_process(WHEEL, convolution=False)
        record(recorded, found)
    return recorded.report


def record(run: runlog.Run, found: dict[str, dict[str, float]]) -> None:
    for who, values in found.items():
        label = who.replace("_", " ").replace("ours", "guarded Engram").replace("engram peft", "engram-peft 1.2.7,")
        for check, value in values.items():
            meaning = f"{CHECKS.get(check, 'largest change of the logits by the memory')}: {label}"
            unit = "fraction" if check in ("beams", "untaught") else ""
            run.metric(f"invariant_{check}_{who}", value, unit=unit, higher_is_better=False, meaning=meaning)
    kept = {who: [check for check in CHECKS if held(check, values[check])] for who, values in found.items()}
    ours = kept["ours"]
    if "engram_peft" in found:
        theirs = kept["engram_peft"]
        said = f"engram-peft breaks {', '.join(check for check in CHECKS if check not in theirs) or 'none'}"
    else:
        said, theirs = f"not installed here; measured before: {QUOTED}", []
        run.observe(f"engram-peft 1.2.7 is not installed here. Measured before, on a random tiny Llama: {QUOTED}.")
    for who, checks in kept.items():
        broken = [check for check in CHECKS if check not in checks]
        run.observe(f"{who.replace('_', ' ')}: holds {len(checks)} of {len(CHECKS)}; broken: {', '.join(broken) or 'none'}.")
    run.claim(
        "our memory holds every invariant that a public retrofit holds",
        source=AIM,
        protocol="none",
        ours="none",
        honest=f"guarded Engram holds {len(ours)} of {len(CHECKS)}; {said}",
        verdict="not run here" if "engram_peft" not in found else "reproduced" if set(theirs) <= set(ours) else "not reproduced",
    )
    run.conclude(f"The guarded memory holds {len(ours)} of {len(CHECKS)} checks; {said}.")


def held(check: str, value: float) -> bool:
    return value == 0 if check in ("identity", "beams") else value < CLOSE
