"""The run folder: config.toml, data.json, metrics.jsonl, times.jsonl, summary.json, split.safetensors,
checkpoints/, earlier/, trace/, log.txt, lock.

It is made in one stroke: written beside its place under a hidden name, then renamed.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import tomli_w

from slotkit.config import Config, Resolved, flatten, nest
from slotkit.data.identity import Identity
from slotkit.errors import SlotkitError, many, typed
from slotkit.files import append_line, check_utf8, cut, flush, make_folder, move, remove, write_text
from slotkit.runs.lock import is_locked, locked
from slotkit.runs.schema import (
    ENTRIES,
    EpochEntry,
    LogEntry,
    MaskEntry,
    StepEntry,
    Summary,
    Tables,
    naming,
    read_json,
    read_text,
)

# Tables of config.toml beside the settings.
NOT_SETTINGS = ("origins", "environment", "parent", "recorded")

# What a run lies in until it is whole ends with this, and is left for so long if its process was killed.
BESIDE, STALE_SECONDS = ".new", 3600

# A folder in which one of these lies is a run, whole or not.
MARKS = ("config.toml", "summary.json")

RESTORE = "Restore it, or train again."


class RunFolder:
    """One run on the disk. `create` makes one, `open` finds one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        runs_dir: Path,
        name: str | None,
        resolved: Resolved,
        environment: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
        fill: Callable[[RunFolder], None] = lambda folder: None,
        recorded: Mapping[str, Any] | None = None,
        usual: str | None = None,
    ) -> RunFolder:
        """Make a new folder with the resolved configuration in it, the parent run if there is one, and what a
        loop that is not slotkit's own was `recorded` with.

        Without a `name` it has the `usual` one, or one of its settings; -2, -3, ... where that is taken.

        `fill` writes what else belongs to the run before its first step. The folder has its name only
        when all of that is in it.

        Raises SlotkitError if a run of that name is there or the folder can't be made.
        """
        wanted = name or usual or default_name(resolved.config)
        if Path(wanted).name != wanted or wanted.startswith(".") or not wanted:
            raise SlotkitError(
                f"{wanted!r} can't name a run: use one folder name, and --runs-dir for the place."
            )
        check_utf8(str(runs_dir / wanted), "The run's folder")
        place = _free(runs_dir / wanted, exactly=name is not None)
        _sweep_beside(runs_dir)
        folder = cls(runs_dir / f".{wanted}.{uuid4().hex[:8]}{BESIDE}")
        try:
            make_folder(folder.path / "checkpoints")
            folder.write_config(resolved, environment, parent, recorded)
            folder.write_summary({"status": "running"})
            fill(folder)
            return cls(_put_in_place(folder.path, place, exactly=name is not None))
        finally:
            if folder.path.exists():
                remove(folder.path)

    @classmethod
    def open(cls, run: str | Path, runs_dir: Path) -> RunFolder:
        """The run at that path, or of that name in `runs_dir`; a folder with only a trace counts too.

        Raises SlotkitError if there is none.
        """
        for path in (Path(run), runs_dir / run):
            if any((path / name).is_file() for name in (*MARKS, "trace/about.json")):
                return cls(path)
        raise SlotkitError(
            f"There is no run {str(run)!r}, neither as a path nor in {runs_dir}. "
            "`slotkit runs list` shows what is there."
        )

    @property
    def name(self) -> str:
        """That of the folder; also if it was given as "." or ".."."""
        name = self.path.name
        return self.path.resolve().name if name in ("", "..") else name

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from training here, see `slotkit.runs.lock`."""
        return locked(self.path)

    def remove_temporary_files(self) -> None:
        """Delete what a killed process has left: our temporary files and those of safetensors."""
        for pattern in ("*.tmp", ".tmp*"):
            for left in self.path.rglob(pattern):
                remove(left)

    def status(self) -> str:
        """The status in the summary, or "killed" if that is "running" and no process trains here."""
        status = str(self.summary()["status"])
        return "killed" if status == "running" and not is_locked(self.path) else status

    def write_config(
        self,
        resolved: Resolved,
        environment: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        """config.toml: every setting, where it came from, where the run was made, its parent run, and what
        slotkit.record was told.
        """
        told = resolved.config.model_dump(mode="json")
        if recorded is not None:
            # Of a loop that is not slotkit's own only these are known.
            told = nest({path: value for path, value in flatten(told) if path in resolved.origins})
        tables = without_none(told)
        extra = {"origins": dict(resolved.origins), "environment": dict(environment)}
        if parent is not None:
            extra["parent"] = dict(parent)
        if recorded is not None:
            extra["recorded"] = dict(recorded)
        write_text(self.path / "config.toml", tomli_w.dumps({**tables, **extra}))

    def has_config(self) -> bool:
        """Whether there is a config.toml; a trace alone can be analysed without."""
        return (self.path / "config.toml").is_file()

    def config(self) -> Config:
        """The configuration that the run was made with."""
        tables = self.tables()
        with naming(self.path / "config.toml", RESTORE):
            return Config.model_validate(
                {key: value for key, value in tables.items() if key not in NOT_SETTINGS}
            )

    def recorded(self) -> dict[str, Any] | None:
        """What slotkit.record knows of a loop of one's own (`RecordedTable`); None of other runs."""
        told: dict[str, Any] | None = self.tables().get("recorded")
        return told

    def settings(self) -> dict[str, Any]:
        """Every setting by its path. Of a loop of one's own only what is known, and what it was told as
        `config` under config.NAME.
        """
        values, told = dict(flatten(self.config().model_dump(mode="json"))), self.recorded()
        if told is None:
            return values
        origins = self.tables()["origins"]
        known = {path: value for path, value in values.items() if path in origins}
        with naming(self.path / "config.toml", RESTORE):
            lost = [path for path in ("method", "model.name", "data.dataset", "slots.k") if path not in known]
            if lost:
                raise ValueError(f"its origins lack {', '.join(lost)}")
        return known | dict(flatten(told.get("config", {}), "config."))

    def tables(self) -> dict[str, Any]:
        """config.toml as it is, with origins, environment and parent; the settings are not looked at."""
        path = self.path / "config.toml"
        with naming(path, RESTORE):
            told = tomllib.loads(read_text(path))
            if not told:
                raise ValueError("it is empty")
            Tables.model_validate(told)
            return {"origins": {}, "environment": {}} | told

    def summary(self) -> dict[str, Any]:
        """summary.json."""
        path = self.path / "summary.json"
        with naming(path, "`slotkit train --resume` of a single run writes it anew."):
            summary: dict[str, Any] = read_json(path)
            Summary.model_validate(summary)
            return summary

    def data(self) -> Identity | None:
        """data.json: what the run's data were when it was made; None for a run from before there was one."""
        path = self.path / "data.json"
        if not path.exists():
            return None
        with naming(path, "It says what the run's data were; restore it from a copy."):
            return Identity.model_validate_json(read_text(path))

    def write_data(self, data: Identity) -> None:
        """data.json, once, when the run is made."""
        write_text(self.path / "data.json", data.model_dump_json(indent=2) + "\n")

    def metrics(self, size: int | None = None) -> Iterator[dict[str, Any]]:
        """The entries of metrics.jsonl, or of its first `size` bytes; a last line that was cut off is left
        out.
        """
        path, epochs = self.path / "metrics.jsonl", 0
        if not path.is_file():
            return
        with naming(path, RESTORE):
            lines = path.read_bytes()[:size].decode("utf-8").split("\n")[:-1]
        for number, line in enumerate(lines, start=1):
            with naming(path, RESTORE, f"can't be read in line {number}"):
                entry: dict[str, Any] = json.loads(line)
                told = _entry(entry)
                if isinstance(told, EpochEntry):
                    epochs += 1
                    if told.epoch != epochs:
                        raise ValueError(f"it is of epoch {told.epoch}, and epoch {epochs} is the next")
            yield entry

    def checkpoint(self, which: str) -> Path:
        """Where the checkpoint "best", "last" or "epoch-N" lies.

        Raises SlotkitError for a folder of branches: each of them has its own.
        """
        self.check_single()
        return self.path / "checkpoints" / f"{which}.safetensors"

    def begins_with_weights(self) -> bool:
        """Whether its first step begins with the checkpoint "start", and not with what the seeds make."""
        return self.checkpoint("start").is_file() or "checkpoint" in self.tables().get("parent", {})

    def branches(self) -> list[RunFolder]:
        """The runs in this one, if it compares several (`slotkit finetune`)."""
        return list_runs(self.path)

    def is_comparison(self) -> bool:
        """Whether it compares several runs, which lie in it or will."""
        try:
            return self.summary().get("kind") == "finetune"
        except SlotkitError:
            return bool(self.branches())

    def check_single(self) -> None:
        """Raise SlotkitError if this folder holds runs instead of being one."""
        names = [branch.name for branch in self.branches()]
        if not names and self.is_comparison():
            raise SlotkitError(
                f"{self.name} is to compare several networks, and none is trained yet. "
                f"`slotkit train --resume {typed(self.path)}` trains them."
            )
        if names:
            raise SlotkitError(
                f"{self.name} compares {many(len(names), 'network')}, each a run of its own. Choose "
                f"{' or '.join(f'{self.path}/{name}' for name in names)}."
            )

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        """One line of a .jsonl file."""
        append_line(self.path / name, json.dumps(entry))

    def flush_metrics(self) -> int:
        """Flush the metrics to the disk. Returns their size in bytes."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        flush(path)
        return path.stat().st_size

    def cut_metrics(self, size: int) -> None:
        """Keep the first `size` bytes of the metrics and remove the rest."""
        path = self.path / "metrics.jsonl"
        if path.exists() and path.stat().st_size > size:
            cut(path, size)

    def log(self, text: str) -> None:
        """Append a line to log.txt, with the time in UTC."""
        append_line(self.path / "log.txt", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def default_runs_dir() -> Path:
    """Where runs lie: the variable SLOTKIT_RUNS, else ./runs."""
    return Path(os.environ.get("SLOTKIT_RUNS", "runs"))


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """Every run in that folder, oldest first by name; one that has lost its config.toml too."""
    if not runs_dir.is_dir():
        return []
    found = {path.parent for name in MARKS for path in runs_dir.glob(f"*/{name}")}
    return [RunFolder(path) for path in sorted(found) if not path.name.startswith(".")]


def default_name(config: Config) -> str:
    """A name from date, time and the main settings, such as "20261121-204501-lenet-digits-k8-greedy-s0"."""
    kind = f"k{config.slots.k}-{config.slots.selection}" if config.method == "slot" else "learned"
    dataset = Path(config.data.dataset.partition(":")[2] or config.data.dataset).name
    model = config.model.name.replace("/", "-")
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{dataset}-{kind}-s{config.seeds.reels}"


def without_none(tables: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: a setting without a value is left out."""
    return {
        key: without_none(value) if isinstance(value, Mapping) else value
        for key, value in tables.items()
        if value is not None
    }


