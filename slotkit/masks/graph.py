"""A layer's mask as a bipartite graph: inputs (input channel and kernel position) and outputs (channels)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from slotkit.errors import SlotkitError

Matrix = npt.NDArray[np.float64]

# Sparse products are faster below this density, dense ones above it.
SPARSE = 0.1
# Up to this width all eigenvalues are found at once; above it Lanczos takes a fraction of that time.
SMALL = 64
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Graph:
    """The edges between inputs and outputs that have one: isolated nodes are left out.

    Attributes:
        weights: |weight| of each edge as a sparse matrix, inputs x outputs. An edge may have the weight 0.
    """

    weights: Any

    @classmethod
    def of(cls, edges: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Graph:
        """From a matrix inputs x outputs, where 0 or False is no edge. Without weights all of them are 1."""
        rows, columns = np.nonzero(np.asarray(edges))
        if weights is None:
            return cls._between(rows, columns, np.ones(len(rows)))
        return cls._between(rows, columns, np.abs(np.asarray(weights)[rows, columns].astype(np.float64)))

    @classmethod
    def _between(cls, rows: npt.NDArray[Any], columns: npt.NDArray[Any], values: Matrix) -> Graph:
        left, row = np.unique(rows, return_inverse=True)
        right, column = np.unique(columns, return_inverse=True)
        return cls(csr_array((values, (row, column)), shape=(len(left), len(right))))

    @property
    def inputs(self) -> int:
        """How many inputs have an edge."""
        return int(self.weights.shape[0])

    @property
    def outputs(self) -> int:
        """How many outputs have an edge."""
        return int(self.weights.shape[1])

    @property
    def size(self) -> int:
        """How many edges."""
        return len(self.weights.data)

    @property
    def input_degree(self) -> float:
        """Mean degree of the inputs, d_L; 0 of a graph without edges."""
        return self.size / self.inputs if self.inputs else 0.0

    @property
    def output_degree(self) -> float:
        """Mean degree of the outputs, d_R."""
        return self.size / self.outputs if self.outputs else 0.0

    @cached_property
    def sigmas(self) -> tuple[float, float]:
        """The two largest singular values of the 0/1 matrix."""
        ones = np.ones(self.size)
        return largest_two(csr_array((ones, self.weights.indices, self.weights.indptr), self.weights.shape))

    @cached_property
    def weighted_sigmas(self) -> tuple[float, float]:
        """The two largest singular values of the matrix of weights."""
        return self.sigmas if (self.weights.data == 1).all() else largest_two(self.weights)

    def by_input_degree(self, least: int) -> Iterator[Graph]:
        """For every degree that `least` inputs or more have: those inputs and the outputs that they touch."""
        degrees = np.diff(self.weights.indptr)
        for degree in np.unique(degrees):
            rows = degrees == degree
            if rows.sum() >= least:
                edges = np.repeat(rows, degrees)
                row = np.repeat(np.arange(rows.sum()), degree)
                yield self._between(row, self.weights.indices[edges], self.weights.data[edges])


def largest_two(matrix: Any) -> tuple[float, float]:
    """sigma_1 and sigma_2 of a sparse matrix; 0 for those that it hasn't got.

    They come from the Gram matrix of the smaller side, in float64: what squaring loses is about 1e-8 sigma_1,
    and of a sigma_2 below that nothing is left.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T.tocsr()
    length, width = tall.shape
    if len(tall.data) > SPARSE * length * width:
        whole = tall.toarray()
        gram: Matrix = whole.T @ whole
    else:
        gram = (tall.T @ tall).toarray()
    # The matrix of a graph in several parts may have its largest value twice, and Lanczos may find it once.
    # Within a part the largest is simple (Perron and Frobenius), and how often it has the second is no
    # matter.
    number, part = connected_components(csr_array(gram), directed=False) if width else (0, None)
    found = [0.0, 0.0]
    for index in range(number):
        there = np.flatnonzero(part == index)
        found += _largest_eigenvalues(gram if number == 1 else gram[np.ix_(there, there)])
    first, second = sorted(found)[:-3:-1]
    return math.sqrt(first), math.sqrt(second)


def _largest_eigenvalues(gram: Matrix) -> list[float]:
    """Two, or the only one, of a positive semidefinite matrix; what is negative by rounding is left out."""
    width = len(gram)
    if width <= SMALL:
        values = eigh(gram, eigvals_only=True, check_finite=False)[-2:]
    else:
        # The same start every time, and not the vector of ones, which is an eigenvector of regular graphs.
        start = np.random.default_rng(0).random(width)
        values = eigsh(gram, k=2, v0=start, tol=TOLERANCE, return_eigenvectors=False)
    return [float(value) for value in values if value > 0]


def as_matrix(tensor: npt.ArrayLike, channel_dim: int = 0) -> npt.NDArray[Any]:
    """A layer's weight or mask as inputs x outputs.

    (out, in) or (out, in, *kernel) -> (in * kernel positions, out). In a convolution with groups the inputs
    are those of one group, as in its weight.

    Args:
        channel_dim: the dimension that counts outputs: 1 in a transposed convolution.
    """
    values = np.asarray(tensor)
    if values.ndim < 2:
        raise SlotkitError(
            f"A tensor of shape {values.shape} has no inputs and outputs. Give weights of layers, of two "
            "dimensions or more."
        )
    outputs_first = np.moveaxis(values, channel_dim, 0)
    return outputs_first.reshape(outputs_first.shape[0], -1).T
