"""The searches and populations that `slotkit analyze masks` is told of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slotkit.errors import SlotkitError
from slotkit.masks.search_folder import SETTINGS
from slotkit.runs.folder import default_runs_dir
from slotkit.sweeps.manifest import MANIFEST


def find(named: Sequence[str | Path], runs_dir: Path | None = None) -> list[Path]:
    """The folder of each. Raises SlotkitError for what is neither a search nor a sweep."""
    place = runs_dir or default_runs_dir()
    return [_find(one, place) for one in named]


def _find(one: str | Path, place: Path) -> Path:
    for path in (Path(one), place / one):
        if any((path / mark).is_file() for mark in (SETTINGS, MANIFEST)):
            return path
    raise SlotkitError(
        f"There is no search and no population {str(one)!r}, neither as a path nor in {place}. "
        "`slotkit masks search` and `slotkit masks train` make them."
    )
