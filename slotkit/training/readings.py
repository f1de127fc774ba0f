"""Every reading of a run's network, and of the three networks that are tested at the end of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from slotkit.errors import SlotkitError, UnreadableError, typed
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.training.evaluation import Reading, nothing, read, reading_kinds
from slotkit.training.loop import Note
from slotkit.training.prepare import Prepared, own_mask
from slotkit.training.processes import LostError
from slotkit.training.state import TrainingState
from slotkit.training.trainee import build


def readings(
    prepared: Prepared, part: str, between: Callable[[], None] = nothing, at_start: bool = False
) -> dict[str, Reading]:
    """Every reading of the network. Before the first step no last one has weights that could be read."""
    images, kinds = prepared.images(part), reading_kinds(prepared.config)
    return {
        kind: read(prepared.trainee, images, kind, prepared.config, between)
        for kind in kinds
        if not (at_start and kind == "last")
    }


def read_tests(
    prepared: Prepared,
    state: TrainingState,
    folder: RunFolder,
    between: Callable[[], None],
    tell: Callable[[Note], None] = lambda note: None,
) -> dict[str, dict[str, Reading]]:
    """The one look at the test set, at the end of a training: by the network before the first step, the best
    and the last.

    Raises SlotkitError if the run's best checkpoint is missing or is another one's.
    """
    last = readings(prepared, "test", between)
    path = folder.checkpoint("best")
    with naming(path, "Train again."):
        best_state, about = load(folder, "best")
        if about["epoch"] != state.best_epoch:
            raise SlotkitError(f"it is of epoch {about['epoch']}, not of {state.best_epoch}, the best")
        prepared.trainee.load(best_state)
    best = readings(prepared, "test", between)
    return {**_of_start(prepared, folder, between, tell), "best": best, "last": last}


def _of_start(
    prepared: Prepared, folder: RunFolder, between: Callable[[], None], tell: Callable[[Note], None]
) -> dict[str, dict[str, Reading]]:
    """The network before the first step, made anew. What fails here does not end a training of days."""
    try:
        return {"start": readings(_at_start(prepared, folder), "test", between, at_start=True)}
    except (UnreadableError, LostError):  # pictures, or another process: the other networks need them, too
        raise
    except (RuntimeError, MemoryError, SlotkitError) as fault:
        reason = str(fault).rstrip(".")
        tell(
            Note(
                f"The network before the first step could not be read: {reason}. `slotkit evaluate "
                f"{typed(folder.path)} --checkpoint start` tries it again."
            )
        )
        return {}


def _at_start(prepared: Prepared, folder: RunFolder) -> Prepared:
    """The same with a network as it was before the first step."""
    dataset = prepared.dataset
    image = (dataset.channels, *dataset.size)
    trainee = build(prepared.config, image, dataset.num_classes, own_mask(folder))
    trainee.processes = prepared.trainee.processes
    if folder.begins_with_weights():
        trainee.load(load(folder, "start")[0])
    return replace(prepared, trainee=trainee)
