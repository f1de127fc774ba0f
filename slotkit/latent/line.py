"""K scores that never need K numbers: the recurrence and the staircase, each written once.

Under SGD the scores of a connection stay on a line (docs/why-k-is-free.md has the derivation):

    s_k = c * S_k + A * W_k        S_k initial scores, W_k options, c one number a tensor,
    v_k = e * S_k + B * W_k        A and B one number a connection

and c and e obey the recurrence of A and B with a gradient of zero. Let u = A / c. The option in use is a
staircase in u, constant on intervals and never decreasing: nothing changes while `lower <= u <= upper`.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slotkit.selection import greedy, take


class Hyperparameters(NamedTuple):
    """What one SGD step depends on, as floats. `intake` is 1 - dampening, and 1 in the first step."""

    lr: float
    momentum: float
    intake: float
    nesterov: bool
    weight_decay: float
    sign: float


AT_REST = Hyperparameters(lr=0.0, momentum=0.0, intake=0.0, nesterov=False, weight_decay=0.0, sign=0.0)


class AdamStep(NamedTuple):
    """What step t of torch.optim.AdamW depends on, as floats: see `adam_step`."""

    rate: float
    kept: float
    intake: float
    beta2: float
    square_intake: float
    correction: float
    eps: float
    sign: float


class AdamRule(NamedTuple):
    """What `adam_step` is made of, as floats, for an engine that counts the steps itself (`LineColumn.T`)."""

    lr: float
    weight_decay: float
    intake: float
    beta1: float
    square_intake: float
    beta2: float
    eps: float
    sign: float


class LineColumn(IntEnum):
    """What an engine keeps of a tensor's line on its device: float64, one number each.

    A step writes SCALE, SIGN, TURNED (c has another sign than before), SKIPPED (nothing moves) and, from RULE
    on, the numbers of its `Hyperparameters` or `AdamStep`.
    """

    C = 0
    E = 1
    STEPS = 2
    MOVING = 3
    T = 4  # Adam's steps
    SCALE = 5
    SIGN = 6
    TURNED = 7
    SKIPPED = 8
    RULE = 9
    SIZE = 17


@functools.lru_cache(maxsize=16)  # the weights of a network share it
def adam_step(
    t: float, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, maximize: bool
) -> AdamStep:
    """Step t = 1, 2, ... with the hyper-parameters of torch.optim.AdamW."""
    beta1, beta2 = betas
    return AdamStep(
        rate=lr / (1 - beta1**t),
        kept=1 - lr * weight_decay,
        intake=1 - beta1,
        beta2=beta2,
        square_intake=1 - beta2,
        correction=math.sqrt(1 - beta2**t),
        eps=eps,
        sign=-1.0 if maximize else 1.0,
    )


def advance(position: Any, velocity: Any, gradient: Any, h: Any) -> tuple[Any, Any]:
    """One step of torch.optim.SGD: new position and velocity.

    Written once for A and B of a connection (tensors, or scalars in a compiled loop) and for c and e
    of a tensor (floats, gradient 0). The gradient of A is g, that of the weight in use, because
    ds_k = g * W_k; weight decay adds weight_decay * A.
    """
    gradient = h.sign * gradient + h.weight_decay * position
    direction = gradient
    if h.momentum != 0:
        velocity = h.momentum * velocity + h.intake * gradient
        direction = gradient + h.momentum * velocity if h.nesterov else velocity
    return position - h.lr * direction, velocity


def advance_by_adam(
    position: Any, mean: Any, square: Any, gradient: Any, h: Any, root: Any
) -> tuple[Any, Any, Any]:
    """One step of torch.optim.AdamW: new position, and new means of the gradient and of its square.

    Written once as `advance` is, but for A alone: c and e stay. `root` is the square root of tensors or of
    scalars.
    """
    gradient = h.sign * gradient
    mean = mean + h.intake * (gradient - mean)
    square = h.beta2 * square + h.square_intake * gradient * gradient
    scale = root(square) / h.correction + h.eps
    return h.kept * position - h.rate * mean / scale, mean, square


def is_count(number: object) -> bool:
    """Whether it is a whole number, from 0, with which loops can count."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53


def is_line(state: object) -> bool:
    """Whether it is a `Line.state`: with numbers that a line can have."""
    return (
        isinstance(state, Mapping)
        and all(isinstance(state.get(name), int | float) for name in ("c", "e"))
        and all(abs(state[name]) <= sys.float_info.max for name in ("c", "e"))
        and is_count(state.get("steps"))
        and type(state.get("moving")) is bool
    )


