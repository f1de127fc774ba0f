"""Choosing one of K: ties, probabilities, and the straight-through gradient."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import argmax, score_gradients, softmax
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.reel import TRAINING_DRAWS, Reel
from slotkit.selection import (
    find_selection,
    find_update,
    greedy,
    pick_uniformly,
    sample,
    select,
    take,
)

SMALLEST, LARGEST = 2.0**-24, 1 - 2.0**-24  # the ends of unit_uniform
ENDS = [SMALLEST, 3 * SMALLEST, 0.5, LARGEST - 2 * SMALLEST, LARGEST]
DTYPES = [torch.float32, torch.float64]
HALVES = [torch.float16, torch.bfloat16]
NEVER = -math.inf

# Scores whose softmax is anything from flat to certain, with options that are never chosen.
SCORES = st.one_of(
    st.floats(-3, 3, width=32),
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1e4, -1e4, NEVER]),
)
SCORE_LISTS = st.lists(SCORES, min_size=1, max_size=8).filter(lambda scores: max(scores) > NEVER)
UNIFORMS = st.one_of(st.sampled_from(ENDS), st.integers(0, 2**23 - 1).map(lambda n: (2 * n + 1) / 2**24))
INTEGERS = st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=6)


def dtype_id(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------------
# Greedy selection.


@given(INTEGERS)
def test_greedy_is_the_first_of_the_highest(device: torch.device, rows: list[list[int]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32, device=device)
    chosen = greedy(scores)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == [argmax(row) for row in rows]


@pytest.mark.parametrize("k", [1, 2, 7, 64, 1000])
def test_all_equal_scores_choose_the_first(k: int, device: torch.device) -> None:
    assert greedy(torch.full((3, 5, k), 0.25, device=device)).eq(0).all()


# ---------------------------------------------------------------------------------------------------
# Probabilistic sampling.


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@given(SCORE_LISTS, UNIFORMS)
def test_sample_inverts_the_cumulative_distribution(
    device: torch.device, dtype: torch.dtype, scores: list[float], uniform: float
) -> None:
    """F(k - 1) <= u <= F(k), up to the rounding of K exponentials and sums, of a k with p_k > 0."""
    probabilities = softmax(scores)
    k = int(sample(torch.tensor(scores, dtype=dtype, device=device), torch.tensor(uniform, device=device)))
    rounding = 4 * len(scores) * torch.finfo(dtype).eps
    assert math.fsum(probabilities[:k]) - rounding <= uniform <= math.fsum(probabilities[: k + 1]) + rounding
    assert probabilities[k] > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_sample_takes_the_first_that_reaches_the_number(device: torch.device, dtype: torch.dtype) -> None:
    """F(k - 1) < u <= F(k), where both sides are exact: one option ends where the next begins."""
    uniform = torch.tensor([SMALLEST, 0.25, 0.25 + SMALLEST, 0.5, 0.75, LARGEST], device=device)
    assert sample(torch.zeros(6, 4, dtype=dtype, device=device), uniform).tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "zero", [NEVER, -1e4, -2e4], ids=["minus-infinity", "ten-thousand-below", "twice-that"]
)
@given(st.lists(st.booleans(), min_size=1, max_size=6).filter(any))
def test_options_of_probability_zero_are_never_chosen(
    device: torch.device, dtype: torch.dtype, zero: float, possible: list[bool]
) -> None:
    scores = torch.tensor([0.0 if one else zero for one in possible], dtype=dtype, device=device)
    uniform = torch.tensor(ENDS, device=device)
    chosen = sample(scores.expand(len(ENDS), -1), uniform).tolist()
    assert all(possible[k] for k in chosen)
    # Equal chances: the smallest number takes the first that is possible, the largest the last.
    assert chosen[0] == possible.index(True)
    assert chosen[-1] == len(possible) - 1 - possible[::-1].index(True)


FREQUENCY_SCORES = {
    "flat": [0.0] * 8,
    "two": [0.0, 1.0],
    "peaked": [0.0, 5.0, -1.0, 4.5],
    "far-from-zero": [1000.0, 1001.0, 999.0],
    "one-impossible": [0.5, NEVER, 0.0],
    "certain": [0.0, 1e4, 0.0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scores", FREQUENCY_SCORES.values(), ids=FREQUENCY_SCORES)
def test_frequencies_follow_the_softmax(
    scores: list[float], dtype: torch.dtype, device: torch.device
) -> None:
    """Hoeffding: P(|frequency - p| >= e) <= 2 exp(-2 n e^2) for one option; K of them (Bonferroni) stay
    within e = sqrt(ln(2 K / 1e-9) / 2 n) with odds of 1e-9 against."""
    uniform = Reel("weight", (200, 200), 1, seed=17).draw(TRAINING_DRAWS, 0, device).flatten()
    n, k = len(uniform), len(scores)
    chosen = sample(torch.tensor(scores, dtype=dtype, device=device).expand(n, k), uniform)
    frequencies = torch.bincount(chosen, minlength=k).double().cpu() / n
    error = (frequencies - torch.tensor(softmax(scores), dtype=torch.float64)).abs().max().item()
    assert error < math.sqrt(math.log(2 * k / 1e-9) / (2 * n))


def test_the_frequency_test_can_fail() -> None:
    """Scores 0.1 apart from the ones used lie outside the bound above."""
    wrong = abs(softmax([0.0, 1.0])[1] - softmax([0.0, 1.1])[1])
    assert wrong > math.sqrt(math.log(2 * 2 / 1e-9) / (2 * 40_000))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@given(UNIFORMS, st.floats(-1e4, 1e4, width=32))
def test_one_option_is_always_chosen(
    device: torch.device, dtype: torch.dtype, uniform: float, score: float
) -> None:
    scores = torch.full((2, 3, 1), score, dtype=dtype, device=device)
    assert sample(scores, torch.full((2, 3), uniform, device=device)).eq(0).all()


@pytest.mark.parametrize("dtype", HALVES, ids=dtype_id)
def test_half_precision_gives_equal_options_equal_chances(dtype: torch.dtype, device: torch.device) -> None:
    """A cumulative sum in bfloat16 counts 255, 256, 256, 258: every second option would be lost."""
    k = 3000
    middles = (torch.arange(k, device=device, dtype=torch.float64) + 0.5) / k
    chosen = sample(torch.zeros(k, k, dtype=dtype, device=device), middles.float())
    assert chosen.tolist() == list(range(k))


@pytest.mark.parametrize("dtype", HALVES, ids=dtype_id)
@pytest.mark.parametrize("k", [8, 64], ids="k={}".format)
def test_half_precision_is_computed_in_single_precision(
    k: int, dtype: torch.dtype, device: torch.device
) -> None:
    scores = torch.randn(2000, k, generator=torch.Generator().manual_seed(k)).to(device, dtype)
    uniform = Reel("weight", (40, 50), 1, seed=3).draw(TRAINING_DRAWS, 0, device).flatten()
    assert torch.equal(sample(scores, uniform), sample(scores.float(), uniform))
    assert scores.dtype == dtype


def test_shapes(device: torch.device) -> None:
    """(..., K) and (...) to (...), down to a single connection and to none."""
    for shape in [(), (1,), (0,), (3, 0), (2, 3), (2, 1, 3, 2)]:
        scores, uniform = torch.zeros(*shape, 4, device=device), torch.full(shape, 0.6, device=device)
        for chosen in (greedy(scores), sample(scores, uniform)):
            assert chosen.shape == shape
            assert chosen.dtype == torch.int64
        assert sample(scores, uniform).eq(2).all()
        assert take(scores, sample(scores, uniform)).shape == shape


def test_sample_leaves_its_arguments_alone(device: torch.device) -> None:
    scores, uniform = torch.tensor([[0.0, 1.0, 2.0]], device=device), torch.tensor([0.9], device=device)
    sample(scores, uniform)
    assert scores.tolist() == [[0.0, 1.0, 2.0]]
    assert uniform.item() == torch.tensor(0.9).item()


@given(st.integers(1, 1000), UNIFORMS)
def test_uniform_pick_is_the_floor(device: torch.device, k: int, uniform: float) -> None:
    index = int(pick_uniformly(k, torch.tensor(uniform, device=device)))
    assert index == math.floor(Fraction(uniform) * k)
    assert 0 <= index < k


# ---------------------------------------------------------------------------------------------------
# The weight in use and its straight-through gradient.


def connections(seed: int, k: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, options and dL/dw of six connections; no two scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    scores, options = (torch.randn(2, 3, k, generator=generator, dtype=torch.float64) for _ in range(2))
    gradient = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return scores.to(device), options.to(device), gradient.to(device)


def weight_and_gradient(
    scores: Tensor, options: Tensor, selected: Tensor, gradient: Tensor, update: str
) -> tuple[Tensor, Tensor]:
    scores = scores.clone().requires_grad_(True)
    weight = select(scores, options, selected, update)
    weight.backward(gradient)  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    return weight.detach(), scores.grad


@pytest.mark.parametrize("update", ["all", "selected"])
@given(st.integers(0, 1000), st.integers(1, 6), st.booleans())
def test_straight_through_against_the_loop(
    device: torch.device, update: str, seed: int, k: int, probabilistic: bool
) -> None:
    scores, options, gradient = connections(seed, k, device)
    uniform = Reel("weight", (2, 3), 1, seed=seed).draw(TRAINING_DRAWS, 0, device)
    selected = sample(scores, uniform) if probabilistic else greedy(scores)
    weight, result = weight_and_gradient(scores, options, selected, gradient, update)
    chosen = selected.cpu().numpy()
    expected = score_gradients(options.cpu().numpy(), chosen, gradient.cpu().numpy(), update)
    np.testing.assert_array_equal(result.cpu().numpy(), expected)
    for connection in np.ndindex(2, 3):
        assert weight[connection] == options[(*connection, chosen[connection])]


@pytest.mark.parametrize("update", ["all", "selected"])
@given(st.integers(0, 1000), st.permutations(range(5)))
def test_permuting_options_with_their_scores(
    device: torch.device, update: str, seed: int, order: list[int]
) -> None:
    """The weight stays what it was, and the gradients move with their scores."""
    scores, options, gradient = connections(seed, 5, device)
    weight, result = weight_and_gradient(scores, options, greedy(scores), gradient, update)
    permuted = scores[..., order], options[..., order]
    weight_permuted, result_permuted = weight_and_gradient(*permuted, greedy(permuted[0]), gradient, update)
    assert torch.equal(weight_permuted, weight)
    assert torch.equal(result_permuted, result[..., order])


def test_shared_options_get_each_connection_its_own_gradient(device: torch.device) -> None:
    scores, options, gradient = connections(0, 4, device)
    shared = options[:1, :1].expand_as(scores)
    for update in ("all", "selected"):
        broadcast = weight_and_gradient(scores, shared, greedy(scores), gradient, update)
        stored = weight_and_gradient(scores, shared.contiguous(), greedy(scores), gradient, update)
        assert all(torch.equal(one, two) for one, two in zip(broadcast, stored, strict=True))


@pytest.mark.parametrize("update", ["all", "selected"])
def test_options_are_constants_of_a_second_derivative(device: torch.device, update: str) -> None:
    """The gradient of the scores moves with that of the weight alone."""
    scores, options, gradient = connections(0, 4, device)
    scores.requires_grad_(True)
    gradient.requires_grad_(True)
    weight = select(scores, options, greedy(scores), update)
    (first,) = torch.autograd.grad((weight * gradient).sum(), scores, create_graph=True)
    by_scores, by_gradient = torch.autograd.grad(first.sum(), (scores, gradient), allow_unused=True)
    assert by_scores is None or not by_scores.any()
    torch.testing.assert_close(by_gradient, options.sum(-1) if update == "all" else weight.detach())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no rule for scatter
@pytest.mark.parametrize("update", ["all", "selected"])
def test_gradients_of_each_example(device: torch.device, update: str) -> None:
    scores, options, gradient = connections(0, 4, device)
    examples = torch.stack([gradient, -2 * gradient, gradient.cos()])

    def loss(scores: Tensor, example: Tensor) -> Tensor:
        return (select(scores, options, greedy(scores), update) * example).sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(scores, examples)
    for example, result in zip(examples, found, strict=True):
        assert torch.equal(result, weight_and_gradient(scores, options, greedy(scores), example, update)[1])


def test_options_get_no_gradient(device: torch.device) -> None:
    scores, options, _ = connections(0, 4, device)
    scores.requires_grad_(True)
    options.requires_grad_(True)
    select(scores, options, greedy(scores)).sum().backward()  # type: ignore[no-untyped-call]
    assert options.grad is None
    assert scores.grad is not None


# ---------------------------------------------------------------------------------------------------
# Names.


@pytest.mark.parametrize(
    ("name", "selection"),
    [
        ("greedy", "greedy"),
        ("GS", "greedy"),
        ("gs", "greedy"),
        ("Probabilistic", "probabilistic"),
        ("PS", "probabilistic"),
    ],
)
def test_names_of_selections(name: str, selection: str) -> None:
    assert find_selection(name) == selection


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        SlotkitError, match=r"There is no selection 'best'\. Choose greedy \(GS\) or probabilistic \(PS\)\."
    ):
        find_selection("best")
    with pytest.raises(
        SlotkitError, match=re.escape("There is no update 'some'. Choose all (the paper) or selected")
    ):
        find_update("some")
    assert [find_update(name) for name in ("all", "selected")] == ["all", "selected"]
