"""Which parquet files of a folder belong to which half of a dataset, and whether one is missing.

The layouts of the Hugging Face hub: DIR/train-*.parquet, DIR/data/train-*.parquet,
DIR/plain_text/train-*.parquet (a folder for a configuration), DIR/default/train/0000.parquet (what the hub
converts), DIR/train.parquet.
Imports no torch.
"""

from __future__ import annotations

import filecmp
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from slotkit.data.files import is_hidden, naming
from slotkit.errors import SlotkitError, many

TRAIN = "train"
# Which files the test images come from: of those that are there the first. The hub's names for them.
TESTS = ("test", "validation", "valid", "val", "dev")

# What the hub puts into a name: number and count. Whatever stands around them, such as a hash, is no matter.
NUMBERED = re.compile(r"(?<!\d)(\d+)[-_.]of[-_.](\d+)(?!\d)")


@dataclass(frozen=True)
class Shards:
    """The files of a dataset, each half in the order of their names.

    Attributes:
        place: the folder that they are in, or in a folder of it.
        test_split: which of TESTS the test files are; "" if there are none.
        unused: other splits of TESTS that are there.
    """

    place: Path
    train: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    test_split: str = ""
    unused: tuple[str, ...] = ()


def find(folder: Path) -> Shards:
    """The files of the dataset in `folder`; a half without files is empty.

    Raises SlotkitError if a file is missing or there twice, or if several datasets are in the folder.
    """
    with naming(folder):
        found = {place: splits for place in (folder, folder / "data") if (splits := _splits(place))}
        if not found:
            inner = [path for path in _visible(folder) if path.is_dir() and path.name not in (TRAIN, *TESTS)]
            found = {place: splits for place in inner if (splits := _splits(place))}
    if len(found) > 1:
        first, second, *_ = found
        raise SlotkitError(
            f"{folder} holds parquet files of several datasets, in {first} and in {second}. "
            f"Name one of them, as in parquet:{first}."
        )
    for place, splits in found.items():
        tests = [split for split in TESTS if split in splits]
        used = {TRAIN: splits.get(TRAIN, []), **{split: splits[split] for split in tests[:1]}}
        for split, files in used.items():
            _check_numbers(split, files)
        test = used[tests[0]] if tests else []
        return Shards(place, tuple(used[TRAIN]), tuple(test), "".join(tests[:1]), tuple(tests[1:]))
    return Shards(folder)


def copies(files: Sequence[Path]) -> list[str]:
    """A sentence for each file that is a copy of another, byte for byte."""
    found = []
    with naming(files[0]):
        sizes = {path: path.stat().st_size for path in files}
    for one, two in combinations(files, 2):
        if sizes[one] == sizes[two] and filecmp.cmp(one, two, shallow=False):
            found.append(f"{two} is a copy of {one}, byte for byte: the same pictures are there twice.")
    return found


def holds_both_halves(folder: Path) -> bool:
    """Whether `folder` has parquet files to train and to test. Raises SlotkitError as `find` does."""
    found = find(folder)
    return bool(found.train and found.test)


def _splits(place: Path) -> dict[str, list[Path]]:
    """Split -> its files: those whose names begin with it, or all in the folder of that name."""
    named = [path for path in _visible(place) if path.suffix == ".parquet"]
    splits = {}
    for split in (TRAIN, *TESTS):
        begins = re.compile(rf"{split}(-.*|[_.]?\d.*)?\.parquet", re.DOTALL)
        beside = [path for path in named if begins.fullmatch(path.name)]
        inside = [path for path in _visible(place / split) if path.suffix == ".parquet"]
        if beside and inside:
            raise SlotkitError(
                f"{split} files are in {place} and in {place / split}. Keep those of one download."
            )
        if beside or inside:
            splits[split] = beside or inside
    return splits


def _visible(folder: Path) -> list[Path]:
    """What is in the folder, by name; nothing if it isn't there."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path)) if folder.is_dir() else []


def _check_numbers(split: str, files: Sequence[Path]) -> None:
    """Raise SlotkitError unless the numbers in the names are 0 to n - 1, each once.

    Files without numbers can't be checked; numbered files and others together are not of one download.
    """
    found = {path: match for path in files if (match := NUMBERED.search(path.name))}
    numbers = {path: int(match[1]) for path, match in found.items()}
    counts = sorted({int(match[2]) for match in found.values()})
    if not found:
        plain = re.compile(rf"(?:{split}[-_.]?)?(\d+)\.parquet")
        numbers = {path: int(match[1]) for path in files if (match := plain.fullmatch(path.name))}
        counts = [len(files)]
    if not numbers:
        if len(files) > 1 and any(path.stem == split for path in files):
            raise _mixed(split, files[0].parent, [path for path in files if path.stem == split])
        return
    if len(numbers) < len(files):
        raise _mixed(split, files[0].parent, [path for path in files if path not in numbers])
    twice = [number for number, times in Counter(numbers.values()).items() if times > 1]
    if twice:
        same = " and ".join(path.name for path in files if numbers[path] == twice[0])
        raise SlotkitError(
            f"{files[0].parent} holds {same}, two {split} files of number {twice[0]}. Remove the one of "
            "another download."
        )
    if found and (len(counts) > 1 or counts[0] != len(files)):
        raise SlotkitError(
            f"{files[0].parent} holds {many(len(files), f'{split} file')}, but their names announce "
            f"{' and '.join(map(str, counts))}. Add the missing files or remove those of another download."
        )
    stray = sorted(set(numbers.values()) ^ set(range(len(files))))
    if stray:
        raise SlotkitError(
            f"The {split} files in {files[0].parent} should be numbered 0 to {len(files) - 1}, and are "
            f"{', '.join(str(number) for number in sorted(numbers.values()))}. Add the missing files, or "
            "rename them if none is missing."
        )


def _mixed(split: str, folder: Path, others: Sequence[Path]) -> SlotkitError:
    return SlotkitError(
        f"{folder} holds {others[0].name} among several {split} files, and its number is not in its name. "
        "Keep the files of one download, numbered from 0."
    )
