"""The runs of a report: from what the user named to a row for each run, and which rows are repetitions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slotkit.analyses.common.comparison import INCIDENTAL, seeds_of, tell_data_apart

from slotkit import recipes
from slotkit.config import Config, Overrides, flatten, nest, resolve, short_name
from slotkit.errors import SlotkitError
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder, default_runs_dir
from slotkit.runs.listing import check, left_out
from slotkit.runs.schema import naming
from slotkit.sweeps.manifest import ADVICE, MANIFEST, Entry
from slotkit.sweeps.plan import cell_of
from slotkit.sweeps.sweep import DAMAGED, Sweep, find

# Settings that figures have an axis or a colour for.
DRAWN = ("method", "model.name", "data.dataset", "slots.k", "slots.selection", "slots.sharing")


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        recipe: its name; "" without one.
        own: settings that the user gave beside the recipe, by short name.
        environment: where it was made.
        given: whether the user named it and not its sweep.
        data: which of the data that were called by the name of its dataset: 1, 2, ...
        start: the run and its checkpoint that it goes back to, if it is a branch of a comparison; else "".
    """

    folder: RunFolder
    config: Config
    status: str
    summary: Mapping[str, Any]
    recipe: str
    own: Mapping[str, Any]
    environment: Mapping[str, Any]
    given: bool = False
    data: int = 1
    start: str = ""

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
    """Runs that differ by their seeds only, in one reading.

    Attributes:
        equal: how many more runs have the seeds of one of these, which are no repetitions.
    """

    rows: tuple[Row, ...]
    reading: str
    equal: int = 0

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
        first = self.rows[0]
        return {"recipe": first.recipe, "data": first.data, "finetuned from": first.start, **first.own}


@dataclass(frozen=True)
class Missing:
    """A run without a row: it has not begun, or counts nowhere, and then `fault` says why."""

    status: str
    fault: str = ""


@dataclass(frozen=True)
class ToCome:
    """A cell of which no run has begun: what tells it from the others of its sweep, and its runs."""

    config: Config
    varied: Mapping[str, Any]
    runs: int

    @property
    def problem(self) -> tuple[str, str]:
        """Network and dataset."""
        return self.config.model.name, self.config.data.dataset


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        rows: every run.
        comparisons: folders of `slotkit finetune`.
        sweeps: those that were named.
        named: the arguments as they were typed.
        runs_dir: where their names were looked up, if that was said.
        missing: runs without a row, by path: those of sweeps that have not begun, and what is left out.
    """

    rows: list[Row]
    comparisons: list[RunFolder]
    sweeps: list[Sweep]
    named: list[str] = field(default_factory=list)
    missing: dict[Path, Missing] = field(default_factory=dict)
    runs_dir: Path | None = None

    def problems(self) -> list[tuple[str, str]]:
        begun, to_come = ([one.problem for one in some] for some in (self.rows, self.to_come()))
        return list(dict.fromkeys([*begun, *to_come]))

    def to_come(self) -> list[ToCome]:
        """Cells of the sweeps of which no run has begun."""
        wanted: dict[str, dict[Path, tuple[Sweep, Entry]]] = {}
        for sweep in self.sweeps:
            for run in sweep.runs():
                cell = wanted.setdefault(cell_of(run.entry.settings), {})
                cell[run.folder.path.resolve()] = sweep, run.entry
        waiting = {path for path, one in self.missing.items() if not one.fault}
        cells = [cell for cell in wanted.values() if cell.keys() <= waiting]
        return [_to_come(*next(iter(cell.values())), len(cell)) for cell in cells]

    def left_out(self) -> list[str]:
        """A sentence for each run that counts nowhere."""
        return [left_out(path.name, one.fault, one.status) for path, one in self.missing.items() if one.fault]


def collect(names: Sequence[str], runs_dir: Path | None = None) -> Material:
    """Read runs, sweeps and comparisons, given as folders or as names in `runs_dir`.

    A damaged run is left out, and so is one of a sweep whose folder holds another run.

    Raises SlotkitError for what is none, and if nothing is left that can be shown.
    """
    place = runs_dir or default_runs_dir()
    found = Material([], [], [], list(names), runs_dir=runs_dir)
    for name in names:
        if any((path / MANIFEST).is_file() for path in (Path(name), place / name)):
            sweep = Sweep.open(find(name, place))
            if _is_among(sweep.path, [one.path for one in found.sweeps]):
                continue
            found.sweeps.append(sweep)
            for run in sweep.runs():
                state = run.state()
                if run.folder.has_config() and not state.fault:
                    found.rows.append(_row(run.folder))
                else:
                    found.missing[run.folder.path.resolve()] = Missing(state.status, state.fault)
            continue
        _take(RunFolder.open(name, place), found)
    _drop_twins(found.rows)
    _tell_data_apart(found.rows)
    for row in found.rows:  # one that was named itself is shown, even if its sweep leaves it out
        found.missing.pop(row.folder.path.resolve(), None)
    if not found.rows and not found.comparisons:
        for one in found.missing.values():
            if one.fault:
                raise SlotkitError(one.fault)
        raise SlotkitError(f"No run of {', '.join(names)} is there yet. Train first: `slotkit sweep`.")
    return found


def _take(folder: RunFolder, found: Material) -> None:
    """A run or comparison that was named."""
    try:
        check(folder)
    except SlotkitError as fault:
        found.missing[folder.path.resolve()] = Missing(DAMAGED, str(fault))
        return
    if folder.is_comparison():
        if not _is_among(folder.path, [one.path for one in found.comparisons]):
            found.comparisons.append(folder)
    else:
        found.rows.append(_row(folder, given=True))


def _is_among(path: Path, others: Sequence[Path]) -> bool:
    """Whether what was named is named a second time, maybe by another path."""
    return path.resolve() in [other.resolve() for other in others]


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


def _changed(recipe: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings that a run has otherwise than its recipe has them now: an older slotkit's may be another."""
    if recipe not in recipes.names():
        return []
    slots = Overrides("the run", {"slots.k": settings["slots.k"]})
    now = resolve([*recipes.load(recipe).overrides(settings["slots.k"]), slots]).config
    return [path for path, value in flatten(now.model_dump(mode="json")) if settings.get(path) != value]


