"""The staircase of one connection against brute force in exact fractions, and at its edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent.trajectories import INTERPRETED, Coarse, Indifferent, few, first_weight
from numpy.typing import NDArray
from torch import Tensor, nn

from slotkit.latent.engines import cpu_choose
from slotkit.latent.line import Hyperparameters, Line, advance, interval, line_scores, reselect
from slotkit.latent.weight import LatentWeight, choose
from slotkit.making import slotify

Array = NDArray[Any]

# Eighths: few enough for equal options and equal scores, and every product of two is exact.
EIGHTHS = st.integers(-6, 6).map(lambda number: number / 8)
SIGNS = st.sampled_from([1.0, -1.0])


@st.composite
def reels(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Options and initial scores of one connection."""
    k = draw(st.integers(1, 7))
    options = draw(st.lists(EIGHTHS, min_size=k, max_size=k))
    return options, draw(st.lists(EIGHTHS, min_size=k, max_size=k))


def brute_force(options: Sequence[float], initial: Sequence[float], u: Fraction, sign: float) -> int:
    """The lowest index of the highest sign * S_k + u * W_k, exactly."""
    scores = [Fraction(sign) * Fraction(s) + u * Fraction(w) for w, s in zip(options, initial, strict=True)]
    return scores.index(max(scores))


def grid(options: Sequence[float], initial: Sequence[float]) -> list[Fraction]:
    """A u in every step of the staircase, and every u where two lines cross."""
    lines = [(Fraction(w), Fraction(s)) for w, s in zip(options, initial, strict=True)]
    crossings = {(s - t) / (v - w) for w, s in lines for v, t in lines if v != w}
    crossings |= {-crossing for crossing in crossings}
    ordered = sorted(crossings) or [Fraction(0)]
    between = [(one + two) / 2 for one, two in itertools.pairwise(ordered)]
    return sorted([*ordered, *between, ordered[0] - 1, ordered[-1] + 1])


def row(values: Sequence[float]) -> Tensor:
    return torch.tensor([list(values)], dtype=torch.float32)


def torch_choice(options: Sequence[float], initial: Sequence[float], u: float, c: float) -> tuple[int, float]:
    line = Line(c=c)
    selected, value, _, _ = reselect(
        row(options), row(initial), torch.tensor([u * abs(c)], dtype=torch.float64), line
    )
    return int(selected), float(value)


@given(reels(), SIGNS)
def test_the_interval_is_where_the_choice_stays_and_no_smaller(
    reel: tuple[list[float], list[float]], sign: float
) -> None:
    options, initial = reel
    places = grid(options, initial)
    values = {u: options[brute_force(options, initial, u, sign)] for u in places}
    for u in places:
        k = brute_force(options, initial, u, sign)
        lower, upper = (
            float(bound) for bound in interval(row(options), row(initial), torch.tensor([k]), sign)
        )
        assert lower <= float(u) <= upper
        for other in places:
            # One rounding lies between a bound and the fraction that it stands for.
            slack = 1e-12 * max(1.0, abs(float(other)))
            if lower + slack < float(other) < upper - slack:
                assert values[other] == options[k]
            elif float(other) < lower - slack or float(other) > upper + slack:
                assert values[other] != options[k]


@given(reels(), SIGNS)
def test_reselect_is_the_argmax_and_never_decreases_in_u(
    reel: tuple[list[float], list[float]], sign: float
) -> None:
    options, initial = reel
    exact = [u for u in grid(options, initial) if Fraction(float(u)) == u]
    chosen = []
    for u in exact:
        selected, value = torch_choice(options, initial, float(u), sign)
        assert selected == brute_force(options, initial, u, sign)
        assert value == options[selected]
        chosen.append(value)
    assert len(exact) > 2 or len(options) == 1 or len(set(options)) == 1
    assert chosen == sorted(chosen)


