"""Open an engine by name: the one place that knows them all."""

from pathlib import Path
from typing import Literal, get_args

from shared import device, models
from shared.device import DeviceName
from shared.errors import UserError

from .base import Engine

Kind = Literal["auto", "fast", "hf", "mlx", "openai"]
DEVICES: dict[Kind, tuple[device.Kind, ...]] = {"fast": ("cpu",), "hf": ("cuda", "mps", "cpu"), "mlx": ("mlx",)}
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
    CPU; for others `hf`, or `mlx` on Apple silicon. Where `on` names a device, only what computes there is taken.
    Raises UserError (one line).
    """
    if kind not in get_args(Kind):
        raise UserError(f"unknown engine {kind!r}: choose one of {', '.join(get_args(Kind))}")
    if kind == "openai" or (kind == "auto" and base_url):
        from .openai import OpenAI

        if not base_url.startswith(("http://", "https://")):
            raise UserError("the engine openai needs --base-url http://HOST:PORT/v1")
        return OpenAI(base_url, model, key)
    if folder is None or not folder.is_dir():
        raise UserError(f"no model in {folder}: train one with `make cyoa-train`")
    if kind == "auto":
        return _auto(folder, model_version, on)
    # MLX that is asked for by name runs on other machines too, for tests
    chosen = device.pick("mlx" if kind == "mlx" and on == "auto" else on, DEVICES[kind])
    if kind == "fast":
        from .fast import Fast

        return Fast(folder, model_version)
    loaded = models.load(str(folder), chosen)
    if kind == "mlx":
        from .mlx import Mlx

        return Mlx(loaded, model_version)
    if chosen.kind == "cuda":
        from .batching import Batching

        return Batching(loaded, model_version)
    from .hf import Transformers

    return Transformers(loaded, model_version)


def _auto(folder: Path, model_version: str, on: DeviceName) -> Engine:
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    chosen = device.pick(on, ("cuda", "mlx", "mps", "cpu"))
    if chosen.kind == "cpu" or (on == "auto" and weights <= SMALL):
        from .fast import UnsupportedError

        try:
            return open_engine("fast", folder, model_version)
        except UnsupportedError:
            pass
    return open_engine("mlx" if chosen.kind == "mlx" else "hf", folder, model_version, on=chosen.kind)
