"""From a configuration to a finished run: data, network, training, the one reading of the test set."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from slotkit.config import Config, Layer, Resolved, resolve
from slotkit.data.images import Dataset, ImageSet, Split, split
from slotkit.data.sources import find, load
from slotkit.errors import SlotkitError
from slotkit.runs import checkpoint
from slotkit.runs.files import write_whole
from slotkit.runs.folder import RunFolder, environment
from slotkit.training.evaluation import Reading, read, reading_kinds
from slotkit.training.loop import Epoch, Event, Note, Step, fit
from slotkit.training.trainee import Trainee, build, find_device

Report = Callable[[Event], None]


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, on its device."""

    resolved: Resolved
    dataset: Dataset
    split: Split
    trainee: Trainee

    @property
    def config(self) -> Config:
        return self.resolved.config

    def images(self, part: str) -> ImageSet:
        """The images of "train", "validation" or "test"."""
        if part == "test":
            return self.dataset.test
        return self.dataset.train.subset(self.split.train if part == "train" else self.split.validation)


def prepare(resolved: Resolved) -> Prepared:
    """Load the data, fill in what the dataset decides, and build the network.

    Raises SlotkitError for missing or damaged data and for settings that can't be built.
    """
    resolved = fill_from_source(resolved)
    config = resolved.config
    device = find_device(config.training.device)
    data_dir = Path(config.data.dir) if config.data.dir else None
    dataset = load(config.data.dataset, data_dir, config.data.size, config.data.download)
    assert config.data.validation is not None
    parts = split(len(dataset.train), config.data.validation, config.seeds.data)
    trainee = build(config, (dataset.channels, *dataset.size), dataset.num_classes)
    return Prepared(resolved, dataset.to(device), parts, trainee)


def fill_from_source(resolved: Resolved) -> Resolved:
    """Settings left open that belong to the dataset: validation share, mean and std."""
    data = resolved.config.data
    source = find(data.dataset)
    defaults = {"data.validation": source.validation_share, "data.mean": source.mean, "data.std": source.std}
    if (data.mean is None) != (data.std is None):
        raise SlotkitError(
            "data.mean and data.std come together: give both, or neither for the dataset's own."
        )
    open_paths = [path for path in defaults if getattr(data, path.removeprefix("data.")) is None]
    given = {path: value for path, value, _ in resolved.explain() if path in resolved.origins}
    layers = [Layer(resolved.origins[path], {path: value}) for path, value in given.items()]
    return resolve([Layer(f"dataset {source.name}", {path: defaults[path] for path in open_paths}), *layers])


def run(
    resolved: Resolved, runs_dir: Path, name: str | None = None, report: Report = lambda event: None
) -> RunFolder:
    """Train, evaluate and leave a run folder.

    The best checkpoint is the one with the highest validation accuracy (the earliest of equals).
    The test set is read once, at the end, for the last and the best.

    Args:
        report: called with every `Event` of the training loop.

    Raises:
        SlotkitError: for bad input; KeyboardInterrupt passes through. In both cases the folder is
            valid and its summary says "failed" or "interrupted".
    """
    with _deterministic(resolved.config.training.deterministic):
        prepared = prepare(resolved)
        told = environment(str(prepared.trainee.device), torch.get_num_threads())
        folder = RunFolder.create(runs_dir, name, prepared.resolved, told)
        summary = _Summary(folder, prepared.trainee)
        try:
            indices = {"train": prepared.split.train, "validation": prepared.split.validation}
            write_whole(folder.path / "split.safetensors", lambda path: save_file(indices, path))
            for event in _train(prepared, folder, summary):
                _record(folder, event)
                report(event)
            summary.finish(_test(prepared, folder))
        except BaseException as fault:
            summary.stop("interrupted" if isinstance(fault, KeyboardInterrupt) else "failed", fault)
            raise
    return folder


def evaluate(folder: RunFolder, which: str, part: str, changes: Sequence[Layer] = ()) -> dict[str, Reading]:
    """Every reading of a checkpoint ("best" or "last") of a run on "validation" or "test".

    `changes` are settings laid over the run's own, such as another data folder or device.
    """
    own = {path: value for path, value, _ in Resolved(folder.config(), {}).explain() if value is not None}
    prepared = prepare(resolve([Layer(f"run {folder.name}", own), *changes]))
    state, _ = checkpoint.load(folder.checkpoint(which))
    prepared.trainee.load(state)
    return _readings(prepared, part)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1 in the denominator; None for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


