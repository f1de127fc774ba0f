"""Which parquet files are read: every layout of the hub, and never a part without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from slotkit.data.shards import TESTS, find
from slotkit.data.sources import is_present
from slotkit.errors import SlotkitError


def touch(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def refusal(folder: Path) -> str:
    with pytest.raises(SlotkitError) as error:
        find(folder)
    assert not_present(folder) == str(error.value)
    return str(error.value)


def not_present(folder: Path) -> str:
    with pytest.raises(SlotkitError) as error:
        is_present(f"parquet:{folder}", None)
    return str(error.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("train-00000-of-00001-b42f.parquet", "test-00000-of-00001-0c1d2e.parquet"),
        ("data/train-00000-of-00001-b42f8a.parquet", "data/test-00000-of-00001-b42f8a.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("train.parquet", "test.parquet"),
        ("data/train.parquet", "data/test.parquet"),
        ("train_0.parquet", "test_0.parquet"),
        ("train-cats.parquet", "test-cats.parquet"),
    ],
)
def test_layouts_of_the_hub(tmp_path: Path, train: str, test: str) -> None:
    touch(tmp_path, [train, test])
    found = find(tmp_path)
    assert (found.train, found.test) == ((tmp_path / train,), (tmp_path / test,))
    assert found.test_split == "test"
    assert is_present(f"parquet:{tmp_path}", None)


@pytest.mark.parametrize("split", TESTS[1:])
def test_another_split_stands_for_a_test_split_that_is_not_there(tmp_path: Path, split: str) -> None:
    touch(tmp_path, ["train.parquet", f"{split}.parquet"])
    assert find(tmp_path).test == (tmp_path / f"{split}.parquet",)
    assert find(tmp_path).test_split == split
    touch(tmp_path, ["test.parquet"])
    assert find(tmp_path).test == (tmp_path / "test.parquet",)
    assert find(tmp_path).unused == (split,)


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    found = find(tmp_path / "missing")
    assert (found.train, found.test) == ((), ())


def test_hidden_files_and_other_splits_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["train.parquet", "test.parquet", "._train-1.parquet", ".cache/train-0.parquet"])
    touch(tmp_path, ["training_notes.parquet", "train_sft-00000-of-00002.parquet", "train-0.parquet.part"])
    assert find(tmp_path).train == (tmp_path / "train.parquet",)


def test_shards_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"train-{i:05}-of-00012-{(97 * i) % 12:02x}.parquet" for i in range(12)]
    touch(tmp_path, [*reversed(names), "test.parquet"])
    assert [path.name for path in find(tmp_path).train] == names


# How a name can look that says number i of n, whatever stands around.
NAMES: dict[str, Callable[[int, int], str]] = {
    "plain": lambda i, n: f"train-{i:05}-of-{n:05}.parquet",
    "hash": lambda i, n: f"train-{i:05}-of-{n:05}-b42f{i}.parquet",
    "hash of digits": lambda i, n: f"train-{i:05}-of-{n:05}-1234567{i}.parquet",
    "words before": lambda i, n: f"train-cats-{i:05}-of-{n:05}.parquet",
    "underscores": lambda i, n: f"train-{i}_of_{n}.parquet",
    "folder": lambda i, n: f"default/train/{i:05}-of-{n:05}-00.parquet",
    "data": lambda i, n: f"data/train-{i:05}-of-{n:05}-00.parquet",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("missing", range(3))
def test_a_missing_shard_is_noticed(tmp_path: Path, name: Callable[[int, int], str], missing: int) -> None:
    names = [name(i, 3) for i in range(3)]
    touch(tmp_path, names)
    assert len(find(tmp_path).train) == 3
    (tmp_path / names[missing]).unlink()
    assert refusal(tmp_path) == (
        f"{(tmp_path / names[0]).parent} holds 2 train files, but their names announce 3. "
        "Add the missing files or remove those of another download."
    )


def test_a_missing_shard_of_the_test_split_is_noticed(tmp_path: Path) -> None:
    touch(tmp_path, ["train.parquet", "validation-00001-of-00002-b42f.parquet"])
    assert "holds 1 validation file, but their names announce 2." in refusal(tmp_path)


def test_two_shards_of_one_number_do_not_make_up_for_a_missing_one(tmp_path: Path) -> None:
    touch(tmp_path, ["train-00000-of-00002-aa.parquet", "train-00000-of-00002-bb.parquet"])
    assert refusal(tmp_path) == (
        f"{tmp_path} holds train-00000-of-00002-aa.parquet and train-00000-of-00002-bb.parquet, two train "
        "files of number 0. Remove the one of another download."
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["0-of-2", "1-of-2", "2-of-3"], "holds 3 train files, but their names announce 2 and 3."),
        (["1-of-2", "2-of-2"], "should be numbered 0 to 1, and are 1, 2."),
        (["0-of-1", "0-of-1 (1)"], "two train files of number 0."),
        (["0-of-1", "extra"], "holds train-extra.parquet among several train files"),
        (["0", "2"], "should be numbered 0 to 1, and are 0, 2."),
        (["1"], "should be numbered 0 to 0, and are 1."),
        (["0", "cats"], "holds train-cats.parquet among several train files"),
        (["00", "0"], "two train files of number 0."),
    ],
)
def test_numbers_that_do_not_run_from_0_are_refused(tmp_path: Path, names: list[str], text: str) -> None:
    touch(tmp_path, [f"train-{name}.parquet" for name in names])
    assert text in refusal(tmp_path)


def test_a_whole_file_among_parts_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["train.parquet", "train-cats.parquet"])
    assert "holds train.parquet among several train files" in refusal(tmp_path)


def test_the_hubs_converted_files_count_from_0(tmp_path: Path) -> None:
    touch(tmp_path, ["default/train/0001.parquet"])
    assert refusal(tmp_path) == (
        f"The train files in {tmp_path / 'default' / 'train'} should be numbered 0 to 0, and are 1. Add the "
        "missing files, or rename them if none is missing."
    )


def test_a_part_of_what_the_hub_converts_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    touch(tmp_path, ["default/partial-train/0000.parquet"])
    assert find(tmp_path).train == ()


def test_two_configurations_in_one_folder_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["a/train-0.parquet", "a/test-0.parquet", "b/test-0.parquet"])
    assert refusal(tmp_path) == (
        f"{tmp_path} holds parquet files of several datasets, in {tmp_path / 'a'} and in {tmp_path / 'b'}. "
        f"Name one of them, as in parquet:{tmp_path / 'a'}."
    )


def test_halves_of_two_folders_are_not_put_together(tmp_path: Path) -> None:
    touch(tmp_path, ["train-0.parquet", "data/test-0.parquet"])
    assert "holds parquet files of several datasets" in refusal(tmp_path)


def test_files_beside_and_inside_a_folder_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["train-0.parquet", "train/0000.parquet"])
    assert refusal(tmp_path) == (
        f"train files are in {tmp_path} and in {tmp_path / 'train'}. Keep those of one download."
    )
