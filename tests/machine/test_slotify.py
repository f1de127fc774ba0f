"""slotify: which options a model gets, and what is refused without a trace."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from small_networks import (
    equal,
    network,
    same_snapshot,
    slotify,
    snapshot,
    weights,
)
from torch import nn

from slotkit import making
from slotkit.errors import SlotkitError
from slotkit.reel import Reel
from slotkit.selection import greedy, take


def test_weights_become_the_selected_options(device: torch.device) -> None:
    model = network().to(device)
    machine = slotify(model, k=4, seed=3)
    assert machine.model is model
    assert list(machine.reels) == ["fc1.weight", "fc2.weight"]
    for name, shape in {"fc1.weight": (5, 6), "fc2.weight": (3, 5)}.items():
        reel = Reel(name, shape, 4, seed=3)
        assert machine.reels[name] == reel
        assert torch.equal(machine.options(name).cpu(), reel.options())
        assert torch.equal(machine.scores(name).cpu(), reel.scores())
        assert torch.equal(machine.selected(name).cpu(), greedy(reel.scores()))
        assert torch.equal(weights(machine)[name].cpu(), take(reel.options(), greedy(reel.scores())))
        assert machine.scores(name).device.type == device.type


def test_settings_reach_the_reels() -> None:
    settings: dict[str, Any] = {
        "k": 6,
        "seed": 9,
        "init": "glorot-deviation",
        "sharing": "channel",
        "symmetric": True,
    }
    machine = slotify(nn.Sequential(nn.ConvTranspose2d(4, 2, 3), nn.Conv1d(2, 3, 1)), **settings)
    assert machine.reels == {
        "0.weight": Reel("0.weight", (4, 2, 3, 3), channel_dim=1, **settings),
        "1.weight": Reel("1.weight", (3, 2, 1), channel_dim=0, **settings),
    }


@pytest.mark.parametrize(("symmetric", "values"), [(False, "plain"), (True, "in pairs +v -v")])
def test_repr(symmetric: bool, values: str) -> None:
    machine = slotify(network(), k=4, seed=3, sharing="layer", symmetric=symmetric, selection="PS")
    assert repr(machine) == (
        "SlotMachine(45 connections in 2 tensors, K = 4, probabilistic selection, "
        f"options {values}, sharing layer, seed 3, dense form)"
    )


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "k": ({"k": 0}, "k is 0. A connection needs at least one option"),
    "seed": ({"seed": -1}, "The seed is -1."),
    "sharing": ({"sharing": "row"}, "There is no sharing 'row'."),
    "init": ({"init": "he"}, "There is no init 'he'."),
    "symmetric": ({"k": 3, "symmetric": True}, "symmetric options come in pairs"),
    "selection": ({"selection": "best"}, "There is no selection 'best'."),
    "update": ({"update": "some"}, "There is no update 'some'."),
    "form": ({"form": "spiral"}, "There is no form 'spiral'. Choose one of latent, dense."),
    "tables": (
        {"tables": "shelved"},
        "There is no storage policy tables='shelved'. Choose one of auto, stored, recomputed.",
    ),
    "latent-selected": (
        {"form": "latent", "update": "selected"},
        "update='selected' moves one score of K, so the scores leave the line that the latent form "
        "relies on. Use form='dense'.",
    ),
    "dense-engine": (
        {"engine": "eager"},
        "engine and tables belong to the latent form. Leave them out, or use",
    ),
    "dense-tables": ({"tables": "stored"}, "engine and tables belong to the latent form."),
    "seed-true": ({"seed": True}, "The seed is True."),
    "others": ({"others": "gone"}, "`others` is 'gone'. Choose one of frozen, trained, kept."),
    "where-no-match": ({"where": "fc9.weight"}, "`where` names 'fc9.weight', which matches no parameter."),
    "where-nothing": ({"where": lambda name, value: False}, "Sequential has no weight to slotify"),
    "one-dimension": ({"where": "fc1.*"}, "fc1.bias has shape (5,). A reel needs a weight of two dimensions"),
}


@pytest.mark.parametrize(("settings", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_leave_the_model_as_it_was(settings: dict[str, Any], text: str) -> None:
    model = network()
    before = snapshot(model)
    with pytest.raises(SlotkitError, match=re.escape(text)):
        slotify(model, **settings)
    assert same_snapshot(snapshot(model), before)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (
            None,
            "Linear is already a slot machine: every weight of its Linear and Conv layers belongs to one.",
        ),
        (
            "*.original",
            "parametrizations.weight.original belongs to a slot machine already. Leave it out of `where`.",
        ),
    ],
    ids=["default", "by-name"],
)
def test_slotify_twice_is_refused(where: str | None, text: str) -> None:
    model = nn.Linear(3, 2)
    slotify(model)
    before = snapshot(model)
    with pytest.raises(SlotkitError, match=re.escape(text)):
        slotify(model, where=where)
    assert same_snapshot(snapshot(model), before)


def test_a_later_tensor_that_is_refused_leaves_the_earlier_ones() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(torch.zeros(0, 2))
    before = snapshot(model)
    with pytest.raises(
        SlotkitError,
        match=re.escape("1.weight has shape (0, 2): no connections. Leave it out of `where`."),
    ):
        slotify(model)
    assert same_snapshot(snapshot(model), before)
    assert list(slotify(model, where="0.weight").reels) == ["0.weight"]


def test_the_latent_form_is_the_default() -> None:
    machine = making.slotify(network(), engine="eager")
    assert machine.form.name == "latent"
    assert slotify(network()).form.name == "dense"


def test_assigning_a_weight_is_refused() -> None:
    machine = slotify(nn.Sequential(nn.Linear(3, 2)), k=4)
    before = weights(machine)
    with pytest.raises(
        SlotkitError,
        match=re.escape(
            "0.weight is a slot machine's weight and can't be assigned: it is always one of its 4 options. "
            "Change the scores, or build an ordinary network for other weights."
        ),
    ):
        machine.model[0].weight = torch.zeros(2, 3)  # type: ignore[index]
    assert equal(weights(machine), before)


@pytest.mark.parametrize("ask", ["options", "scores", "selected"])
def test_unknown_reel(ask: str) -> None:
    machine = slotify(network())
    with pytest.raises(
        SlotkitError, match=r"There is no reel 'fc3'\. This machine has fc1\.weight, fc2\.weight\."
    ):
        getattr(machine, ask)("fc3")


def test_a_reel_is_suggested() -> None:
    with pytest.raises(
        SlotkitError, match=r"There is no reel 'fc1'\. Did you mean fc1\.weight\? This machine"
    ):
        slotify(network()).options("fc1")


@pytest.mark.parametrize(("form", "engine"), [("latent", "eager"), ("dense", "auto")])
def test_a_slot_machine_is_not_made_twice(form: str, engine: str) -> None:
    model = network()
    machine = slotify(model, form=form, engine=engine)
    before = snapshot(model)
    with pytest.raises(SlotkitError) as fault:
        making.slotify(model)
    assert str(fault.value) == (
        f"{type(model).__name__} is already a slot machine: every weight of its Linear and Conv layers "
        "belongs to one. Go on with that machine, or slotify a new model."
    )
    assert same_snapshot(snapshot(model), before)
    assert machine.model is model
