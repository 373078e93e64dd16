"""The registry: models as versions of `cyoa-story` in MLflow, each proven to answer as the model it was made from.

A version is written only after its files came back from the store and gave the same logits: MLflow saves a LoRA model over a local
base without an error, and loads it with layers that are random (mlflow#23761). What plays is the version with the alias `champion`,
else the shipped model, else the base.
"""

import functools
import json
import logging
import os
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from shared import data, models
from shared.errors import UserError, line
from shared.report import write_atomically
from shared.sprints import ROOT
from shared.tracking import veiled

from .versions import TAG, Store

NAME, ALIAS = "cyoa-story", "champion"
SHIPPED = Path(__file__).resolve().parents[1] / "results" / "model"
RUNS = ROOT / "runs" / "cyoa"
DOWNLOADS = RUNS / "champions"
CARD = "card.json"
WEIGHTS = "weights_sha256"  # tag of a version, as in a panel
TOLERANCE = 1e-5  # largest difference of a logit
PROBE = "A story of the genre mecha. You are Rokuro (he/him).\n\nBegin.\n> Open the hatch"
PACKAGES = ("torch", "transformers", "safetensors", "accelerate")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")


class RegistryError(UserError):
    """A model that must not become a version, or a version that must not be played."""


@dataclass(frozen=True)
class Champion:
    """`name` is `cyoa-story/VERSION`, `shipped` or `pocket`."""

    folder: Path
    name: str
    reason: str