def _to_come(sweep: Sweep, entry: Entry, runs: int) -> ToCome:
    with naming(sweep.path / MANIFEST, ADVICE):
        config = Config.model_validate(nest(entry.settings))
    return ToCome(config, entry.varied, runs)


def _tell_data_apart(rows: list[Row]) -> None:
    """Runs on data that were changed in between are no repetitions of each other."""
    told = [dict(row.folder.settings()) for row in rows]
    tell_data_apart([row.folder for row in rows], told)
    rows[:] = [replace(row, data=one["data"]) for row, one in zip(rows, told, strict=True)]


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Rows by all of their settings but the seeds; a cell for each reading.

    Of runs with equal seeds, too, one counts, a finished one if there is any.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_identity(row), []).append(row)
    found = []
    for group in groups.values():
        by_seeds: dict[tuple[int, ...], Row] = {}
        for row in sorted(group, key=lambda row: row.status != "finished"):
            by_seeds.setdefault(seeds_of(row.folder), row)
        kept = tuple(row for row in group if row in by_seeds.values())
        readings = list(dict.fromkeys(reading for row in kept for reading in row.readings()))
        found += [Cell(kept, reading, len(group) - len(kept)) for reading in readings or [""]]
    return found


def _identity(row: Row) -> tuple[Any, ...]:
    settings = row.folder.settings().items()
    return (
        row.data,
        row.start,
        *((path, str(value)) for path, value in settings if not _is_incidental(path)),
    )


def _is_incidental(path: str) -> bool:
    """Whether a setting doesn't tell one method from another: seeds, where and how a run was recorded."""
    return path.startswith(INCIDENTAL) or path in FREE


def _row(folder: RunFolder, given: bool = False) -> Row:
    tables, config = folder.tables(), folder.config()
    origins: Mapping[str, str] = tables["origins"]
    settings = folder.settings()
    names = [match[1] for origin in origins.values() if (match := re.match(r"recipe (\S+)", origin))]
    recipe = names[0] if names else ""
    paths = [path for path, origin in origins.items() if not origin.startswith("recipe ")]
    own = {
        short_name(path): settings.get(path)
        for path in [*paths, *_changed(recipe, settings)]
        if not (origins.get(path, "").startswith("dataset ") or path in DRAWN or _is_incidental(path))
    } | {path: value for path, value in settings.items() if path.startswith("config.")}
    whole = (folder.path / "summary.json").is_file()
    return Row(
        folder,
        config,
        folder.status() if whole else "missing",
        folder.summary() if whole else {},
        recipe,
        own,
        tables["environment"],
        given,
        start=_start_of(tables),
    )


def _start_of(tables: Mapping[str, Any]) -> str:
    about: Mapping[str, Any] = tables.get("parent", {})
    return f"{about['run']} ({about['checkpoint']})" if "checkpoint" in about else ""
