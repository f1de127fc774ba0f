"""Graph scores: the test vectors of the specification, and what holds for every graph."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from slotkit.errors import SlotkitError
from slotkit.masks import graph
from slotkit.masks.graph import Graph, largest_two
from slotkit.masks.scores import DST, DST_TURNED, KIN, RULES, find_rules, score_layer, score_network

Matrix = npt.NDArray[Any]


def heawood(values: Matrix | None = None) -> Matrix:
    """Inputs x outputs: (i, i + offset) for the offsets 0, 1, 3; `values` by row and offset."""
    matrix = np.zeros((7, 7))
    for i in range(7):
        for at, offset in enumerate((0, 1, 3)):
            matrix[i, (i + offset) % 7] = 1 if values is None else values[i, at]
    return matrix


def random_layer(weighted: bool = False) -> tuple[Matrix, Matrix | None]:
    chance = np.random.default_rng(0)
    there = chance.random((576, 64)) < 0.1
    return there, chance.standard_normal((576, 64)) if weighted else None


def of(there: Matrix, weights: Matrix | None = None, rules: Any = DST) -> Any:
    """Scores of a matrix inputs x outputs."""
    return score_layer(there.T, None if weights is None else weights.T, rules)


def close(found: Any, wanted: Any) -> bool:
    return bool(np.allclose(found, wanted, atol=1e-4, rtol=0))


def test_heawood() -> None:
    found, kin = of(heawood()), of(heawood(), rules=KIN)
    assert close((found.sigma_1, found.sigma_2), (3, 1.41421))
    assert close((found.delta_r, found.delta_s, found.spectral_gap), (1.41421, 1.41421, 1.58579))
    assert close((kin.imdb, found.imdb), (1.41421, 0.76150))
    assert close((found.narc, found.mixing, found.norm), (-0.21429, -1.54289, 2.41324))


def test_complete_graph() -> None:
    found, turned = of(np.ones((4, 5))), of(np.ones((4, 5)), rules=DST_TURNED)
    assert close((found.sigma_1, found.sigma_2, found.delta_r, found.delta_s), (4.47214, 0, 3.73205, 3.72673))
    assert close(found.imdb, 0.625 * 3.73205)
    assert close((found.narc, found.mixing, turned.mixing), (-0.77639, -3.20988, -3.45679))
    assert close(found.bound, 1)


def test_two_parts() -> None:
    found = of(np.kron(np.eye(2), np.ones((3, 3))))
    assert close((found.sigma_2, found.delta_r, found.spectral_gap), (3, -0.17157, 0))
    assert close((found.narc, found.mixing), (0.04167, -0.75))


def test_weighted_complete_graph() -> None:
    weights = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10.0]).reshape(3, 3)
    found = of(np.ones((3, 3)), weights)
    assert close((found.weighted_sigma_1, found.weighted_sigma_2), (17.41251, 0.87516))
    assert close(found.parts, (2.82843, 16.53734, 1.69706, 9.92241))
    assert close(found.norm, 19.56573)


def test_weighted_heawood() -> None:
    signs = np.array([1, -1, 1])
    weights = heawood(0.1 * np.arange(1, 8)[:, None] * signs)
    found = of(weights != 0, weights)
    assert close((found.weighted_sigma_1, found.weighted_sigma_2), (1.45646, 0.91389))
    assert close(found.parts, (1.41421, 0.54256, 0.76150, 0.29215))
    assert close(found.norm, 1.72035)


def test_random_layer() -> None:
    there, weights = random_layer(weighted=True)
    found = of(there)
    assert found.edges == 3769
    assert close((found.sigma_1, found.sigma_2), (21.14611, 9.73847))
    assert np.allclose((found.input_degree, found.output_degree), (6.543, 58.891), atol=1e-3)
    assert close((found.delta_r, found.delta_s, found.narc), (0.22457, -0.76158, 0.02645))
    assert (found.groups, round(found.imdb, 5)) == (12, 0.17205)
    assert close(of(there, rules=replace(DST, factor=False)).imdb, 0.2011)
    weighted = of(there, weights)
    assert close(weighted.parts, (0.22457, 7.13427, 0.17205, 0.75685))
    assert close(weighted.norm, 7.17988)


# ---------------------------------------------------------------------------------------------------
# What holds for every graph.


@st.composite
def layers(draw: st.DrawFn) -> tuple[Matrix, Matrix]:
    """A mask and weights, inputs x outputs, of any density."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    return chance.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9, 1.0])), chance.standard_normal(shape)


