"""A folder of pictures: DIR/train/CLASS/* and DIR/test/CLASS/*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from slotkit.data.files import naming
from slotkit.data.images import Dataset, ImageSet
from slotkit.data.pictures import decode_halves
from slotkit.data.source import Source
from slotkit.errors import SlotkitError


def load(source: Source, place: Path, size: int | None) -> Dataset:
    """Read every picture of `place`; classes are the names of the folders in `train`, sorted.

    With a `size`, each picture is stretched to size x size pixels.

    Raises SlotkitError if a half or a class is missing or empty, if a picture cannot be read, or if sizes
    differ and no `size` is given.
    """
    train, test = _listed(place / "train"), _listed(place / "test")
    strays = sorted(set(train.classes) ^ set(test.classes))
    if strays:
        half, other = ("train", "test") if strays[0] in train.classes else ("test", "train")
        raise SlotkitError(
            f"class {strays[0]!r} is in {place / half} but not in {place / other}; both need the same "
            "classes. Add the folder there or remove it here."
        )
    train_images, test_images = decode_halves(_encoded(train), _encoded(test), size)
    return Dataset(
        f"imagefolder:{place}",
        ImageSet(train_images, torch.tensor(train.targets, dtype=torch.int64)),
        ImageSet(test_images, torch.tensor(test.targets, dtype=torch.int64)),
        tuple(train.classes),
    )


def _listed(half: Path) -> ImageFolder:
    """The pictures of one half and their classes; only names are read here."""
    if not half.is_dir():
        raise SlotkitError(
            f"{half} is not a folder; an imagefolder needs DIR/train/CLASS/* and DIR/test/CLASS/*. "
            "Create it or give another DIR."
        )
    try:
        return ImageFolder(str(half))
    except FileNotFoundError as error:
        raise SlotkitError(
            f"{half} has no class folder, or one without images: {error}. An imagefolder needs "
            f"{half / 'CLASS'} with at least one file ending in {', '.join(IMG_EXTENSIONS)}."
        ) from error


def _encoded(half: ImageFolder) -> Iterator[tuple[str, bytes]]:
    for name, _ in half.samples:
        with naming(Path(name)):
            yield name, Path(name).read_bytes()
