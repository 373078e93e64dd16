"""One tuning run from rows to adapter: tokens, the backend of the device, and a folder in which it can be stopped and go on."""

import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from shared import data, models
from shared.device import Device
from shared.errors import UserError
from shared.report import write_atomically
from shared.runlog import console

from . import adapter, recipe, snippets
from .recipe import Course, Recipe, Tuned
from .snippets import Encoded, Snippet

PARTS = ("adapter.py", "recipe.py", "snippets.py", "tune_mlx.py", "tune_torch.py", "tuning.py", "twin.py")


@functools.cache
def code() -> str:
    """The digest of everything that decides what a tuning gives."""
    return data.digest([Path(__file__).with_name(part) for part in PARTS])


def encode(loaded: models.LoadedModel, rows: Sequence[Snippet], setting: Recipe) -> tuple[list[Encoded], list[Encoded]]:
    """Training and validation rows as tokens; says how many were cut. Raises UserError when one of the two has no rows."""
    found = []
    sides: list[tuple[snippets.Split, bool]] = [("train", setting.end_sign), ("validation", True)]
    for side, end in sides:
        part = snippets.split(rows, side)
        if not part:
            raise UserError(f"the data has no {side} rows: a row whose form or theme is held out does not train (data/README.md)")
        encoded, cut = snippets.encode_all(loaded.tokenizer, loaded.stop_ids, part, setting.max_length, end=end)
        if cut:
            console.print(
                f"warning: {cut} of {len(part)} {side} rows have more than {setting.max_length} tokens, their end is cut off"
            )
        found.append(encoded)
    return found[0], found[1]


def home(base: Path, loaded: models.LoadedModel, setting: Recipe, rows: Sequence[Snippet]) -> Path:
    """Where the run of a model stands: its checkpoints while it lasts, then its adapter. Another recipe or other rows stand
    elsewhere, so that nothing replaces the adapters of a published run."""
    known = repr(replace(setting, seed=0)) + snippets.digest(rows)
    return base / f"{Path(loaded.name).name}_{hashlib.sha256(known.encode()).hexdigest()[:8]}" / f"seed_{setting.seed}"


def tune(
    model: str, device: Device, setting: Recipe, rows: Sequence[Snippet], base: Path, *, processes: int = 1, keep: bool = True
) -> Tuned:
    """Tune `model` by this recipe on the training rows. A run that stands in `base` goes on, or is taken when it is finished; on
    MLX, which writes no checkpoints, one that was stopped begins anew.

    keep False: neither adapter nor checkpoint stays; nor do they where the whole model was tuned, which is no adapter.
    """
    if processes > 1 and device.kind == "mlx":
        raise UserError("--processes is for torch: on MLX one process trains")
    loaded = recipe.base(model, device, setting.method)
    folder = home(base, loaded, setting, rows)
    train, validation = encode(loaded, rows, setting)
    settings = {"recipe": asdict(setting), "data": snippets.digest(rows), "code": code()} | adapter.identity(loaded)
    if (folder / "settings.json").is_file() and json.loads((folder / "settings.json").read_text()) != settings:
        console.print(f"{folder.name}: the base or the code is another than before, it starts anew")
        shutil.rmtree(folder)
    if (folder / "done.json").is_file():
        return Tuned(adapter.load(loaded, folder / "adapter"), Course(**json.loads((folder / "done.json").read_text())))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "settings.json", json.dumps(settings, indent=1).encode())
    if loaded.backend == "mlx":
        from . import tune_mlx

        tuned = tune_mlx.tune(loaded, setting, train, validation)
    else:
        from . import tune_torch

        if processes > 1:
            return tune_torch.in_processes(model, device, setting, train, validation, folder, processes)
        tuned = tune_torch.tune(loaded, setting, train, validation, folder / "checkpoints")
    if keep and setting.method != "full":
        finish(tuned, folder)
    else:
        shutil.rmtree(folder)
    return tuned


def finish(tuned: Tuned, folder: Path) -> None:
    """Save the adapter and what is known of the run; its checkpoints are no longer needed."""
    adapter.save(tuned.loaded, folder / "adapter")
    write_atomically(folder / "done.json", json.dumps(asdict(tuned.course), indent=1).encode())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
