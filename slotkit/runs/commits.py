"""The checkpoint to resume from is the commit point of a run, and names the files that belong to it.

    checkpoints/last.safetensors   the newest commit: it says how long metrics.jsonl was, with a digest of
                                   that much, and which best network belongs to it
    checkpoints/best.safetensors   the best network of that commit
    checkpoints/best.next          a better one, whose commit is still to come
    earlier/                       the commits before (recording.keep_last), and their best networks if
                                   those are others: last-STEP-EPOCH-BEST, best-BEST (BEST is an epoch)

Whatever the moment at which a process is killed, one commit is whole, and the files that it names are there
under one of these names. `find` only reads; `settle` then puts everything under its own name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotkit.errors import SlotkitError
from slotkit.files import move, remove
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import check as check_fingerprint
from slotkit.runs.folder import RunFolder

EARLIER = re.compile(r"last-(\d{8,})-(\d{5,})-(\d{5,})\.safetensors")


@dataclass(frozen=True)
class Commit:
    """A whole commit.

    Attributes:
        path: the checkpoint.
        best: where its best network lies; None before the first epoch.
        faults: why newer ones are not whole, a sentence each.
    """

    path: Path
    state: dict[str, Any]
    about: dict[str, Any]
    best: Path | None
    faults: tuple[str, ...]


class Commits:
    """The commits of a run in training, of which the last `keep` are kept."""

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self.last, self.best = folder.checkpoint("last"), folder.checkpoint("best")
        self.next, self.earlier = _next_best(folder), folder.path / "earlier"
        self.folder, self.keep = folder, keep
        self._about: dict[str, Any] | None = None
        self._named: dict[str, Any] | None = None

    def stage_best(self, state: Mapping[str, Any], **about: Any) -> None:
        """The best network so far. If a commit has another, it takes its place with the next commit."""
        taken = self._about is not None and self._about.get("best")
        checksum = checkpoint.save(self.next if taken else self.best, state, **about)
        self._named = {"epoch": about["epoch"], "checksum": checksum}

    def commit(self, state: Mapping[str, Any], **about: Any) -> None:
        """A checkpoint to resume from. The one before stays until this one is whole."""
        size, digest = self.folder.flush_metrics(), metrics_digest(self.folder)
        about |= {"metrics_bytes": size, "metrics_digest": digest, "best": self._named}
        checkpoint.save(self.last, state, self._aside(self._about), **about)
        before, self._about = self._about, about
        if self.next.exists():
            self._put_best(before)
        self._prune()

    def settle(self, commit: Commit) -> None:
        """Put the files of a commit under their own names, and go on from it."""
        if commit.best is not None and commit.best != self.best:
            if commit.path == self.last and self.best.exists() and self.keep > 1:
                self._put_best_aside()
            move(commit.best, self.best)
        if self.next.exists():
            remove(self.next)
        if commit.path != self.last:
            move(commit.path, self.last)
        self._named = commit.about.get("best")
        if self._named is None and commit.best is not None:  # a run of before
            about, checksum = checkpoint.told(self.best)
            self._named = {"epoch": about["epoch"], "checksum": checksum}
        self._about = commit.about | {"best": self._named}
        self._prune()

    def begin_anew(self) -> None:
        """Nothing was committed: what a killed process staged is not used."""
        if self.next.exists():
            remove(self.next)

    def _aside(self, about: Mapping[str, Any] | None) -> Path | None:
        if self.keep < 2 or about is None:
            return None
        best = (about.get("best") or {"epoch": 0})["epoch"]
        return self.earlier / f"last-{about['step']:08d}-{about['epoch']:05d}-{best:05d}.safetensors"

    def _put_best(self, before: Mapping[str, Any] | None) -> None:
        if self.keep > 1 and before is not None and before.get("best") and self.best.exists():
            move(self.best, self.earlier / _best_name(before["best"]["epoch"]))
        move(self.next, self.best)

    def _put_best_aside(self) -> None:
        """A best network that is not the commit's: that of the one before, if it is whole."""
        try:
            about, _ = checkpoint.told(self.best)
        except SlotkitError:
            return
        move(self.best, self.earlier / _best_name(about["epoch"]))

    def _prune(self) -> None:
        """Delete the commits that are too old, and the best networks that no kept one names."""
        if not self.earlier.is_dir():
            return
        found = _earlier(self.folder)
        kept = found[: self.keep - 1]
        named = {_best_name(int(_numbers(path)[2])) for path in kept}
        for path in sorted(self.earlier.iterdir()):
            if path not in kept and path.name not in named:
                remove(path)
        if not kept:
            remove(self.earlier)


