"""Parquet files in the image-classification layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from slotkit.data.files import naming, parquet_files
from slotkit.data.images import Dataset, ImageSet, first_stray_label
from slotkit.data.pictures import decode_halves
from slotkit.data.source import Source
from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    import pyarrow

LABEL_COLUMNS = ("label", "fine_label")


def load(source: Source, place: Path, size: int | None) -> Dataset:
    """Read train-*.parquet and test-*.parquet of `place` or `place/data`.

    Each row has one encoded picture, in the `bytes` field of a struct column, and an integer class, in the
    column `label` or `fine_label`. Class names come from the hub's schema metadata; without it they are
    "0", "1", ... up to the highest label. With a `size`, each picture is stretched to size x size pixels.

    Raises SlotkitError if pyarrow or files are missing, and for a damaged file, row or label.
    """
    train = [_read(path) for path in _required(place, "train")]
    test = [_read(path) for path in _required(place, "test")]
    classes = _classes([*train, *test])
    for part in (*train, *test):
        row = first_stray_label(part.labels, len(classes))
        if row is not None:
            raise SlotkitError(
                f"{part.path} row {row} has label {int(part.labels[row])}; accepted are "
                f"0 to {len(classes) - 1}. Remove the row or correct its label."
            )
    images = decode_halves(_encoded(train), _encoded(test), size)
    labels = (torch.cat([part.labels for part in half]) for half in (train, test))
    train_set, test_set = (ImageSet(*pair) for pair in zip(images, labels, strict=True))
    return Dataset(f"parquet:{place}", train_set, test_set, classes)


class _Part:
    """One file: its labels, its class names if it gives them, and its pictures, still encoded."""

    def __init__(self, path: Path, table: pyarrow.Table) -> None:
        self.path = path
        picture, label = _columns(table.schema, path)
        self.labels = _labels(table.column(label), path)
        self.names = _names(table.schema, label, path)
        self.pictures = [chunk.field("bytes") for chunk in table.column(picture).chunks]

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        for row, scalar in enumerate(chain.from_iterable(self.pictures)):
            where = f"{self.path} row {row}"
            if not scalar.is_valid:
                raise SlotkitError(f"{where} has no picture. Remove the row or fill in its bytes.")
            yield where, scalar.as_py()


def _encoded(parts: list[_Part]) -> Iterator[tuple[str, bytes]]:
    return chain.from_iterable(part.encoded() for part in parts)


def _required(folder: Path, half: str) -> list[Path]:
    found = parquet_files(folder, half)
    if not found:
        raise SlotkitError(
            f"no {half}-*.parquet in {folder} or {folder / 'data'}; a parquet dataset needs files named "
            "train-*.parquet and test-*.parquet. Put them there or give another DIR."
        )
    return found


def _read(path: Path) -> _Part:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise SlotkitError(
            "reading parquet files needs pyarrow, which is not installed. "
            "Install it with: pip install 'slotkit[parquet]'"
        ) from error
    with naming(path), path.open("rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file).read()
        except Exception as error:  # pyarrow has no end of them for damaged bytes
            raise SlotkitError(
                f"{path} is not a readable parquet file: {error}. "
                "It may be truncated; put a complete copy in its place."
            ) from error
    return _Part(path, table)


def _columns(schema: pyarrow.Schema, path: Path) -> tuple[str, str]:
    """The names of the picture column and of the label column."""
    from pyarrow import types

    pictures = [
        field.name
        for field in schema
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    labels = [name for name in LABEL_COLUMNS if name in schema.names]
    if len(pictures) != 1 or not labels:
        raise SlotkitError(
            f"{path} has the columns {', '.join(schema.names)}; needed are one struct column with a field "
            f"'bytes' (found {len(pictures)}) and a column {' or '.join(map(repr, LABEL_COLUMNS))} "
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
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("names is no list of texts")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SlotkitError(
            f"{path} has 'huggingface' metadata that does not describe the column {label!r}. "
            "Write the file again, with or without that metadata."
        ) from error
    return None if names is None else tuple(names)


def _classes(parts: list[_Part]) -> tuple[str, ...]:
    named = [part for part in parts if part.names is not None]
    for part in named:
        if part.names != named[0].names:
            raise SlotkitError(
                f"{part.path} and {named[0].path} name different classes. "
                "Keep files of one dataset only in a folder."
            )
    if named and named[0].names is not None:
        return named[0].names
    return tuple(str(label) for label in range(1 + max(int(part.labels.max()) for part in parts)))
