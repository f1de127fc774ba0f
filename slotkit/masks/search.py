"""A search among many masks that are made from few batches each: the best one is kept, layer by layer.

A draw is a function of its number, and a decision one of the drawn and the best mask: so a search that stops
and goes on ends with the same bits. Known code and log: docs/masks.md, "Populations".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from slotkit.masks.acceptance import Acceptance, Candidate, Draw
from slotkit.masks.file import Masks
from slotkit.masks.keeping import keep_highest, share_of
from slotkit.masks.scores import Rules

# The search has converged when the explored share grows by no more per cent an update, over so many updates:
# the log's rule.
SLOPE, UPDATES = 0.05, 5


class Problem(Protocol):
    """What masks are drawn for: a network with its initial weights, and data.

    Attributes:
        weights: name of each masked weight -> its initial values, on the CPU.
    """

    weights: dict[str, Tensor]

    def first(self) -> Masks:
        """The mask that the search begins with."""

    def draw(self, number: int) -> Masks:
        """The mask of draw `number`, from 1 up."""

    def loss(self, masks: Masks) -> float:
        """Of the masked network with initial weights, on held-out images."""

    def saliency(self) -> dict[str, Tensor]:
        """Of each connection, where the first mask came from; the highest are kept."""


@dataclass(frozen=True)
class Row:
    """A search after a draw.

    Attributes:
        draw: its number.
        accepted: how many layers of it were taken.
        explored: share of the connections that any mask so far has, the first one included.
        density: of the best mask, which drifts where layers come from different draws.
        loss: of the best mask, where it decides.
    """

    draw: int
    accepted: int
    explored: float
    density: float
    loss: float | None = None


@dataclass(frozen=True)
class State:
    """All that a search needs to go on: the rest is a function of it."""

    best: Masks
    explored: Masks
    draw: int = 0

    @classmethod
    def begin(cls, first: Masks) -> State:
        """The state before the first draw."""
        return cls(dict(first), {name: mask.clone() for name, mask in first.items()})


class Search:
    """Draws masks and keeps the best.

    Attributes:
        state: after the last draw.
    """

    def __init__(
        self, problem: Problem, acceptance: Acceptance, rules: Rules, seed: int, state: State | None = None
    ) -> None:
        self._problem, self._acceptance, self._rules, self._seed = problem, acceptance, rules, seed
        self.state = State.begin(problem.first()) if state is None else state
        self._candidates = {name: self._candidate(name, mask) for name, mask in self.state.best.items()}
        self._loss = problem.loss(self.state.best) if acceptance.by_loss else None

    def step(self) -> Row:
        """One draw more."""
        number = self.state.draw + 1
        masks = self._problem.draw(number)
        explored = {name: self.state.explored[name] | mask for name, mask in masks.items()}
        loss = self._problem.loss(masks) if self._acceptance.by_loss else None
        about = Draw(number, self._seed, len(masks), loss, self._loss)
        best, accepted = dict(self.state.best), 0
        for layer, (name, mask) in enumerate(masks.items()):
            candidate = self._candidate(name, mask)
            if self._acceptance.accepts(self._candidates[name], candidate, about, layer):
                best[name], self._candidates[name] = mask, candidate
                accepted += 1
        if accepted and loss is not None:
            self._loss = loss
        self.state = State(best, explored, number)
        return Row(number, accepted, share_of(explored), share_of(best), self._loss)

    def mean(self, score: str) -> float:
        """Of a score, `imdb` or `spectrum`, over the best mask's layers."""
        return sum(one.score(score) for one in self._candidates.values()) / len(self._candidates)

    def repaired(self, kept: int) -> Masks:
        """The best mask with exactly so many connections: those of the lowest saliency are left out, or those
        of the highest are added. Our reading of the log's "with truncating".
        """
        saliency = {name: score.cpu() for name, score in self._problem.saliency().items()}
        best = self.state.best
        there = sum(int(mask.sum()) for mask in best.values())
        if kept <= there:
            return keep_highest(_where(best, saliency), kept)
        added = keep_highest(_where({name: ~mask for name, mask in best.items()}, saliency), kept - there)
        return {name: mask | added[name] for name, mask in best.items()}

    def _candidate(self, name: str, mask: Tensor) -> Candidate:
        return Candidate(mask.numpy(), self._problem.weights[name].double().numpy(), self._rules)


def _where(masks: Masks, saliency: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The saliency of the connections of a mask, which come before all others."""
    return {name: score.masked_fill(~masks[name], -torch.inf) for name, score in saliency.items()}


def explored_by_chance(density: float, masks: int) -> float:
    """The share that so many independent random masks of a density would explore."""
    return float(1 - (1 - density) ** masks)


def has_converged(explored: Sequence[float]) -> bool:
    """Whether the explored shares of the last updates hardly grow any more."""
    last = explored[-UPDATES:]
    if len(last) < UPDATES:
        return False
    slope = np.polyfit(np.arange(UPDATES), 100 * np.asarray(last), 1)[0]
    return bool(slope <= SLOPE)