def find(folder: RunFolder, check: Callable[[Commit], None]) -> Commit | None:
    """The newest whole commit of a run, None if there is none yet. Nothing is written.

    Args:
        check: raises SlotkitError if the run lacks something else that the commit needs.

    Raises SlotkitError if settings or data are not those of the checkpoints, or if every commit is damaged,
    for the reason of the newest.
    """
    faults: list[str] = []
    paths = [path for path in (folder.checkpoint("last"), *_earlier(folder)) if path.exists()]
    for path in paths:
        try:
            state, about, _ = checkpoint.read(path)
        except SlotkitError as fault:
            faults.append(str(fault))
            continue
        check_fingerprint(folder, path, about)
        try:
            commit = Commit(path, state, about, _find_best(folder, path, about), tuple(faults))
            _check_place(commit)
            _check_metrics(folder, commit)
            check(commit)
        except SlotkitError as fault:
            faults.append(str(fault))
            continue
        return commit
    if faults:
        raise SlotkitError(faults[0])
    return None


def metrics_digest(folder: RunFolder, size: int | None = None) -> str:
    """BLAKE2b of the metrics, or of their first `size` bytes."""
    path = folder.path / "metrics.jsonl"
    data = path.read_bytes()[:size] if path.exists() else b""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _check_place(commit: Commit) -> None:
    own = commit.state.get("training")
    here = (own.get("step"), own.get("validated")) if isinstance(own, dict) else (None, None)
    if here != (commit.about.get("step"), commit.about.get("epoch")):
        raise SlotkitError(f"{commit.path} contradicts itself: it says two steps or epochs. Train again.")


def _check_metrics(folder: RunFolder, commit: Commit) -> None:
    path, size = folder.path / "metrics.jsonl", commit.about.get("metrics_bytes")
    if size is None:
        raise SlotkitError(f"{commit.path} doesn't say how long metrics.jsonl was. Train again.")
    there = path.stat().st_size if path.exists() else 0
    digest = commit.about.get("metrics_digest")
    advice = "Put the whole file back, or train again."
    if there < size:
        raise SlotkitError(
            f"{path} has {there:,} bytes, and had {size:,} when {commit.path} was written. {advice}"
        )
    if digest is not None and metrics_digest(folder, size) != digest:
        raise SlotkitError(
            f"{path} was changed: its first {size:,} bytes are not those of when {commit.path} was written. "
            f"{advice}"
        )
    _check_entries(folder, commit, size)


def _check_entries(folder: RunFolder, commit: Commit, size: int) -> None:
    """The epochs that the metrics tell, up to that length, are those of the commit."""
    measured = list(_measured_entries(folder, size))
    length = measured[-1][0] if measured else 0
    told = [entry for _, entry in measured if entry["kind"] == "epoch"]
    epochs, best = len(told), max((entry["epoch"] for entry in told if entry["best"]), default=0)
    own = commit.state.get("training", {})
    here = own.get("validated"), own.get("best_epoch")
    if length != size or (epochs, best) != here:
        raise SlotkitError(
            f"{folder.path / 'metrics.jsonl'} and {commit.path} contradict each other: {epochs} epochs, the "
            f"best {best}, in {length:,} bytes there, and {here[0]}, {here[1]}, in {size:,} here. Put the "
            "whole files back, or train again."
        )


def _measured_entries(folder: RunFolder, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(bytes up to the end of the line, entry) of the metrics' first `size` bytes.

    What comes after is taken away when the run goes on: of a machine that lost its power it may be anything.
    """
    end = 0
    lines = (folder.path / "metrics.jsonl").read_bytes()[:size].split(b"\n") if size else []
    for line, entry in zip(lines, folder.metrics(size) if size else (), strict=False):
        end += len(line) + 1
        yield end, entry


def _find_best(folder: RunFolder, path: Path, about: Mapping[str, Any]) -> Path | None:
    """Where the best network of a commit lies: the end of the training needs it."""
    named, best = about.get("best"), folder.checkpoint("best")
    if named is None:
        if not about.get("epoch") or "settings" in about:
            return None
        # A checkpoint of before names none: the one that is there.
        checkpoint.told(best)
        return best
    for place in (best, _next_best(folder), folder.path / "earlier" / _best_name(named["epoch"])):
        try:
            if checkpoint.told(place)[1] == named["checksum"]:
                return place
        except SlotkitError:
            continue
    raise SlotkitError(
        f"{best} is missing, or is not the one of epoch {named['epoch']} that belongs to {path}, and the end "
        "of the training needs it. Put it back, or train again."
    )


def _next_best(folder: RunFolder) -> Path:
    return folder.path / "checkpoints" / "best.next"


def _best_name(epoch: int) -> str:
    return f"best-{epoch:05d}.safetensors"


def _numbers(path: Path) -> tuple[int, ...]:
    match = EARLIER.fullmatch(path.name)
    return tuple(map(int, match.groups())) if match else ()


def _earlier(folder: RunFolder) -> list[Path]:
    """The commits before the last, the newest first."""
    found = [path for path in (folder.path / "earlier").glob("last-*") if _numbers(path)]
    return sorted(found, key=_numbers, reverse=True)
