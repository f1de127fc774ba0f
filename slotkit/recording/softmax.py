"""What a probabilistic machine's softmax is like: of a sample of connections, with all their K scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.weight import LatentWeight
from slotkit.recording.trace import DECIDED, LEVELS


class Softmax:
    """The probabilities of a weight's sampled connections (m,), and how far their expected weights go.

    Attributes:
        expected: the mean options (m,), weighted by their probabilities, float64, at the last measurement or,
            before the first one, when this was made.
        bound: no |option| of the weight is larger.
    """

    def __init__(self, weight: LatentWeight, sample: Tensor) -> None:
        self.weight, self.sample = weight, sample
        self.bound = _bound(weight)
        self.expected = self._read()[1]

    def measure(self) -> dict[str, Any]:
        """The measurement of one tensor for the trace, by column; `slotkit.recording.trace` has them."""
        probabilities, expected = self._read()
        drift = (expected - self.expected).abs().mean() / self.bound
        self.expected = expected
        entropies = torch.special.entr(probabilities).sum(dim=-1)
        top = probabilities.amax(dim=-1)
        return {
            "entropy": quantiles(entropies),
            "top": quantiles(top),
            "mean_entropy": float(entropies.mean()),
            "decided": float((top >= DECIDED).double().mean()),
            "drift": float(drift),
        }

    def load(self, expected: Any) -> None:
        """Go on from the `expected` of a state. Raises SlotkitError, part of a sentence, if it is none."""
        own = self.expected
        if not isinstance(expected, Tensor) or (expected.dtype, expected.shape) != (own.dtype, own.shape):
            raise SlotkitError("its expected weights are not those of the sampled connections")
        self.expected = expected

    def _read(self) -> tuple[Tensor, Tensor]:
        """Probabilities (m, K) and expected weights (m,) as the scores are now, float64, on the CPU."""
        probabilities = self.weight.scores_of(self.sample).softmax(dim=-1).cpu()
        options = self.weight.rows(self.sample)[0].cpu().double()
        return probabilities, (probabilities * options).sum(dim=-1)


def _bound(weight: LatentWeight) -> float:
    """Of the distribution of the options if it has one, else the largest |option|."""
    bound = weight.arrays().largest_option
    if math.isfinite(bound) and bound > 0:
        return bound
    return max(float(weight.rows(part)[0].abs().max()) for part in weight.parts()) or 1.0


def quantiles(values: Tensor) -> Any:
    """Quantiles at LEVELS, by the nearest lower rank. Infinity (no threshold ahead) counts, NaN doesn't."""
    ordered = values[~values.isnan()].sort().values
    if not len(ordered):
        return np.full(len(LEVELS), np.nan)
    ranks = [int(level * (len(ordered) - 1)) for level in LEVELS]
    return ordered[ranks].numpy()