def test_far_to_the_sides_are_the_extreme_options() -> None:
    options, initial = [0.5, -0.75, 0.25, 0.75], [0.1, 0.9, 0.5, 0.3]
    assert torch_choice(options, initial, 1e6, 1.0) == (3, 0.75)
    assert torch_choice(options, initial, -1e6, 1.0) == (1, -0.75)
    _, _, _, upper = reselect(row(options), row(initial), torch.tensor([1e6]), Line())
    _, _, lower, _ = reselect(row(options), row(initial), torch.tensor([-1e6]), Line())
    assert (float(lower), float(upper)) == (-math.inf, math.inf)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9), st.data(), st.floats(-8, 8), SIGNS)
def test_the_compiled_staircase_is_the_same(
    options: list[float], data: st.DataObject, latent: float, sign: float
) -> None:
    """choose and bounds of the numba engine, to the last bit, at any scores."""
    scores = st.lists(st.floats(-1, 1, width=32), min_size=len(options), max_size=len(options))
    initial = data.draw(scores)
    c = sign * data.draw(st.floats(0.01, 2))
    w, s = np.array(options, np.float32), np.array(initial, np.float32)
    selected, _, lower, upper = reselect(
        row(options), row(initial), torch.tensor([latent], dtype=torch.float64), Line(c=c)
    )
    assert cpu_choose.choose(np.float64(latent), c, w, s, workspace(len(w))) == int(selected)
    assert cpu_choose.bounds(int(selected), sign, w, s, workspace(len(w))) == (
        float(lower),
        float(upper),
    )


@given(reels(), st.sampled_from([0.0, 1.0, -1.0]))
def test_the_compiled_staircase_is_the_same_with_ties(
    reel: tuple[list[float], list[float]], sign: float
) -> None:
    options, initial = reel
    w, s = np.array(options, np.float32), np.array(initial, np.float32)
    for u in grid(options, initial):
        latent = torch.tensor([float(u)], dtype=torch.float64)
        selected, _, lower, upper = reselect(row(options), row(initial), latent, Line(c=sign))
        assert cpu_choose.choose(np.float64(float(u)), sign, w, s, workspace(len(w))) == int(selected)
        assert cpu_choose.bounds(int(selected), sign, w, s, workspace(len(w))) == (
            float(lower),
            float(upper),
        )


def workspace(k: int) -> Array:
    """What choose and bounds write over."""
    return np.full((2, k), np.nan)


def crossings(w: Array, s: Array, c: float) -> Array:
    """Latents at which two options have the same score, give or take rounding: where choices are narrow."""
    with np.errstate(all="ignore"):
        found = c * (s[:, None].astype(float) - s[None]) / (w[None].astype(float) - w[:, None])
    found = found[np.isfinite(found)].ravel()
    return np.concatenate([found, np.nextafter(found, np.inf), np.nextafter(found, -np.inf)])


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(15, 200),
    levels=st.sampled_from([1, 2, 5, 2**6, 2**23]),
    c=st.sampled_from([1.0, -0.37, 1e-25, 1e-44, 1e-60, 1e-200, 0.0, 1e30]),
    size=st.sampled_from([0.07, 1e-20, 1e25, 1e38]),
)
def test_the_compiled_staircase_is_the_same_with_many(
    seed: int, k: int, levels: int, c: float, size: float
) -> None:
    """Few levels have equal options, equal scores, and lines that cross in one point; sizes and c go where
    float32 has no digits left.
    """
    generator = np.random.default_rng(seed)
    w = (generator.integers(-levels, levels + 1, k) / levels * size).astype(np.float32)
    s = (generator.integers(1, levels + 1, k) / levels * 0.03).astype(np.float32)
    line = Line(c=c)
    narrow = generator.permutation(crossings(w, s, c))[:60]
    for a in [0.0, 1e-300, -1e-30, 3e-7, -0.5, 1.0, 1e9, -1e38, 1e300, math.inf, *narrow.tolist()]:
        latent = torch.tensor([a], dtype=torch.float64)
        selected, _, lower, upper = reselect(
            torch.from_numpy(w)[None], torch.from_numpy(s)[None], latent, line
        )
        if math.isfinite(a * size):
            assert cpu_choose.choose(a, c, w, s, workspace(k)) == int(selected)
        found = cpu_choose.bounds(int(selected), line.sign, w, s, workspace(k))
        assert found == (float(lower), float(upper))


