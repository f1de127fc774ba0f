"""TensorBoard: event files in RUN/tensorboard. `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from slotkit.loggers.contract import Training

FOLDER = "tensorboard"


class TensorBoard:
    def __init__(self, training: Training) -> None:
        # TensorBoard drops what older files of the folder have from that step on: it is told once more.
        self.writer = SummaryWriter(str(training.folder / FOLDER), purge_step=training.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        # At once: what a killed process had not written would be missing when the run goes on.
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


make = TensorBoard
