"""Open an engine by name: the one place that knows them all."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from shared import device, models
from shared.device import Device, DeviceName
from shared.errors import UserError

from .base import Engine

Kind = Literal["auto", "fast", "hf", "mlx", "openai"]
DEVICES: dict[Kind, tuple[device.Kind, ...]] = {
    "auto": ("cuda", "mlx", "mps", "cpu"),
    "fast": ("cpu",),
    "hf": ("cuda", "mps", "cpu"),
    "mlx": ("mlx",),
}
SMALL = 2**30  # bytes of weights up to which a CPU serves well


def open_engine(
    kind: Kind,
    folder: Path | None,
    model_version: str = "",
    *,
    on: DeviceName = "auto",
    base_url: str = "",
    model: str = "",
    key: str = "",
) -> Engine:
    """The engine of a kind with the model of a folder; `openai` needs a `base_url` instead, and may need `model` and `key`.

    `auto` is `openai` with a base URL. Else it is `fast` for models that CTranslate2 knows, if they are small or there is only the
    CPU; for others `hf`, or `mlx` on Apple silicon. Where `on` names a device, only what computes there is taken; the server behind
    `openai` has its own. Raises UserError (one line).
    """
    if kind not in get_args(Kind):
        raise UserError(f"unknown engine {kind!r}: choose one of {', '.join(get_args(Kind))}")
    if kind == "openai" or (kind == "auto" and base_url):
        from .openai import OpenAI

        if not base_url.startswith(("http://", "https://")):
            raise UserError("the engine openai needs --base-url http://HOST:PORT/v1")
        return OpenAI(base_url, model, key)
    chosen = where(kind, on)
    if folder is None or not folder.is_dir():
        raise UserError(f"no model in {folder}: train one with `make cyoa-train`")
    small = sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= SMALL
    if kind == "fast" or (kind == "auto" and (chosen.kind == "cpu" or (on == "auto" and small))):
        from .fast import Fast, UnsupportedError

        try:
            return Fast(folder, model_version)
        except UnsupportedError:
            if kind == "fast":
                raise
    loaded = models.load(str(folder), chosen)
    if chosen.kind == "mlx":
        from .mlx import Mlx

        return Mlx(loaded, model_version)
    if chosen.kind == "cuda":
        from .batching import Batching

        return Batching(loaded, model_version)
    from .hf import Transformers

    return Transformers(loaded, model_version)


def where(kind: Kind, on: DeviceName) -> Device:
    """The device of an engine that is asked for `on` one. Raises UserError where it is not here or not for this engine."""
    if on != "auto" and on not in DEVICES[kind]:
        raise UserError(f"--device {on}: the engine {kind} computes on {' or '.join(DEVICES[kind])}; give another --engine")
    if kind == "mlx":  # `auto` takes MLX on Apple silicon only; by name it runs on other machines too, for tests
        return replace(device.pick("mlx", DEVICES[kind]), reason="asked for with --engine mlx")
    return device.pick(on, DEVICES[kind])
