"""The scaling law of the Pocket Brain, and Muon against AdamW: many short runs, each with its own whole learning-rate schedule."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.optimize import least_squares

from shared import runlog

from .batches import Settings, Shards
from .model import SHAPES, Llama, Shape
from .pretrain import heldout_losses

ADAMW_RATES = (1e-3, 3e-3, 6e-3, 1e-2)


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
        return mixed(self.train(self.folder / name, chosen)[-1]["heldout"], chosen.mix)

    def loss_of(self, checkpoint: Path, shape: Shape) -> float:
        """Mixed loss of other weights on the same held-out windows."""
        model = Llama(shape)
        state = load_file(checkpoint)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(state[f"master.{name}"])
        losses = heldout_losses(model.to(getattr(torch, self.settings.dtype)), Shards(self.settings))
        return mixed(dict(zip(self.settings.mix, losses.tolist(), strict=True)), self.settings.mix)


def chinchilla(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """E, A, a, B, b of L = E + A N^-a + B D^-b (Hoffmann et al. 2022, eq. 2), N in millions of parameters, D of tokens.

    Robust least squares on log L, all five positive, from several starts.
    """

    def residuals(x: np.ndarray) -> np.ndarray:
        e, a_scale, a, b_scale, b = np.exp(x)
        return np.log(e + a_scale * sizes**-a + b_scale * tokens**-b) - np.log(losses)

    starts = [np.log([e, 1.0, a, 3.0, b]) for e in (0.1, 1.0) for a in (0.2, 0.5) for b in (0.2, 0.5)]
    fits = [least_squares(residuals, start, loss="soft_l1", f_scale=0.01, max_nfev=5000) for start in starts]
    return np.exp(min(fits, key=lambda fit: fit.cost).x)


def predict(fit: np.ndarray, sizes: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
    e, a_scale, a, b_scale, b = fit
    return e + a_scale * np.asarray(sizes, dtype=float) ** -a + b_scale * np.asarray(tokens, dtype=float) ** -b


def law(run: runlog.Run, runs: Runs, budgets: list[int], shipped: tuple[str, float, Path] | None) -> None:
    """Losses of three sizes at several budgets, the fitted law, and its forecast for the shipped run: size, tokens, weights."""
    rows = []
    for size, shape in SHAPES.items():
        for tokens in budgets:
            loss = runs.loss(size=size, tokens=tokens)
            rows.append((shape.parameters / 1e6, tokens / 1e6, loss))
            run.metric(
                f"loss_{size}_{tokens / 1e6:g}M_tokens",
                loss,
                unit="nats",
                higher_is_better=False,
                meaning=f"mixed held-out loss per token, {size} parameters after {tokens / 1e6:g} million tokens",
            )
    sizes, tokens, losses = np.array(rows).T
    fit = chinchilla(sizes, tokens, losses)
    error = np.abs(predict(fit, sizes, tokens) / losses - 1)
    run.metric("scaling_fit_error", error, unit="fraction", higher_is_better=False, meaning="relative error of the fitted law")
    for name, value in zip(("floor", "size_scale", "size_exponent", "data_scale", "data_exponent"), fit, strict=True):
        run.metric(f"scaling_{name}", value, meaning="of L = E + A N^-a + B D^-b, N and D in millions")
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 4.2))
        line = np.geomspace(tokens.min(), 4 * max(tokens.max(), shipped[1] / 1e6 if shipped else 0))
        for index, (size, shape) in enumerate(SHAPES.items()):
            mine = sizes == shape.parameters / 1e6
            axes.plot(tokens[mine], losses[mine], "o", color=f"C{index}", label=f"{size} parameters")
            axes.plot(line, predict(fit, shape.parameters / 1e6, line), "--", color=f"C{index}", linewidth=1)
        if shipped:
            size, seen, weights = shipped
            reached = runs.loss_of(weights, SHAPES[size])
            foretold = float(predict(fit, SHAPES[size].parameters / 1e6, seen / 1e6))
            axes.plot(seen / 1e6, reached, "*", color="k", markersize=14, label="the shipped model")
            run.metric(
                "loss_shipped", reached, unit="nats", higher_is_better=False, meaning="the shipped model on the same windows"
            )
            run.metric(
                "loss_shipped_foretold", foretold, unit="nats", meaning="what the law, fitted to the short runs, foretold for it"
            )
        axes.set(xscale="log", xlabel="million tokens", ylabel="held-out loss, nats per token", title="What more compute buys")
        axes.legend()
        run.figure(
            figure,
            "scaling",
            shows="Final held-out loss of short runs (dots), the fitted law (dashed), and the shipped model (star).",
            matters="It says what more hours or more parameters would bring before anybody spends them.",
        )


def optimizers(run: runlog.Run, runs: Runs, tokens: int, seeds: range) -> None:
    """Muon against AdamW after the same tokens; AdamW has the best of several learning rates, on a seed that is not compared."""
    tried = {rate: runs.loss(optimizer="adamw", learning_rate=rate, tokens=tokens, seed=99) for rate in ADAMW_RATES}
    best = min(tried, key=lambda rate: tried[rate])
    muon = [runs.loss(optimizer="muon", tokens=tokens, seed=seed) for seed in seeds]
    adamw = [runs.loss(optimizer="adamw", learning_rate=best, tokens=tokens, seed=seed) for seed in seeds]
    options = {"unit": "nats", "higher_is_better": False}
    amount = f"{tokens / 1e6:g} million tokens"
    run.metric("loss_muon", muon, **options, meaning=f"mixed held-out loss after {amount} with Muon")
    run.metric("loss_adamw", adamw, **options, meaning=f"the same with AdamW at its best learning rate ({best:g})")
    run.compare("mixed held-out loss", muon, adamw, names=("Muon", "AdamW"), unit="nats")
    rates = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in tried.items())
    edge = " The best one lies at the edge of those tried." if best in (min(tried), max(tried)) else ""
    run.observe(f"AdamW by learning rate (another seed): {rates}.{edge}")
