"""Give the alias `champion` to a model, if every gate lets it through; or take it back.

$ .venv/bin/python -m sprints.05_cyoa.code.promote                    the shipped model; `make cyoa-eval` does this at its end
$ .venv/bin/python -m sprints.05_cyoa.code.promote --model FOLDER     a model folder that was evaluated
$ .venv/bin/python -m sprints.05_cyoa.code.promote --rollback         the last champion before that plays
"""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import t as student

from shared import models
from shared.errors import UserError, line
from shared.report import write_atomically
from shared.runlog import console

from . import registry
from .registry import ALIAS, NAME, Registry, RegistryError
from .storytext import BEGIN
from .versions import Store

PANEL = "panel.json"
LOCK = f"{NAME}-lock"
HISTORY = "champions"  # tag of the registered model: versions, the newest last
REFUSED = 0.05  # at most, of the models that are as good as the champion
MARGIN = 0.01  # of the champion's value: bits per byte have no noise, and two seeds of one recipe differ on every scenario alike
TOKENS = 24  # that the trial of a model writes


@dataclass
class Args:
    """Which model, and which way."""

    model: Path = registry.SHIPPED
    """A model folder with card.json and panel.json."""
    rollback: bool = False
    """Give the alias back to the last champion before this one that plays."""


@dataclass(frozen=True)
class Decision:
    """`reasons` says of every gate what it found; the alias moved only if `promoted`."""

    version: str | None
    promoted: bool
    reasons: list[str]


class GateError(RegistryError):
    """A gate did not let a model through."""


def write_panel(folder: Path, data_version: str, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the quality panel of a model beside its weights.

    A metric has `values`, its mean on each test scenario, and `better`: higher, lower, or band, then with `band`, the 5th to 95th
    percentile of authored text, outside of which it is worse.
    """
    panel = {"weights": registry.weights(folder), "data_version": data_version, "metrics": metrics}
    write_atomically(folder / PANEL, (json.dumps(panel, indent=1) + "\n").encode())


def read_panel(folder: Path) -> dict[str, Any]:
    """Raises GateError where there is none, or it is none of these weights."""
    try:
        panel = json.loads((folder / PANEL).read_text(encoding="utf-8"))
        if not all(np.isfinite(badness(one)).all() and len(one["values"]) > 1 for one in panel["metrics"].values()):
            raise ValueError("a metric is no number, or of a single scenario")
        if not panel["metrics"]:
            raise ValueError("there is no metric")
        same = panel["weights"] == registry.weights(folder)
    except FileNotFoundError:
        raise GateError("it was not evaluated: run `make cyoa-eval`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"its panel is damaged ({error}): run `make cyoa-eval`") from None
    if not same:
        raise GateError("its panel belongs to other weights: run `make cyoa-eval`")
    return panel


def badness(metric: Mapping[str, Any]) -> np.ndarray:
    """How bad a metric is on each scenario, in its unit: larger is worse."""
    values = np.array(list(metric["values"].values()), dtype=float)
    if metric["better"] == "band":
        low, high = metric["band"]
        return np.maximum(np.maximum(low - values, values - high), 0)
    return {"higher": -values, "lower": values}[metric["better"]]


def worse(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Metrics of a panel that are worse than the champion's beyond noise, and those it lacks.

    Both answered the same prompts, so what counts is the loss on each scenario: the lower end of its one-sided interval over
    scenarios, whose answers stand or fall together. It is Student's t, since a bootstrap of so few scenarios is too narrow, at the
    level REFUSED / metrics (Bonferroni), so that a model as good as the champion passes all of them with at least 1 - REFUSED.
    """
    found = []
    for key, before in old["metrics"].items():
        now = new["metrics"].get(key)
        if now is None or list(now["values"]) != list(before["values"]):
            found.append(f"{key} is missing, or of other scenarios")
            continue
        losses = badness(now) - badness(before)
        quantile = student.ppf(1 - REFUSED / len(old["metrics"]), len(losses) - 1)
        least = losses.mean() - quantile * losses.std(ddof=1) / math.sqrt(len(losses))
        was, value = (statistics.fmean(one["values"].values()) for one in (before, now))
        if least > MARGIN * abs(was):
            found.append(f"{key} {value:.4g} against {was:.4g} (worse by {least:.2g} or more)")
    return found


def writes(folder: Path) -> str:
    """What a model folder writes when it is loaded and asked for a beginning. Raises GateError where it cannot."""
    import torch

    try:
        loaded = models.load(str(folder), "cpu")
        asked = [{"role": "system", "content": "A story of the genre mecha. You are Rokuro (he/him)."}]
        asked.append({"role": "user", "content": BEGIN})
        ids = torch.tensor([loaded.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)])
        with torch.no_grad():
            finite = bool(torch.isfinite(loaded.model(ids).logits).all())
            out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
    except Exception as error:  # whatever is wrong with it, it does not play
        raise GateError(f"it does not load and write ({line(error)})") from None
    text = loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    if not finite or not text:
        raise GateError("it writes nothing" if finite else "its logits are not finite")
    return text


