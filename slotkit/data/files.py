"""What can be wrong with a file of a dataset, in sentences that name the file. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slotkit.errors import SlotkitError, typed


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
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
    return f"slotkit data fetch {name} --data-dir {typed(data_dir)}"


def is_hidden(path: Path) -> bool:
    """Whether tools, not people, put something there: .ipynb_checkpoints, ._cat.png, __MACOSX, @eaDir."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "@eaDir")


def holds_class_folders(folder: Path) -> bool:
    """Whether `folder` has the folders `train` and `test`; their content is not looked at."""
    return all((folder / half).is_dir() for half in ("train", "test"))


def is_lack_of_memory(fault: Exception) -> bool:
    """Whether memory ran out: numpy, Pillow and pyarrow raise MemoryError, torch a RuntimeError."""
    # On Linux, then on other systems.
    told = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
    return isinstance(fault, MemoryError) or any(text in str(fault) for text in told)
