"""Ways to make a mask before training: a registry, and the one contract that all have.

A method takes a network with its initial weights, batches and a request, and gives masks with exactly the
number of connections asked for. The network is as it was afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError
from slotkit.masks import saliency
from slotkit.masks.densities import (
    Densities,
    Shapes,
    equal_densities,
    er_densities,
    erk_densities,
    kept_by_layer,
)
from slotkit.masks.file import Masks
from slotkit.masks.keeping import keep_highest, keep_highest_by_layer, number_kept
from slotkit.masks.saliency import Batches, Weights, measuring, pruned
from slotkit.picking import pick


@dataclass(frozen=True)
class Request:
    """What is asked of a method.

    Attributes:
        density: share of the connections that are kept, of all layers together.
        seed: of what a method draws, and of dropout while saliency is measured.
        mode: "train" or "eval", of norms and dropout while saliency is measured.
        rounds: how often a method that prunes step by step measures; None is its own number.
        image: (channels, height, width) of an input, for what needs no data; None is that of the batches.
    """

    density: float
    seed: int = 0
    mode: str = "train"
    rounds: int | None = None
    image: tuple[int, int, int] | None = None


Score = Callable[[nn.Module, Weights, Batches, Request], dict[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """A way to make a mask.

    Attributes:
        score: of each connection: the highest are kept.
        densities: of each layer, which then keeps its own highest; None: the highest of the network are kept.
        rounds: in how many steps it prunes, the kept share being density ** (round / rounds).
        uses_batches: whether it looks at data, and in `Request.mode`.
    """

    name: str
    words: str
    score: Score
    densities: Densities | None = None
    rounds: int = 1
    uses_batches: bool = False

    def masks(self, network: nn.Module, request: Request, batches: Batches = ()) -> Masks:
        """The masks of the weights of all Linear and Conv layers, by name.

        Raises SlotkitError for a density, a mode or rounds that can't be, or if batches are missing.
        """
        weights = {one.name: one.parameter for one in pick(network)}
        rounds = self._rounds(request)
        if self.uses_batches and not batches:
            raise SlotkitError(f"{self.name} looks at data. Give at least one batch.")
        shapes = saliency.shapes_of(weights.items())
        if self.densities is not None:
            kept = kept_by_layer(shapes, self.densities(shapes, request.density), request.density)
            return keep_highest_by_layer(self.score(network, weights, batches, request), kept)
        connections = sum(weight.numel() for weight in weights.values())
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        final = number_kept(request.density, connections)
        for number in range(1, rounds + 1):
            share = request.density ** (number / rounds)
            kept_now = final if number == rounds else max(final, round(share * connections))
            with pruned(weights, masks):
                scores = self.score(network, weights, batches, request)
            # What is pruned stays so, whatever its score would be.
            masks = keep_highest({n: _only(score, masks[n]) for n, score in scores.items()}, kept_now)
        return masks

    def _rounds(self, request: Request) -> int:
        if request.rounds is None:
            return self.rounds
        if request.rounds < 1 or (self.rounds == 1 and request.rounds != 1):
            accepted = "1" if self.rounds == 1 else "1 or more"
            raise SlotkitError(f"rounds is {request.rounds}. {self.name} takes {accepted}.")
        return request.rounds


def find_method(name: str) -> Method:
    """Raises SlotkitError for a name that is none."""
    if name not in METHODS:
        raise SlotkitError(f"There is no method {name!r} of making a mask. Choose {', '.join(METHODS)}.")
    return METHODS[name]


def random_masks(shapes: Shapes, kept: dict[str, int], seed: int) -> Masks:
    """So many connections of each layer, drawn without replacement."""
    return keep_highest_by_layer(_noise(shapes, seed), kept)


def _only(score: Tensor, mask: Tensor) -> Tensor:
    return score.masked_fill(~mask, -torch.inf)


def _noise(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    # A stream for each layer, so that a mask of one layer does not depend on the others.
    return {
        name: torch.rand(shape, generator=generator(f"mask {name}", seed), dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _random(network: nn.Module, weights: Weights, batches: Batches, request: Request) -> dict[str, Tensor]:
    found = _noise(saliency.shapes_of(weights.items()), request.seed)
    return {name: score.to(weights[name].device) for name, score in found.items()}


def _magnitude(network: nn.Module, weights: Weights, batches: Batches, request: Request) -> dict[str, Tensor]:
    return {name: weight.detach().abs() for name, weight in weights.items()}


def _snip(network: nn.Module, weights: Weights, batches: Batches, request: Request) -> dict[str, Tensor]:
    with measuring(network, weights, request.mode, request.seed):
        return saliency.snip(network, weights, batches)


def _grasp(network: nn.Module, weights: Weights, batches: Batches, request: Request) -> dict[str, Tensor]:
    with measuring(network, weights, request.mode, request.seed):
        return saliency.grasp(network, weights, batches)


def _synflow(network: nn.Module, weights: Weights, batches: Batches, request: Request) -> dict[str, Tensor]:
    if request.image is None and not batches:
        raise SlotkitError("SynFlow sends an image of ones through the network. Give the image's shape.")
    return saliency.synflow(network, weights, request.image or tuple(next(iter(batches))[0].shape[1:]))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("snip", "|w * gradient|, in one step (Lee 2019)", _snip, uses_batches=True),
        Method("iter-snip", "SNIP in ten steps", _snip, rounds=10, uses_batches=True),
        Method("grasp", "w * (H g), which keeps the gradient flowing (GraSP)", _grasp, uses_batches=True),
        Method("synflow", "flow through |w|, without data, in 100 steps (Tanaka 2020)", _synflow, rounds=100),
        Method("magnitude", "|w|", _magnitude),
        Method("random", "drawn from all connections alike", _random),
        Method("equal-random", "drawn, the same density in each layer", _random, equal_densities),
        Method("er-random", "drawn, densities of an Erdos-Renyi graph of channels", _random, er_densities),
        Method("erk-random", "drawn, densities of ER with the kernel (RigL)", _random, erk_densities),
    )
}
