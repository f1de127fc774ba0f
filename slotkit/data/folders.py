"""A folder of pictures: DIR/train/CLASS/* and DIR/test/CLASS/*, read as torchvision's ImageFolder does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from slotkit.data.files import is_hidden, naming
from slotkit.data.images import Dataset, ImageSet
from slotkit.data.pictures import decode_halves, is_turned
from slotkit.data.source import IN_MEMORY, Loading, Source
from slotkit.data.streams import exceeds, streamed
from slotkit.errors import SlotkitError

# torchvision's list; its import takes 160 MB, and seconds.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load(source: Source, place: Path, size: int | None, loading: Loading = IN_MEMORY) -> Dataset:
    """Read every picture of `place`; classes are the names of the folders in `train`, sorted.

    What tools put there (`is_hidden`) is left out. EXIF orientation is not applied, as ImageFolder doesn't;
    a note says if pictures have one. With a `size`, each picture is made size x size pixels. Where `loading`
    says so, pictures stay in their files.

    Raises SlotkitError if a half or a class is missing or empty, if a folder is there twice, if a picture
    cannot be read, or if sizes differ and no `size` is given.
    """
    seen: dict[str, Path] = {}
    train, test = _listed(place / "train", seen), _listed(place / "test", seen)
    strays = sorted(set(train.classes) ^ set(test.classes))
    if strays:
        half, other = ("train", "test") if strays[0] in train.classes else ("test", "train")
        raise SlotkitError(
            f"class {strays[0]!r} is in {place / half} but not in {place / other}; both need the same "
            "classes. Add the folder there or remove it here."
        )
    name, classes = f"imagefolder:{place}", tuple(train.classes)
    pictures = [Files(half.paths) for half in (train, test)]
    if exceeds(pictures, size, loading):
        labels = [torch.tensor(half.labels, dtype=torch.int64) for half in (train, test)]
        halves, turned_at, told = streamed(pictures, labels, size, loading)
        notes = _notes(train.left_out + test.left_out, turned_at)
        return Dataset(name, *halves, classes, notes=(told, *notes))
    turned: list[str] = []
    images = decode_halves(_encoded(train, turned), _encoded(test, turned), size, crop=loading.crop)
    train_set, test_set = (
        ImageSet(pixels, torch.tensor(half.labels, dtype=torch.int64))
        for pixels, half in zip(images, (train, test), strict=True)
    )
    notes = _notes(train.left_out + test.left_out, turned)
    return Dataset(name, train_set, test_set, classes, notes=notes)


class Files:
    """Pictures that are a file each; see `slotkit.data.streams.Pictures`.

    Their paths are one text: millions of Python objects would be copied into each worker, because Python
    counts references in them.
    """

    def __init__(self, paths: list[Path]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.text = b"".join(encoded)
        self.ends = torch.tensor([len(path) for path in encoded], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self.ends)

    def opened(self, number: int) -> tuple[str, BinaryIO]:
        start = int(self.ends[number - 1]) if number else 0
        path = os.fsdecode(self.text[start : int(self.ends[number])])
        with naming(Path(path)):
            return path, Path(path).open("rb")


@dataclass(frozen=True)
class _Half:
    """The pictures of one half and their labels; `left_out` has other suffixes than pictures have."""

    classes: list[str]
    paths: list[Path]
    labels: list[int]
    left_out: list[Path]


def _listed(half: Path, seen: dict[str, Path]) -> _Half:
    """Look at names only. `seen` are the folders that were walked before, by their real paths."""
    if not half.is_dir():
        raise SlotkitError(
            f"{half} is not a folder; an imagefolder needs DIR/train/CLASS/* and DIR/test/CLASS/*. "
            "Create it or give another DIR."
        )
    with naming(half):
        inside = sorted(path for path in half.iterdir() if not is_hidden(path))
    found = _Half([path.name for path in inside if path.is_dir()], [], [], [])
    found.left_out.extend(path for path in inside if not path.is_dir())
    empty = []
    for label, name in enumerate(found.classes):
        files = list(_files(half / name, seen))
        pictures = [path for path in files if path.name.lower().endswith(IMG_EXTENSIONS)]
        found.paths.extend(pictures)
        found.labels.extend([label] * len(pictures))
        taken = set(pictures)
        found.left_out.extend(path for path in files if path not in taken)
        empty += [] if pictures else [name]
    if empty or not found.classes:
        fault = (
            f"Found no valid file for the classes {', '.join(empty)}" if empty else "Found no class folder"
        )
        raise SlotkitError(
            f"{half} has no class folder, or one without images: {fault}. An imagefolder needs "
            f"{half / 'CLASS'} with at least one file ending in {', '.join(IMG_EXTENSIONS)}."
        )
    return found


def _files(folder: Path, seen: dict[str, Path]) -> Iterator[Path]:
    """Every file in `folder` and below, in ImageFolder's order: by the path of its folder, then by name.

    Raises SlotkitError if one real folder is met twice: links that lead back, or one class as two.
    """
    levels = []
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here, real = Path(root), os.path.realpath(root)
        if real in seen:
            raise SlotkitError(
                f"{here} and {seen[real]} are one and the same folder, so its pictures would count twice. "
                "Remove the link."
            )
        seen[real] = here
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        levels.append((root, [here / name for name in sorted(files) if not is_hidden(Path(name))]))
    for _, paths in sorted(levels):
        yield from paths


def _refuse(fault: OSError) -> None:
    with naming(Path(fault.filename)):
        raise fault


def _encoded(half: _Half, turned: list[str]) -> Iterator[tuple[str, bytes]]:
    """Each picture; those with an EXIF orientation are added to `turned`."""
    for path in half.paths:
        with naming(path):
            encoded = path.read_bytes()
        if is_turned(encoded):
            turned.append(str(path))
        yield str(path), encoded


def _notes(left_out: list[Path], turned: list[str]) -> tuple[str, ...]:
    notes = []
    if left_out:
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in left_out)
        kinds = ", ".join(f"{times} {suffix}" for suffix, times in sorted(suffixes.items()))
        notes.append(
            f"Left out are files that are not pictures in a class folder by their names: {kinds}, such as "
            f"{left_out[0]}. Pictures end in {', '.join(IMG_EXTENSIONS)}."
        )
    if turned:
        notes.append(
            f"Pictures with an EXIF orientation ({len(turned)}, such as {turned[0]}) are not turned: "
            "torchvision's ImageFolder doesn't either. Turn the pixels themselves if they should be upright."
        )
    return tuple(notes)
