"""The greedy reading of a probabilistic machine, kept up beside it: what flips although every step draws."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.line import AT_REST
from slotkit.latent.weight import LatentWeight

ROUNDING = 1e-5


class GreedyReading:
    """The option of the highest score of every connection of a weight, step by step.

    Under PS the weight holds a draw, and nobody keeps up the intervals of its state. So this has a weight and
    intervals of its own, 12 bytes a connection in float32, and the weight's engine does to them what it does
    under greedy selection: one pass over them a step, and K scores only of those whose u left its interval.

    Attributes:
        values: the options of the highest scores (n,), in the dtype of the state.
        lower, upper: the intervals of u = A / |c| in which they stay (n,).
    """

    values: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, weight: LatentWeight, recorded: bool) -> None:
        self.weight, self.recorded = weight, recorded
        self._flips: Flips | None = None
        self._sign = weight.line.sign
        self._use(torch.zeros(3, len(weight.latent), dtype=weight.latent.dtype, device=weight.latent.device))
        self._empty_intervals()
        self.follow()

    @property
    def changed(self) -> int:
        """How many connections took another option in the last `follow`."""
        return 0 if self._flips is None else self._flips.number()

    @property
    def events(self) -> tuple[Tensor, Tensor]:
        """These connections, rising, and their new options: int32 (changed,)."""
        assert self._flips is not None
        return self._flips.listed()

    def follow(self) -> None:
        """Read the scores as they are now."""
        line = self.weight.line
        if self._arrays.latent is not self.weight.latent:  # it has gone to another device or dtype
            self._use(torch.stack([self.values, self.lower, self.upper]).to(self.weight.latent))
        if line.sign != self._sign:
            self._empty_intervals()
        self._sign = line.sign
        (self._flips,) = self.weight.engine.step(
            [Move(self._arrays, None, AT_REST, line, True, self.recorded)]
        )

    def state(self) -> Tensor:
        """Values and intervals (3, n): the next changes depend on them to the bit."""
        return torch.stack([self.values, self.lower, self.upper])

    def load(self, state: Tensor) -> None:
        """Take over a `state` of the same scores.

        Raises SlotkitError, the part of a sentence, if it is none.
        """
        own = self.weight.latent
        if not isinstance(state, Tensor) or (state.dtype, state.shape) != (own.dtype, (3, len(own))):
            raise SlotkitError(
                f"the greedy reading of {self.weight.reel.name} is not that of its connections"
            )
        values, lower, upper = state.to(own.device)
        u = own * self.weight.line.scale
        # u and its bounds are rounded, and a u that is not a number (c and A are 0) is in no interval.
        inside = (u >= lower - ROUNDING * lower.abs()) & (u <= upper + ROUNDING * upper.abs())
        if not bool((inside | u.isnan()).all() and values.isfinite().all()):
            raise SlotkitError(f"the greedy reading of {self.weight.reel.name} is not that of its scores")
        self._sign = self.weight.line.sign
        self._use(torch.stack([values, lower, upper]))

    def _use(self, buffer: Tensor) -> None:
        self.values, self.lower, self.upper = buffer.unbind()
        self._arrays: Arrays = replace(
            self.weight.arrays(), weight=self.values, lower=self.lower, upper=self.upper
        )

    def _empty_intervals(self) -> None:
        self.lower.fill_(math.inf)
        self.upper.fill_(-math.inf)
