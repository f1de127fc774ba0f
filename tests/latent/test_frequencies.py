"""Probabilistic sampling in every engine: options come as often as the softmax says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from latent.drawing import (
    assert_frequencies,
    layer,
    peak_latents,
    spread_latents,
    train,
)
from latent.trajectories import INTERPRETED, Centred, few, first_weight
from torch import Tensor

from slotkit.latent.engines.contract import Arrays
from slotkit.latent.engines.eager import Eager
from slotkit.latent.engines.registry import ENGINES, EngineEntry
from slotkit.latent.line import line_scores
from slotkit.reel import Init
from slotkit.selection import sample, take


@pytest.mark.parametrize("k", [1, 2, 8, 64], ids="k={}".format)
@pytest.mark.parametrize("factor", [0.0, 4.0, 60.0], ids=["flat", "uneven", "steep"])
def test_frequencies(factor: float, k: int, engine: str, device: torch.device) -> None:
    machine = layer(engine, k, device)
    spread_latents(machine, factor)
    assert_frequencies(machine)


@pytest.mark.parametrize("k", [2, 8, 64], ids="k={}".format)
def test_frequencies_of_a_sure_winner(k: int, engine: str, device: torch.device) -> None:
    machine = layer(engine, k, device)
    peak_latents(machine)
    winners = machine.scores("weight").double().softmax(dim=-1).amax(dim=-1)
    assert winners.min() > 0.9998
    assert winners.max() < 0.99995
    assert_frequencies(machine)


@pytest.mark.parametrize(
    ("k", "tables"), [(2, "recomputed"), (8, "stored"), (8, "recomputed"), (64, "stored")]
)
def test_frequencies_after_long_training(k: int, tables: str, engine: str, device: torch.device) -> None:
    """lr 50, draws all along: whatever an engine keeps of earlier scores is stale. c becomes negative."""
    machine = layer(engine, k, device, shape=(6, 5), tables=tables)
    optimizer = machine.optimizer(50.0, 0.9, 2e-2 if INTERPRETED else 1e-4)
    signs = set()
    for _ in range(3):
        train(machine, few(30), 50.0, optimizer)
        signs.add(first_weight(machine).line.sign)
        assert_frequencies(machine, few(100))
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("c", [1.0, -1.0, 30.0, -30.0, 0.0])
def test_frequencies_with_scores_of_both_signs(c: float, engine: str, device: torch.device) -> None:
    machine = layer(engine, 8, device, init=Centred())
    spread_latents(machine, 0.5)
    first_weight(machine).line.c = c
    assert_frequencies(machine)


@pytest.mark.parametrize("init", ["glorot-deviation", "glorot-uniform", Centred()], ids=str)
@pytest.mark.parametrize(
    ("sharing", "symmetric"),
    [("layer", True), ("channel", False), ("none", True), ("network", True), ("network", False)],
)
def test_frequencies_of_every_reel(
    sharing: str, symmetric: bool, init: str | Init, engine: str, device: torch.device
) -> None:
    tables = "recomputed" if isinstance(init, str) else "stored"
    machine = layer(engine, 6, device, (7, 5), sharing=sharing, symmetric=symmetric, init=init, tables=tables)
    spread_latents(machine, 3.0)
    assert_frequencies(machine, few(100, 6))


# ---------------------------------------------------------------------------------------------------
# Wrong on purpose: assert_frequencies must reject each of these.


def wrong_draws(probabilities: Callable[[Tensor, Arrays], Tensor]) -> Eager:
    class Wrong(Eager):
        def sample_rows(self, arrays: Arrays, c: float, part: Tensor, uniform: Tensor) -> Tensor:
            options, initial = arrays.rows(part)
            scores = line_scores(options, initial, arrays.latent[part], c)
            return take(options, sample(probabilities(scores, arrays), uniform))

    return Wrong()


def initial_scores(scores: Tensor, arrays: Arrays) -> Tensor:
    everything = torch.arange(len(arrays.latent))
    return line_scores(*arrays.rows(everything), torch.zeros(len(everything)), 1.0)


WRONG_DRAWS = {
    "uniform": wrong_draws(lambda scores, arrays: torch.zeros_like(scores)),
    "greedy": wrong_draws(lambda scores, arrays: scores * 1e9),
    "initial-scores": wrong_draws(initial_scores),
    "a-little-too-warm": wrong_draws(lambda scores, arrays: scores / 1.1),
    "accepts-too-often": wrong_draws(lambda scores, arrays: scores.minimum(scores.amax(-1, True) - 0.5)),
    "never-the-last": wrong_draws(lambda scores, arrays: scores.index_fill(-1, torch.tensor([7]), -1e9)),
}


@pytest.mark.parametrize("name", WRONG_DRAWS)
def test_wrong_draws_are_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("wrong_draws")
    module.ENGINE = WRONG_DRAWS[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wrong_draws", module)
    monkeypatch.setitem(ENGINES, "wrong", EngineEntry("wrong_draws", "", ENGINES["eager"].refusal))
    machine = layer("wrong", 8)
    spread_latents(machine, 4.0)
    with pytest.raises(AssertionError, match="wrong frequencies"):
        assert_frequencies(machine)
