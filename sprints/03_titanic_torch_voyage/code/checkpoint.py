"""One file per fitted model: weights in safetensors, and in its header, as JSON, the settings, the encoding and the training rows.

The features of companions are a memory of the training rows, so these travel along; `load` makes the features from them anew and
compares them with the encoding that was saved. Nothing is unpickled: the file is numbers and text.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shared.data import DataError, digest
from shared.report import write_atomically

from .encoding import TorchClassifier
from .gaussian_process import GaussianProcess
from .linear_model import LinearModel
from .mean_logit import MeanLogit
from .preprocess_data import TEXT
from .titanic_model import EntityNet

MEMBERS: dict[str, type[TorchClassifier]] = {kind.__name__: kind for kind in (EntityNet, GaussianProcess, LinearModel)}


def dump(model: MeanLogit, X: pd.DataFrame, y: np.ndarray) -> bytes:
    """A fitted ensemble of torch classifiers, with the rows X (n, facts), y (n,) that it was fitted on."""
    tensors, members = {}, {}
    for name, member in model.members_.items():
        found, encoding = member.state()
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
        members[name] = {"class": type(member).__name__, "settings": member.get_params(), "encoding": encoding}
    facts = X.astype(object).where(X.notna(), None)
    rows = {"columns": list(facts), "values": facts.to_numpy().tolist(), "survived": [int(label) for label in y]}
    header = {"members": json.dumps(members), "rows": json.dumps(rows)}
    return save(tensors, header | {"digest": _digest(header, tensors)})


def _digest(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    return digest([header["members"].encode(), header["rows"].encode(), *(tensors[key].numpy() for key in sorted(tensors))])


def write(path: Path, model: MeanLogit, X: pd.DataFrame, y: np.ndarray) -> None:
    """Save at once: an interrupted run leaves the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump(model, X, y))


def read(path: Path) -> tuple[MeanLogit, pd.DataFrame, np.ndarray]:
    """The ensemble and its training rows; raises DataError for a file that is missing, damaged or of other features."""
    if not path.is_file():
        raise DataError(f"there is no checkpoint {os.fspath(path)}: make one with `make titanic-train`")
    try:
        with safe_open(path, "pt") as file:
            header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if header["digest"] != _digest(header, tensors):
            raise ValueError("a byte has changed since it was written")
        described, rows = json.loads(header["members"]), json.loads(header["rows"])
        X, y = pd.DataFrame(rows["values"], columns=rows["columns"], dtype=object), np.array(rows["survived"])
        X = X.astype({name: float for name in X if name not in TEXT})
        members = {name: MEMBERS[entry["class"]](**entry["settings"]) for name, entry in described.items()}
        model = MeanLogit(dict(members))
        model.classes_, model.members_ = np.unique(y), {}
        for name, member in members.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
            model.members_[name] = member.restore(X, y, own, described[name]["encoding"])
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        problem = f"{path.name} is no checkpoint of this sprint ({type(error).__name__}), or it is damaged"
        raise DataError(f"{problem}: make one with `make titanic-train`") from error
    return model, X, y
