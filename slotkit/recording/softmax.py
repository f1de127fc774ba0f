"""What a probabilistic machine's softmax is like: of a sample of connections, with all their K scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.recording.trace import DECIDED, LEVELS


class Source(Protocol):
    """Where the numbers come from: one tensor under observation.

    Attributes:
        sample: the connections (m,) that are measured.
    """

    sample: Tensor

    def scores_of(self, some: Tensor) -> Tensor:
        """The K scores of some connections, float64 (m, K)."""

    def options_of(self, some: Tensor) -> Tensor:
        """Their K options (m, K)."""

    def bound(self) -> float:
        """No |option| of the tensor is larger."""


class Softmax:
    """The probabilities of a tensor's sampled connections (m,), and how far their expected weights go.

    Attributes:
        expected: the mean options (m,), weighted by their probabilities, float64, at the last measurement or,
            before the first one, when this was made.
        bound: no |option| of the tensor is larger.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.bound = source.bound()
        self.expected = self._read()[1]

    def measure(self) -> dict[str, Any]:
        """The measurement of one tensor for the trace, by column; `slotkit.recording.trace` has them."""
        probabilities, expected = self._read()
        drift = (expected - self.expected).abs().mean() / self.bound
        self.expected = expected
        entropies = torch.special.entr(probabilities).sum(dim=-1)
        top = probabilities.amax(dim=-1)
        return {
            "entropy": quantiles(entropies, LEVELS),
            "top": quantiles(top, LEVELS),
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
        source = self._source
        probabilities = source.scores_of(source.sample).softmax(dim=-1).cpu()
        options = source.options_of(source.sample).cpu().double()
        return probabilities, (probabilities * options).sum(dim=-1)


def quantiles(values: Tensor, levels: Sequence[float]) -> Any:
    """Quantiles by the nearest lower rank. Infinity (no threshold ahead) counts, NaN doesn't."""
    ordered = values[~values.isnan()].sort().values
    if not len(ordered):
        return np.full(len(levels), np.nan)
    ranks = [int(level * (len(ordered) - 1)) for level in levels]
    return ordered[ranks].numpy()
