"""What several processes that train together do otherwise than one: begin, follow the first one, stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.settings import DataSettings
from slotkit.training.loop import fit, steps_in
from slotkit.training.prepare import Prepared
from slotkit.training.processes import Processes, check_device
from slotkit.training.readings import read_tests
from slotkit.training.signals import Signals, StoppedError, heard
from slotkit.training.state import TrainingState


def follow(prepared: Prepared, folder: RunFolder, there: Mapping[str, Any] | None, resumes: bool) -> None:
    """A process that another one leads: the same steps and the same readings, and nothing is written.

    `there` is what the training begins with, if not with the seeds: a checkpoint to resume from, or weights.
    """
    processes, config = prepared.trainee.processes, prepared.config
    train, validation = prepared.images("train"), prepared.images("validation")
    state = TrainingState(prepared.trainee, config.training, steps_in(train, config.training))
    if there is not None:
        (state.load if "training" in there else prepared.trainee.load)(dict(there))
    if resumes:
        processes.wait()  # the first process goes on to change the files that were read
    with heard() as signals:
        stop = partial(stop_if_asked, signals, state)
        for _ in fit(prepared.trainee, train, validation, config, state, None, stop):
            stop()
        processes.wait()
        read_tests(prepared, state, folder, stop)


def stop_if_asked(signals: Signals, state: TrainingState) -> None:
    """After every step, and after every batch of an evaluation. Of several processes all stop there."""
    if state.trainee.processes.any(signals.terminated):
        raise StoppedError(f"SIGTERM after step {state.step}")
    if signals.interrupted:
        raise KeyboardInterrupt


@contextmanager
def first_one_fetches(data: DataSettings, processes: Processes) -> Iterator[None]:
    """Load the data in this block: where they are missing and to be fetched, the first process does that, and
    the others find them.
    """
    if data.download and not processes.leads:
        processes.wait()
    yield
    if data.download and processes.leads:
        processes.wait()


def shared(prepared: Prepared, processes: Processes) -> Prepared:
    """The same with a network that these processes train together.

    Raises SlotkitError for the dense form, or if there are not enough devices.
    """
    check_device(prepared.config.training.device, prepared.trainee.device.type, processes)
    if processes.count > 1 and prepared.config.method == "slot" and prepared.config.form == "dense":
        raise SlotkitError(
            f"This run's slot machine is in the dense form, and {processes.count} processes train together. "
            "The gradient of its scores has K numbers a connection, too many to send at each step. Use the "
            "latent form (slots.form=latent), or one process."
        )
    prepared.trainee.processes = processes
    return prepared
