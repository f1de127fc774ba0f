"""Learned weights under masks: what is outside of a mask is 0 and stays so, whatever trains the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.masks.file import Masks


class MaskedWeights:
    """The weights of a network that have a mask.

    A weight of 0 without gradient has no momentum and no decay: SGD, Adam and AdamW leave it at 0. So it is
    enough to multiply gradients, once before each step: `mask_gradients`. That is one pass over them, ten
    times as fast as filling by a bool mask, for the memory of one more copy of the weights.

    Attributes:
        weights: name -> parameter.
        masks: name -> bool, on the device of the weight.
        initial: name -> the weight before it was masked, if that was asked for.
    """

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor], keep_initial: bool = False) -> None:
        """Set the weights outside of the masks to 0.

        Raises SlotkitError, before anything is changed, if the masks are not of this network.
        """
        parameters = dict(network.named_parameters())
        for name, mask in masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                there = tuple(parameters[name].shape) if name in parameters else "nowhere"
                raise SlotkitError(
                    f"The mask of {name} has shape {tuple(mask.shape)}, and in this network it is {there}. "
                    "Choose the network and the size of images that the mask was made for."
                )
        self.weights = {name: parameters[name] for name in masks}
        self.initial: dict[str, Tensor] = {}
        if keep_initial:
            self.initial = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.masks: Masks = {}
        self._factors: dict[str, Tensor] = {}
        for name, mask in masks.items():
            self.set_mask(name, mask)
            with torch.no_grad():
                self.weights[name].mul_(self._factors[name])

    def set_mask(self, name: str, mask: Tensor) -> None:
        """Another mask for a weight, which is left as it is."""
        weight = self.weights[name]
        self.masks[name] = mask.to(weight.device)
        self._factors[name] = self.masks[name].to(weight.dtype)

    def mask_gradients(self) -> None:
        """Set the gradients outside of the masks to 0."""
        pairs = [
            (weight.grad, self._factors[name])
            for name, weight in self.weights.items()
            if weight.grad is not None
        ]
        if pairs:
            gradients, factors = zip(*pairs, strict=True)
            torch._foreach_mul_(gradients, factors)


def strays(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[str]:
    """The weights of a state that are not 0 everywhere outside of their mask."""
    return [name for name, mask in masks.items() if bool((state[name].cpu()[~mask.cpu()] != 0).any())]
