"""The runs of a report: from what the user named to a row for each run, and which rows are repetitions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slotkit.config import Config, short_name
from slotkit.errors import SlotkitError
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder, default_runs_dir
from slotkit.runs.listing import SEEDS
from slotkit.sweeps.manifest import MANIFEST
from slotkit.sweeps.sweep import Sweep, find

# Settings that figures have an axis or a colour for, or that don't tell one method from another.
NO_VARIANT = (
    *("method", "model.name", "data.dataset", "slots.k", "slots.selection", "slots.sharing"),
    *("training.device", "training.log_every", "evaluation.draws"),
    *SEEDS,
    *FREE,
)


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        recipe: its name; "" without one.
        own: settings that the user gave beside the recipe, by short name.
        environment: where it was made.
        given: whether the user named it and not its sweep.
    """

    folder: RunFolder
    config: Config
    status: str
    summary: Mapping[str, Any]
    recipe: str
    own: Mapping[str, Any]
    environment: Mapping[str, Any]
    given: bool = False

    @property
    def problem(self) -> tuple[str, str]:
        """Network and dataset."""
        return self.config.model.name, self.config.data.dataset

    def accuracy(self, reading: str) -> float | None:
        """In % of the test images, at the best epoch by validation."""
        found = self.summary.get("test", {}).get("best", {}).get(reading)
        return None if found is None else 100 * float(found["accuracy"])

    def before(self) -> float | None:
        """The same of the network before the first step, greedily read; None if its run did not read it."""
        found = next(iter(self.summary.get("test", {}).get("start", {}).values()), None)
        return None if found is None else 100 * float(found["accuracy"])

    def readings(self) -> list[str]:
        return list(self.summary.get("test", {}).get("best", {}))


@dataclass(frozen=True)
class Cell:
    """Runs that differ by their seeds only, in one reading."""

    rows: tuple[Row, ...]
    reading: str

    @property
    def config(self) -> Config:
        return self.rows[0].config

    @property
    def k(self) -> int:
        return self.config.slots.k

    @property
    def values(self) -> tuple[float, ...]:
        """Of the finished ones."""
        found = (row.accuracy(self.reading) for row in self.rows)
        return tuple(value for value in found if value is not None)

    @property
    def diverged(self) -> int:
        return sum(row.status == "diverged" for row in self.rows)

    @property
    def variant(self) -> dict[str, Any]:
        """What tells its method from others beside K, selection, sharing and learned weights."""
        return {"recipe": self.rows[0].recipe, **self.rows[0].own}


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        rows: every run.
        comparisons: folders of `slotkit finetune`.
        sweeps: those that were named.
        named: the arguments as they were typed.
    """

    rows: list[Row]
    comparisons: list[RunFolder]
    sweeps: list[Sweep]
    named: list[str] = field(default_factory=list)

    def problems(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(row.problem for row in self.rows))


def collect(names: Sequence[str], runs_dir: Path | None = None) -> Material:
    """Read runs, sweeps and comparisons, given as folders or as names in `runs_dir`.

    Raises SlotkitError for what is none, or is damaged, or has nothing in it yet.
    """
    place = runs_dir or default_runs_dir()
    found = Material([], [], [], list(names))
    for name in names:
        if any((path / MANIFEST).is_file() for path in (Path(name), place / name)):
            sweep = Sweep.open(find(name, place))
            found.sweeps.append(sweep)
            found.rows.extend(_row(run.folder) for run in sweep.runs() if run.folder.has_config())
            continue
        folder = RunFolder.open(name, place)
        if folder.is_comparison():
            found.comparisons.append(folder)
        else:
            found.rows.append(_row(folder, given=True))
    _drop_twins(found.rows)
    if not found.rows and not found.comparisons:
        raise SlotkitError(f"No run of {', '.join(names)} is there yet. Train first: `slotkit sweep`.")
    return found


def _drop_twins(rows: list[Row]) -> None:
    """A run that was named and is in a sweep that was named, too, is one run, and was named."""
    places = [row.folder.path.resolve() for row in rows]
    given = {place for row, place in zip(rows, places, strict=True) if row.given}
    seen: set[Path] = set()
    kept = []
    for row, place in zip(rows, places, strict=True):
        if place not in seen:
            kept.append(replace(row, given=place in given))
        seen.add(place)
    rows[:] = kept


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Rows by all of their settings but the seeds; a cell for each reading."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_identity(row), []).append(row)
    found = []
    for group in groups.values():
        readings = list(dict.fromkeys(reading for row in group for reading in row.readings()))
        found += [Cell(tuple(group), reading) for reading in readings or [""]]
    return found


def _identity(row: Row) -> tuple[Any, ...]:
    settings = row.folder.settings()
    told = ((path, str(value)) for path, value in settings.items() if path not in (*SEEDS, *FREE))
    return (row.recipe, *told)


def _row(folder: RunFolder, given: bool = False) -> Row:
    tables, config = folder.tables(), folder.config()
    origins: Mapping[str, str] = tables["origins"]
    settings = folder.settings()
    recipes = [
        match[1] for origin in origins.values() if (match := re.match(r"recipe (\S+)", origin)) is not None
    ]
    own = {
        short_name(path): settings.get(path)
        for path, origin in origins.items()
        if not origin.startswith(("recipe ", "dataset ")) and path not in NO_VARIANT
    } | {path: value for path, value in settings.items() if path.startswith("config.")}
    whole = (folder.path / "summary.json").is_file()
    return Row(
        folder,
        config,
        folder.status() if whole else "missing",
        folder.summary() if whole else {},
        recipes[0] if recipes else "",
        own,
        tables["environment"],
        given,
    )
