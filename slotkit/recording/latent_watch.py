"""A tensor in the latent form under observation: flips are told by its engine, margins by its intervals."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from slotkit.latent.weight import LatentWeight
from slotkit.recording.reading import GreedyReading
from slotkit.recording.softmax import Softmax
from slotkit.reel import Reel
from slotkit.selection import greedy as highest


class LatentWatch:
    """See `slotkit.recording.watching.Watched`. Margins are in u = A / |c|, in which thresholds lie still."""

    def __init__(self, weight: LatentWeight, sample: Tensor, greedy: bool, full: bool) -> None:
        self.weight, self.sample = weight, sample
        weight.recorded = full and greedy
        # A full trace has every flip; a summary counts those of the sample, which costs next to nothing.
        self._reading = None if greedy else GreedyReading(weight, None if full else sample, full)
        self._softmax = None if greedy else Softmax(self)
        self.reads_beside = not greedy
        self._events: tuple[Tensor, Tensor] | None = None
        self._keep()

    @property
    def reel(self) -> Reel:
        return self.weight.reel

    @property
    def changed(self) -> int:
        return self.weight.changed if self._events is None else len(self._events[0])

    @property
    def _followed(self) -> LatentWeight | GreedyReading:
        return self.weight if self._reading is None else self._reading

    @property
    def flipped(self) -> int:
        return self._followed.changed if self._events is None else len(self._events[0])

    @property
    def events(self) -> tuple[Tensor, Tensor]:
        return self._followed.events if self._events is None else self._events

    @property
    def c(self) -> float:
        return self.weight.line.c

    def selection(self) -> Tensor:
        if self._reading is None:
            return self.weight.selected().reshape(-1)
        if self._reading.sample is None:
            return self.weight.selected_in(self._reading.values.to(self.weight.parameter.dtype))
        return torch.cat([highest(self.weight.scores_of(part)) for part in self.weight.parts()])

    def follow(self) -> None:
        if self._reading is not None:
            self._reading.follow()
        elif self.weight.recorded:
            self._events = self._name_flips()

    def _keep(self) -> None:
        """The weight as it is now: of what a loaded state changes no engine names flips."""
        self._events = None
        self._loads = self.weight.loads
        self._values = self.weight.parameter.detach().reshape(-1).clone() if self.weight.recorded else None

    def _name_flips(self) -> tuple[Tensor, Tensor]:
        """Those of the last step, and of the states that were loaded since the step before."""
        now, before = self.weight.parameter.detach().reshape(-1), self._values
        assert before is not None
        self._values = before = before.to(now)
        if self.weight.loads == self._loads:
            connections, options = self.weight.events
            moved = connections.long().to(now.device)
            before[moved] = now[moved]
            return connections, options
        moved = (now != before).nonzero().squeeze(-1)
        options = self.weight.selected().reshape(-1)[moved]
        self._keep()
        return moved.int().cpu(), options.int().cpu()

    def positions(self) -> Tensor:
        return self.weight.latent[self.sample].double().cpu() * self.weight.line.scale

    def staircase(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = self.positions()
        lower, upper = self._intervals()
        below, above = u - lower, upper - u
        change = u - before
        ahead = torch.where(change > 0, above, below)
        return torch.minimum(below, above), change.abs(), ahead / change.abs()

    def _intervals(self) -> tuple[Tensor, Tensor]:
        """Those of the sampled connections, float64 on the CPU."""
        one = self._followed
        if isinstance(one, GreedyReading) and one.sample is not None:
            return one.lower.double().cpu(), one.upper.double().cpu()
        return one.lower[self.sample].double().cpu(), one.upper[self.sample].double().cpu()

    def softmax(self) -> dict[str, Any]:
        return {} if self._softmax is None else self._softmax.measure()

    def scores_of(self, some: Tensor) -> Tensor:
        return self.weight.scores_of(some)

    def options_of(self, some: Tensor) -> Tensor:
        return self.weight.rows(some)[0]

    def bound(self) -> float:
        """Of the distribution of the options if it has one, else the largest |option|."""
        bound = self.weight.arrays().largest_option
        if math.isfinite(bound) and bound > 0:
            return bound
        return max(float(self.options_of(part).abs().max()) for part in self.weight.parts()) or 1.0

    def state(self) -> tuple[Tensor, Tensor] | None:
        if self._reading is None or self._softmax is None:
            return None
        return self._reading.state(), self._softmax.expected

    def load(self, reading: Any, expected: Any) -> None:
        self._keep()
        if self._reading is not None and self._softmax is not None:
            self._reading.load(reading)
            self._softmax.load(expected)

    def close(self) -> None:
        self.weight.recorded, self._values = False, None

    def stop_reading(self) -> None:
        self._reading, self.reads_beside = None, False
