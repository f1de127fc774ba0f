"""A sweep on the disk: a folder with the manifest, and a run folder for each of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from slotkit.config import Config
from slotkit.data.identity import Identity, differences
from slotkit.errors import SlotkitError, many
from slotkit.files import make_folder
from slotkit.masks import file as mask_file
from slotkit.masks.keeping import are_equal
from slotkit.runs.folder import MARKS, RunFolder, default_runs_dir, list_runs
from slotkit.runs.listing import check, shown
from slotkit.runs.lock import LOCK, is_locked, locked, refusal
from slotkit.runs.schema import naming
from slotkit.sweeps import manifest as manifests
from slotkit.sweeps.contract import Ended
from slotkit.sweeps.manifest import ADVICE, KEPT_FAILURES, MANIFEST, Entry, Failure, Manifest, data_key
from slotkit.sweeps.plan import FROM_DATASET, Planned, deciding, folder_name, key_of
from slotkit.training.prepare import mask_of

# Runs that need nothing more.
DONE = ("finished", "diverged")

# Runs that count nowhere and are not trained: a file can't be read, or the folder holds another run.
COUNT_NOWHERE = DAMAGED, OTHER = "damaged", "other"


@dataclass(frozen=True)
class State:
    """How far a run of a sweep is.

    Attributes:
        status: finished, diverged, running, waiting; stopped, interrupted, killed or failed, which go on;
            damaged or other, which count nowhere and are not trained.
        summary: of the run; empty before it has begun, and of one that counts nowhere.
        fault: why it counts nowhere and what to do, in sentences; else "".
    """

    run: SweepRun
    status: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, there or not."""

    key: str
    entry: Entry
    folder: RunFolder

    def state(self) -> State:
        """How far it is, read from its folder now."""
        place = self.folder.path
        if not any((place / name).is_file() for name in MARKS):
            return State(self, self._status("running" if is_locked(place) else "waiting"))
        try:
            check(self.folder)
        except SlotkitError as fault:
            return State(self, DAMAGED, fault=f"{fault} Or move {place} elsewhere, to train that run anew.")
        if different := self._differences():
            told = (
                f"{place} is not the run that {place.parent / MANIFEST} says: {'; '.join(different)}. Move "
                "it elsewhere to train that run anew, or choose another --name for the sweep."
            )
            return State(self, OTHER, fault=told)
        if not (place / "summary.json").is_file():
            return State(self, self._status("running" if is_locked(place) else "waiting"))
        return State(self, self._status(self.folder.status()), self.folder.summary())

    def status(self) -> str:
        """One word of `State`."""
        return self.state().status

    def epochs(self) -> int:
        """How many it is to have."""
        return int(self.entry.settings.get("training.epochs", Config().training.epochs))

    def _status(self, told: str) -> str:
        """What its folder tells, but of one that failed that."""
        return "failed" if self.entry.failures and told not in (*DONE, "running") else told

    def _differences(self) -> list[str]:
        """What its folder has otherwise than the manifest, in words."""
        own, wanted = deciding(self.folder.config()), self.entry.settings
        return [
            f"{path} is {own.get(path, 'its default')!r} there and {wanted.get(path, 'its default')!r} here"
            for path in sorted(own.keys() | wanted.keys())
            if own.get(path) != wanted.get(path) and not (path in FROM_DATASET and path not in wanted)
        ]