def test_no_number_is_option_0() -> None:
    """A latent that overflowed and came back: some option, and no memory that isn't ours."""
    for k in (8, 40):
        w, s = np.ones(k, np.float32), np.ones(k, np.float32)
        assert cpu_choose.choose(math.nan, 1.0, w, s, workspace(k)) == 0


# ---------------------------------------------------------------------------------------------------
# The recurrence of c and e.


def hyperparameters(lr: float = 1.0, momentum: float = 0.0, weight_decay: float = 0.0) -> Hyperparameters:
    return Hyperparameters(lr, momentum, 1.0, False, weight_decay, 1.0)


def test_scores_stay_on_the_line() -> None:
    """c, e, A and B against K scores under torch.optim.SGD, for one connection and random gradients."""
    generator = torch.Generator().manual_seed(3)
    options, initial = (torch.randn(1, 5, generator=generator).double() for _ in range(2))
    scores = nn.Parameter(initial.clone())
    optimizer = torch.optim.SGD([scores], 0.3, 0.9, 0.0, 0.05, nesterov=True)
    line, position, velocity = Line(), torch.zeros(1).double(), torch.zeros(1).double()
    h = Hyperparameters(0.3, 0.9, 1.0, True, 0.05, 1.0)
    for gradient in torch.randn(100, 1, generator=generator).double():
        scores.grad = gradient.unsqueeze(-1) * options
        optimizer.step()
        line = line.after(h)
        position, velocity = advance(position, velocity, gradient, h)
        torch.testing.assert_close(
            line_scores(options, initial, position, line.c), scores.detach(), rtol=1e-12, atol=1e-12
        )


def test_a_line_can_turn() -> None:
    line, signs = Line(), []
    for weight_decay in (0.5, 0.5, 1.0, 1.0):
        line = line.after(hyperparameters(lr=1.5, weight_decay=weight_decay))
        signs.append(line.sign)
    assert signs == [1.0, 1.0, -1.0, 1.0]
    assert line.c == 0.25 * 0.25 * 0.25
    assert (line.sign, line.scale, line.steps) == (1.0, 64.0, 4)
    line = line.after(hyperparameters(lr=1.0, weight_decay=1.0))
    assert (line.c, line.sign, line.scale) == (0.0, 0.0, math.inf)


# ---------------------------------------------------------------------------------------------------
# Edges, in every engine.


def weight_at(
    engine: str, device: torch.device, c: float, dtype: torch.dtype, **settings: object
) -> LatentWeight:
    """A tensor of 40 connections with latents below, at and above zero, freshly chosen at `c`."""
    model = nn.Linear(8, 5).to(device, dtype)
    machine = slotify(model, **{"k": 4, "engine": engine, "tables": "stored", **settings})  # type: ignore[arg-type]
    weight = first_weight(machine)
    weight.latent.copy_(torch.linspace(-2, 2, 40).round(decimals=0))
    assert set(weight.latent.tolist()) >= {-1.0, 0.0, 1.0}
    weight.line.c = c
    weight.choose_all()
    return weight


def extremes(weight: LatentWeight) -> Tensor:
    """The largest option where A > 0, the smallest where A < 0, the first where A == 0."""
    options, _ = weight.rows(torch.arange(len(weight.latent), device=weight.latent.device))
    found = torch.where(weight.latent > 0, options.amax(dim=-1), options.amin(dim=-1))
    return torch.where(weight.latent == 0, options[:, 0], found).reshape(weight.parameter.shape)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@DTYPES
@pytest.mark.parametrize("c", [0.0, -0.0])
def test_c_is_zero(c: float, dtype: torch.dtype, engine: str, device: torch.device) -> None:
    weight = weight_at(engine, device, c, dtype)
    for latent in (weight.latent.clone(), -weight.latent, weight.latent.roll(1)):
        weight.latent.copy_(latent)
        choose([weight])
        assert torch.equal(weight.parameter, extremes(weight).to(dtype))
    zero = weight.latent.reshape(5, 8) == 0
    assert zero.any()
    assert (weight.selected()[zero] == 0).all()


