"""Dataset access: an offline folder, a cache, checked downloads, content digests and seeded splits."""

import gzip
import hashlib
import math
import os
import shutil
import uuid
import warnings
import zlib
from datetime import date, timedelta
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import yaml

from shared.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}  # by magic number


class DataError(UserError):
    """A data file is missing or damaged; the message says what to do."""


class Remote(NamedTuple):
    """Where a file is downloaded from and the sha256 (hex) of its bytes."""

    url: str
    sha256: str


HOSTS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",  # no https there: sha256 protects it
}
SHA256 = {
    "mnist/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "mnist/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "mnist/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "mnist/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "fashion_mnist/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "fashion_mnist/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "fashion_mnist/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "fashion_mnist/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
REGISTRY = {name: Remote(f"{HOSTS[name.split('/')[0]]}/{Path(name).name}", sha256) for name, sha256 in SHA256.items()}


def fetch(name: str, remote: Remote | None = None) -> Path:
    """Return the path of a data file: from $SPRINTS_DATA, else the cache ($SPRINTS_CACHE), else downloaded.

    `name` is "folder/file" with forward slashes; `remote` is needed for names outside REGISTRY.
    Every file is checked against its sha256. Raises DataError with one line that says what to do.
    """
    pure = PureWindowsPath(name)  # sees drives and both kinds of slash on every system
    if not pure.parts or pure.anchor or ".." in pure.parts:
        raise DataError(f"bad data name {name!r}: use a relative path such as mnist/t10k-labels-idx1-ubyte.gz")
    if (remote := remote or REGISTRY.get(name)) is None:
        raise DataError(f"unknown data {name!r}: choose one of {', '.join(REGISTRY)}")
    offline = Path(os.environ.get("SPRINTS_DATA") or "$SPRINTS_DATA").expanduser() / name  # unset: says so in the error
    if offline.is_file():
        if wrong := _mismatch(offline, remote):
            raise DataError(f"{offline} is not the expected file ({wrong}): replace it or delete it")
        return offline
    cached = cache_folder() / name
    if cached.is_file():
        if not (wrong := _mismatch(cached, remote)):
            return cached
        warnings.warn(f"{cached} is damaged ({wrong}): downloading it again", stacklevel=2)
    try:
        _download(remote, cached)
    except (OSError, HTTPException) as error:
        problem = f"cannot download {name} ({str(error).removeprefix('<urlopen error ').removesuffix('>')})"
        if isinstance(error, HTTPError):
            error.close()  # it holds the open connection
        raise DataError(f"{problem}: put the file at {offline} or {cached}, or connect to the network") from error
    return cached


def cache_folder() -> Path:
    """$SPRINTS_CACHE or ~/.cache/sprintlab. Raises DataError where there is neither it nor a home folder."""
    try:
        return Path(os.environ.get("SPRINTS_CACHE") or "~/.cache/sprintlab").expanduser()
    except RuntimeError:
        raise DataError("this user has no home folder: set SPRINTS_CACHE to a folder") from None


def _mismatch(path: Path, remote: Remote) -> str:
    """How the sha256 of a file differs from the expected one, or an empty text when it does not."""
    return "" if (found := digest(path)) == remote.sha256 else f"expected sha256 {remote.sha256}, found {found}"


def _download(remote: Remote, target: Path) -> None:
    """Download to a temporary neighbour of `target` and move it into place only when it is whole and right."""
    from rich.console import Console
    from rich.progress import wrap_file

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # two programs may fetch the same file at once
    try:
        with (
            urlopen(remote.url, timeout=30) as response,
            part.open("xb") as file,
            wrap_file(response, response.length or 0, description=target.name, console=Console(stderr=True)) as body,
        ):
            shutil.copyfileobj(body, file)
        if response.length:  # what is left to read: http.client ends a cut transfer without an error
            raise ConnectionError(f"the connection closed {response.length} bytes too early")
        if wrong := _mismatch(part, remote):
            raise DataError(f"{remote.url} sent another file ({wrong}): put the right one at {target}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)  # gone already after the move; left over after an error or Ctrl-C


def digest(data: "bytes | Path | np.ndarray | pd.DataFrame | list[Any] | tuple[Any, ...]") -> str:
    """Return the sha256 (hex) of the content, the same in every process and on every machine.

    bytes and Path (a file): of the bytes, as `sha256sum` prints it. Array: dtype, shape and values. DataFrame: index,
    column names, dtypes and every value (MLflow's digest drops list columns, columns with None, rows after 10 000).
    List or tuple: of these, in order. Raises TypeError for anything else, object arrays included.
    """
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    if isinstance(data, Path):
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(data, np.ndarray):
        if data.dtype.hasobject:
            raise TypeError(f"cannot digest an array of dtype {data.dtype}: its memory holds pointers, not values")
        return digest(f"array {np.lib.format.dtype_to_descr(data.dtype)} {data.shape} ".encode() + data.tobytes())
    if isinstance(data, (list, tuple)):
        return digest(f"sequence {[digest(item) for item in data]}".encode())
    import pandas as pd

    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"cannot digest {type(data).__name__}")
    parts = [f"frame {data.shape}"]
    for name, column in [("index", data.index.to_series()), *data.items()]:
        values = column.to_numpy()
        content = ",".join(map(_canonical, values)).encode() if values.dtype.hasobject else values
        order = list(getattr(column.dtype, "categories", []))  # of categories: it decides the codes a model is fed
        parts.append(f"{_canonical(name)} {column.dtype} {_canonical(order)} {digest(content)}")
    return digest("\n".join(parts).encode())


def _canonical(value: Any) -> str:
    """Text that is equal for equal values only."""
    import pandas as pd

    if isinstance(value, np.generic):
        return digest(np.asarray(value))
    if isinstance(value, list | tuple | np.ndarray):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(sorted(f'{_canonical(key)}:{_canonical(item)}' for key, item in value.items()))}}}"
    # these have a repr that tells any two values apart and holds no memory address; ascii() is the same in each Python
    if value is pd.NA or isinstance(value, (type(None), int, float, str, bytes, date, timedelta)):
        return ascii(value)
    raise TypeError(f"cannot digest a cell of type {type(value).__name__}")


