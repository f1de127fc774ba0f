"""Scores of masks as graphs: Ramanujan gap, spectral gap, their means over regular parts, and norms of them.

The formulas, where they come from and where the known code differs from itself are in docs/masks.md. What is
undefined is None here; it counts as 0 in norms and in means over layers, as in the code that it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slotkit.errors import SlotkitError
from slotkit.masks.graph import Graph, as_matrix


@dataclass(frozen=True)
class Rules:
    """What the two known codes don't have in common.

    Attributes:
        least_output_degree: gaps are defined from d_L = 3 and this d_R upwards, or above it with `above`.
        above: whether d_R has to be above `least_output_degree`.
        least_group: how many inputs of one degree make a group of the iterative scores.
        factor: whether the gaps of a group are multiplied by max(L, R) / (L + R - 1), of its nodes L and R.
        turned: whether inputs and outputs change places in the graph of the whole layer (not in groups).
    """

    name: str
    least_output_degree: float
    above: bool
    least_group: int
    factor: bool
    turned: bool = False

    def defines(self, graph: Graph, whole: bool = False) -> bool:
        """Whether gaps of a graph, of the `whole` layer or of a group, are defined."""
        left, right = graph.input_degree, graph.output_degree
        if whole and self.turned:
            left, right = right, left
        enough = right > self.least_output_degree if self.above else right >= self.least_output_degree
        return left >= 3 and enough

    def weight_of(self, graph: Graph) -> float:
        """The factor of a group."""
        return max(graph.inputs, graph.outputs) / (graph.inputs + graph.outputs - 1) if self.factor else 1.0


# The code of the ICLR 2023 paper, and the code of the research log (with the NeurIPS 2023 paper).
KIN = Rules("kin", 3, above=False, least_group=3, factor=False)
DST = Rules("dst", 1, above=True, least_group=2, factor=True)
# As its code has it: the matrix of the whole layer is transposed twice there. Only where gaps are defined,
# and `mixing`, notice.
DST_TURNED = replace(DST, name="dst-turned", turned=True)
RULES = {rules.name: rules for rules in (DST, DST_TURNED, KIN)}


def find_rules(name: str) -> Rules:
    """Raises SlotkitError for a name that is none."""
    if name not in RULES:
        raise SlotkitError(f"There are no rules {name!r}. Choose {', '.join(RULES)}.")
    return RULES[name]


@dataclass(frozen=True)
class LayerScores:
    """The scores of one layer's mask; None where undefined.

    Attributes:
        input_nodes, output_nodes: those that are not isolated; `input_degree`, `output_degree`: their means.
        sigma_1, sigma_2: of the 0/1 matrix; `weighted_sigma_1`, `weighted_sigma_2`: of |weight| * mask.
        delta_r: Ramanujan gap, sqrt(d_L - 1) + sqrt(d_R - 1) - sigma_2.
        delta_s: 2 sqrt(sigma_1 - 1) - sigma_2.
        bound: delta_r / (sqrt(d_L - 1) + sqrt(d_R - 1)).
        spectral_gap: weighted, lambda in the formulas.
        imdb, imsg: means of delta_r and of the spectral gap over the regular groups, 0 if there is none.
        groups: how many of these were defined.
        narc: normalised random coefficient; 0 and less reads as like random.
        mixing: the number that the log's code calls narc, by another formula.
    """

    layer: str
    shape: tuple[int, ...]
    edges: int
    density: float
    input_nodes: int
    output_nodes: int
    input_degree: float
    output_degree: float
    sigma_1: float
    sigma_2: float
    weighted_sigma_1: float
    weighted_sigma_2: float
    delta_r: float | None
    delta_s: float | None
    bound: float | None
    spectral_gap: float | None
    imdb: float
    imsg: float
    groups: int
    narc: float | None
    mixing: float | None

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """delta_r, spectral_gap, imdb, imsg, with 0 where undefined."""
        return (self.delta_r or 0.0, self.spectral_gap or 0.0, self.imdb, self.imsg)

    @property
    def norm(self) -> float:
        """The layer-wise spectrum: the Euclidean norm of the four `parts`."""
        return math.hypot(*self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON."""
        return asdict(self) | {"norm": self.norm}


