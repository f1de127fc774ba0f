"""How much each connection of an untrained network matters: SNIP, GraSP and SynFlow.

Within `measuring` the network is left as it was: weights, buffers, gradients and modes; and so are PyTorch's
generators, from which dropout is drawn. Batches are measured one after the other, so memory does not grow
with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from slotkit.data.seeds import subseed
from slotkit.errors import SlotkitError

Weights = Mapping[str, nn.Parameter]


class Batches(Protocol):
    """(images, labels) pairs that can be gone through more than once, such as a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


MODES = ("train", "eval")

# GraSP divides the logits by this, as its authors do.
TEMPERATURE = 200.0


def snip(network: nn.Module, weights: Weights, batches: Batches) -> dict[str, Tensor]:
    """|w * dL/dw|, of the gradients' sum over all batches, divided by its sum over the network.

    Gradients of different batches may cancel: the absolute value comes last, as in the known code.
    """
    total = _gradients(network, weights, batches)
    scores = {name: (total[name] * weight.detach()).abs() for name, weight in weights.items()}
    whole = float(sum(score.sum(dtype=torch.float64) for score in scores.values()))
    if whole == 0:
        raise SlotkitError(
            "Every gradient of this network is 0, so SNIP can't tell its connections apart. Give it other "
            "initial weights, other batches or another mode."
        )
    return {name: score / whole for name, score in scores.items()}


def grasp(network: nn.Module, weights: Weights, batches: Batches) -> dict[str, Tensor]:
    """w * (H g), of logits divided by TEMPERATURE: high where the connection keeps the gradient flowing.

    The authors score -w * (H g) and drop the highest; the sign is turned here so that the highest are kept.
    """
    gradient = _gradients(network, weights, batches, TEMPERATURE)
    products = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images, labels in batches:
        loss = _loss(network, images, labels, TEMPERATURE)
        slopes = _slopes(loss, weights, create_graph=True)
        along = sum((slope * gradient[name]).sum() for name, slope in zip(weights, slopes, strict=True))
        assert isinstance(along, Tensor)
        for name, product in zip(weights, _slopes(along, weights), strict=True):
            products[name] += product
    return {name: weight.detach() * products[name] for name, weight in weights.items()}


def synflow(network: nn.Module, weights: Weights, image: tuple[int, ...]) -> dict[str, Tensor]:
    """|w * dR/dw| with R = 1^T prod |W| 1: the sum of outputs for an image of ones, all parameters positive.

    In float64, where the products of many layers neither vanish nor overflow, and in evaluation mode, as one
    image has no statistics.
    """
    parameters = dict(network.named_parameters())
    positive = {name: parameter.detach().abs().double() for name, parameter in parameters.items()}
    buffers = {name: _doubled(buffer) for name, buffer in network.named_buffers()}
    wanted = {name: positive[name].requires_grad_() for name in weights}
    ones = torch.ones(1, *image, dtype=torch.float64, device=next(iter(positive.values())).device)
    with measuring(network, weights, "eval"):
        flow = torch.func.functional_call(network, (positive, buffers), (ones,)).sum()
        found = _slopes(flow, wanted)
    return {name: (wanted[name] * slope).detach() for name, slope in zip(wanted, found, strict=True)}


@contextmanager
def measuring(network: nn.Module, weights: Weights, mode: str, seed: int = 0) -> Iterator[None]:
    """The network in that mode, its weights with gradients; then all as it was.

    What dropout leaves out is a function of the seed: else the masks of a search that goes on would be others
    than those of one that was never stopped.
    """
    check_mode(mode)
    modes = [(module, module.training) for module in network.modules()]
    trained = [(weight, weight.requires_grad) for weight in weights.values()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        network.train(mode == "train")
        for weight, _ in trained:
            weight.requires_grad_()
        with _dropout_from(seed):
            yield
    finally:
        for module, was in modes:
            module.training = was
        for weight, was in trained:
            weight.requires_grad_(was)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _dropout_from(seed: int) -> Iterator[None]:
    """PyTorch's generators begin with a seed; then they go on as if nothing had been drawn."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(subseed("mask dropout", seed))
        yield


@contextmanager
def pruned(weights: Weights, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """The weights outside of the masks are 0; then all are what they were."""
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name])
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])


def check_mode(mode: str) -> None:
    """Raise SlotkitError for a mode that is none."""
    if mode not in MODES:
        raise SlotkitError(f"There is no mode {mode!r}. Choose train or eval: how norms and dropout behave.")


def _gradients(
    network: nn.Module, weights: Weights, batches: Batches, temperature: float = 1.0
) -> dict[str, Tensor]:
    """The sum over batches of the gradient of each batch's mean loss."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images, labels in batches:
        loss = _loss(network, images, labels, temperature)
        for name, slope in zip(weights, _slopes(loss, weights), strict=True):
            total[name] += slope
    return total


def _slopes(of: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient of each weight; 0 for a layer that the network doesn't use."""
    wanted = list(weights.values())
    return torch.autograd.grad(
        of, wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def _loss(network: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return nn.functional.cross_entropy(network(images) / temperature, labels)


def _doubled(buffer: Tensor) -> Tensor:
    return buffer.double() if buffer.is_floating_point() else buffer.clone()


def shapes_of(weights: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(weight.shape) for name, weight in weights}
