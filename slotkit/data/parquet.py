"""Parquet files in the image-classification layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from slotkit.data import shards
from slotkit.data.files import naming
from slotkit.data.images import Dataset, ImageSet, first_stray_label
from slotkit.data.pictures import decode_halves
from slotkit.data.source import IN_MEMORY, Loading, Source
from slotkit.data.streams import exceeds, streamed
from slotkit.data.unpacked import Unpacked, unpack
from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    import pyarrow

LABEL_COLUMNS = ("label", "labels", "fine_label")


def load(source: Source, place: Path, size: int | None, loading: Loading = IN_MEMORY) -> Dataset:
    """Read the files that `shards.find` finds in `place`.

    Each row has one encoded picture, in the `bytes` field of a struct column, and an integer class, in one of
    LABEL_COLUMNS. Class names come from the hub's schema metadata; without it they are "0", "1", ... up to
    the highest label. A picture is turned as its EXIF orientation says, as the hub's own reader
    (`datasets.Image`) does. With a `size`, each picture is made size x size pixels. Where `loading` says so,
    the pictures, still encoded, are copied into a temporary file, and decoded while they are used.

    Raises SlotkitError if pyarrow or files are missing, and for a damaged file, row or label.
    """
    files = _found(place)
    train, test = ([_Part(path) for path in half] for half in (files.train, files.test))
    _check_alike([*train, *test])
    classes, named = _classes([*train, *test])
    for part in (*train, *test):
        _check_labels(part, len(classes), files)
    labels = [torch.cat([part.labels for part in half]) for half in (train, test)]
    name, notes = f"parquet:{place}", tuple(_notes(files))
    if exceeds([_First(half) for half in (train, test)], size, loading):
        pictures = _unpacked(train, test, loading.whole_pictures)
        halves, _, told = streamed(pictures, labels, size, loading, turn=True)
        return Dataset(name, *halves, classes, named, (told, *notes))
    images = decode_halves(_encoded(train), _encoded(test), size, turn=True, crop=loading.crop)
    train_set, test_set = (ImageSet(*pair) for pair in zip(images, labels, strict=True))
    return Dataset(name, train_set, test_set, classes, named, notes)


# Pictures that are read at once: a row group of the hub's files can have a thousand.
AT_ONCE = 32


class _Part:
    """One file: its labels, and its class names if it gives them; its pictures are read by `encoded`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            schema = file.schema_arrow
            self.columns = self._picture, label = _columns(schema, path)
            with _reading(path):
                column = file.read(columns=[label]).column(label)
        self.labels = _labels(column, path)
        self.names = _names(schema, label, path)

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Each row: where it is, and its picture, still encoded."""
        row = 0
        with _opened(self.path) as file:
            batches = file.iter_batches(AT_ONCE, columns=[f"{self._picture}.bytes"])
            while True:
                with _reading(self.path):
                    batch = next(batches, None)
                if batch is None:
                    return
                for scalar in batch.column(0).field("bytes"):
                    where = f"{self.path} row {row}"
                    if not scalar.is_valid:
                        raise SlotkitError(f"{where} has no picture. Remove the row or fill in its bytes.")
                    yield where, scalar.as_py()
                    row += 1


class _First:
    """The pictures of a half, of which only the first can be opened."""

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part.labels) for part in self.parts)

    def opened(self, number: int) -> tuple[str, BinaryIO]:
        where, encoded = next(self.parts[number].encoded())
        return where, BytesIO(encoded)


def _unpacked(train: list[_Part], test: list[_Part], whole: bool) -> tuple[Unpacked, Unpacked]:
    rows = [len(part.labels) for part in (*train, *test)]
    size = sum(part.path.stat().st_size for part in (*train, *test))
    everything = unpack(_encoded([*train, *test]), [part.path for part in (*train, *test)], rows, size, whole)
    tested = sum(len(part.labels) for part in test)
    at = len(everything) - tested
    return everything.between(0, at), everything.between(at, at + tested)


def _encoded(parts: list[_Part]) -> Iterator[tuple[str, bytes]]:
    return chain.from_iterable(part.encoded() for part in parts)


def _found(folder: Path) -> shards.Shards:
    found = shards.find(folder)
    for half, files in (("train", found.train), ("test", found.test)):
        if not files:
            raise SlotkitError(
                f"{found.place} has no parquet files of the {half} half. Files named train-*.parquet and "
                "test-*.parquet, or folders train and test with parquet files, are looked for in DIR, in "
                "DIR/data and, where neither has any, in the other folders of DIR. "
                "Put them there or give another DIR."
            )
    return found


def _notes(files: shards.Shards) -> list[str]:
    where, notes = files.place, shards.copies([*files.train, *files.test])
    if files.test_split != "test":
        notes.append(
            f"There is no test split in {where}: its {files.test_split} split gives the test images; "
            "validation images are drawn from the training images."
        )
    if files.unused:
        notes.append(
            f"The {' and '.join(files.unused)} split in {where} is not used: validation images are drawn "
            "from the training images."
        )
    return notes


def _check_alike(parts: list[_Part]) -> None:
    for part in parts:
        if part.columns != parts[0].columns:
            raise SlotkitError(
                f"{part.path} has its pictures and labels in the columns {' and '.join(part.columns)}, "
                f"{parts[0].path} in {' and '.join(parts[0].columns)}. Keep files of one dataset only in a "
                "folder."
            )


def _check_labels(part: _Part, classes: int, files: shards.Shards) -> None:
    row = first_stray_label(part.labels, classes)
    if row is None:
        return
    if bool((part.labels == -1).all()):
        raise SlotkitError(
            f"{part.path} has label -1 in every row, which is how the hub marks images without a label. "
            f"Remove the {files.test_split if part.path in files.test else 'train'} files; test images may "
            "come from validation-*.parquet."
        )
    raise SlotkitError(
        f"{part.path} row {row} has label {int(part.labels[row])}; accepted are "
        f"0 to {classes - 1}. Remove the row or correct its label."
    )


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise SlotkitError(
            "reading parquet files needs pyarrow, which is not installed. "
            "Install it with: pip install 'slotkit[parquet]'"
        ) from error
    with naming(path):
        file = path.open("rb")
    with file:
        with _reading(path):
            opened = pyarrow.parquet.ParquetFile(file)
        yield opened


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises into a SlotkitError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # pyarrow has no end of them for damaged bytes
        raise SlotkitError(
            f"{path} is not a readable parquet file: {error}. "
            "It may be truncated; put a complete copy in its place."
        ) from error


def _columns(schema: pyarrow.Schema, path: Path) -> tuple[str, str]:
    """The names of the picture column and of the label column."""
    from pyarrow import types

    pictures = [
        field.name
        for field in schema
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    labels = [name for name in schema.names if name in LABEL_COLUMNS]
    if len(pictures) != 1 or len(labels) != 1:
        raise SlotkitError(
            f"{path} has the columns {', '.join(schema.names)}; needed are one struct column with a field "
            f"'bytes' (found {len(pictures)}) and one column 'label', 'labels' or 'fine_label' "
            f"(found {len(labels)}). Rename or remove columns."
        )
    if not types.is_integer(schema.field(labels[0]).type):
        raise SlotkitError(
            f"{path} has labels of type {schema.field(labels[0]).type}; accepted are integers. "
            "Number the classes from 0."
        )
    return pictures[0], labels[0]


def _labels(column: pyarrow.ChunkedArray, path: Path) -> Tensor:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise SlotkitError(f"{path} row {row} has no label. Remove the row or fill in its label.")
    if not len(column):
        raise SlotkitError(f"{path} has no rows. Remove it or put a complete copy in its place.")
    return torch.from_numpy(column.to_numpy().astype(np.int64))


def _names(schema: pyarrow.Schema, label: str, path: Path) -> tuple[str, ...] | None:
    """The class names in the hub's metadata, or None if the file has none."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    try:
        feature = json.loads(stored)["info"]["features"][label]
        names = feature.get("names")
        listed = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        if names is not None and not listed:
            raise TypeError("names that are not a list of text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SlotkitError(
            f"{path} has 'huggingface' metadata that does not describe the column {label!r}. "
            "Write the file again, with or without that metadata."
        ) from error
    return None if names is None else tuple(names)


def _classes(parts: list[_Part]) -> tuple[tuple[str, ...], bool]:
    """The class names, and whether the files give them."""
    named = [part for part in parts if part.names is not None]
    for part in named:
        if part.names != named[0].names:
            raise SlotkitError(
                f"{part.path} and {named[0].path} name different classes. "
                "Keep files of one dataset only in a folder."
            )
    if named and named[0].names is not None:
        return named[0].names, True
    highest, top = max((int(part.labels.max()), at) for at, part in enumerate(parts))
    pictures = sum(len(part.labels) for part in parts)
    if highest >= max(pictures, 1000):
        raise SlotkitError(
            f"{parts[top].path} has label {highest}, which makes more classes than there are pictures "
            f"({pictures}). Number the classes from 0, or give their names in the files."
        )
    return tuple(str(label) for label in range(1 + highest)), False
