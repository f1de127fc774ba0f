"""When a candidate mask takes the place of the best one so far: a registry.

Scores are looked at layer by layer, so that the best mask may have its layers from different draws. The two
controls, `random` and `loss`, are what the known code lacks: without them nothing says whether a score is
better than luck, or than looking at held-out images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError
from slotkit.masks.scores import Rules, score_layer

Array = npt.NDArray[np.generic]


@dataclass
class Candidate:
    """The mask of one layer, with the initial weights. Scores are computed when they are asked for, once."""

    mask: Array
    weight: Array
    rules: Rules
    _scores: dict[str, float] = field(default_factory=dict)

    def score(self, name: str) -> float:
        """`imdb` or `spectrum`, the norm of the layer's four parts."""
        if not self._scores:
            found = score_layer(self.mask, self.weight, self.rules)
            self._scores = {"imdb": found.imdb, "spectrum": found.norm}
        return self._scores[name]


@dataclass(frozen=True)
class Draw:
    """Where in a search a decision is taken.

    Attributes:
        number: of the draw, from 1.
        layers: how many layers the network has.
        loss, best_loss: on held-out images, of the candidate mask and the best one; only `by_loss` has them.
    """

    number: int
    seed: int
    layers: int
    loss: float | None = None
    best_loss: float | None = None

    def chance(self, layer: int) -> float:
        """A number from [0, 1) for a layer of this draw."""
        numbers = torch.rand(self.layers, generator=generator("mask acceptance", self.seed, self.number))
        return float(numbers[layer])


@dataclass(frozen=True)
class Acceptance:
    """A rule.

    Attributes:
        accepts: whether a layer of a draw (second) replaces the best one (first).
        by_loss: whether it compares whole masks, by their loss on held-out images.
    """

    name: str
    words: str
    accepts: Callable[[Candidate, Candidate, Draw, int], bool]
    by_loss: bool = False

    def images(self, asked: int | None) -> int:
        """How many validation images a loss is taken of, where it is asked for that many; 0 without a loss.

        Raises SlotkitError for a number below 1, and where one is asked for and no loss is looked at.
        """
        if asked is not None and asked < 1:
            raise SlotkitError(f"--held-out is {asked}. Give 1 or more.")
        if self.by_loss:
            return HELD_OUT if asked is None else asked
        if asked is not None:
            raise SlotkitError(
                f"--held-out is {asked}, and --accept {self.name} looks at no validation images. Leave it "
                "out, or choose --accept loss."
            )
        return 0


def _no_worse(*scores: str) -> Callable[[Candidate, Candidate, Draw, int], bool]:
    return lambda best, candidate, draw, layer: all(candidate.score(one) >= best.score(one) for one in scores)


def _by_chance(best: Candidate, candidate: Candidate, draw: Draw, layer: int) -> bool:
    """With probability 1 / (number + 1), so that every mask so far, the first too, is kept alike often."""
    return draw.chance(layer) < 1 / (draw.number + 1)


def _by_loss(best: Candidate, candidate: Candidate, draw: Draw, layer: int) -> bool:
    assert draw.loss is not None
    assert draw.best_loss is not None
    return draw.loss < draw.best_loss


def find_acceptance(name: str) -> Acceptance:
    """Raises SlotkitError for a name that is none."""
    if name not in ACCEPTANCES:
        raise SlotkitError(f"There is no acceptance {name!r}. Choose {', '.join(ACCEPTANCES)}.")
    return ACCEPTANCES[name]


# Validation images whose loss decides, unless another number is asked for.
HELD_OUT = 1000

# Those that look at no graph: controls.
WITHOUT_SCORES = ("random", "loss")

ACCEPTANCES: dict[str, Acceptance] = {
    one.name: one
    for one in (
        Acceptance("both", "IMDB and spectrum of the layer are no lower", _no_worse("imdb", "spectrum")),
        Acceptance("imdb", "IMDB of the layer is no lower", _no_worse("imdb")),
        Acceptance("spectrum", "the spectrum of the layer is no lower", _no_worse("spectrum")),
        Acceptance("random", "a control: each layer is that of any draw so far, by chance", _by_chance),
        Acceptance(
            "loss", "a control: the whole mask has a lower loss on held-out images", _by_loss, by_loss=True
        ),
    )
}