@dataclass
class Line:
    """What the scores of all connections of a tensor have in common.

    c and e as above, the number of steps, and whether there is a velocity yet: torch.optim.SGD starts
    its momentum buffer with the first gradient, without dampening.
    """

    c: float = 1.0
    e: float = 0.0
    steps: int = 0
    has_velocity: bool = False

    def state(self) -> dict[str, Any]:
        """Its numbers under the names that checkpoints have: "moving" is `has_velocity`.

        dataclasses.asdict would take ten times as long, and every step calls this.
        """
        return {"c": self.c, "e": self.e, "steps": self.steps, "moving": self.has_velocity}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Line:
        """The line of a `state`, see `is_line`."""
        return cls(float(state["c"]), float(state["e"]), state["steps"], state["moving"])

    def kept(self) -> list[float]:
        """Its numbers in the order of `LineColumn`."""
        return [self.c, self.e, float(self.steps), float(self.has_velocity)]

    @classmethod
    def of_kept(cls, numbers: Sequence[float]) -> Line:
        """The line of a `kept`."""
        return cls(
            numbers[LineColumn.C],
            numbers[LineColumn.E],
            int(numbers[LineColumn.STEPS]),
            bool(numbers[LineColumn.MOVING]),
        )

    def after(self, h: Hyperparameters | AdamStep) -> Line:
        """The line one step later. Adam moves A alone."""
        if isinstance(h, AdamStep):
            return Line(self.c, self.e, self.steps + 1, self.has_velocity)
        c, e = advance(self.c, self.e, 0.0, h)
        return Line(c, e, self.steps + 1, self.has_velocity or h.momentum != 0)

    @property
    def sign(self) -> float:
        """-1, 0 or 1."""
        return math.copysign(1.0, self.c) if self.c else 0.0

    @property
    def scale(self) -> float:
        """1 / |c|, so that u = A * scale; infinite when c has underflowed."""
        return 1 / abs(self.c) if abs(self.c) > 1e-300 else math.inf


def line_scores(options: Tensor, initial: Tensor, latent: Tensor, c: float) -> Tensor:
    """The scores c * S_k + A * W_k in float64: options and initial (..., K), latent (...) -> (..., K)."""
    return c * initial.double() + latent.double().unsqueeze(-1) * options.double()


def reselect(
    options: Tensor, initial: Tensor, latent: Tensor, line: Line
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The greedy choice and its interval, for n connections.

    options and initial (n, K), latent (n,) -> selected int64, value, lower and upper float64, all (n,).
    """
    selected = greedy(line_scores(options, initial, latent, line.c))
    lower, upper = interval(options, initial, selected, line.sign)
    return selected, take(options, selected), lower, upper


def interval(options: Tensor, initial: Tensor, selected: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """The bounds of u = A / |c| between which the selected option wins: lower and upper, float64 (n,).

    The scores of options k* and j are equal at u = (S_k* - S_j) / (W_j - W_k*). Below it the smaller option
    wins, above it the larger one. If c < 0, the initial scores enter with the opposite sign. The scores of
    equal options never cross.
    """
    values, scores = options.double(), sign * initial.double()
    index = selected.unsqueeze(-1)
    gap = values - values.gather(-1, index)
    crossing = (scores.gather(-1, index) - scores) / gap
    upper = torch.where(gap > 0, crossing, math.inf).amin(dim=-1)
    lower = torch.where(gap < 0, crossing, -math.inf).amax(dim=-1)
    return lower, upper


def fit_line(options: Tensor, initial: Tensor, scores: Tensor) -> tuple[float, Tensor, float]:
    """The c and A with scores = c * S + A * W, by least squares: all (n, K) -> c, latent (n,), error.

    All n connections share c: it is the regression on the part of S that is orthogonal to W. `error` is the
    largest distance from the line over the largest score. It is a rounding error if SGD made the scores.
    """
    w, s, target = options.double(), initial.double(), scores.double()
    length = w.square().sum(dim=-1, keepdim=True).clamp_min(1e-300)
    across = s - (s * w).sum(dim=-1, keepdim=True) / length * w
    weight = across.square().sum()
    # With K = 1 the scores are on a line for every c.
    c = float((target * across).sum() / weight) if weight > 1e-12 * s.square().sum() else 1.0
    latent = ((target - c * s) * w).sum(dim=-1, keepdim=True) / length
    error = (target - c * s - latent * w).abs().max() / target.abs().max().clamp_min(1e-300)
    return c, latent.squeeze(-1), float(error)
