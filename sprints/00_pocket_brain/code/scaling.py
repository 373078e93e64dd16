"""The scaling law of the Pocket Brain, and Muon against AdamW: many short runs, each with its own whole learning-rate schedule."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from transformers import LlamaForCausalLM

from shared import runlog
from shared.report import read_all

from .batches import Settings, Shards
from .model import SHAPES

ADAMW_RATES = (3e-4, 1e-3, 3e-3, 6e-3, 1e-2)


def mixed(losses: Mapping[str, float], mix: Mapping[str, float]) -> float:
    """Held-out loss in nats per token, the sources weighted as in training."""
    return sum(mix[source] * loss for source, loss in losses.items()) / sum(mix.values())


class Runs:
    """Trains what is asked for once, each in a folder of its own; a stopped run goes on where it was."""

    def __init__(self, folder: Path, settings: Settings, train: Callable[[Path, Settings], list[dict]]):
        self.folder, self.settings, self.train = folder, settings, train

    def loss(self, **changes) -> float:
        """Final mixed held-out loss of the run with these settings."""
        chosen = replace(self.settings, **changes)
        name = hashlib.sha256(json.dumps(asdict(chosen)).encode()).hexdigest()[:12]
        return mixed(self.train(self.folder / name, chosen)[-1]["heldout"], chosen.shares)

    @torch.no_grad()
    def loss_of(self, folder: Path) -> float:
        """Mixed loss of a model that transformers loads, on the same held-out windows."""
        model, shards, losses = LlamaForCausalLM.from_pretrained(folder, local_files_only=True).eval(), Shards(self.settings), {}
        for name in shards.sources:
            losses[name] = float(np.mean([model(rows, labels=rows).loss.item() for rows in shards.windows(name).split(8)]))
        return mixed(losses, self.settings.shares)


def chinchilla(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray, evaluations: int = 5000) -> np.ndarray:
    """E, A, a, B, b of L = E + A N^-a + B D^-b (Hoffmann et al. 2022, eq. 2), N in millions of parameters, D of tokens.

    Robust least squares on log L, all five positive, from several starts, each with at most so many evaluations.
    """

    def residuals(x: np.ndarray) -> np.ndarray:
        e, a_scale, a, b_scale, b = np.exp(x)
        return np.log(e + a_scale * sizes**-a + b_scale * tokens**-b) - np.log(losses)

    starts = [np.log([e, 1.0, a, 3.0, b]) for e in (0.1, 1.0) for a in (0.2, 0.5) for b in (0.2, 0.5)]
    fits = [least_squares(residuals, start, loss="soft_l1", f_scale=0.01, max_nfev=evaluations) for start in starts]
    return np.exp(min(fits, key=lambda fit: fit.cost).x)


def predict(fit: np.ndarray, sizes: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
    e, a_scale, a, b_scale, b = fit
    return e + a_scale * np.asarray(sizes, dtype=float) ** -a + b_scale * np.asarray(tokens, dtype=float) ** -b


def law(run: runlog.Run, runs: Runs, budgets: list[int], results: Path) -> None:
    """Losses of three sizes at several budgets, the fitted law, and its forecast for the shipped model, if `results` has one.

    The range of a fitted number is that over the fits that leave one run out: with nine runs there is no better estimate.
    """
    rows = []
    for size, shape in SHAPES.items():
        for tokens in budgets:
            loss = runs.loss(size=size, tokens=tokens)
            rows.append((shape.parameters / 1e6, tokens / 1e6, loss))
            meaning = f"mixed held-out loss per token, {size} parameters after {tokens / 1e6:g} million tokens"
            run.metric(f"loss_{size}_{tokens / 1e6:g}M_tokens", loss, unit="nats", higher_is_better=False, meaning=meaning)
    sizes, tokens, losses = points = np.array(rows).T
    evaluations = 50 if run.args.smoke else 5000  # toy losses obey no law: the search would not end by itself
    fitted = partial(chinchilla, evaluations=evaluations)
    fit, others = fitted(*points), [fitted(*np.delete(points, left_out, 1)) for left_out in range(len(rows))]
    error = np.abs(predict(fit, sizes, tokens) / losses - 1)
    run.metric("scaling_fit_error", error, unit="fraction", higher_is_better=False, meaning="relative error of the fitted law")
    for place, name in enumerate(("floor", "size_scale", "size_exponent", "data_scale", "data_exponent")):
        spread = around(fit[place], [other[place] for other in others])
        meaning = "of L = E + A N^-a + B D^-b, N and D in millions; the range of the fits that leave one run out"
        run.metric(f"scaling_{name}", fit[place], meaning=meaning, interval=spread)
    size, seen = shipped(results)
    matters = "It is a law of fresh tokens: a long run that reads the same text again need not follow it."
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 4.2))
        line = np.geomspace(tokens.min(), 4 * max(tokens.max(), seen), 100)
        for index, (name, shape) in enumerate(SHAPES.items()):
            millions = shape.parameters / 1e6
            axes.plot(tokens[sizes == millions], losses[sizes == millions], "o", color=f"C{index}", label=f"{name} parameters")
            axes.plot(line, predict(fit, millions, line), "--", color=f"C{index}", linewidth=1)
            every = [predict(other, millions, line) for other in others]
            axes.fill_between(line, np.min(every, 0), np.max(every, 0), color=f"C{index}", alpha=0.15, linewidth=0)
        if size:
            millions, reached = SHAPES[size].parameters / 1e6, runs.loss_of(results / "model")
            axes.plot(seen, reached, "*", color="k", markersize=14, label="the shipped model")
            down: dict[str, Any] = {"unit": "nats", "higher_is_better": False}
            run.metric("loss_shipped", reached, **down, meaning="the shipped model on the same windows")
            foretold = float(predict(fit, millions, seen))
            spread = around(foretold, [float(predict(other, millions, seen)) for other in others])
            meaning = "what the law, fitted to the short runs, foretold for it; the range of the fits that leave one run out"
            run.metric("loss_shipped_foretold", foretold, **down, meaning=meaning, interval=spread)
            inside = "inside" if spread[0] <= reached <= spread[1] else "outside"
            run.observe(f"The shipped model has {reached:.3f} nats per token, {inside} the range that the law foretold.")
            matters += f" The shipped model was foretold {foretold:.2f} nats and reached {reached:.2f}, {inside} the law's range."
        title = "Short runs, the law fitted to them, and the shipped model" if size else "Short runs and the law fitted to them"
        axes.set(xscale="log", xlabel="million tokens", ylabel="held-out loss, nats per token", title=title)
        axes.legend()
        run.figure(
            figure,
            "scaling",
            shows="Final held-out loss of short runs (dots), the fitted law (dashed; shaded: fits that leave one run out), and the "
            "shipped model (star).",
            matters=matters,
        )


def around(value: float, others: Sequence[float]) -> tuple[float, float]:
    return min(value, *others), max(value, *others)


def shipped(results: Path) -> tuple[str, float]:
    """Size and million tokens of the model in `results`, by the report of its training; ("", 0) without one."""
    report = read_all(results).get("pretraining")
    if not report or not (results / "model").is_dir():
        return "", 0.0
    return report["args"]["size"], report["metrics"]["pretraining_tokens"]["mean"] / 1e6


def optimizers(run: runlog.Run, runs: Runs, tokens: int, seeds: Sequence[int]) -> None:
    """Muon against AdamW after the same tokens. AdamW has the best of several learning rates, then of two weight decays, its own
    and the one that shrinks its matrices per step as much as Muon's; tried on a seed that is not compared."""
    settings, other = runs.settings, seeds[0] + 99
    tried = {rate: runs.loss(optimizer="adamw", learning_rate=rate, tokens=tokens, seed=other) for rate in ADAMW_RATES}
    best = min(tried, key=lambda rate: tried[rate])
    strong = settings.matrix_rate * settings.weight_decay / best
    shrunk = runs.loss(optimizer="adamw", learning_rate=best, weight_decay=strong, tokens=tokens, seed=other)
    decay = strong if shrunk < tried[best] else settings.weight_decay
    muon = [runs.loss(optimizer="muon", tokens=tokens, seed=seed) for seed in seeds]
    adamw = [runs.loss(optimizer="adamw", learning_rate=best, weight_decay=decay, tokens=tokens, seed=seed) for seed in seeds]
    options: dict[str, Any] = {"unit": "nats", "higher_is_better": False}
    amount = f"{tokens / 1e6:g} million tokens"
    run.metric("loss_muon", muon, **options, meaning=f"mixed held-out loss after {amount} with Muon")
    meaning = f"the same with AdamW at its best learning rate ({best:g}) and weight decay ({decay:g})"
    run.metric("loss_adamw", adamw, **options, meaning=meaning)
    run.compare("mixed held-out loss", muon, adamw, names=("Muon", "AdamW"), unit="nats")
    rates = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in tried.items())
    edge = " The best one lies at the edge of those tried." if best in (min(tried), max(tried)) else ""
    run.observe(f"AdamW by learning rate (another seed): {rates}; the best with weight decay {strong:g}: {shrunk:.3f}.{edge}")
