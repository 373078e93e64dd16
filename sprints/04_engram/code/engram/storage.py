"""A memory on disk: `engram.safetensors` with its tensors and `engram.json` with what they mean."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shared.errors import UserError, line
from shared.report import refuse_foreign, replaced

from .hashing import Vocabulary
from .memory import EngramConfig, EngramMemory

WEIGHTS, CONFIG, FORMAT = "engram.safetensors", "engram.json", 1


def save(memory: EngramMemory, folder: Path) -> None:
    """Write to a folder beside `folder`, then move it there. Raises UserError for a folder that holds something else."""
    if memory.mapped is not None:
        raise UserError("a mapped memory is read-only: copy its folder, or load it without mapped=True")
    refuse_foreign(folder, CONFIG, "an Engram memory")
    about = {"format": FORMAT, "config": asdict(memory.config), "hidden_size": memory.hidden_size}
    about |= {"packs": memory.packs, "tokenizer": memory.vocabulary.fingerprint}
    with replaced(folder) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in memory.state_dict().items()}, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, tokenizer: Any, mapped: bool = False) -> EngramMemory:
    """Read a memory; `mapped` leaves its table on disk. Raises UserError for missing, damaged and foreign files."""
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise UserError(f"there is no Engram memory in {folder}, it has no {missing[0]}: train one (`make engram-train`)")
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, not {FORMAT}")
        config, hidden_size, packs = EngramConfig(**about["config"]), int(about["hidden_size"]), int(about["packs"])
        fingerprint = str(about["tokenizer"])
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise _damaged(folder, error) from None
    vocabulary = Vocabulary.of(tokenizer, config.compress)
    if vocabulary.fingerprint != fingerprint:
        raise UserError(f"the memory in {folder} was made with another tokenizer: load the model that it was trained on")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            stored = file.get_slice("table").get_shape()
            if packs < 1 or config.rows < 1 or stored[0] < packs * config.rows:  # before any table is made of these numbers
                raise ValueError("its table is shorter than its config says")
            tensors = {name: file.get_tensor(name) for name in file.keys() if not (mapped and name == "table")}  # noqa: SIM118
        table = _mapped_table(folder / WEIGHTS) if mapped else None
        memory = EngramMemory(config, vocabulary, hidden_size, packs, table)
        memory.guard.restore({name: tensors.pop(f"guard.{name}") for name in memory.guard.state_dict()})
        memory.load_state_dict(tensors | {f"guard.{name}": tensor for name, tensor in memory.guard.state_dict().items()})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise _damaged(folder, error) from None
    return memory


def _mapped_table(path: Path) -> np.ndarray:
    """The table as an array that reads its rows from the file: 8 bytes of length, a JSON header, then the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))["table"]
    if about["dtype"] != "F32":
        raise ValueError(f"its table is {about['dtype']}, not F32")
    return np.memmap(path, np.float32, "r", 8 + length + about["data_offsets"][0], tuple(about["shape"]))


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"the Engram memory in {folder} is damaged ({line(error)}): train it again, or copy it anew")
