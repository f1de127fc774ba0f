"""Names, descriptions and options of the networks; any timm model besides."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from slotkit.errors import SlotkitError

# The name of a network, and of a dataset, that slotkit can't make itself.
OWN = "own"

TIMM = "timm/"

# What makes the network of a run whose model.name is OWN, for as long as `own_network` takes.
_factory: ContextVar[Callable[..., nn.Module] | None] = ContextVar("factory", default=None)


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


SPARSE_OPTIONS = {"width": 1.0, "batch_norm": "affine", "bias": False}


def _vgg(variant: str, words: str) -> Network:
    text = f"VGG-{variant.upper()} for CIFAR: 13 convolutions ({words}), dense 512, 512, classes"
    return Network("slotkit.models.vgg_cd", "vgg", text, {"variant": variant}, SPARSE_OPTIONS)


def _resnet(depth: int) -> Network:
    text = f"ResNet-{depth} for CIFAR: 3x3 first, four stages, with or without skip connections"
    options = {"skip": True} | SPARSE_OPTIONS
    return Network("slotkit.models.resnet", "resnet", text, {"depth": depth}, options)


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
    "vgg-c": _vgg("c", "third convolutions of blocks 3 to 5 are 1x1"),
    "vgg-d": _vgg("d", "all 3x3"),
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
}


def create(name: str, image: tuple[int, int, int], classes: int, **options: Any) -> nn.Module:
    """Build a network for images of (channels, height, width) and that many classes.

    Args:
        name: one of `NETWORKS`, or "timm/NAME" for any timm model (never pretrained).
        options: see the network's function; for timm, keywords of timm.create_model.

    Raises:
        SlotkitError: unknown name (with the nearest), unknown option, option of another type, or images too
            small.
    """
    if name == OWN:
        return _own(image, classes, options)
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), image, classes, options)
    network = find(name)
    unknown = sorted(set(options) - set(network.options))
    if unknown:
        known = ", ".join(network.options)
        raise SlotkitError(f"{name} has no option {', '.join(unknown)}. Its options are {known}.")
    check_types(name, options)
    build: Callable[..., nn.Module] = getattr(import_module(network.module), network.function)
    try:
        return build(image, classes, **network.fixed, **options)
    except (TypeError, ValueError) as fault:
        if isinstance(fault, SlotkitError):
            raise
        raise SlotkitError(f"{name} can't be built with {options}: {fault}.") from fault


@contextmanager
def own_network(factory: str | Callable[..., nn.Module] | None) -> Iterator[None]:
    """Within the block, networks named OWN are made by `factory`: a function, or its "package.module:name".

    It is called with `image` (channels, height, width) and `classes` if it has parameters of these names.

    Raises SlotkitError if there is no such function.
    """
    token = _factory.set(_imported(factory) if isinstance(factory, str) else factory)
    try:
        yield
    finally:
        _factory.reset(token)


def find(name: str) -> Network:
    """The network of that name. Raises SlotkitError with the nearest names."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name.lower(), NETWORKS, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise SlotkitError(
            f"There is no model {name!r}. {hint}Choose one of {', '.join(NETWORKS)}, or timm/NAME "
            "for a timm model."
        )
    return NETWORKS[name]


def check_types(name: str, options: Mapping[str, Any]) -> None:
    """Raise SlotkitError for an option of another type than its default: the text "False" is true in Python.

    An option that the network doesn't have is left to `create`.
    """
    defaults = find(name).options
    for key, value in options.items():
        if key not in defaults or is_a(value, type(defaults[key])):
            continue
        kind = type(defaults[key]).__name__
        wanted = "true or false" if kind == "bool" else f"a {kind}, such as {defaults[key]!r}"
        raise SlotkitError(f"{name} has the option {key}={value!r}; it takes {wanted}.")


def is_a(value: Any, kind: type) -> bool:
    """Exactly that type (True is no int), but an int may stand for a float; never NaN or infinity."""
    if type(value) is float and not math.isfinite(value):
        return False
    return type(value) is kind or (kind is float and type(value) is int)


def describe() -> dict[str, str]:
    """Name -> one line, for every network and for timm's."""
    return {name: network.description for name, network in NETWORKS.items()} | {
        "timm/NAME": "any model of timm.list_models(), such as timm/resnet18, untrained"
    }


def _imported(text: str) -> Callable[..., nn.Module]:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise SlotkitError(f"{text!r} names no function. Give package.module:function, such as nets:make.")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # where the user's own modules are; the command `slotkit` does not look there
    try:
        found: Any = import_module(module)
    except ImportError as fault:
        raise SlotkitError(f"{text}: {fault}. Run the command where the module can be imported.") from fault
    finally:
        sys.path.remove(here)
    if not callable(getattr(found, name, None)):
        raise SlotkitError(f"{text}: {module} has no function {name!r}.")
    made: Callable[..., nn.Module] = getattr(found, name)
    return made


def _own(image: tuple[int, int, int], classes: int, options: Mapping[str, Any]) -> nn.Module:
    factory = _factory.get()
    if factory is None:
        raise SlotkitError(
            "The network of this run is one's own, which slotkit can't build. Give a function that returns "
            "it, untrained: --model-factory package.module:function."
        )
    known = {"image": image, "classes": classes}
    wanted = signature(factory).parameters
    network = factory(**{name: value for name, value in known.items() if name in wanted}, **options)
    if not isinstance(network, nn.Module):
        raise SlotkitError(f"The model factory returned {network!r:.60}. It has to return a torch module.")
    return network


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
