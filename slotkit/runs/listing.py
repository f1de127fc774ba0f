"""The runs in a folder as rows: settings, how far each is, its accuracies, what tells it from others."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotkit.config import Config, flatten, full_path, short_name
from slotkit.errors import SlotkitError, many
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder, list_runs

SEEDS = ("seeds.reels", "seeds.data", "seeds.training")

# Settings that a row has anyway.
SHOWN = ("method", "model.name", "data.dataset", "slots.k", "slots.selection", "training.epochs")

# Of these, what a run with learned weights is not shown with: it has them, and they change nothing.
OF_SLOTS = ("slots.k", "slots.selection")

# Settings that slotkit does not know beforehand: a network's options, and what slotkit.record was told.
FREELY_NAMED = ("model.options.", "config.")

# What rows can be sorted by beside a setting, and how it is found.
COLUMNS: dict[str, Callable[[Listed], Any]] = {
    "run": lambda row: row.name,
    "status": lambda row: row.status,
    "epochs": lambda row: row.summary.get("epochs", 0),
    "seconds": lambda row: row.summary.get("seconds", 0.0),
    "validation": lambda row: _accuracy(row.validation),
    "test": lambda row: _accuracy(row.test),
    "explored": lambda row: (row.summary.get("sparse") or {}).get("explored"),
}


@dataclass(frozen=True)
class Listed:
    """A run.

    Attributes:
        fault: why it can't be read; then it has no settings and its status is "damaged".
        differs: settings that it has otherwise than runs of the same network on the same data.
    """

    name: str
    status: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    fault: str = ""
    differs: Mapping[str, Any] | None = None

    @property
    def validation(self) -> Mapping[str, Any] | None:
        """That of the best epoch; None before the first."""
        found: Mapping[str, Any] | None = self.summary.get("validation", {}).get("best")
        return found

    @property
    def test(self) -> Mapping[str, Any] | None:
        """The first reading of the best network; None before the run is finished."""
        return next(iter(self.summary.get("test", {}).get("best", {}).values()), None)


def listed(
    place: Path, where: Sequence[str] = (), sort: str | None = None, without: Collection[str] = ()
) -> list[Listed]:
    """The runs in `place`, oldest first by name; nothing is written.

    Args:
        where: "k=8", "status=finished": those for which all of these hold, by setting or column.
        sort: by a setting or column; "-test" begins with the highest. What hasn't one comes last.
        without: names of runs that are not to be listed.

    Raises SlotkitError for what is neither a setting nor a column.
    """
    rows = [_read(folder) for folder in list_runs(place) if folder.name not in without]
    tests = [_condition(text) for text in where]
    rows = [row for row in rows if all(test(row) for test in tests)]
    told = differing([row.settings for row in rows])
    rows = [_with(row, differs) for row, differs in zip(rows, told, strict=True)]
    if sort is None:
        return rows
    down, name = sort.startswith("-"), sort.removeprefix("-")
    value = _value_of(name, f"--sort {sort}")
    known = [row for row in rows if value(row) is not None]
    ordered = sorted(known, key=lambda row: _ordered(value(row)), reverse=down)
    return [*ordered, *(row for row in rows if value(row) is None)]


def differing(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each run (its settings by path) those that not all runs of its network on its data share.

    Three equal seeds are one, `seed`. Where data lie and how often checkpoints are written is left out.
    """
    kinds: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        kinds.setdefault(_kind(run), []).append(run)
    # What differs is found once for a kind and not for each run, so that thousands of runs take no longer.
    varied = {kind: _varied(alike) for kind, alike in kinds.items()}
    return [
        {short_name(path): run.get(SEEDS[0] if path == "seed" else path) for path in varied[_kind(run)]}
        for run in runs
    ]


def shown(value: Any) -> str:
    """A value of a setting for people."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Method, network and dataset."""
    return tuple(run.get(path) for path in SHOWN[:3])


def _varied(alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paths of the settings that not all of these share; `seed` where each has three equal seeds."""
    paths = dict.fromkeys(path for run in alike for path in run)
    found = [
        path
        for path in paths
        if path not in (*SHOWN, *FREE) and any(run.get(path) != alike[0].get(path) for run in alike)
    ]
    if set(found) & set(SEEDS) and all(len({run.get(path) for path in SEEDS}) == 1 for run in alike):
        return [*(path for path in found if path not in SEEDS), "seed"]
    return found


def read(folder: RunFolder) -> Listed:
    """One run. Raises SlotkitError if it is damaged."""
    return Listed(folder.name, folder.status(), folder.settings(), folder.summary())


def check(folder: RunFolder) -> None:
    """Raise SlotkitError if one of the files is damaged that say what a run is, on which data, how far it is
    and what it measured. Who goes through many runs leaves such a one out and names it.
    """
    folder.settings()
    folder.data()
    if (folder.path / "summary.json").is_file():
        folder.summary()
    for _ in folder.metrics():
        pass


def counted(statuses: Sequence[str]) -> str:
    """ "4 runs: 3 finished, 1 waiting"."""
    counts = ", ".join(f"{statuses.count(one)} {one}" for one in dict.fromkeys(statuses))
    return f"{many(len(statuses), 'run')}: {counts}"


def left_out(name: str, fault: object, status: str = "") -> str:
    """The sentence for a run that is left out, and why: a sentence or an error."""
    return f"{name} is left out{f' ({status})' if status else ''}: {fault}"


def _read(folder: RunFolder) -> Listed:
    try:
        check(folder)
        return read(folder)
    except SlotkitError as fault:
        return Listed(folder.name, "damaged", {}, {}, str(fault))


def _with(row: Listed, differs: Mapping[str, Any]) -> Listed:
    return Listed(row.name, row.status, row.settings, row.summary, row.fault, differs)


def _condition(text: str) -> Callable[[Listed], bool]:
    name, equals, wanted = text.partition("=")
    if not equals or wanted.startswith("="):
        raise SlotkitError(f"--where {text} is not of the form a=v, such as k=8 or status=finished.")
    wanted = wanted.strip()
    value = _value_of(name.strip(), f"--where {text}")
    if full_path(name.strip()) == "slots.selection":
        from slotkit.selection import find_selection

        wanted = find_selection(wanted)
    try:
        parsed = tomllib.loads(f"value = {wanted}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = _plain(wanted)
    return lambda row: _is_same(value(row), parsed) or str(value(row)) == wanted


def _plain(text: str) -> float | str:
    """A number that TOML doesn't have, such as ".1", or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_same(one: Any, other: Any) -> bool:
    """To Python 0 is False, and 1 True."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _value_of(name: str, whose: str) -> Callable[[Listed], Any]:
    path = full_path(name)
    if name in COLUMNS:
        return COLUMNS[name]
    if name == "seed":
        path = SEEDS[0]
    elif path not in dict(flatten(Config().model_dump())) and not path.startswith(FREELY_NAMED):
        columns = ", ".join(COLUMNS)
        raise SlotkitError(
            f"{name} (from {whose}) is neither a setting, such as k or training.lr, nor one of {columns}."
        )
    if path in OF_SLOTS:
        # The table of settings has them in any run; learned weights have no K.
        return lambda row: None if row.settings.get("method") == "learned" else row.settings.get(path)
    return lambda row: row.settings.get(path)


def _accuracy(reading: Mapping[str, Any] | None) -> float | None:
    return None if reading is None else float(reading["accuracy"])


def _ordered(value: Any) -> tuple[int, Any]:
    """Numbers before texts, so that both can be sorted."""
    number = isinstance(value, int | float) and not math.isnan(value)
    return (0, value) if number else (1, str(value))
