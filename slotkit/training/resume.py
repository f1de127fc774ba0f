"""What may differ when a run goes on, and what may not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from slotkit.config import Overrides, Resolved, resolve
from slotkit.data.identity import Identity
from slotkit.errors import SlotkitError
from slotkit.recording.trace import Trace
from slotkit.runs.commits import Commit
from slotkit.runs.environment import environment
from slotkit.runs.fingerprint import free_of
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import Recorded, naming
from slotkit.training.loop import Note
from slotkit.training.prepare import own_settings, with_whole_paths
from slotkit.training.trainee import find_device

# Two environments that agree in these give the same bits.
SAME = ("device", "threads", "torch", "slotkit", "numpy")

ONLY_ITS_OWN = "A run goes on with its own data only; on these, train a new one."


def continued(folder: RunFolder, changes: Sequence[Overrides]) -> Resolved:
    """The run's settings with `changes`, and where each comes from. Nothing is written yet.

    Raises SlotkitError with the differences if a setting changed that may not.
    """
    folder.check_single()
    own = own_settings(folder)
    changes = [with_whole_paths(given) for given in changes]
    before, after = resolve([own]), resolve([own, *changes])
    check_changes(before, after)
    origins = dict(folder.tables()["origins"]) | {path: after.origins[path] for path in _paths(changes)}
    return Resolved(after.config, origins)


def finished(folder: RunFolder, resolved: Resolved) -> Note | None:
    """What to say if there is nothing left to train; None if there is."""
    epochs = folder.config().training.epochs
    if summary_of(folder).get("status") != "finished" or resolved.config.training.epochs > epochs:
        return None
    return Note(f"The run {folder.name} is finished. A larger --epochs than its {epochs} extends it.")


def summary_of(folder: RunFolder) -> dict[str, Any]:
    """The summary, empty if it is missing or damaged: all but the seconds follows from the other files."""
    try:
        return folder.summary()
    except SlotkitError:
        return {}


def check_rest(folder: RunFolder, commit: Commit) -> None:
    """Raise SlotkitError if the trace lacks what was recorded before the commit."""
    told = commit.state.get("trace")
    if told is None:
        return
    with naming(commit.path, "Use another one, or train again."):
        text = json.dumps({name: told.get(name) for name in ("first", "written")})
        recorded = Recorded.model_validate_json(text)
    Trace(folder.path / "trace").check_written(recorded.written, recorded.first)


def write_continued(folder: RunFolder, resolved: Resolved) -> None:
    """Make these settings the run's; log what differs from the environment in which it started."""
    told = folder.tables()
    folder.write_config(resolved, told["environment"], told.get("parent"))
    here = environment(str(find_device(resolved.config.training.device)), torch.get_num_threads())
    different = [key for key in SAME if told["environment"].get(key) != here[key]]
    for key in different:
        folder.log(
            f"resumed with {key} {here[key]}, which was {told['environment'].get(key)}: bits may differ"
        )


def other_pieces(before: int, after: int) -> list[Note]:
    """What to say if a step takes its batch in another number of pieces than before."""
    if before == after:
        return []
    return [
        Note(
            f"A step takes its batch in {after} pieces from here on, and took it in {before}: sums are "
            "rounded otherwise, and dropout and batch norm work piece by piece."
        )
    ]


def record_data(folder: RunFolder, data: Identity) -> None:
    """Write down what the data are, for a run from before that was done; log that it comes late."""
    if folder.data() is None:
        folder.write_data(data)
        folder.log("data.json written now: whether the data were the same before is unknown")


def check_changes(before: Resolved, after: Resolved) -> None:
    """Raise SlotkitError, with the differences, if settings differ that decide the bits of a run."""
    free = free_of(before.config)
    pairs = zip(before.explain(), after.explain(), strict=True)
    different = [
        (path, old, new)
        for (path, old, _), (_, new, _) in pairs
        if old != new and path not in free and not (path == "training.epochs" and new > old)
    ]
    if different:
        told = "; ".join(f"{path} was {_show(old)} and is {_show(new)}" for path, old, new in different)
        raise SlotkitError(
            f"A run goes on with its own settings only, and these differ: {told}. Leave them out, or start a "
            "new run. More --epochs, --data-dir and the settings of checkpoints may change."
        )


def _paths(changes: Sequence[Overrides]) -> list[str]:
    return [path for given in changes for path in given.values]


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)