class Promotion:
    """The gates between a model folder and the alias, in the order in which they are asked."""

    def __init__(self, known: Registry, folder: Path, downloads: Path = registry.DOWNLOADS):
        self.known, self.folder, self.downloads = known, folder, downloads
        self.version: str | None = None
        self.panel: dict[str, Any] = {}

    def weights(self) -> str:
        """Its weights are there, whole, in safetensors."""
        return f"weights {registry.weights(self.folder)[:12]}"

    def evaluated(self) -> str:
        """It has a panel of these weights, on the data it was trained with. The champion's may be on the data of now, with which
        those who come after it are measured: a family never changes its split."""
        self.panel, champion = read_panel(self.folder), self.known.champion()
        other = self.panel["data_version"] != registry.read_card(self.folder)["data_version"]
        if other and (champion is None or self.known.get(champion).tags.get(registry.WEIGHTS) != self.panel["weights"]):
            raise GateError("its panel was measured on other data than it was trained with: train or evaluate again")
        return f"a panel of {len(self.panel['metrics'])} measures"

    def registered(self) -> str:
        """It is a version whose files come back from the store with the same logits."""
        self.version = self.known.register(self.folder)
        return f"version {self.version}, logits differ by at most {self.known.get(self.version).tags['round_trip']}"

    def plays(self) -> str:
        """What the store gives back loads and writes."""
        assert self.version
        return f"writes {writes(self.known.fetch(self.version, self.downloads))[:40]!r}"

    def no_worse(self) -> str:
        """No measure is worse than the champion's beyond noise."""
        champion = self.known.champion()
        if champion in (None, self.version):
            return "there is no other champion to compare with"
        old = self._panel_of(champion)
        if old["data_version"] != self.panel["data_version"]:
            again = f'make cyoa-eval ARGS="--model {self.known.fetch(champion, self.downloads)}"'
            raise GateError(
                f"the champion, version {champion}, was measured on other data: measure it on the data of now ({again})"
            )
        if found := worse(self.panel, old):
            raise GateError(f"worse than version {champion}: {'; '.join(found)}")
        return f"no measure is worse than version {champion}'s"

    def _panel_of(self, version: str) -> dict[str, Any]:
        from mlflow.artifacts import download_artifacts

        run = self.known.get(version).run_id
        try:
            path = download_artifacts(run_id=run, artifact_path=f"panels/{version}.json", tracking_uri=self.known.store.uri)
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except Exception as error:
            raise GateError(f"the panel of the champion, version {version}, is lost ({line(error)})") from None

    def decide(self) -> Decision:
        """Ask every gate; the alias moves after the last one only."""
        reasons = []
        try:
            for gate in (self.weights, self.evaluated, self.registered, self.plays):
                reasons += [gate()]
            with alone(self.known):  # the champion that it is compared with is champion until the alias moves
                reasons.append(self.no_worse())
                self._crown()
        except UserError as problem:
            return Decision(self.version, False, [*reasons, f"refused: {problem}"])
        return Decision(self.version, True, [*reasons, f"{NAME}@{ALIAS} is version {self.version}"])

    def _crown(self) -> None:
        assert self.version
        client, version = self.known.client, self.known.get(self.version)
        client.log_text(version.run_id, json.dumps(self.panel), f"panels/{self.version}.json")
        client.update_model_version(NAME, self.version, registry.describe(registry.read_card(self.folder), self.panel))
        if self.known.champion() != self.version:
            move(self.known, [*history(self.known), self.version])


@contextmanager
def alone(known: Registry) -> Iterator[None]:
    """Nobody else moves the alias in this block, on any machine: MLflow has no lock, but makes a model of one name once."""
    from mlflow.exceptions import MlflowException

    try:
        known.client.create_registered_model(LOCK, description="It is there while the champion changes.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        what = f"the champion is being changed by another: try again; if nothing runs, delete the registered model {LOCK}"
        raise UserError(f"{what} (`make mlflow`)") from None
    try:
        yield
    finally:
        known.client.delete_registered_model(LOCK)


def history(known: Registry) -> list[str]:
    """The champions so far, the newest last: whom the alias names, also where it was moved by hand or a move was cut short."""
    champions, now = known.client.get_registered_model(NAME).tags.get(HISTORY, "").split(), known.champion()
    if now in champions:
        return champions[: len(champions) - champions[::-1].index(now)]
    return [*champions, now] if now else champions


def move(known: Registry, champions: list[str]) -> None:
    known.client.set_registered_model_tag(NAME, HISTORY, " ".join(champions))
    known.client.set_registered_model_alias(NAME, ALIAS, champions[-1])


def promote(folder: Path, store: Store | None = None, downloads: Path = registry.DOWNLOADS) -> Decision:
    """Put a model folder through the gates. A refusal is no error; UserError where the store cannot be used."""
    known = Registry(store)
    with known.store.usable():
        return Promotion(known, folder, downloads).decide()


def rollback(store: Store | None = None, downloads: Path = registry.DOWNLOADS, check: Callable[[Path], Any] = writes) -> str:
    """Give the alias to the last champion before this one that still loads and writes; returns its version, and says which others
    it passed by."""
    known = Registry(store)
    with known.store.usable(), alone(known):
        champions = history(known) if known.versions() else []
        for at in reversed(range(len(champions) - 1)):
            version = champions[at]
            if version == champions[-1]:
                continue
            try:
                check(known.fetch(version, downloads))
            except RegistryError as problem:
                console.print(f"version {version} is passed by, it cannot play: {problem}")
                continue
            move(known, champions[: at + 1])
            return version
    raise UserError("there is no champion before this one that plays: nothing has changed")


def main(args: Args) -> None:
    if args.rollback:
        console.print(f"{NAME}@{ALIAS} is version {rollback()} again")
        return
    decision = promote(args.model)
    console.print("\n".join(decision.reasons))
    if not decision.promoted:
        raise UserError("the champion stays as it was; the reason stands above")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
