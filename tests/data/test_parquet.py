from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from slotkit.data.sources import is_present, load
from slotkit.errors import SlotkitError

TRAIN, TRAIN_2, TEST = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-0.parquet"


@pytest.fixture
def write(encode: Callable[..., bytes]) -> Callable[..., None]:
    """Write pictures and labels as the hub does; `names` go to its metadata."""

    def written(
        path: Path,
        pictures: NDArray[np.uint8],
        labels: list[Any],
        *,
        columns: tuple[str, str] = ("img", "label"),
        names: list[str] | None = None,
    ) -> None:
        table = pyarrow.table(
            {columns[0]: [{"bytes": encode(p), "path": None} for p in pictures], columns[1]: labels}
        )
        if names is not None:
            features = {columns[0]: {"_type": "Image"}, columns[1]: {"_type": "ClassLabel", "names": names}}
            stored = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": stored})
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path)

    return written


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]) -> Path:
    """5 training pictures in two files and 2 test pictures, 4 x 5 pixels in colour, classes without names."""
    pictures = pixels(7, 4, 5, 3)
    write(tmp_path / TRAIN, pictures[:3], [0, 1, 2])
    write(tmp_path / TRAIN_2, pictures[3:5], [1, 0])
    write(tmp_path / TEST, pictures[5:], [2, 3])
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(SlotkitError) as error:
        load(f"parquet:{folder}", None)
    return str(error.value)


def test_files_become_a_dataset(folder: Path, pixels: Callable[..., NDArray[np.uint8]]) -> None:
    assert is_present(f"parquet:{folder}", None)
    dataset = load(f"parquet:{folder}", None)
    assert dataset.name == f"parquet:{folder}"
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.train.labels.tolist() == [0, 1, 2, 1, 0]
    assert dataset.test.labels.tolist() == [2, 3]
    written = torch.from_numpy(pixels(7, 4, 5, 3)).permute(0, 3, 1, 2)
    assert torch.equal(dataset.train.images, written[:5])
    assert torch.equal(dataset.test.images, written[5:])
    assert load(f"parquet:{folder}", None, size=3).size == (3, 3)


def test_the_hubs_names_columns_and_data_folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    for name in ("train-0.parquet", "test-0.parquet"):
        path = tmp_path / "data" / name
        write(path, pixels(2, 4, 5), [1, 0], columns=("image", "fine_label"), names=["cat", "dog", "emu"])
    dataset = load(f"parquet:{tmp_path}", None)
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.train.images.shape == (2, 1, 4, 5)


def test_missing_files(folder: Path) -> None:
    (folder / TEST).unlink()
    assert not is_present(f"parquet:{folder}", None)
    assert refusal(folder) == (
        f"no test-*.parquet in {folder} or {folder / 'data'}; a parquet dataset needs files named "
        "train-*.parquet and test-*.parquet. Put them there or give another DIR."
    )


def test_a_part_of_the_files_is_not_trained_on(folder: Path) -> None:
    (folder / TRAIN_2).unlink()
    assert refusal(folder) == (
        f"{folder} holds 1 train files, but their names announce 2. "
        "Add the missing files or remove those of another download."
    )


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / TRAIN_2
    path.write_bytes(path.read_bytes()[:-20])
    text = refusal(folder)
    assert text.startswith(f"{path} is not a readable parquet file: ")
    assert text.endswith("It may be truncated; put a complete copy in its place.")


def test_an_unreadable_file_is_named(folder: Path) -> None:
    (folder / TEST).unlink()
    (folder / TEST).mkdir()
    assert refusal(folder) == (
        f"{folder / TEST} cannot be read: Is a directory. "
        "Check that it exists and that its permissions let you read it."
    )


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"img": {"bytes": b"junk", "path": None}, "label": 0}, "does not decode as an image: no known"),
        ({"img": {"bytes": None, "path": "a.png"}, "label": 0}, "has no picture."),
        ({"img": None, "label": 0}, "has no picture."),
        ({"img": {"bytes": b"", "path": None}, "label": None}, "has no label."),
        ({"img": {"bytes": b"", "path": None}, "label": -1}, "has label -1; accepted are 0 to 2."),
    ],
    ids=["junk", "no bytes", "no struct", "no label", "negative label"],
)
def test_a_bad_row_is_named(
    folder: Path, encode: Callable[..., bytes], row: dict[str, Any], text: str
) -> None:
    (folder / TEST).unlink()
    good = {"img": {"bytes": encode(np.zeros((4, 5, 3), np.uint8)), "path": "a.png"}, "label": 1}
    parquet.write_table(pyarrow.Table.from_pylist([good, row]), folder / TEST)
    assert refusal(folder).startswith(f"{folder / TEST} row 1 {text}")


def test_a_label_beyond_the_names(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / TEST, pixels(2, 4, 5, 3), [0, 1], names=["cat", "dog"])
    assert refusal(folder) == (
        f"{folder / TRAIN} row 2 has label 2; accepted are 0 to 1. Remove the row or correct its label."
    )


def test_names_that_disagree(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / TRAIN, pixels(2, 4, 5, 3), [0, 1], names=["cat", "dog", "emu", "fox"])
    write(folder / TEST, pixels(2, 4, 5, 3), [0, 1], names=["car", "bus", "van", "cab"])
    assert refusal(folder) == (
        f"{folder / TEST} and {folder / TRAIN} name different classes. "
        "Keep files of one dataset only in a folder."
    )


@pytest.mark.parametrize("stored", ["{", "[]", '{"info": {"features": {}}}'])
def test_metadata_that_does_not_describe_the_labels(folder: Path, stored: str) -> None:
    table = parquet.read_table(folder / TEST).replace_schema_metadata({"huggingface": stored})
    parquet.write_table(table, folder / TEST)
    assert refusal(folder) == (
        f"{folder / TEST} has 'huggingface' metadata that does not describe the column 'label'. "
        "Write the file again, with or without that metadata."
    )


def test_columns_that_do_not_fit(folder: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), folder / TEST)
    assert refusal(folder) == (
        f"{folder / TEST} has the columns text, label; needed are one struct column with a field 'bytes' "
        "(found 0) and one column 'label', 'labels' or 'fine_label' (found 1). Rename or remove columns."
    )


def test_labels_that_are_words(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / TEST, pixels(2, 4, 5, 3), ["cat", "dog"])
    assert refusal(folder) == (
        f"{folder / TEST} has labels of type string; accepted are integers. Number the classes from 0."
    )


def test_a_file_without_rows(folder: Path) -> None:
    parquet.write_table(parquet.read_table(folder / TEST).slice(0, 0), folder / TEST)
    assert refusal(folder) == (f"{folder / TEST} has no rows. Remove it or put a complete copy in its place.")


def test_without_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(folder) == (
        "reading parquet files needs pyarrow, which is not installed. "
        "Install it with: pip install 'slotkit[parquet]'"
    )