def weights(folder: Path) -> str:
    """sha256 over the weights of a model folder: names, shapes and values of its tensors, as float32, however they are stored.

    Raises RegistryError where there are none, where a file is damaged, or where a pickle lies beside them."""
    if pickles := sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLES):
        raise RegistryError(f"{folder} holds {pickles[0]}: it could run code; save the weights as safetensors")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise RegistryError(f"{folder} holds no weights (model.safetensors): train it again")
    try:
        return _weights(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    except Exception as error:  # a header that is no JSON, a file that ends early
        raise RegistryError(f"the weights in {folder} are damaged ({error}): train it again, or restore them") from None


@functools.lru_cache
def _weights(files: Sequence[tuple[Path, int, int]]) -> str:
    """Files that have the same size and time of change are read once: the game asks every half a minute."""
    opened: list[Any] = [safe_open(file, "pt") for file, *_ in files]
    tensors = {key: one for one in opened for key in one.keys()}  # noqa: SIM118
    return data.digest("\n".join(f"{key} {_tensor(tensors[key].get_tensor(key))}" for key in sorted(tensors)).encode())


def _tensor(stored: Any) -> str:
    values = stored.float()
    return f"{list(values.shape)} {data.digest(values.numpy().tobytes())}"


def logits(model: Any, tokenizer: Any) -> Any:
    """Logits of the probe, float32, (tokens, vocabulary)."""
    import torch

    ids = torch.tensor([tokenizer(PROBE, add_special_tokens=False).input_ids])
    with torch.no_grad():
        return model.eval()(input_ids=ids.to(model.device)).logits[0].float().cpu()


def flatten(artifact: Path, folder: Path) -> Path:
    """Make a model folder of what MLflow keeps in two places: the model, and the tokenizer with its chat template."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact / "model", folder)
    shutil.copytree(artifact / "components" / "tokenizer", folder, dirs_exist_ok=True)
    if (artifact / CARD).is_file():
        shutil.copy(artifact / CARD, folder)
    return folder


class Registry:
    """The versions in one MLflow store. Raises UserError where the store cannot be used."""

    def __init__(self, store: Store | None = None):
        self.store = store or Store()
        self.client = self.store.client

    def register(self, folder: Path, run: str | None = None) -> str:
        """Make a model folder a version, or find the version that has its weights and data; returns its number."""
        sha256, card = weights(folder), read_card(folder)
        for version in self.versions():
            if version.tags.get(WEIGHTS) == sha256 and version.tags.get(TAG) == card["data_version"]:
                return str(version.version)
        with self.store.usable():
            return self.add(models.load(str(folder), "cpu"), card, run)

    def add(self, loaded: models.LoadedModel, card: dict[str, Any], run: str | None = None) -> str:
        """Store a model in memory, fetch it back, compare the logits, and only then make it a version; returns its number."""
        if run is None:
            run = self.client.create_run(
                self.store.experiment, run_name="registration", tags={TAG: card["data_version"]}
            ).info.run_id
            self.client.set_terminated(run)
        with tempfile.TemporaryDirectory() as scratch:
            artifact = Path(scratch, "artifact")
            _save(loaded, card, artifact)
            stored = self.client.create_logged_model(self.store.experiment, name="story", source_run_id=run, model_type="causal-lm")
            self.client.log_model_artifacts(stored.model_id, str(artifact))
            back = self._download(stored.artifact_location, Path(scratch, "back"))
            try:
                sha256, worst = round_trip(loaded, back, Path(scratch, "folder"))
            except RegistryError:
                self.client.delete_logged_model(stored.model_id)
                raise
            self.client.finalize_logged_model(stored.model_id, "READY")
        self._ensure()
        tags = {TAG: card["data_version"], WEIGHTS: sha256, "round_trip": f"{worst:.2e}", "method": card["method"]}
        source = stored.artifact_location
        made = self.client.create_model_version(NAME, source, run, tags=tags, description=describe(card), model_id=stored.model_id)
        return str(made.version)

    def _ensure(self) -> None:
        if not self.client.search_registered_models(f"name = '{NAME}'"):
            self.client.create_registered_model(NAME, description="Writes scenes and choices of branching stories.")

    def _download(self, place: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=self.store.uri))

    def versions(self) -> Sequence[Any]:
        """Every version, newest first."""
        with self.store.usable():
            return sorted(self.client.search_model_versions(f"name = '{NAME}'"), key=lambda version: -int(version.version))

    def get(self, version: str) -> Any:
        """One version. Raises RegistryError where there is none of that number."""
        found = [one for one in self.versions() if str(one.version) == str(version)]
        if not found:
            raise RegistryError(f"{NAME} has no version {version} in {self.store.place}")
        return found[0]

    def champion(self) -> str | None:
        """The number of the version that plays, or None."""
        with self.store.usable():
            found = self.client.search_registered_models(f"name = '{NAME}'")
        return str(found[0].aliases[ALIAS]) if found and ALIAS in found[0].aliases else None

    def fetch(self, version: str, downloads: Path = DOWNLOADS) -> Path:
        """The model folder of a version, kept once it was fetched whole. Raises RegistryError where its weights are absent or are
        not those that were registered."""
        known = self.get(version)
        sha256 = known.tags.get(WEIGHTS, "")
        folder = downloads / f"{version}_{sha256[:12]}"
        if _has(folder, sha256):
            return folder
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as scratch:
            try:
                made = flatten(self._download(known.source, Path(scratch, "back")), Path(scratch, "folder"))
            except Exception as error:  # files that are gone, a server that is down
                raise RegistryError(f"version {version} of {NAME} cannot be fetched ({line(error)})") from error
            if not _has(made, sha256):
                raise RegistryError(f"version {version} of {NAME} has other weights than were registered: do not play it")
            if not _has(folder, sha256):  # else another process was faster, and may be reading it
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
        return folder


def _has(folder: Path, sha256: str) -> bool:
    try:
        return weights(folder) == sha256
    except RegistryError:
        return False


def _save(loaded: models.LoadedModel, card: dict[str, Any], artifact: Path) -> None:
    """MLflow's transformers flavor, with a signature and pinned requirements, and our card."""
    from importlib.metadata import version

    from mlflow import transformers
    from mlflow.models import infer_signature

    for name in ("mlflow", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model card of the base is looked up otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.save_model(
            {"model": loaded.model, "tokenizer": loaded.tokenizer},
            str(artifact),
            task="text-generation",
            signature=infer_signature("Begin.", "The hatch opens.", params={"max_new_tokens": 160, "temperature": 0.8}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
        )
    write_atomically(artifact / CARD, json.dumps(card, indent=1).encode())


def round_trip(loaded: models.LoadedModel, artifact: Path, scratch: Path) -> tuple[str, float]:
    """Load what the store gave back: sha256 of its weights, and the largest difference of a logit, which must be below TOLERANCE.

    Raises RegistryError for anything that is not the same model in safetensors."""
    from mlflow import transformers

    try:
        folder = flatten(artifact, scratch)
        sha256 = weights(folder)
        theirs: Any = transformers.load_model(str(artifact), return_type="components")
        ours = models.load(str(folder), "cpu")
    except Exception as error:  # whatever the loaders raise, this is no model
        raise RegistryError(f"what the registry stored is no model ({line(error)}): nothing is registered") from error
    before, worst = logits(loaded.model, loaded.tokenizer), 0.0
    for model, tokenizer in ((theirs["model"], theirs["tokenizer"]), (ours.model, ours.tokenizer)):
        after = logits(model, tokenizer)
        worst = max(worst, float((before - after).abs().max()) if before.shape == after.shape else float("inf"))
    if not worst < TOLERANCE:
        why = f"what the registry stored answers otherwise (logits differ by {worst:.2g})"
        raise RegistryError(f"{why}: nothing is registered; merge an adapter into its base first")
    return sha256, worst


def read_card(folder: Path) -> dict[str, Any]:
    """What is known of a model folder. Raises RegistryError where it has no card."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return card | {key: card[key] for key in ("data_version", "method", "base")}
    except (OSError, ValueError, KeyError) as error:
        raise RegistryError(f"{folder} has no whole {CARD} ({line(error)}): train it with `make cyoa-train`") from None


def describe(card: dict[str, Any], panel: dict[str, Any] | None = None) -> str:
    """The model card, in Markdown."""
    facts = {key: value for key, value in card.get("recipe", {}).items() if key != "rank" or card["method"] == "lora"}
    facts |= {key: f"{value:.4g}" for key, value in card.get("metrics", {}).items()}
    lines = [
        "# cyoa-story\n",
        "Writes the next scene of a branching story, and the choices after it.",
        f"Tuned ({card['method']}) from {card['base']} on scenes that were written for this project.",
        "",
        f"- Data version: `{card['data_version']}`",
        *(f"- {key.replace('_', ' ').capitalize()}: {value}" for key, value in facts.items()),
        "- Limits: a small model's scenes have a tone and little sense; the README of the sprint measures how far it goes.",
    ]
    if panel:
        lines += ["", "| measure | mean over test scenarios | better |", "| --- | --- | --- |"]
        for key, one in sorted(panel["metrics"].items()):
            lines.append(f"| {key} | {statistics.fmean(one['values'].values()):.4g} | {one['better']} |")
    return "\n".join(lines) + "\n"


def champion(uri: str | None = None, downloads: Path = DOWNLOADS) -> Champion:
    """The model to play, and why this one. Never raises for a registry that is absent, down or damaged: the shipped model plays."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if not uri and not (ROOT / "mlflow.db").is_file():
        return _shipped("there is no registry")
    try:
        registry = _registry(uri)
        version = registry.champion()
        if version is None:
            return _shipped("the registry has no champion")
        return Champion(registry.fetch(version, downloads), f"{NAME}/{version}", f"alias {ALIAS} in {registry.store.place}")
    except Exception as error:  # the game must start
        return _shipped(veiled(line(error)))


@functools.cache
def _registry(uri: str) -> Registry:
    return Registry(Store(uri or None))


def _shipped(why: str) -> Champion:
    if (SHIPPED / "model.safetensors").is_file():
        return Champion(SHIPPED, "shipped", why)
    return Champion(models.POCKET, "pocket", f"{why}, and no model is shipped yet")