def values(found: Any) -> Matrix:
    """All scores but those that depend on the layer's own size, with a number for None."""
    told = found.as_dict()
    left = {name: told[name] for name in told if name not in ("layer", "shape", "density", "narc")}
    return np.array([-1e9 if value is None else value for value in left.values()])


ANY_RULES = st.sampled_from(list(RULES.values()))


@given(layers(), ANY_RULES, st.randoms())
def test_the_order_of_nodes_is_no_matter(layer: tuple[Matrix, Matrix], rules: Any, chance: Any) -> None:
    there, weights = layer
    rows, columns = list(range(there.shape[0])), list(range(there.shape[1]))
    chance.shuffle(rows)
    chance.shuffle(columns)
    moved = of(there[rows][:, columns], weights[rows][:, columns], rules)
    np.testing.assert_allclose(values(moved), values(of(there, weights, rules)), atol=1e-6)


@given(layers(), ANY_RULES, st.sampled_from([0.25, 3.0]))
def test_gaps_of_weights_scale_with_them(layer: tuple[Matrix, Matrix], rules: Any, factor: float) -> None:
    there, weights = layer
    small, large = of(there, weights, rules), of(there, -factor * weights, rules)
    assert (small.spectral_gap is None) == (large.spectral_gap is None)
    assert math.isclose((small.spectral_gap or 0) * factor, large.spectral_gap or 0, abs_tol=1e-6)
    assert math.isclose(small.imsg * factor, large.imsg, abs_tol=1e-6)
    assert (small.delta_r, small.imdb, small.narc) == (large.delta_r, large.imdb, large.narc)


@given(layers(), ANY_RULES)
def test_isolated_nodes_change_nothing(layer: tuple[Matrix, Matrix], rules: Any) -> None:
    there, weights = layer
    wider = [np.insert(np.insert(matrix, 0, 0, axis=0), 1, 0, axis=1) for matrix in (there, weights)]
    np.testing.assert_allclose(values(of(*wider, rules)), values(of(there, weights, rules)), atol=1e-9)


@given(layers(), st.integers(2, 3))
def test_a_regular_graph_in_parts_has_no_gap(layer: tuple[Matrix, Matrix], parts: int) -> None:
    there, _ = layer
    whole = Graph.of(np.kron(np.eye(parts), np.ones(there.shape)))
    assert math.isclose(*whole.sigmas, rel_tol=1e-9)


@given(layers())
def test_singular_values_are_those_of_numpy(layer: tuple[Matrix, Matrix]) -> None:
    there, weights = layer
    for matrix in (there * weights, there.astype(float)):
        wanted = [*np.linalg.svd(matrix, compute_uv=False), 0.0, 0.0][:2]
        np.testing.assert_allclose(largest_two(csr_array(matrix)), wanted, atol=1e-6)


@pytest.mark.parametrize("density", [0.02, 0.2, 1.0])
def test_wide_layers_come_to_the_values_of_numpy(density: float) -> None:
    """By Lanczos; here each of two parts is wider than what is solved at once."""
    chance = np.random.default_rng(5)
    block = (chance.random((150, 120)) < density) * chance.random((150, 120))
    for matrix in (block, np.kron(np.eye(2), block), np.kron(np.diag([1.0, 0.999]), block)):
        assert min(matrix.shape) > graph.SMALL
        wanted = np.linalg.svd(matrix, compute_uv=False)[:2]
        np.testing.assert_allclose(largest_two(csr_array(matrix)), wanted, rtol=1e-7)