@dataclass(frozen=True)
class NetworkScores:
    """The scores of all layers, and means over them. The `spectrum` is the mean norm."""

    rules: str
    layers: tuple[LayerScores, ...]

    @property
    def spectrum(self) -> float:
        """The network's l2 spectrum."""
        return self.mean(lambda layer: layer.norm)

    @property
    def defined(self) -> float:
        """The share of layers that have a Ramanujan gap."""
        return self.mean(lambda layer: float(layer.delta_r is not None))

    @property
    def density(self) -> float:
        """Of all layers together."""
        connections = sum(math.prod(layer.shape) for layer in self.layers)
        return sum(layer.edges for layer in self.layers) / connections

    def mean(self, score: Callable[[LayerScores], float | None]) -> float:
        """Over layers, undefined ones as 0."""
        return sum(score(layer) or 0.0 for layer in self.layers) / len(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON; `layers` has those of each layer."""
        return {
            "rules": self.rules,
            "density": self.density,
            "spectrum": self.spectrum,
            "imdb": self.mean(lambda layer: layer.imdb),
            "imsg": self.mean(lambda layer: layer.imsg),
            "defined": self.defined,
            "layers": [layer.as_dict() for layer in self.layers],
        }


def score_layer(
    mask: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    rules: Rules = DST,
    layer: str = "",
    channel_dim: int = 0,
) -> LayerScores:
    """The scores of a mask (out, in, ...), where 0 is no connection; without a weight all weights are 1.

    Raises SlotkitError for weights that are not finite, or of another shape.
    """
    edges = as_matrix(mask, channel_dim)
    if weight is not None:
        _check_weight(np.asarray(weight), np.asarray(mask).shape, layer)
    graph = Graph.of(edges, None if weight is None else as_matrix(weight, channel_dim))
    bound = _bound(graph)
    defined = rules.defines(graph, whole=True)
    regular = graph.input_degree >= 3 and graph.output_degree >= 3
    groups = [group for group in graph.by_input_degree(rules.least_group) if rules.defines(group)]
    return LayerScores(
        layer=layer,
        shape=tuple(np.asarray(mask).shape),
        edges=graph.size,
        density=graph.size / edges.size,
        input_nodes=graph.inputs,
        output_nodes=graph.outputs,
        input_degree=graph.input_degree,
        output_degree=graph.output_degree,
        sigma_1=graph.sigmas[0],
        sigma_2=graph.sigmas[1],
        weighted_sigma_1=graph.weighted_sigmas[0],
        weighted_sigma_2=graph.weighted_sigmas[1],
        delta_r=_ramanujan_gap(graph) if defined else None,
        delta_s=2 * math.sqrt(graph.sigmas[0] - 1) - graph.sigmas[1] if defined else None,
        bound=_ramanujan_gap(graph) / bound if defined else None,
        spectral_gap=_spectral_gap(graph) if defined else None,
        imdb=_mean(rules.weight_of(group) * _ramanujan_gap(group) for group in groups),
        imsg=_mean(rules.weight_of(group) * _spectral_gap(group) for group in groups),
        groups=len(groups),
        narc=_narc(graph, *edges.shape) if regular else None,
        mixing=_mixing(graph, rules.turned) if defined else None,
    )


def score_network(
    masks: Mapping[str, npt.ArrayLike],
    weights: Mapping[str, npt.ArrayLike] | None = None,
    rules: Rules = DST,
    channel_dims: Mapping[str, int] | None = None,
) -> NetworkScores:
    """The scores of every layer: masks and weights by name. Raises SlotkitError if there is no layer."""
    if not masks:
        raise SlotkitError("There is no mask to score. Give at least one layer.")
    dims = channel_dims or {}
    return NetworkScores(
        rules.name,
        tuple(
            score_layer(mask, None if weights is None else weights[name], rules, name, dims.get(name, 0))
            for name, mask in masks.items()
        ),
    )


def _check_weight(weight: npt.NDArray[Any], shape: tuple[int, ...], layer: str) -> None:
    of = f" of {layer}" if layer else ""
    if weight.shape != shape:
        raise SlotkitError(
            f"The weights{of} have shape {weight.shape}, and their mask {shape}. Give both of one layer."
        )
    if not np.isfinite(weight).all():
        raise SlotkitError(
            f"The weights{of} are not all finite, so their graph has no scores. Give those of before the "
            "training diverged, or none."
        )


def _bound(graph: Graph) -> float:
    return math.sqrt(max(graph.input_degree - 1, 0)) + math.sqrt(max(graph.output_degree - 1, 0))


def _ramanujan_gap(graph: Graph) -> float:
    return _bound(graph) - graph.sigmas[1]


def _spectral_gap(graph: Graph) -> float:
    return graph.weighted_sigmas[0] - graph.weighted_sigmas[1]


def _narc(graph: Graph, inputs: int, outputs: int) -> float:
    """`inputs`, `outputs`: of the layer, isolated ones included. Edges count twice, as in both codes."""
    nodes = graph.inputs * graph.outputs
    expected = graph.input_degree / outputs * nodes
    random = (graph.sigmas[1] ** 2 / 4 + 1) * math.sqrt(nodes)
    return (random - abs(2 * graph.size - expected)) / (inputs * outputs)


def _mixing(graph: Graph, turned: bool) -> float:
    nodes = graph.inputs + graph.outputs
    degree = graph.output_degree if turned else graph.input_degree
    expected = degree * graph.inputs * graph.outputs / nodes
    mixed = graph.sigmas[1] * math.sqrt(graph.inputs * graph.outputs)
    return (mixed - abs(2 * graph.size - expected)) / nodes


def _mean(values: Iterable[float]) -> float:
    found: Sequence[float] = list(values)
    return sum(found) / len(found) if found else 0.0
