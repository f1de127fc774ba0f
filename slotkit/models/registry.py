"""Names, descriptions and options of the networks; any timm model besides."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from slotkit.errors import SlotkitError

TIMM = "timm/"


@dataclass(frozen=True)
class Network:
    """A network that `create` can build: where its function is, what it is, its options' defaults."""

    module: str
    function: str
    description: str
    fixed: Mapping[str, Any]
    options: Mapping[str, Any]


CONV_OPTIONS = {"padding": "same", "dropout": 0.5, "dropout_at": "before", "bias": False}


def _conv(blocks: int) -> Network:
    layers = ", ".join(("64, 64, pool", "128, 128, pool", "256, 256, pool")[:blocks])
    text = f"3x3 convolutions {layers}; dense 256, 256, classes; dropout"
    return Network("slotkit.models.conv", "conv", text, {"blocks": blocks}, CONV_OPTIONS)


NETWORKS: dict[str, Network] = {
    "lenet": Network(
        "slotkit.models.lenet", "lenet", "LeNet-300-100: dense 300, 100, classes", {}, {"bias": False}
    ),
    "conv2": _conv(1),
    "conv4": _conv(2),
    "conv6": _conv(3),
    "vgg19": Network(
        "slotkit.models.vgg",
        "vgg19",
        "VGG-19 with a CIFAR head: 16 convolutions, average pool, one dense layer",
        {},
        {"batch_norm": "plain", "bias": False},
    ),
}


def create(name: str, image: tuple[int, int, int], classes: int, **options: Any) -> nn.Module:
    """Build a network for images of (channels, height, width) and that many classes.

    Args:
        name: one of `NETWORKS`, or "timm/NAME" for any timm model (never pretrained).
        options: see the network's function; for timm, keywords of timm.create_model.

    Raises:
        SlotkitError: unknown name (with the nearest), unknown option, or images too small.
    """
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), image, classes, options)
    network = find(name)
    unknown = sorted(set(options) - set(network.options))
    if unknown:
        known = ", ".join(network.options)
        raise SlotkitError(f"{name} has no option {', '.join(unknown)}. Its options are {known}.")
    build: Callable[..., nn.Module] = getattr(import_module(network.module), network.function)
    try:
        return build(image, classes, **network.fixed, **options)
    except (TypeError, ValueError) as fault:
        if isinstance(fault, SlotkitError):
            raise
        raise SlotkitError(f"{name} can't be built with {options}: {fault}.") from fault


def find(name: str) -> Network:
    """The network of that name. Raises SlotkitError with the nearest names."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name.lower(), NETWORKS, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise SlotkitError(
            f"There is no model {name!r}. {hint}Choose one of {', '.join(NETWORKS)}, or timm/NAME "
            "for a timm model."
        )
    return NETWORKS[name]


def describe() -> dict[str, str]:
    """Name -> one line, for every network and for timm's."""
    return {name: network.description for name, network in NETWORKS.items()} | {
        "timm/NAME": "any model of timm.list_models(), such as timm/resnet18, untrained"
    }


def _timm(name: str, image: tuple[int, int, int], classes: int, options: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        raise SlotkitError(
            f"timm has no model {name!r}. Near it: {', '.join(near) or 'nothing; see timm.list_models()'}."
        )
    try:
        return timm.create_model(name, pretrained=False, in_chans=image[0], num_classes=classes, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as fault:
        raise SlotkitError(f"timm could not build {name!r} with {options}: {fault}.") from fault
