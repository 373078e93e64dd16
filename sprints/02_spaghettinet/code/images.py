"""The three sets of small images: scikit-learn's digits, which need no file, MNIST and Fashion-MNIST from their raw idx files.

The files are taken from $SPRINTS_DATA or the cache and checked by sha256; naming a set with --only downloads it (shared/data.py).
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared import data

SETS = ("digits", "mnist", "fashion_mnist")
CLASSES = 10
PARTS = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
HELD_OUT = 10_000  # of the idx sets: the last of the training rows validate, as many test
DIGITS_SHARE = 0.2  # of the digits: so many test, always the same, and as many validate


@dataclass(frozen=True)
class Images:
    """x (n, height * width) with mean 0 and deviation 1 over the training rows, y (n,), the rows of each part, the grid."""

    x: Tensor
    y: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    grid: tuple[int, int]


def files(name: str) -> list[str]:
    """The data files of a set, as shared.data.fetch names them."""
    return [] if name == "digits" else [f"{name}/{part}" for part in PARTS]


def at_hand(name: str) -> bool:
    """Whether the files of a set are on this machine, so that nothing would be downloaded."""
    offline = os.environ.get("SPRINTS_DATA")

    def here(file: str) -> bool:
        return bool(offline and (Path(offline).expanduser() / file).is_file()) or (data.cache_folder() / file).is_file()

    return all(map(here, files(name)))


@functools.cache
def pixels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, height, width) and labels (n,), the test rows of the idx sets last. DataError where a file is missing."""
    if name == "digits":
        from sklearn.datasets import load_digits

        flat, labels = load_digits(return_X_y=True)
        return np.asarray(flat, np.uint8).reshape(-1, 8, 8), np.asarray(labels)
    parts = [data.read_idx(data.fetch(file)) for file in files(name)]
    return np.concatenate(parts[::2]), np.concatenate(parts[1::2])


@functools.lru_cache(maxsize=3)
def load(name: str, *, split: int = 0, permuted: bool = False, rows: int | None = None) -> Images:
    """A set, ready to learn from. Its test rows are always the same; `split` draws the rows of the digits that validate.

    permuted: all images with their pixels in the same random order, which hides what lies beside what.
    rows: only so many to train on, to validate and to test.
    """
    images, labels = pixels(name)
    n, height, width = images.shape
    if name == "digits":
        rest, test = data.split(n, test=DIGITS_SHARE, seed=0, stratify=labels)
        kept, held = data.split(len(rest), test=DIGITS_SHARE / (1 - DIGITS_SHARE), seed=split, stratify=labels[rest])
        train, validation = rest[kept], rest[held]
    else:
        end = n - 2 * HELD_OUT
        train, validation, test = np.arange(end), np.arange(end, end + HELD_OUT), np.arange(end + HELD_OUT, n)
    x = torch.from_numpy(images.reshape(n, -1)).float()
    of_train = x[torch.from_numpy(train)]
    x = (x - of_train.mean()) / of_train.std()
    if permuted:
        x = x[:, torch.randperm(height * width, generator=torch.Generator().manual_seed(0))]
    first, second, third = (torch.from_numpy(part[:rows]) for part in (train, validation, test))
    return Images(x, torch.from_numpy(labels.astype(np.int64)), first, second, third, (height, width))
