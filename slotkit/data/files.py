"""What can be wrong with a file of a dataset, in sentences that name the file. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slotkit.errors import SlotkitError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read `path` into a SlotkitError that names it."""
    try:
        yield
    except OSError as error:
        raise SlotkitError(
            f"{path} cannot be read: {error.strerror or error}. "
            "Check that it exists and that its permissions let you read it."
        ) from error


def damaged(path: Path, fault: str, remedy: str) -> SlotkitError:
    """The error for a file whose content is wrong; `fault` and `remedy` are clauses."""
    return SlotkitError(f"{path} is damaged: {fault}. Delete it and {remedy}.")


def fetch_command(name: str, data_dir: Path) -> str:
    """The command that downloads the dataset `name` into `data_dir`, ready to be pasted into a shell."""
    return f"slotkit data fetch {name} --data-dir {shlex.quote(str(data_dir))}"


def parquet_files(folder: Path, half: str) -> list[Path]:
    """The files `{half}-*.parquet` in `folder`, or else in `folder/data`, in the order of their names.

    Empty if there is none. Raises SlotkitError if the names announce more files than are there.
    """
    with naming(folder):
        found = sorted(folder.glob(f"{half}-*.parquet")) or sorted(folder.glob(f"data/{half}-*.parquet"))
    # The hub names its files train-00000-of-00002.parquet: without this check, an interrupted download
    # would train on a part of the data.
    announced = [int(match[1]) for path in found if (match := re.search(r"-of-(\d+)\.parquet$", path.name))]
    if announced and max(announced) != len(found):
        raise SlotkitError(
            f"{found[0].parent} holds {len(found)} {half} files, but their names announce {max(announced)}. "
            "Add the missing files or remove those of another download."
        )
    return found


def holds_parquet_files(folder: Path) -> bool:
    """Whether `folder` has parquet files of both halves. Raises SlotkitError as `parquet_files` does."""
    return all(parquet_files(folder, half) for half in ("train", "test"))


def holds_class_folders(folder: Path) -> bool:
    """Whether `folder` has the folders `train` and `test`; their content is not looked at."""
    return all((folder / half).is_dir() for half in ("train", "test"))
