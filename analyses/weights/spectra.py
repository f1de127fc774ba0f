"""Singular values of weights, and what a random matrix of the same size and variance would have."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def as_matrix(weight: Tensor, channel_dim: int) -> Tensor:
    """A weight as (out, everything else), float64; for a convolution (out, in * kh * kw)."""
    return weight.movedim(channel_dim, 0).flatten(1).double()


def singular_values(matrix: Tensor) -> NDArray[np.float64]:
    """The singular values of a float64 matrix (m, n), min(m, n) of them, largest first.

    From the smaller of the two Gram matrices: values below 1e-8 of the largest are rounding.
    """
    small = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    energies = torch.linalg.eigvalsh(small @ small.T).clamp_min(0)
    return np.asarray(energies.flip(0).sqrt().numpy())


def effective_rank(values: NDArray[np.float64]) -> float:
    """exp of the entropy of the normalised squares: between 1 and the number of singular values.

    (Roy and Vetterli 2007 take the values themselves; the squares are shares of the energy.)
    """
    total = np.square(values).sum()
    if total == 0:
        return 0.0
    shares = np.square(values) / total
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def edge(values: NDArray[np.float64], shape: tuple[int, int]) -> float:
    """The largest singular value of a random matrix of that shape and energy, in the limit of large sizes.

    Marchenko and Pastur 1967: independent entries of mean 0 and variance s^2 in an (m, n) matrix have
    singular values between s |sqrt(n) - sqrt(m)| and s (sqrt(n) + sqrt(m)); s^2 is the sum of the
    squares over m n. What lies above is structure.
    """
    m, n = shape
    return float(np.sqrt(np.square(values).sum() / (m * n)) * (np.sqrt(m) + np.sqrt(n)))