class _Summary:
    """summary.json as it grows."""

    def __init__(self, folder: RunFolder, trainee: Trainee) -> None:
        self.folder = folder
        self.started = time.perf_counter()
        machine = trainee.machine
        self.values: dict[str, Any] = {
            "status": "running",
            "name": folder.name,
            "weights": sum(math.prod(reel.shape) for reel in machine.reels.values())
            if machine
            else sum(parameter.numel() for parameter in trainee.model.parameters()),
            "epochs": 0,
            "best_epoch": None,
            "validation": {},
            "test": {},
        }

    def epoch(self, event: Epoch) -> None:
        self.values["epochs"] = event.epoch
        reading = {"epoch": event.epoch, "kind": event.validation.kind, **event.validation.as_dict()}
        self.values["validation"]["last"] = reading
        if event.best:
            self.values["best_epoch"] = event.epoch
            self.values["validation"]["best"] = reading
        self._write()

    def finish(self, test: Mapping[str, Mapping[str, Reading]]) -> None:
        self.values["status"] = "finished"
        self.values["test"] = {
            which: {kind: reading.as_dict() for kind, reading in readings.items()}
            for which, readings in test.items()
        }
        self._write()

    def stop(self, status: str, fault: BaseException) -> None:
        self.values |= {"status": status, "reason": str(fault) or type(fault).__name__}
        self._write()

    def _write(self) -> None:
        self.values["seconds"] = round(time.perf_counter() - self.started, 3)
        self.folder.write_summary(self.values)


def _train(prepared: Prepared, folder: RunFolder, summary: _Summary) -> Iterator[Event]:
    trainee, config = prepared.trainee, prepared.config
    yield Note(str(trainee.machine) if trainee.machine else f"{config.model.name} with learned weights")
    for event in fit(trainee, prepared.images("train"), prepared.images("validation"), config):
        if isinstance(event, Epoch):
            about = {"epoch": event.epoch, "step": event.step, "validation": event.validation.accuracy}
            checkpoint.save(folder.checkpoint("last"), trainee.state(), **about)
            if event.best:
                checkpoint.save(folder.checkpoint("best"), trainee.state(), **about)
            summary.epoch(event)
        yield event


def _test(prepared: Prepared, folder: RunFolder) -> dict[str, dict[str, Reading]]:
    last = _readings(prepared, "test")
    state, _ = checkpoint.load(folder.checkpoint("best"))
    prepared.trainee.load(state)
    return {"best": _readings(prepared, "test"), "last": last}


def _readings(prepared: Prepared, part: str) -> dict[str, Reading]:
    images = prepared.images(part)
    return {
        kind: read(prepared.trainee, images, kind, prepared.config) for kind in reading_kinds(prepared.config)
    }


def _record(folder: RunFolder, event: Event) -> None:
    if isinstance(event, Step):
        if event.loss is not None:
            folder.append_metric(
                {"kind": "step", "epoch": event.epoch, "step": event.step, "lr": event.lr, "loss": event.loss}
            )
        return
    if isinstance(event, Epoch):
        reading = {"reading": event.validation.kind, **event.validation.as_dict()}
        folder.append_metric(
            {
                "kind": "epoch",
                "epoch": event.epoch,
                "step": event.step,
                "lr": event.lr,
                "loss": event.loss,
                "validation": reading,
                "best": event.best,
                "seconds": event.seconds,
            }
        )
    folder.log(line(event))


def line(event: Epoch | Note) -> str:
    """An event as one line of text."""
    if isinstance(event, Note):
        return event.text
    best = ", best so far" if event.best else ""
    return (
        f"epoch {event.epoch}/{event.epochs}: loss {event.loss:.4f}, validation {event.validation}{best}, "
        f"lr {event.lr:.4g}, {event.seconds:.1f} s"
    )


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # cuBLAS is deterministic only with this set before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
