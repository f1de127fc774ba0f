"""Densities by layer: equal ones, and those of Erdos-Renyi graphs with (ERK) and without (ER) the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from slotkit.errors import SlotkitError
from slotkit.masks.keeping import number_kept

Shapes = Mapping[str, tuple[int, ...]]
Densities = Callable[[Shapes, float], dict[str, float]]


def equal_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """The same in every layer."""
    return dict.fromkeys(shapes, density)


def er_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Proportional to (n_in + n_out) / (n_in n_out), of channels; at most 1."""
    return _scaled(
        {name: (shape[0] + shape[1]) / (shape[0] * shape[1]) for name, shape in shapes.items()},
        shapes,
        density,
    )


def erk_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Proportional to the sum of all dimensions over their product; at most 1."""
    return _scaled({name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}, shapes, density)


def kept_by_layer(shapes: Shapes, densities: Mapping[str, float], density: float) -> dict[str, int]:
    """How many connections each layer keeps: whole numbers whose sum is exactly that of the density.

    Each layer has its share rounded down; what is left goes to those that lost most, the first of equal ones.
    """
    connections = {name: math.prod(shape) for name, shape in shapes.items()}
    wanted = {name: densities[name] * number for name, number in connections.items()}
    kept = {name: min(math.floor(wanted[name] + 1e-9), connections[name]) for name in shapes}
    left = number_kept(density, sum(connections.values())) - sum(kept.values())
    open_ = [name for name in shapes if kept[name] < connections[name]]
    for name in sorted(open_, key=lambda name: kept[name] - wanted[name])[:left]:
        kept[name] += 1
    return kept


def _scaled(raw: Mapping[str, float], shapes: Shapes, density: float) -> dict[str, float]:
    """epsilon times `raw`, at most 1, with epsilon so that the total density is the one wanted."""
    return {name: min(1.0, epsilon_of(raw, shapes, density) * value) for name, value in raw.items()}


def epsilon_of(raw: Mapping[str, float], shapes: Shapes, density: float) -> float:
    """The factor. Layers that would be denser than 1 are dense, and the others share what is left."""
    if not 0 < density <= 1:
        raise SlotkitError(f"The density is {density}. Give a share of the connections above 0, at most 1.")
    connections = {name: math.prod(shape) for name, shape in shapes.items()}
    left = density * sum(connections.values())
    sparse = dict(raw)
    while sparse:
        epsilon = left / sum(value * connections[name] for name, value in sparse.items())
        dense = [name for name, value in sparse.items() if epsilon * value > 1]
        if not dense:
            return epsilon
        for name in dense:
            del sparse[name]
            left -= connections[name]
    return math.inf  # all are dense