def _entry(entry: Any) -> StepEntry | EpochEntry | MaskEntry | LogEntry:
    """A line of metrics.jsonl, checked."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in ENTRIES:
        raise ValueError(f"its kind is {kind!r:.60}, and there are {' and '.join(ENTRIES)}")
    return ENTRIES[kind].model_validate(entry)


def is_taken(path: Path) -> bool:
    """Whether something has that name. A folder with nothing in it may become a run."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)


def is_run(path: Path) -> bool:
    """Whether a run lies there, in whatever state."""
    return any((path / name).is_file() for name in MARKS)


def said_taken(path: Path) -> str:
    """The beginning of an error: what has the name that a new run was to have."""
    if is_run(path):
        return f"There is a run {path} already."
    return f"{path} is there already and is not a run."


def _free(path: Path, exactly: bool) -> Path:
    if not is_taken(path):
        return path
    if exactly:
        raise SlotkitError(f"{said_taken(path)} Choose another --name, or delete it.")
    return next(free for n in range(2, 1000) if not is_taken(free := path.with_name(f"{path.name}-{n}")))


def _put_in_place(beside: Path, place: Path, exactly: bool) -> Path:
    """Give a new run its name, another one if it was taken meanwhile. Returns where it lies."""
    while True:
        try:
            move(beside, place)
        except SlotkitError:
            if not (beside.exists() and is_taken(place)):
                raise
            place = _free(place, exactly)
        else:
            return place


def _sweep_beside(runs_dir: Path) -> None:
    """Delete what processes that were killed while they made a run have left."""
    for left in runs_dir.glob(f".*{BESIDE}"):
        try:
            since = time.time() - left.stat().st_mtime
        except FileNotFoundError:
            continue  # its process has given it its name meanwhile
        if since > STALE_SECONDS:
            remove(left)
