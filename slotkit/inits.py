"""Inits: the distributions of options and of initial scores, those with names and how to write another.

The bits of those with names are pinned by golden vectors (docs/reel-spec-1.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slotkit.errors import SlotkitError

if TYPE_CHECKING:  # settings know the names of inits, and are read without torch
    from torch import Tensor


@dataclass(frozen=True)
class Fans:
    """How wide a weight tensor is, as torch.nn.init counts it from the shape; K plays no part."""

    fan_in: int
    fan_out: int
    convolution: bool

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Fans:
        """Fans of a weight of shape (out, in) or (out, in / groups, *kernel)."""
        receptive_field = math.prod(shape[2:])
        return cls(shape[1] * receptive_field, shape[0] * receptive_field, len(shape) > 2)


class Init(Protocol):
    """A distribution of options and initial scores.

    Both methods map uniform numbers to values one by one. A value may depend on its own uniform number and on
    `fans`, to the last bit: not on the numbers beside it, on their count or order, on earlier calls or on
    draws of its own, because any connection is recomputed alone. `slotkit.inits_probe` refuses an init that
    does otherwise. Bits are the same on every device only if the arithmetic is (products and sums are; exp or
    erf may not be).

    What depends on the number of the option besides (a zero among the options, a margin for the first) is a
    kind of options, in `slotkit.kinds`.
    """

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        """float32 in (-1, 1), any shape -> options, float32, finite, the same shape."""

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        """float32 in (0, 1), any shape -> initial scores, float32, finite, the same shape."""


@dataclass(frozen=True)
class UniformInit:
    """Options U(-b, b) and scores U(0, l b), with b = sqrt(numerator / (fan_in + fan_out)).

    l is `convolution_scores` for convolutions and `linear_scores` for fully connected layers.
    """

    numerator: float
    convolution_scores: float = 1.0
    linear_scores: float = 1.0

    @property
    def is_uniform(self) -> bool:
        """Whether options and scores are those above, so that engines can make them from b and l: a subclass
        may have methods of its own.
        """
        own = type(self)
        return own.options is UniformInit.options and own.scores is UniformInit.scores

    def bound(self, fans: Fans) -> float:
        """b, rounded to float32 once."""
        exact = math.sqrt(self.numerator / (fans.fan_in + fans.fan_out))
        return float(np.float32(exact))

    def score_scale(self, fans: Fans) -> float:
        """l."""
        return self.convolution_scores if fans.convolution else self.linear_scores

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        """float32 in (-1, 1) -> u * b, U(-b, b)."""
        return uniform * self.bound(fans)

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        """float32 in (0, 1) -> u * b * l, U(0, l b)."""
        return uniform * self.bound(fans) * self.score_scale(fans)


INITS: dict[str, Init] = {
    # Glorot's uniform distribution, for options and scores alike: the authors' code, and the reading of the
    # paper that gives its numbers.
    "glorot-uniform": UniformInit(numerator=6.0),
    # The paper's words taken literally: the bound is the deviation of Glorot's normal distribution.
    "glorot-deviation": UniformInit(numerator=2.0, linear_scores=0.1),
}

# The options of one with the scores of the other, so that their effects can be told apart.
MIXED_INITS: dict[str, Init] = {
    "deviation-options-uniform-scores": UniformInit(2.0, math.sqrt(3), math.sqrt(3)),
    "uniform-options-deviation-scores": UniformInit(6.0, 1 / math.sqrt(3), 0.1 / math.sqrt(3)),
}


@dataclass(frozen=True)
class FanInInit(UniformInit):
    """Options U(-b, b) and scores U(0, l b), with b = sqrt(numerator / fan_in), as Kaiming He has it."""

    def bound(self, fans: Fans) -> float:
        return float(np.float32(math.sqrt(self.numerator / fans.fan_in)))


@dataclass(frozen=True)
class SignedConstant(FanInInit):
    """Options -d and d with d = sqrt(2 / fan_in), half of each; scores as those of `FanInInit`."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        deviation = float(np.float32(math.sqrt(2.0 / fans.fan_in)))
        return uniform.sign() * deviation  # no uniform number is 0


@dataclass(frozen=True)
class KaimingNormal(FanInInit):
    """Options N(0, 2 / fan_in); scores as those of `FanInInit`.

    The inverse of the normal distribution is taken on the CPU, number by number in float64, so that the bits
    are those of every device and do not depend on the numbers beside them.
    """

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        from scipy.special import ndtri
        from torch import from_numpy

        quantile = (uniform.double() * 0.5 + 0.5).cpu().numpy()
        deviation = math.sqrt(2.0 / fans.fan_in)
        return from_numpy(np.asarray(ndtri(quantile) * deviation)).to(uniform)


# Those of the sources on pruned random weights: all have the variance 2 / fan_in.
KAIMING_INITS: dict[str, Init] = {
    "kaiming-uniform": FanInInit(6.0),
    "kaiming-normal": KaimingNormal(6.0),
    "kaiming-constant": SignedConstant(6.0),
}

# Every init with a name.
NAMED_INITS: dict[str, Init] = INITS | MIXED_INITS | KAIMING_INITS

# What they were called before, in runs, states, slot files and programs.
ALIASES = {
    "authors": "glorot-uniform",
    "paper": "glorot-deviation",
    "paper-options-authors-scores": "deviation-options-uniform-scores",
    "authors-options-paper-scores": "uniform-options-deviation-scores",
}


def plain_init(init: str | Init) -> str | Init:
    """The same init, under its present name if it has been renamed."""
    return ALIASES.get(init, init) if isinstance(init, str) else init


def find_init(init: str | Init) -> Init:
    """The init of that name, or the object itself.

    Raises SlotkitError for an unknown name or an object without the two methods.
    """
    init = plain_init(init)
    if isinstance(init, str):
        if init not in NAMED_INITS:
            raise SlotkitError(
                f"There is no init {init!r}. Choose one of {', '.join(NAMED_INITS)}, or pass an object."
            )
        return NAMED_INITS[init]
    if not (callable(getattr(init, "options", None)) and callable(getattr(init, "scores", None))):
        raise SlotkitError(
            f"An init object needs the methods options(uniform, fans) and scores(uniform, fans); "
            f"{type(init).__name__} lacks one. See slotkit.reel.Init."
        )
    return init


def init_name(init: str | Init) -> str:
    """What a state calls an init: its present name, else the object's own repr, else its class."""
    init = plain_init(init)
    if isinstance(init, str):
        return init
    return type(init).__qualname__ if type(init).__repr__ is object.__repr__ else repr(init)
