"""The training loop: one for slot machines and learned weights. It yields what happens; it prints nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from slotkit.config import Config
from slotkit.data.batches import batches
from slotkit.data.images import ImageSet
from slotkit.data.seeds import subseed
from slotkit.dead import dead_layers
from slotkit.errors import SlotkitError
from slotkit.training.evaluation import Reading, read, selecting_kind
from slotkit.training.schedules import schedule
from slotkit.training.trainee import Trainee


@dataclass(frozen=True)
class Step:
    """One step is done. `loss` (nats, of that batch) is given every `training.log_every` steps."""

    epoch: int
    step: int
    total: int
    lr: float
    loss: float | None


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


def fit(trainee: Trainee, train: ImageSet, validation: ImageSet, config: Config) -> Iterator[Event]:
    """Train for `config.training.epochs`, or until validation stops improving for `patience` epochs.

    Steps and epochs are counted from 1. Dropout is seeded each epoch from (seeds.training, epoch),
    order and augmentation from (seeds.data, epoch, step): nothing depends on a generator's history.

    Raises SlotkitError when the loss is not finite.
    """
    settings = config.training
    per_epoch = math.ceil(len(train) / settings.batch_size)
    per_epoch = min(per_epoch, settings.limit_batches or per_epoch)
    optimizer = trainee.optimizer(settings)
    scheduler = schedule(optimizer, settings, per_epoch)
    best_accuracy, best_epoch = -1.0, 0
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(subseed("dropout", config.seeds.training, epoch) % 2**63)
        total_loss = torch.zeros((), device=trainee.device)
        lr = optimizer.param_groups[0]["lr"]
        trainee.model.train()
        for index, (images, labels) in enumerate(
            islice(_epoch_batches(trainee, train, config, epoch), per_epoch)
        ):
            if index == 0:
                yield from _warn_of_dead_layers(trainee, images, epoch)
            step = (epoch - 1) * per_epoch + index + 1
            lr = optimizer.param_groups[0]["lr"]
            loss = nn.functional.cross_entropy(trainee.forward(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            total_loss += loss.detach()
            told = step % settings.log_every == 0 or step == 1
            yield Step(
                epoch,
                step,
                settings.epochs * per_epoch,
                lr,
                _finite(loss.item(), epoch, step, lr) if told else None,
            )
        mean_loss = _finite(total_loss.item() / per_epoch, epoch, epoch * per_epoch, lr)
        reading = read(trainee, validation, selecting_kind(config), config)
        better = reading.accuracy > best_accuracy
        if better:
            best_accuracy, best_epoch = reading.accuracy, epoch
        seconds = time.perf_counter() - started
        yield Epoch(epoch, settings.epochs, epoch * per_epoch, lr, mean_loss, reading, better, seconds)
        if settings.patience and epoch - best_epoch >= settings.patience:
            yield Note(
                f"Stopped early: no better validation accuracy than that of epoch {best_epoch} in "
                f"{settings.patience} epochs."
            )
            return


def _epoch_batches(
    trainee: Trainee, train: ImageSet, config: Config, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return batches(
        train,
        config.training.batch_size,
        seed=config.seeds.data,
        epoch=epoch,
        augment=config.data.augment,
        mean=config.data.mean,
        std=config.data.std,
        channels_last=trainee.bf16,
    )


def _warn_of_dead_layers(trainee: Trainee, images: torch.Tensor, epoch: int) -> Iterator[Note]:
    dead = dead_layers(trainee.model, images)
    if dead:
        reels = trainee.machine.reels.values() if trainee.machine else ()
        shared = any(reel.sharing != "none" and not reel.symmetric for reel in reels)
        advice = (
            "slots.symmetric=true pairs the shared options as +v, -v, which avoids it."
            if shared
            else "Try a smaller learning rate."
        )
        yield Note(
            f"Epoch {epoch} starts with dead layers, all of whose outputs are zero: "
            f"{', '.join(dead)}. {advice}"
        )


def _finite(loss: float, epoch: int, step: int, lr: float) -> float:
    if not math.isfinite(loss):
        raise SlotkitError(
            f"The training loss became {loss} in epoch {epoch}, by step {step}, at learning rate "
            f"{lr:g}. Lower --lr and start again."
        )
    return loss
