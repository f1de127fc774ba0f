"""Learned weights under a fixed mask: what is outside of it is 0 and stays so, whatever trains the rest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError


def fix(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights outside of the masks to 0, and their gradients from now on.

    A weight of 0 without gradient has no momentum and no decay: SGD, Adam and AdamW leave it at 0. A step
    costs one pass over the gradients more, and no memory but the masks.

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
    for name, mask in masks.items():
        parameter = parameters[name]
        outside = ~mask.to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(outside, 0.0)
        hook = partial(_without, outside=outside)
        parameter.register_hook(hook)  # type: ignore[no-untyped-call]


def _without(gradient: Tensor, outside: Tensor) -> Tensor:
    return gradient.masked_fill(outside, 0.0)


def strays(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[str]:
    """The weights of a state that are not 0 everywhere outside of their mask."""
    return [name for name, mask in masks.items() if bool((state[name].cpu()[~mask] != 0).any())]
