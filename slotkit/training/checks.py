"""Settings that no data can make right are refused before a folder is made, and by --show-config."""

from __future__ import annotations

import torch
from torch import nn

from slotkit.config import Config
from slotkit.data import sources
from slotkit.data.augmentations import parse
from slotkit.data.batches import check_normalisation
from slotkit.errors import SlotkitError
from slotkit.latent.engines.registry import find_engine
from slotkit.loggers import registry
from slotkit.making import check_form, check_share
from slotkit.models.registry import OWN, TIMM, create, find
from slotkit.picking import names_picked
from slotkit.reel import ReelSettings
from slotkit.settings import TrainingSettings
from slotkit.training.gradients import pieces_for
from slotkit.training.schedules import check_rates, schedule
from slotkit.training.trainee import find_device
from slotkit.uncompiled import SGD


def check_settings(config: Config, here: bool = True) -> None:
    """Raise SlotkitError for the first setting that a run of `config` would refuse, whatever its data.

    `here` is whether it will be trained on this machine: another one may have other devices and packages.
    """
    parse(config.data.augment)
    training = config.training
    check_pieces(training)
    check_rates(training)
    schedule(SGD([torch.zeros(1)], config.training.lr, 0.0, 0.0, 0.0, False), config.training, 1)
    if config.method == "slot":
        _check_slots(config)
        if config.mask is not None:
            raise SlotkitError(
                "mask is for learned weights, and this run trains a slot machine. Choose --method learned, "
                "or slots.kind=mask, which selects a mask."
            )
        if config.sparse.is_on:
            raise SlotkitError(
                f"sparse.method is {config.sparse.method}, which trains learned weights under a mask that "
                "changes, and this run trains a slot machine. Choose --method learned, or slots.kind=mask, "
                "which selects a mask."
            )
    config.sparse.check(config.mask)
    _check_network(config)
    if here:
        registry.check(config.recording.loggers)
        _check_device(config)
    if config.recording.trace == "full" and config.method != "slot":
        raise SlotkitError(
            "recording.trace is full, which records the flips of a slot machine, and this run trains "
            "ordinary learned weights (method=learned). Choose summary or off: then nothing is recorded."
        )


def check_pieces(training: TrainingSettings, processes: int = 1) -> None:
    """Raise SlotkitError if a step would have more pieces than images.

    Some would be computed for nothing, and the run's config.toml could not be trained again.
    """
    images = f"and a step has {training.batch_size} images (training.batch_size)"
    if training.accumulate > training.batch_size:
        raise SlotkitError(
            f"training.accumulate is {training.accumulate}, {images}. Take at most as many pieces as images."
        )
    if processes > training.batch_size:
        raise SlotkitError(
            f"{processes} processes train together, {images}. Take at most as many processes as images."
        )
    pieces = pieces_for(training.accumulate, processes)
    if pieces > training.batch_size:
        raise SlotkitError(
            f"training.accumulate is {training.accumulate}, and {processes} processes train together: they "
            f"would share {pieces} pieces, {images}. Choose numbers whose least common multiple is at most "
            "that."
        )


def _check_device(config: Config) -> None:
    """The device, and whether the engine can run there."""
    device, slots = find_device(config.training.device), config.slots
    if config.method == "slot" and config.form == "latent":
        reel = _reels(config).reel("weight", (1, 1), 0)
        find_engine(slots.engine, torch.zeros(1, device=device), reel, slots.tables == "stored")


def _reels(config: Config) -> ReelSettings:
    slots = config.slots
    return ReelSettings(slots.k, config.seeds.reels, slots.init, slots.sharing, slots.symmetric, slots.kind)


def _check_slots(config: Config) -> None:
    slots = config.slots
    _reels(config)
    check_form(config.form, slots.engine, slots.update, slots.tables)
    check_share(slots.share, config.form, slots.selection, slots.kind)
    if slots.share is not None and config.recording.trace != "off":
        raise SlotkitError(
            f"recording.trace is {config.recording.trace}, which follows each connection alone, and "
            "slots.share ranks those of a tensor. Choose --trace off."
        )
    if config.form == "dense" and config.training.optimizer == "adam":
        raise SlotkitError(
            "training.optimizer is adam, which trains latents, and slots.form is dense. Choose sgd, or the "
            "latent form."
        )


def _check_network(config: Config) -> None:
    """The network, its options and the weights that become reels, without memory for a number.

    The size of one's own pictures is known when they are read: then only the network's name is looked at.
    """
    source, name = sources.find(config.data.dataset), config.model.name
    shape = source.image_shape.split(" x ")
    if source.classes is None or len(shape) != 3:
        if name != OWN and not name.startswith(TIMM):
            find(name)
        return
    channels, height, width = map(int, shape)
    for path, values in (("data.mean", config.data.mean), ("data.std", config.data.std)):
        check_normalisation(path, values, channels)
    size = config.data.size
    if name == OWN:  # anybody's code, which may need numbers: it is run when the network is made
        return
    with torch.device("meta"):
        model: nn.Module = create(
            name, (channels, size or height, size or width), source.classes, **config.model.options
        )
    if config.method == "slot" or config.learned_init == "reels":
        names_picked(model, config.slots.where)