class Sweep:
    """The folder `path`. `start` makes or extends one, `open` finds one that is there."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """Raises SlotkitError if its manifest can't be read."""
        return cls(path, manifests.read(path))

    def locked(self) -> AbstractContextManager[None]:
        """Keep other drivers from training this sweep."""
        return locked(self.path, "sweep")

    def is_locked(self) -> bool:
        """Whether a driver is training it."""
        return is_locked(self.path)

    def runs(self) -> Iterator[SweepRun]:
        """Those that are wanted, in the order of training."""
        for key, entry in self.manifest.runs.items():
            if entry.wanted:
                yield SweepRun(key, entry, RunFolder(self.path / entry.name))

    def states(self) -> list[State]:
        """How far each of them is, as its folder says now."""
        return [run.state() for run in self.runs()]

    def keep_failure(self, key: str, ended: Ended) -> None:
        """Write down the error of an attempt."""
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        where, error, trace = map(_escaped, (ended.where, ended.error, ended.trace))
        failure = Failure(when=when, where=where, error=error, trace=trace)
        kept = [*self.manifest.runs[key].failures, failure][-KEPT_FAILURES:]
        self._change(key, failures=kept)

    def keep_peak(self, key: str, peak: int) -> None:
        """Write down how much memory a run took."""
        if peak > (self.manifest.runs[key].peak or 0):
            self._change(key, peak=peak)

    def data_of(self, key: str) -> Identity | None:
        """What the data of a run have to be, if another run of the sweep has said it."""
        return self.manifest.data.get(data_key(self.manifest.runs[key].settings))

    def keep_data(self, run: SweepRun) -> None:
        """Write down the data of the first run on each dataset.

        Raises SlotkitError if those of this run are others.
        """
        found, known = run.folder.data(), self.data_of(run.key)
        if found is None:
            return
        if known is not None:
            different = differences(known, found)
            if different:
                raise SlotkitError(
                    f"{run.folder.path} has other data than the runs of the sweep before it: "
                    f"{'; '.join(different)}. Put them back as they were and delete that run."
                )
            return
        data = self.manifest.data | {data_key(run.entry.settings): found}
        self._write(self.manifest.model_copy(update={"data": data}))

    def check_masks(self) -> None:
        """Raise SlotkitError if a run has begun under another mask than its file has now: the runs of a sweep
        would not be under one mask. A file that can't be read is told by the run that needs it.
        """
        for run in self.runs():
            copy, path = mask_of(run.folder), run.entry.settings.get("mask")
            if copy is None or not isinstance(path, str) or not Path(path).is_file():
                continue
            try:
                (own, about), (now, says) = mask_file.load(copy), mask_file.load(Path(path))
            except SlotkitError:
                continue
            if about.start != says.start or not are_equal(own, now):
                raise SlotkitError(
                    f"{run.folder.path} was trained under another mask than {path} has now. Choose another "
                    "--name, or put the file back as it was."
                )

    def _change(self, key: str, **values: Any) -> None:
        entry = self.manifest.runs[key].model_copy(update=values)
        self._write(self.manifest.model_copy(update={"runs": self.manifest.runs | {key: entry}}))

    def _write(self, manifest: Manifest) -> None:
        manifests.write(self.path, manifest)
        self.manifest = manifest


def _escaped(text: str) -> str:
    """A name in a sentence may be no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def find(sweep: Path | str, runs_dir: Path | None = None) -> Path:
    """The folder of a sweep, a path or a name in `runs_dir`. Raises SlotkitError if it isn't there."""
    place = runs_dir or default_runs_dir()
    for path in (Path(sweep), place / sweep):
        if (path / MANIFEST).is_file():
            return path
    raise SlotkitError(
        f"There is no sweep {str(sweep)!r}, neither as a path nor in {place}: no {MANIFEST} is there. "
        "`slotkit sweep FILE.toml` makes one."
    )


def sweeps_in(place: Path) -> list[Path]:
    """The folders of the sweeps in a folder, by name."""
    return sorted(path.parent for path in place.glob(f"*/{MANIFEST}"))


def start(
    path: Path, planned: Sequence[Planned], source: str, changed: bool = False, command: str = ""
) -> tuple[Sweep, list[str]]:
    """The sweep of those runs in that folder, a new one or the one that is there; nothing is trained yet.

    Runs that are new are added to it.

    Args:
        source: where the runs are asked for: "lenet.toml".
        command: what the user typed; kept for reports.
        changed: leave out runs of before that are not asked for any more. Their folders stay.

    Returns:
        The sweep, and what the user should know, a sentence each.

    Raises SlotkitError if another process trains it, if other files are in the folder, or if runs of before
    are not asked for any more.
    """
    _check_place(path)
    make_folder(path)
    with locked(path, "sweep"):
        there = manifests.read(path) if (path / MANIFEST).is_file() else None
        manifest, notes = _asked(path, there, planned, source, changed, command)
        if manifest != there:
            manifests.write(path, manifest)
    return Sweep(path, manifest), notes


