"""The training loop, the same for slot machines and learned weights. It yields events and prints nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from slotkit.config import Config
from slotkit.data.batches import batches
from slotkit.data.images import Images
from slotkit.errors import DivergedError, many
from slotkit.masks.topology import Change
from slotkit.recording.recorder import Recorder
from slotkit.settings import TrainingSettings
from slotkit.training.deaths import Deaths
from slotkit.training.evaluation import Reading, nothing, read, selecting_kind
from slotkit.training.gradients import Gradients
from slotkit.training.state import TrainingState
from slotkit.training.trainee import Trainee


@dataclass(frozen=True)
class Step:
    """One step is done, on so many images. `loss` (nats, of that batch) is given every `training.log_every`
    steps; `change` is what became of a mask, where it was updated."""

    epoch: int
    step: int
    total: int
    lr: float
    loss: float | None
    images: int
    change: Change | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch is done: mean training loss (nats), validation, and whether it is the best so far."""

    epoch: int
    epochs: int
    step: int
    lr: float
    loss: float
    validation: Reading
    best: bool
    seconds: float


@dataclass(frozen=True)
class Note:
    """Something to tell the user."""

    text: str


Event = Step | Epoch | Note


def steps_in(train: Images, settings: TrainingSettings) -> int:
    """Steps of an epoch."""
    per_epoch = math.ceil(len(train) / settings.batch_size)
    return min(per_epoch, settings.limit_batches or per_epoch)


def fit(
    trainee: Trainee,
    train: Images,
    validation: Images,
    config: Config,
    state: TrainingState | None = None,
    recorder: Recorder | None = None,
    between: Callable[[], None] = nothing,
) -> Iterator[Event]:
    """Train for `config.training.epochs`, or until validation stops improving for `patience` epochs.

    Steps and epochs are counted from 1. Dropout is seeded in each step from (seeds.training, step),
    order and augmentation from (seeds.data, epoch, step): nothing depends on a generator's history.
    At every event `state` is whole: training goes on from it with the same bits. `recorder` sees
    every step. `between` is called after every batch of an evaluation, and may raise: `state` is whole then,
    too.

    Raises DivergedError when the loss is not finite, in training or in validation.
    """
    settings = config.training
    per_epoch = steps_in(train, settings)
    state = state or TrainingState(trainee, settings, per_epoch)
    deaths = Deaths(trainee)
    while state.validated < settings.epochs:
        if settings.patience and state.validated - state.best_epoch >= settings.patience:
            yield Note(
                f"Stopped early: no better validation accuracy than that of epoch {state.best_epoch} in "
                f"{many(settings.patience, 'epoch')}."
            )
            return
        started = time.perf_counter()
        yield from _steps(state, train, config, recorder, deaths)
        yield _validate(state, validation, config, started, between)


def _steps(
    state: TrainingState, train: Images, config: Config, recorder: Recorder | None, deaths: Deaths
) -> Iterator[Event]:
    """The remaining steps of the current epoch."""
    trainee, settings = state.trainee, config.training
    gradients = Gradients(trainee, state.optimizer, settings, config.seeds.training)
    epoch, done = state.validated + 1, state.step - state.validated * state.steps_per_epoch
    trainee.model.train()
    rows = gradients.rows if trainee.processes.count > 1 else None
    remaining = islice(
        _epoch_batches(trainee, train, config, epoch, done, rows), state.steps_per_epoch - done
    )
    for index, (images, labels) in enumerate(remaining, start=done):
        total = min(settings.batch_size, len(train) - index * settings.batch_size)
        if index == 0:
            state.loss = torch.zeros_like(state.loss)
            # training.limit_batches may leave out the last batch of all images.
            before = (state.steps_per_epoch - 1) * settings.batch_size
            gradients.check_smallest_piece(images[:1], min(settings.batch_size, len(train) - before))
            news = deaths.look(images[gradients.first(total)], epoch)
            if news:
                yield Note(news)
        lr = state.last_lr = state.lr
        loss = gradients.of(images, labels, state.step, total)
        del images, labels  # before the next ones are made
        change = state.take_step()
        state.loss += loss
        if recorder:
            recorder.record(state.step, lr)
        told = state.step % settings.log_every == 0 or state.step == 1
        measured = _finite(loss.item(), epoch, state.step, lr) if told else None
        yield Step(epoch, state.step, state.total, lr, measured, total, change)


def _validate(
    state: TrainingState, validation: Images, config: Config, started: float, between: Callable[[], None]
) -> Epoch:
    epoch, lr = state.validated + 1, state.last_lr
    mean_loss = _finite(state.loss.item() / state.steps_per_epoch, epoch, state.step, lr)
    reading = read(state.trainee, validation, selecting_kind(config), config, between)
    # After the last step of a training no training loss shows it.
    _finite(reading.loss, epoch, state.step, lr, "validation")
    state.trainee.processes.check_same(state.trainee.model.parameters(), f"after epoch {epoch}")
    better = reading.accuracy > state.best_accuracy
    if better:
        state.best_accuracy, state.best_epoch = reading.accuracy, epoch
    state.validated = epoch
    seconds = time.perf_counter() - started
    return Epoch(epoch, config.training.epochs, state.step, lr, mean_loss, reading, better, seconds)


def _epoch_batches(
    trainee: Trainee,
    train: Images,
    config: Config,
    epoch: int,
    skip: int,
    rows: Callable[[int], slice] | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return batches(
        train,
        config.training.batch_size,
        seed=config.seeds.data,
        epoch=epoch,
        augment=config.data.augment,
        mean=config.data.mean,
        std=config.data.std,
        dtype=trainee.dtype,
        channels_last=trainee.bf16,
        skip=skip,
        classes=trainee.classes,
        rows=rows,
    )


def _finite(loss: float, epoch: int, step: int, lr: float, of: str = "training") -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"The {of} loss became {loss} in epoch {epoch}, by step {step}, at learning rate "
            f"{lr:g}. Lower --lr and start again."
        )
    return loss
