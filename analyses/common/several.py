"""Which of several runs count: one that can't be read hides no other, and equal runs count once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from slotkit.analyses.common.comparison import group_labels, run_names, seeds_of, untold

from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.runs.listing import left_out

Found = TypeVar("Found")


@dataclass(frozen=True)
class Counted(Generic[Found]):
    """The runs that count, in the order in which they are named.

    Attributes:
        names: what tables and sentences call them.
        found: what was found in each.
        notes: a sentence for each run that does not count, and what else is to be known of their groups.
    """

    folders: list[RunFolder]
    names: list[str]
    found: list[Found]
    notes: list[str]


def look_at(folders: Sequence[RunFolder], look: Callable[[RunFolder, str], Found]) -> Counted[Found]:
    """What `look` finds in each run, given its folder and its name.

    A run that is damaged, or has not what is looked for, is left out. So is one with the settings and the
    seeds of another: it would say the same once more. A finished one counts before one that is not.

    Raises SlotkitError, that of the first run, if none is left.
    """
    there: list[tuple[RunFolder, str, Found]] = []
    faults: list[tuple[str, SlotkitError]] = []
    for folder, name in zip(folders, run_names(folders), strict=True):
        try:
            if folder.has_config():
                folder.settings()
                folder.data()
            there.append((folder, name, look(folder, name)))
        except SlotkitError as fault:
            faults.append((name, fault))
    if not there:
        raise faults[0][1]
    notes = [left_out(name, fault) for name, fault in faults]
    equal = _equal([(folder, name) for folder, name, _ in there])
    notes += [
        left_out(name, f"it has the settings and the seeds of {first}, and equal runs count once.")
        for name, first in equal.items()
    ]
    kept = [one for one in there if one[1] not in equal]
    folders = [folder for folder, _, _ in kept]
    return Counted(
        folders, [name for _, name, _ in kept], [one for *_, one in kept], [*notes, untold(folders)]
    )


def _equal(runs: Sequence[tuple[RunFolder, str]]) -> dict[str, str]:
    """Name of a run -> name of the one that counts in its place."""
    firsts: dict[Any, str] = {}
    found = {}
    labelled = zip(runs, group_labels([folder for folder, _ in runs]), strict=True)
    for (folder, name), label in sorted(labelled, key=lambda one: not _is_finished(one[0][0])):
        first = firsts.setdefault((label, seeds_of(folder)), name)
        if first != name:
            found[name] = first
    return found


def _is_finished(folder: RunFolder) -> bool:
    try:
        return folder.status() == "finished"
    except SlotkitError:
        return False  # a trace alone, or a summary that is lost
