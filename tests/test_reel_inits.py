"""Reels: inits of one's own, and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracle import distinct_sets, same_bits
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.making import slotify
from slotkit.reel import (
    EVALUATION_DRAWS,
    INITIAL_PICK,
    INITS,
    MIXED_INITS,
    TRAINING_DRAWS,
    Fans,
    Reel,
    UniformInit,
    find_init,
    init_name,
)
from slotkit.selection import greedy, take

REEL = Reel("fc1.weight", (7, 5), 4, seed=11)


# ---------------------------------------------------------------------------------------------------
# Inits of one's own, and refusals.


class Plain:
    """The uniform numbers themselves."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform


class Shifted:
    """Options of size 2 .. 4 with fan_in added, scores below zero."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform + 3 + fans.fan_in

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform - 2


def test_init_object() -> None:
    plain, shifted = Reel("weight", (4, 3), 5, init=Plain()), Reel("weight", (4, 3), 5, init=Shifted())
    assert same_bits(shifted.options(), plain.options() + 3 + 3)
    assert same_bits(shifted.scores(), plain.scores() - 2)
    assert not same_bits(shifted.options(), plain.options())


def test_init_object_with_shared_symmetric_options() -> None:
    options = Reel("weight", (4, 3), 4, init=Shifted(), sharing="layer", symmetric=True).options()
    assert distinct_sets(options) == 1
    assert options.sum() == 0
    assert (options.abs() > 5).all()


@pytest.mark.parametrize("name", INITS)
def test_inits_by_name(name: str) -> None:
    by_object = Reel("weight", (4, 3), 5, init=INITS[name])
    assert find_init(name) is INITS[name]
    assert same_bits(by_object.options(), Reel("weight", (4, 3), 5, init=name).options())


@pytest.mark.parametrize("shape", [(30, 40), (8, 6, 3, 3)])
@pytest.mark.parametrize("name", MIXED_INITS)
def test_a_mixed_init_has_the_options_of_one_and_the_scores_of_the_other(
    name: str, shape: tuple[int, ...]
) -> None:
    sources = {
        "deviation-options-uniform-scores": ("glorot-deviation", "glorot-uniform"),
        "uniform-options-deviation-scores": ("glorot-uniform", "glorot-deviation"),
    }
    options, scores = (Reel("weight", shape, 5, init=source) for source in sources[name])
    mixed = Reel("weight", shape, 5, init=name)
    assert same_bits(mixed.options(), options.options())
    # Its bound is a product of two float32 numbers, so it may be a last bit away.
    torch.testing.assert_close(mixed.scores(), scores.scores(), rtol=3e-7, atol=0)


class Halved(UniformInit):
    """Options half as long, and nothing said of it but in the method."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return super().options(uniform, fans) * 0.5


class Lowered(UniformInit):
    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return super().scores(uniform, fans) - 1.0


OWN = {
    "options": Halved(6.0),
    "scores": Lowered(6.0),
    "negative scores": UniformInit(6.0, -1.0, -1.0),
}


@pytest.mark.parametrize("what", OWN)
def test_an_engine_gets_no_numbers_that_say_something_else(what: str) -> None:
    """A compiled engine made uniform options, and positive scores, of the bound."""
    assert Reel("weight", (4, 3), 5, init=UniformInit(6.0)).compiled_spec() is not None
    assert Reel("weight", (4, 3), 5, init=OWN[what]).compiled_spec() is None
    machine = slotify(nn.Linear(3, 4), 5, init=OWN[what])
    reel = machine.reels["weight"]
    chosen = take(reel.options(), greedy(reel.scores()))
    assert same_bits(machine.model.get_parameter("weight").detach(), chosen)


ONE_METHOD = type("OneMethod", (), {"options": Plain.options})()

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "k-zero": ({"k": 0}, "k is 0. A connection needs at least one option: give an integer from 1 up."),
    "k-negative": ({"k": -3}, "k is -3. A connection needs at least one option"),
    "k-true": ({"k": True}, "k is True. A connection needs at least one option"),
    "k-float": ({"k": 8.0}, "k is 8.0. A connection needs at least one option"),
    "seed-negative": ({"seed": -1}, "The seed is -1. Give an integer from 0 to 2**63 - 1."),
    "seed-too-large": ({"seed": 2**63}, f"The seed is {2**63}. Give an integer from 0 to 2**63 - 1."),
    "seed-true": ({"seed": True}, "The seed is True. Give an integer from 0 to 2**63 - 1."),
    "seed-false": ({"seed": False}, "The seed is False. Give an integer from 0 to 2**63 - 1."),
    "seed-float": ({"seed": 0.5}, "The seed is 0.5. Give an integer"),
    "sharing": (
        {"sharing": "row"},
        "There is no sharing 'row'. Choose one of none, layer, channel, network.",
    ),
    "init-name": ({"init": "he"}, "There is no init 'he'. Choose one of glorot-uniform, glorot-deviation, "),
    "init-object": (
        {"init": ONE_METHOD},
        "the methods options(uniform, fans) and scores(uniform, fans); OneMethod lacks",
    ),
    "odd-symmetric": (
        {"k": 3, "symmetric": True},
        "k is 3, but symmetric options come in pairs +v, -v. Choose an even k.",
    ),
    "one-dimension": (
        {"shape": (5,)},
        "weight has shape (5,). A reel needs a weight of two dimensions or more",
    ),
    **{
        f"no-connections-{'-'.join(map(str, shape))}": (
            {"shape": shape},
            f"weight has shape {shape}: no connections. Leave it out of `where`.",
        )
        for shape in [(0,), (0, 3), (4, 0), (4, 3, 0), (0, 0)]
    },
    "no-dimension": ({"shape": ()}, "weight has shape (). A reel needs a weight of two dimensions or more"),
}


@pytest.mark.parametrize(("change", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(change: dict[str, Any], text: str) -> None:
    settings: dict[str, Any] = {"name": "weight", "shape": (4, 3), "k": 4}
    Reel(**settings)
    with pytest.raises(SlotkitError, match=re.escape(text)):
        Reel(**(settings | change))


@pytest.mark.parametrize("number", [-1, 2**32, 2**40])
@pytest.mark.parametrize("stream", [TRAINING_DRAWS, EVALUATION_DRAWS, INITIAL_PICK])
def test_draw_numbers_beyond_the_counter_are_refused(stream: int, number: int) -> None:
    """The third counter word has 32 bits: number 2**32 would be draw 0 again."""
    with pytest.raises(
        SlotkitError,
        match=re.escape(f"The draw number is {number}. Give an integer from 0 to 2**32 - 1."),
    ):
        REEL.draw(stream, number)


@dataclass(frozen=True)
class Scaled(Plain):
    """Tells its settings in its repr."""

    factor: float


def test_names_of_inits_in_a_state() -> None:
    assert init_name("glorot-deviation") == "glorot-deviation"
    assert init_name(Scaled(2.0)) == "Scaled(factor=2.0)"
    assert init_name(INITS["glorot-deviation"]) == repr(INITS["glorot-deviation"])
    assert init_name(Plain()) == init_name(Plain()) == "Plain"
    assert init_name(Shifted()) == "Shifted"