# ---------------------------------------------------------------------------------------------------
# Shapes, edges of the definitions, and names.


def test_a_convolution_has_an_input_for_each_kernel_position() -> None:
    chance = np.random.default_rng(1)
    mask = chance.random((6, 5, 3, 3)) < 0.5
    found = score_layer(mask)
    flat = score_layer(mask.reshape(6, 45))
    np.testing.assert_allclose(values(found), values(flat), atol=1e-9)
    assert found.input_nodes > 6 == found.output_nodes
    turned = score_layer(mask.swapaxes(0, 1), channel_dim=1)
    np.testing.assert_allclose(values(turned), values(found), atol=1e-9)


def test_an_edge_may_have_the_weight_zero() -> None:
    weights = np.ones((4, 5))
    weights[1, 2] = 0
    found = of(np.ones((4, 5)), weights)
    assert (found.edges, found.sigma_1) == (20, of(np.ones((4, 5))).sigma_1)
    assert found.weighted_sigma_1 < found.sigma_1


def test_a_layer_without_edges_has_no_gaps() -> None:
    for rules in RULES.values():
        found = of(np.zeros((4, 5)), rules=rules)
        assert (found.delta_r, found.spectral_gap, found.bound, found.narc, found.mixing) == (None,) * 5
        assert (found.imdb, found.imsg, found.norm, found.groups, found.sigma_1) == (0,) * 5


def test_where_gaps_are_defined() -> None:
    """K_{2,5} has d_in = 5 and d_out = 2; the other way round d_in is 2."""
    wide, tall = np.ones((2, 5)), np.ones((5, 2))
    defined = {
        rules.name: [of(matrix, rules=rules).delta_r is not None for matrix in (wide, tall)]
        for rules in RULES.values()
    }
    assert defined == {"dst": [True, False], "dst-turned": [False, True], "kin": [False, False]}


def test_groups_have_two_inputs_or_three() -> None:
    pair = np.ones((2, 4))
    assert of(pair).groups == 1
    assert of(np.ones((3, 4))).groups == of(np.ones((3, 4)), rules=KIN).groups == 1
    assert of(pair, rules=KIN).groups == 0
    assert of(np.ones((1, 4))).groups == 0


def test_the_network_is_the_mean_of_its_layers() -> None:
    masks = {"a": heawood().T, "b": np.zeros((3, 3)), "c": np.ones((5, 4))}
    found = score_network(masks)
    assert math.isclose(found.spectrum, sum(layer.norm for layer in found.layers) / 3)
    assert math.isclose(found.defined, 2 / 3)
    assert math.isclose(found.density, (21 + 20) / (49 + 9 + 20))
    told = found.as_dict()
    assert (told["rules"], told["layers"][0]["layer"]) == ("dst", "a")
    assert math.isclose(told["imdb"], sum(layer.imdb for layer in found.layers) / 3)


def test_refusals() -> None:
    with pytest.raises(SlotkitError) as caught:
        find_rules("x")
    assert str(caught.value) == "There are no rules 'x'. Choose dst, dst-turned, kin."
    with pytest.raises(SlotkitError) as caught:
        score_network({})
    assert str(caught.value) == "There is no mask to score. Give at least one layer."
    with pytest.raises(
        SlotkitError, match=r"A tensor of shape \(3,\) has no inputs and outputs\. Give weights"
    ):
        score_layer(np.ones(3))
    with pytest.raises(SlotkitError) as caught:
        score_network({"a": np.ones((4, 5))}, {"a": np.full((4, 5), np.nan)})
    assert str(caught.value) == (
        "The weights of a are not all finite, so their graph has no scores. Give those of before the "
        "training diverged, or none."
    )
    with pytest.raises(SlotkitError) as caught:
        score_layer(np.ones((4, 5)), np.ones((5, 4)))
    assert str(caught.value) == (
        "The weights have shape (5, 4), and their mask (4, 5). Give both of one layer."
    )