def split(n: int, *, test: float, seed: int, stratify: Any = None, groups: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Split rows 0..n-1 at random into sorted (train, test) indices; NumPy's global generator is left alone.

    `test` is the share of rows on the test side, rounded to whole rows; `stratify` (n labels) keeps their shares equal
    on both sides. With `groups` (n ids) no id is on both sides, and `test` is the share of ids, not of rows.
    Raises ValueError for a share outside (0, 1), wrong lengths, an empty side, or stratify and groups together.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    if stratify is not None and groups is not None:
        raise ValueError("stratify and groups cannot be combined: choose one")
    for labels in (stratify, groups):
        if labels is not None and (given := len(np.asarray(labels))) != n:
            raise ValueError(f"stratify and groups need one entry for each of the {n} rows, got {given}")
    units = n if groups is None else len(np.unique(groups))
    if not 0 < test < 1 or not 0 < (n_test := round(test * units)) < units:
        raise ValueError(f"test={test} of {units} {'rows' if groups is None else 'groups'} leaves a side empty")
    splitter = GroupShuffleSplit if groups is not None else ShuffleSplit if stratify is None else StratifiedShuffleSplit
    train, held_out = next(splitter(1, test_size=n_test, random_state=seed).split(np.arange(n), stratify, groups))
    return np.sort(train), np.sort(held_out)


def read_yaml(path: Path, encoding: str = "utf-8") -> Any:
    """What a YAML file says. Raises DataError (one line) where there is no such file, or it is not YAML in that encoding."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml
    try:
        text, depth = path.read_text(encoding), 0
        for event in yaml.parse(text, loader):  # libyaml does not survive thousands of levels
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 100:
                raise yaml.YAMLError("nested too deeply")
        return yaml.load(text, loader)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: another encoding, or a date such as 2024-02-30
        raise DataError(f"{path} is not YAML in {encoding}: {' '.join(str(error).split())}") from None


def read_idx(path: Path) -> np.ndarray:
    """Read an idx or idx.gz file, the format of MNIST, into a writable array in native byte order.

    Raises DataError for a file that is no idx file or is truncated. Source: http://yann.lecun.com/exdb/mnist/
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): delete it and fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES:
        raise DataError(f"{path} is not an idx file (it starts with {content[:4].hex()!r}): replace it")
    dtype, start = np.dtype(IDX_DTYPES[content[2]]), 4 + 4 * content[3]  # content[3] is the number of dimensions
    shape = tuple(int.from_bytes(content[at : at + 4]) for at in range(4, start, 4))  # big-endian
    if len(content) != start + math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path} holds {len(content)} bytes, not those of its shape {shape}: replace it")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
