"""The greedy reading of a probabilistic machine, kept up beside it: what flips although every step draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.line import AT_REST
from slotkit.latent.weight import LatentWeight

ROUNDING = 1e-5


class GreedyReading:
    """The option of the highest score of every connection of a weight, or of a sample of them, step by step.

    Under PS the weight holds a draw, and nobody keeps up the intervals of its state. So this has a weight and
    intervals of its own, 12 bytes a connection in float32, and the weight's engine does to them what it does
    under greedy selection: one pass over them a step, and K scores only of those whose u left its interval.
    Of a sample it also has the latents, and the options and initial scores in tables.

    Args:
        weight: whose scores are read.
        sample: connections (m,), rising; None for all.
        recorded: whether the flips are named, not only counted.

    Attributes:
        values: the options of the highest scores (m,), in the dtype of the state.
        lower, upper: the intervals of u = A / |c| in which they stay (m,).
    """

    values: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, weight: LatentWeight, sample: Tensor | None, recorded: bool) -> None:
        self.weight, self.sample, self.recorded = weight, sample, recorded
        self._flips: Flips | None = None
        self._sign = weight.line.sign
        size = len(weight.latent) if sample is None else len(sample)
        self._use(torch.zeros(3, size))
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
        if self._read_from is not self.weight.latent:  # it has gone to another device or dtype
            self._use(self.state())
        if line.sign != self._sign:
            self._empty_intervals()
        self._sign = line.sign
        if self.sample is not None:
            torch.index_select(self.weight.latent, 0, self.sample, out=self._arrays.latent)
        move = Move(self._arrays, None, AT_REST, line, True, self.recorded)
        (self._flips,) = self.weight.engine.step([move])

    def state(self) -> Tensor:
        """Values and intervals (3, m): the next changes depend on them to the bit."""
        return torch.stack([self.values, self.lower, self.upper])

    def load(self, state: Any) -> None:
        """Take over a `state` of the same scores.

        Raises SlotkitError, the part of a sentence, if it is none.
        """
        own, name = self.values, self.weight.reel.name
        if not isinstance(state, Tensor) or (state.dtype, state.shape) != (own.dtype, (3, len(own))):
            raise SlotkitError(f"the greedy reading of {name} is not that of its connections")
        values, lower, upper = state.to(own.device)
        latent = self.weight.latent
        u = (latent if self.sample is None else latent[self.sample]) * self.weight.line.scale
        # u and its bounds are rounded, and a u that is not a number (c and A are 0) is in no interval.
        inside = (u >= lower - ROUNDING * lower.abs()) & (u <= upper + ROUNDING * upper.abs())
        if not bool((inside | u.isnan()).all() and values.isfinite().all()):
            raise SlotkitError(f"the greedy reading of {name} is not that of its scores")
        self._sign = self.weight.line.sign
        self._use(state)

    def _use(self, state: Tensor) -> None:
        """Take a copy of a `state`, beside the latents of the weight, as memory."""
        weight, sample = self.weight, self.sample
        self._read_from = weight.latent
        self.values, self.lower, self.upper = state.to(weight.latent, copy=True).unbind()
        own: dict[str, Any] = {"weight": self.values, "lower": self.lower, "upper": self.upper, "kept": {}}
        arrays = replace(weight.arrays(), **own)
        if sample is not None:
            self.sample = sample = sample.to(weight.latent.device)
            options, scores = (rows.contiguous() for rows in weight.rows(sample))
            # The engine sees a small tensor of its own, every connection of which has options of its own.
            arrays = replace(
                arrays,
                latent=torch.empty_like(self.values),
                spec=arrays.spec._replace(stride=1, owners=len(sample)),
                tables=(options, scores),
                rows=lambda some: (options[some], scores[some]),
            )
        self._arrays: Arrays = arrays

    def _empty_intervals(self) -> None:
        self.lower.fill_(math.inf)
        self.upper.fill_(-math.inf)