@DTYPES
@pytest.mark.parametrize("c", [5e-324, 1e-310, 1e-200, 1e-60, -1e-200])
def test_c_has_almost_vanished(c: float, dtype: torch.dtype, engine: str, device: torch.device) -> None:
    """The latents decide; where they are zero the initial scores still do."""
    weight = weight_at(engine, device, c, dtype)
    for latent in (weight.latent.clone(), -weight.latent, weight.latent.roll(1)):
        weight.latent.copy_(latent)
        choose([weight])
        options, initial = weight.rows(torch.arange(40, device=device))
        by_score = options.gather(-1, (c * initial.double()).argmax(dim=-1, keepdim=True))[:, 0]
        expected = torch.where(weight.latent.reshape(5, 8) == 0, by_score.reshape(5, 8), extremes(weight))
        assert torch.equal(weight.parameter, expected.to(dtype))


@DTYPES
@pytest.mark.parametrize(("lr", "highest"), [(10.0, 0.0), (9.9, 1e-320)])
def test_c_underflows_in_training(
    lr: float, highest: float, dtype: torch.dtype, engine: str, device: torch.device
) -> None:
    """c is 0 after one step (lr * weight_decay = 1), or hardly more than the smallest float64 after 200."""
    model = nn.Linear(8, 5).to(device, dtype)
    machine = slotify(model, 4, engine=engine, tables="stored")
    optimizer = machine.optimizer(lr=lr, weight_decay=0.1)
    weight = first_weight(machine)
    gradient = torch.linspace(-1, 1, 40, device=device, dtype=dtype).reshape(5, 8)
    # The interpreter sees the last steps only.
    steps, weight.line.c = few(200, 4), 1e-312 if INTERPRETED and highest else 1.0
    for step in range(steps):
        weight.parameter.grad = gradient * (-1) ** step
        optimizer.step()
    assert abs(weight.line.c) <= highest
    assert torch.isfinite(weight.latent).all()
    assert torch.equal(weight.latent > 0, (gradient > 0).reshape(-1))
    assert torch.equal(weight.parameter, extremes(weight).to(dtype))
    assert torch.isfinite(machine.scores("weight")).all()


def test_one_option(engine: str, device: torch.device) -> None:
    weight = weight_at(engine, device, 0.5, torch.float64, k=1)
    assert torch.equal(weight.parameter, weight.options()[..., 0])
    assert weight.lower.isneginf().all()
    assert weight.upper.isposinf().all()


@pytest.mark.parametrize("init", [Coarse(), Coarse(1), Indifferent()], ids=repr)
@pytest.mark.parametrize("c", [1.0, -0.5])
def test_equal_options_and_equal_scores(
    c: float, init: Coarse | Indifferent, engine: str, device: torch.device
) -> None:
    """The lowest index of the highest score; of equal options, that with the highest score."""
    weight = weight_at(engine, device, c, torch.float64, init=init, k=6)
    options, initial = weight.options().cpu(), weight.reel.scores()
    latent, selected = weight.latent.reshape(5, 8).cpu(), weight.selected().cpu()
    for at in np.ndindex(5, 8):
        scores = c * initial[at].double() + latent[at] * options[at]
        assert selected[at] == scores.tolist().index(max(scores.tolist()))
        assert weight.parameter[at] == options[at][selected[at]]


def test_a_gradient_of_zero_changes_nothing(engine: str, device: torch.device) -> None:
    machine = slotify(nn.Linear(8, 5).to(device), 4, engine=engine)
    optimizer = machine.optimizer(lr=10.0, momentum=0.9)
    weight = first_weight(machine)
    before = weight.parameter.detach().clone()
    weight.parameter.grad = torch.zeros_like(weight.parameter)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(weight.parameter, before)
    assert not weight.latent.any()
    assert (weight.line.c, weight.line.e, weight.line.steps) == (1.0, 0.0, 3)
