"""What is known about a dataset before it is read. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slotkit.data.files import fetch_command, naming
from slotkit.errors import SlotkitError


@dataclass(frozen=True)
class Loading:
    """How pictures of one's own become images, and whether they are kept.

    crop: with a size, take the middle of each picture, in its proportions, instead of stretching it.
    memory: bytes that the decoded images may take; more are read from their files while they are used.
    whole_pictures: an augmentation needs them as they are stored, so they are read while they are used.
    workers: processes that read ahead then; None is a number by cores.
    """

    crop: bool = False
    memory: float = math.inf
    whole_pictures: bool = False
    workers: int | None = None


IN_MEMORY = Loading()


@dataclass(frozen=True)
class Source:
    """What is known about a dataset before it is read.

    name: as typed by the user; `imagefolder:DIR` and `parquet:DIR` stand for a folder of the user's.
    reader: the module that reads it, imported when it is needed: `load(source, place, size)`, for a folder
        of the user's `load(source, place, size, loading)`, and `fetch(source, place)` if there is something
        to download. `place` is the folder after the colon, or
        else the data folder.
    classes: the number of classes, None where only the files know it.
    image_shape: channels x height x width, as text.
    validation_share: the default fraction of the training images that select a model.
    mean, std: one number a channel, of the training images scaled to [0, 1]; None where they are unknown.
    download_size: of all files to download, as text; None if there is nothing to download.
    torchvision_class: the class in torchvision.datasets, "" if torchvision does not know the dataset.
    layout: how torchvision stores it (idx, cifar or svhn), "" if torchvision does not know the dataset.
    files: paths below the data folder; empty for a dataset that does not live there.
    is_there: for a folder of the user's: whether it looks complete, from the names in it alone.
    """

    name: str
    description: str
    reader: str
    classes: int | None
    image_shape: str
    validation_share: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    download_size: str | None = None
    torchvision_class: str = ""
    layout: str = ""
    files: tuple[str, ...] = ()
    is_there: Callable[[Path], bool] | None = None

    def is_in(self, place: Path) -> bool:
        """Whether its files are in `place`; says nothing of their content."""
        return self.is_there(place) if self.is_there else self.first_missing(place) is None

    def first_missing(self, data_dir: Path) -> str | None:
        """The first of `files` that is not in `data_dir`, or None."""
        for file in self.files:
            with naming(data_dir / file):
                if not (data_dir / file).is_file():
                    return file
        return None


def require(source: Source, data_dir: Path) -> None:
    """Raise SlotkitError if a file of `source` is missing from `data_dir`, with the ways to get it."""
    missing = source.first_missing(data_dir)
    if missing is not None:
        raise SlotkitError(
            f"{source.name} is not in {data_dir}: there is no {missing}. "
            f"Run `{fetch_command(source.name, data_dir)}`, train with --download, "
            "or set --data-dir or SLOTKIT_DATA to the folder that holds it."
        )
