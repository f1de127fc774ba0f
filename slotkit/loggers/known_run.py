"""The name by which a service knows a run, kept in the run's folder so that a resumed run goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slotkit.files import write_text


def known_run(folder: Path, service: str, begin: Callable[[], str]) -> str:
    """The id that `begin` gave when this run was first told to the service."""
    path = folder / f"{service}-run.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    made = begin()
    write_text(path, made + "\n")
    return made
