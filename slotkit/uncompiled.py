"""torch's optimizers without the import of torch's compiler, which takes a second and isn't needed to train.

torch decorates some methods of Optimizer so that they are no part of a compiled graph, and the first call of
one of them imports torch._dynamo. While that is not imported, nothing is being compiled, and the plain method
does the same; once it is, torch's own is called.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch

COMPILER = "torch._dynamo"


def _plain(name: str) -> Any:
    """A method that is torch's own, decorated only if its compiler is there.

    A torch that doesn't decorate it has one function for both.
    """
    decorated: Any = getattr(torch.optim.Optimizer, name)
    plain = inspect.unwrap(decorated)

    @functools.wraps(plain)
    def method(self: torch.optim.Optimizer, *given: Any, **named: Any) -> Any:
        return (decorated if COMPILER in sys.modules else plain)(self, *given, **named)

    return method


class Optimizer(torch.optim.Optimizer):
    """torch.optim.Optimizer."""

    if not TYPE_CHECKING:  # their types are torch's
        add_param_group = _plain("add_param_group")
        zero_grad = _plain("zero_grad")
        state_dict = _plain("state_dict")
        load_state_dict = _plain("load_state_dict")


class SGD(Optimizer, torch.optim.SGD):
    """torch.optim.SGD."""


class AdamW(Optimizer, torch.optim.AdamW):
    """torch.optim.AdamW."""