def preview(
    path: Path, planned: Sequence[Planned], source: str, changed: bool = False, command: str = ""
) -> tuple[Sweep, list[str]]:
    """What `start` returns and raises, without its changes of the disk."""
    _check_place(path)
    if is_locked(path):
        raise refusal(path, "sweep")
    there = manifests.read(path) if (path / MANIFEST).is_file() else None
    manifest, notes = _asked(path, there, planned, source, changed, command)
    return Sweep(path, manifest), notes


def _asked(
    path: Path,
    there: Manifest | None,
    planned: Sequence[Planned],
    source: str,
    changed: bool,
    command: str,
) -> tuple[Manifest, list[str]]:
    """The manifest of those runs where `there` is one, and what the user should know."""
    before = there.runs if there else {}
    wanted = {key_of(settings): (one, settings) for one in planned for settings in [one.settings()]}
    gone = [key for key, entry in before.items() if entry.wanted and key not in wanted]
    new = [key for key in wanted if key not in before or not before[key].wanted]
    if gone and not changed:
        raise SlotkitError(_changed(path, source, before, gone, wanted))
    # A manifest that was damaged may give a run of before the folder of a new one.
    with naming(path / MANIFEST, ADVICE, "can't be written"):
        runs = {key: _entry(path, key, *one, before.get(key)) for key, one in wanted.items()}
        runs |= {
            key: entry.model_copy(update={"wanted": False})
            for key, entry in before.items()
            if key not in runs
        }
        manifest = Manifest(
            id=there.id if there else uuid4().hex,
            source=source,
            command=command,
            runs=runs,
            data=there.data if there else {},
        )
    notes = []
    if there and new:
        notes.append(f"{source} asks for {many(len(new), 'more run')} than {path} had.")
    if gone:
        notes.append(
            f"Left out of the sweep, and kept in {path}: {len(gone)} of the runs of before, for which "
            f"{source} does not ask any more."
        )
    return manifest, notes


def _check_place(path: Path) -> None:
    """Raise SlotkitError for a folder that holds something else than a sweep."""
    if not (path / MANIFEST).is_file() and _is_other(path):
        raise SlotkitError(f"{path} is there already and no sweep. Choose another --name.")


def _is_other(path: Path) -> bool:
    """Whether a folder without a manifest holds something else than the runs of a sweep that has lost it."""
    if not path.exists():
        return False
    if not path.is_dir() or any((path / mark).exists() for mark in MARKS):
        return True
    return not list_runs(path) and any(inner.name != LOCK for inner in path.iterdir())


def _entry(path: Path, key: str, planned: Planned, settings: dict[str, Any], before: Entry | None) -> Entry:
    """The entry of a run; one of before keeps its folder, and one whose manifest was lost finds it."""
    if before is None:
        there = sorted(found.name for found in path.glob(f"*{key[:6]}") if (found / "config.toml").is_file())
        name = planned.name or next(iter(there), folder_name(planned, key))
        before = Entry(name=name, settings=settings)
    varied = json.loads(json.dumps(dict(planned.varied)))
    return before.model_copy(update={"varied": varied, "seed": planned.seed, "wanted": True})


def _changed(
    path: Path, source: str, before: dict[str, Entry], gone: list[str], wanted: dict[str, Any]
) -> str:
    """The sentence for runs that are not asked for any more."""
    old = [before[key].settings for key in gone]
    new = [settings for key, (_, settings) in wanted.items() if key not in before]
    paths = sorted({path for settings in (*old, *new) for path in settings})
    told = []
    for name in paths:
        was, now = (_values(settings, name) for settings in (old, new))
        if new and was != now:
            told.append(f"{name} was {was} and is {now}")
    why = f" ({'; '.join(told[:5])})" if told else ""
    return (
        f"{source} does not ask for {len(gone)} of the {len(before)} runs of {path} any more{why}. Choose "
        "another --name, put it back as it was, or say --changed: then they are left out of the sweep, and "
        "stay on the disk."
    )


def _values(all_settings: Sequence[dict[str, Any]], name: str) -> str:
    values = dict.fromkeys(
        shown(settings[name]) if name in settings else "default" for settings in all_settings
    )
    return ", ".join(values)
