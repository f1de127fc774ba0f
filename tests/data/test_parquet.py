from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
        f"{folder} has no parquet files of the test half. Files named train-*.parquet and "
        "test-*.parquet, or folders train and test with parquet files, are looked for in DIR, in "
        "DIR/data and, where neither has any, in the other folders of DIR. "
        "Put them there or give another DIR."
    )


def test_the_place_is_named_in_which_the_other_half_is(folder: Path) -> None:
    (folder / TEST).unlink()
    inner = folder / "inner"
    inner.mkdir()
    for name in (TRAIN, TRAIN_2):
        (folder / name).rename(inner / name)
    assert refusal(folder).startswith(f"{inner} has no parquet files of the test half.")


def test_a_part_of_the_files_is_not_trained_on(folder: Path) -> None:
    (folder / TRAIN_2).unlink()
    assert refusal(folder) == (
        f"{folder} holds 1 train file, but their names announce 2. "
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


def turned(picture: NDArray[np.uint8], orientation: int) -> bytes:
    """A PNG with an EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(picture, exif.tobytes())


def encoded(picture: NDArray[np.uint8], exif: bytes) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def put(folder: Path, name: str, pictures: list[bytes], label: str = "label") -> None:
    rows = [{"image": {"bytes": picture, "path": None}, label: i % 2} for i, picture in enumerate(pictures)]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied_as_the_hubs_reader_does(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], orientation: int
) -> None:
    picture = pixels(6, 6, 3)
    put(tmp_path, "train.parquet", [turned(picture, orientation)] * 2)
    put(tmp_path, "test.parquet", [turned(picture, orientation)] * 3)
    # The hub's reader, datasets.Image: load, then PIL.ImageOps.exif_transpose if there is an orientation.
    with Image.open(BytesIO(turned(picture, orientation))) as opened:
        opened.load()
        upright = np.array(ImageOps.exif_transpose(opened))
    read = load(f"parquet:{tmp_path}", None).train.images[0]
    assert torch.equal(read, torch.from_numpy(upright).permute(2, 0, 1))
    assert (orientation in range(2, 9)) != np.array_equal(upright, picture)


def test_turned_pictures_change_sides(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]]) -> None:
    put(tmp_path, "train.parquet", [turned(pixels(4, 6, 3), 6)] * 2)
    put(tmp_path, "test.parquet", [turned(pixels(6, 4, 3), 1)] * 2)
    assert load(f"parquet:{tmp_path}", None).size == (6, 4)


BROKEN = {
    "empty": b"Exif\0\0",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01",
    "no TIFF": b"Exif\0\0junkjunkjunk",
    "offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "a text for a number": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
}


@pytest.mark.parametrize("exif", BROKEN.values(), ids=BROKEN)
def test_broken_tags_leave_the_picture_as_it_is(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], exif: bytes
) -> None:
    picture = pixels(4, 6, 3)
    put(tmp_path, "train.parquet", [encoded(picture, exif)] * 2)
    put(tmp_path, "test.parquet", [encoded(picture, exif)] * 3)
    read = load(f"parquet:{tmp_path}", None).train.images[0]
    assert torch.equal(read, torch.from_numpy(picture).permute(2, 0, 1))


def test_a_broken_tag_beside_the_orientation_does_not_stop_the_turn(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]]
) -> None:
    entries = b"\x12\x01\x03\0\x01\0\0\0\x03\0\0\0" + b"\x32\x01\x02\0\xff\xff\xff\0\xff\xff\xff\x7f"
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    picture = pixels(4, 6, 3)
    put(tmp_path, "train.parquet", [encoded(picture, exif)] * 2)
    put(tmp_path, "test.parquet", [encoded(picture, exif)] * 3)
    read = load(f"parquet:{tmp_path}", None).train.images[0]
    assert torch.equal(read, torch.from_numpy(picture[::-1, ::-1].copy()).permute(2, 0, 1))


def test_a_column_called_labels(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]]) -> None:
    put(tmp_path, "train.parquet", [turned(picture, 1) for picture in pixels(4, 5, 5)], "labels")
    put(tmp_path, "test.parquet", [turned(picture, 1) for picture in pixels(2, 5, 5)], "labels")
    assert load(f"parquet:{tmp_path}", None).train.labels.tolist() == [0, 1, 0, 1]
    put(tmp_path, "test.parquet", [turned(picture, 1) for picture in pixels(2, 5, 5)], "fine_label")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'test.parquet'} has its pictures and labels in the columns image and fine_label, "
        f"{tmp_path / 'train.parquet'} in image and labels. Keep files of one dataset only in a folder."
    )


def test_two_label_columns_are_not_chosen_from(folder: Path) -> None:
    table = parquet.read_table(folder / TEST)
    parquet.write_table(table.append_column("fine_label", table.column("label")), folder / TEST)
    assert "one column 'label', 'labels' or 'fine_label' (found 2). Rename or remove" in refusal(folder)


def test_an_unlabelled_test_split_is_named(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / TEST, pixels(2, 4, 5, 3), [-1, -1])
    assert refusal(folder) == (
        f"{folder / TEST} has label -1 in every row, which is how the hub marks images without a label. "
        "Remove the test files; test images may come from validation-*.parquet."
    )
    write(folder / "validation-0.parquet", pixels(2, 4, 5, 3), [2, 1])
    (folder / TEST).unlink()
    dataset = load(f"parquet:{folder}", None)
    assert dataset.test.labels.tolist() == [2, 1]
    assert dataset.notes[0] == (
        f"There is no test split in {folder}: its validation split gives the test images; validation images "
        "are drawn from the training images."
    )


def test_what_is_not_used_and_what_is_there_twice_is_told(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / "validation-0.parquet", pixels(2, 4, 5, 3), [2, 1])
    (folder / TRAIN_2).write_bytes((folder / TRAIN).read_bytes())
    assert load(f"parquet:{folder}", None).notes == (
        f"{folder / TRAIN_2} is a copy of {folder / TRAIN}, byte for byte: the same pictures are there "
        "twice.",
        f"The validation split in {folder} is not used: validation images are drawn from the training "
        "images.",
    )


def test_numbers_that_count_no_classes(
    folder: Path, pixels: Callable[..., NDArray[np.uint8]], write: Callable[..., None]
) -> None:
    write(folder / TEST, pixels(2, 4, 5, 3), [0, 10**12])
    assert refusal(folder) == (
        f"{folder / TEST} has label 1000000000000, which makes more classes than there are pictures (7). "
        "Number the classes from 0, or give their names in the files."
    )


@pytest.mark.parametrize("names", ["abc", [], [1, 2], {"0": "cat"}])
def test_names_that_are_no_names(folder: Path, names: Any) -> None:
    stored = json.dumps({"info": {"features": {"label": {"names": names}}}})
    table = parquet.read_table(folder / TEST).replace_schema_metadata({"huggingface": stored})
    parquet.write_table(table, folder / TEST)
    assert refusal(folder).startswith(f"{folder / TEST} has 'huggingface' metadata that does not describe")


@pytest.mark.filterwarnings("ignore")  # Pillow also warns of what is damaged
def test_damaged_files_are_read_or_refused_in_a_sentence(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]]
) -> None:
    for name in ("train.parquet", "test.parquet"):
        put(tmp_path, name, [turned(picture, 6) for picture in pixels(4, 5, 5, 3)])
    whole = (tmp_path / "train.parquet").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for at in random.integers(0, len(content), random.integers(1, 6)):
            content[at] = random.integers(0, 256)
        cut = len(content) if random.random() < 0.7 else int(random.integers(0, len(content)))
        (tmp_path / "train.parquet").write_bytes(content[:cut])
        with suppress(SlotkitError):  # any other exception fails the test
            load(f"parquet:{tmp_path}", None)
