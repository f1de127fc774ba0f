"""Masks to compare a mask with: what is left of its merit when one property is taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slotkit.errors import SlotkitError
from slotkit.masks.densities import erk_densities, kept_by_layer
from slotkit.masks.file import About, Masks
from slotkit.masks.keeping import share_of
from slotkit.masks.methods import random_masks
from slotkit.masks.saliency import shapes_of

Made = tuple[Masks, About]


@dataclass(frozen=True)
class Control:
    """A control: `make(masks, about, seed)` gives its masks and what their file says of itself."""

    name: str
    words: str
    make: Callable[[Masks, About, int], Made]


def shuffled(masks: Masks, about: About, seed: int) -> Made:
    """Every layer keeps its density and loses its pattern: a random mask at equal layer densities."""
    shapes = shapes_of(masks.items())
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    return random_masks(shapes, kept, seed), _told(about, "shuffled", seed)


def reinitialised(masks: Masks, about: About, seed: int) -> Made:
    """The same masks with initial weights of another seed.

    Raises SlotkitError if the masks have no initial weights, or these are of that seed.
    """
    if about.start is None:
        raise SlotkitError("These masks say nothing of initial weights, so there are no others to give them.")
    if about.start.seed == seed:
        raise SlotkitError(f"These masks were made for initial weights of seed {seed}. Give another seed.")
    start = about.start.model_copy(update={"seed": seed})
    return dict(masks), _told(about, "reinitialised", seed).model_copy(update={"start": start})


def erk_random(masks: Masks, about: About, seed: int) -> Made:
    """A random mask of the same size in all, with the layer densities of ERK."""
    shapes = shapes_of(masks.items())
    density = share_of(masks)
    kept = kept_by_layer(shapes, erk_densities(shapes, density), density)
    return random_masks(shapes, kept, seed), _told(about, "erk-random", seed)


def find_control(name: str) -> Control:
    """Raises SlotkitError for a name that is none."""
    if name not in CONTROLS:
        raise SlotkitError(f"There is no control {name!r}. Choose {', '.join(CONTROLS)}.")
    return CONTROLS[name]


def _told(about: About, control: str, seed: int) -> About:
    settings = {**about.settings, "control_seed": seed}
    return about.model_copy(update={"method": f"{control} {about.method}", "settings": settings})


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("shuffled", "the same number in each layer, at random places", shuffled),
        Control("reinitialised", "the same masks, initial weights of another seed", reinitialised),
        Control("erk-random", "the same number in all, at random places, densities of ERK", erk_random),
    )
}
