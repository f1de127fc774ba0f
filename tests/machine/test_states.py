"""State dicts, of the machine and of its model: what they hold, bring back and refuse."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from small_networks import (
    equal,
    network,
    selections,
    slotify,
    train,
    weights,
)
from torch import Tensor, nn

from slotkit import making
from slotkit.errors import SlotkitError
from slotkit.layers import SlotLinear
from slotkit.reel import Fans


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("others", ["frozen", "trained"])
def test_state_round_trip_continues_the_run(selection: str, others: str) -> None:
    settings: dict[str, Any] = {"k": 4, "selection": selection, "others": others, "seed": 2}
    machine = slotify(network(), **settings)
    train(machine, 3)
    state = copy.deepcopy(machine.state_dict())
    fresh = slotify(network(), **settings)
    fresh.load_state_dict(state)
    assert equal(weights(fresh), weights(machine))
    assert equal(selections(fresh), selections(machine))
    assert equal(dict(fresh.model.state_dict()), dict(machine.model.state_dict()))
    assert fresh.draws == machine.draws
    expected = train(machine, 3)
    assert all(torch.equal(one, two) for one, two in zip(train(fresh, 3), expected, strict=True))
    assert equal(dict(fresh.model.state_dict()), dict(machine.model.state_dict()))


def test_state_of_a_greedy_machine_holding_a_sample() -> None:
    machine, fresh = (slotify(network(), 8) for _ in range(2))
    machine.spin("PS")
    fresh.load_state_dict(machine.state_dict())
    assert equal(selections(fresh), selections(machine))
    assert fresh.draws == 1


def test_state_of_a_greedy_machine_that_holds_no_longer() -> None:
    machine, fresh = (slotify(network(), 8) for _ in range(2))
    machine.spin("PS")
    fresh.load_state_dict(machine.state_dict())
    machine.spin()
    fresh.load_state_dict(machine.state_dict())
    assert equal(selections(fresh), selections(machine))
    assert machine.state_dict()["held"] == {}


def test_what_a_state_holds() -> None:
    machine = slotify(network(), 4, "PS", seed=2)
    state = machine.state_dict()
    assert state["settings"] == {
        "reel_spec": 1,
        "form": "dense",
        "k": 4,
        "seed": 2,
        "init": "glorot-uniform",
        "sharing": "none",
        "symmetric": False,
        "selection": "probabilistic",
        "update": "all",
        "reels": {"fc1.weight": [5, 6], "fc2.weight": [3, 5]},
    }
    assert state["draws"] == 1
    assert equal(state["scores"], {name: machine.scores(name) for name in machine.reels})
    assert equal(state["held"], selections(machine))
    assert set(state["others"]) == {
        *("fc1.bias", "fc2.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    }


def test_a_loaded_state_is_a_copy() -> None:
    machine = slotify(network(), 4, "PS")
    train(machine, 1)
    state = copy.deepcopy(machine.state_dict())
    before = copy.deepcopy(state)
    machine.load_state_dict(state)
    train(machine, 2)
    machine.load_state_dict(state)
    machine.model.load_state_dict(slotify(network(), 4, "PS").model.state_dict())  # copies in place
    for part in ("scores", "held", "others"):
        assert equal(state[part], before[part])


OTHER_MACHINES: dict[str, tuple[dict[str, Any], str]] = {
    "k": ({"k": 6}, "k is 6 there and 4 here"),
    "seed": ({"seed": 1}, "seed is 1 there and 0 here"),
    "init": ({"init": "glorot-deviation"}, "init is 'glorot-deviation' there and 'glorot-uniform' here"),
    "sharing": ({"sharing": "layer"}, "sharing is 'layer' there and 'none' here"),
    "symmetric": ({"symmetric": True}, "symmetric is True there and False here"),
    "selection": ({"selection": "PS"}, "selection is 'probabilistic' there and 'greedy' here"),
    "update": ({"update": "selected"}, "update is 'selected' there and 'all' here"),
    "form": ({"form": "latent"}, "form is 'latent' there and 'dense' here"),
    "reels": ({"where": "fc1.weight"}, "reels is {'fc1.weight': [5, 6]} there and"),
}


@pytest.mark.parametrize(("settings", "text"), OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_states_of_other_machines_are_refused(settings: dict[str, Any], text: str) -> None:
    machine = slotify(network(), k=4)
    before = copy.deepcopy(machine.state_dict())
    with pytest.raises(SlotkitError, match=re.escape("This state belongs to another slot machine: " + text)):
        machine.load_state_dict(slotify(network(), **({"k": 4} | settings)).state_dict())
    after = machine.state_dict()
    assert equal(after["scores"], before["scores"])
    assert equal(after["others"], before["others"])
    assert after["held"] == before["held"] == {}
    assert after["draws"] == before["draws"]


def test_states_of_models_with_other_parameters_are_refused() -> None:
    machine = slotify(network(), k=4)
    model = network()
    model.norm = nn.BatchNorm1d(5, affine=False)
    state = slotify(model, k=4, seed=0).state_dict()
    state["scores"] = {name: scores + 1 for name, scores in state["scores"].items()}
    before = machine.scores("fc1.weight").clone()
    with pytest.raises(
        SlotkitError, match=r"This state belongs to a model with other parameters\. Build that model first\."
    ):
        machine.load_state_dict(state)
    assert torch.equal(machine.scores("fc1.weight"), before)


def test_model_state_dict_of_another_seed_is_refused() -> None:
    state = slotify(network(), k=4, seed=1).model.state_dict()
    with pytest.raises(
        RuntimeError, match=r"fc1\.weight: this state_dict was saved with other options \(seed 1\)"
    ):
        slotify(network(), k=4, seed=0).model.load_state_dict(state)


@pytest.mark.parametrize(
    "settings",
    [{"init": "glorot-deviation"}, {"sharing": "layer"}, {"symmetric": True}, {"k": 2}],
    ids=lambda one: next(iter(one)),
)
def test_model_state_dict_with_other_options_is_refused(settings: dict[str, Any]) -> None:
    state = slotify(network(), **({"k": 4} | settings)).model.state_dict()
    with pytest.raises(RuntimeError, match="this state_dict was saved with other options"):
        slotify(network(), k=4).model.load_state_dict(state)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_model_state_dict_round_trip(selection: str) -> None:
    machine, fresh = (slotify(network(), 4, selection) for _ in range(2))
    train(machine, 3)
    fresh.model.load_state_dict(machine.model.state_dict())
    assert equal(weights(fresh), weights(machine))


def test_model_state_dict_of_a_greedy_machine_holding_a_sample() -> None:
    machine, fresh = (slotify(network(), 8) for _ in range(2))
    machine.spin("PS")
    fresh.model.load_state_dict(machine.model.state_dict())
    assert equal(selections(fresh), selections(machine))


def test_model_state_dict_of_a_greedy_machine_that_holds_no_longer() -> None:
    machine, fresh = (slotify(network(), 8) for _ in range(2))
    fresh.spin("PS")
    fresh.model.load_state_dict(machine.model.state_dict())
    assert equal(selections(fresh), selections(machine))


# ---------------------------------------------------------------------------------------------------
# States that lack something.

LACKING: dict[str, tuple[str, list[str], str]] = {
    "one-score": ("scores", ["fc2.weight"], "scores/fc2.weight"),
    "all-scores": ("scores", ["fc1.weight", "fc2.weight"], "scores/fc1.weight, scores/fc2.weight"),
    "one-held": ("held", ["fc2.weight"], "held/fc2.weight"),
    "all-held": ("held", ["fc1.weight", "fc2.weight"], "held/fc1.weight, held/fc2.weight"),
}


@pytest.mark.parametrize(("table", "names", "text"), LACKING.values(), ids=LACKING)
def test_a_state_that_lacks_tensors_changes_nothing(table: str, names: list[str], text: str) -> None:
    machine, other = (slotify(network(), 4, "PS", others="trained") for _ in range(2))
    train(other, 3)
    state = copy.deepcopy(other.state_dict())
    for name in names:
        state[table].pop(name)
    if not state[table]:
        state.pop(table)
    before = copy.deepcopy(machine.state_dict())
    with pytest.raises(
        SlotkitError,
        match=re.escape(f"This state lacks {text}. It is damaged, or was put together by hand."),
    ):
        machine.load_state_dict(state)
    after = machine.state_dict()
    assert all(equal(after[part], before[part]) for part in ("scores", "held", "others"))
    assert after["draws"] == before["draws"] == 1


@pytest.mark.parametrize("shape", [(4,), (5, 6, 3)], ids=["broadcasts", "does-not"])
def test_a_state_with_scores_of_another_shape_changes_nothing(shape: tuple[int, ...]) -> None:
    machine, other = (slotify(network(), 4, others="trained") for _ in range(2))
    train(other, 3)
    state = copy.deepcopy(other.state_dict())
    state["scores"]["fc1.weight"] = torch.zeros(shape)
    before = copy.deepcopy(machine.state_dict())
    with pytest.raises(SlotkitError, match=r"fc1\.weight"):
        machine.load_state_dict(state)
    after = machine.state_dict()
    assert all(equal(after[part], before[part]) for part in ("scores", "others"))


# ---------------------------------------------------------------------------------------------------
# States with numbers that no machine has.

OF_HELD = "held/fc1.weight, which is not the number of an option, 0 to 3, a connection"
FORGED: dict[str, tuple[str, tuple[str, ...], Any, str]] = {
    "draws-of-a-fraction": ("latent", ("draws",), 1.5, "draws 1.5 and waiting"),
    "draws-below-0": ("latent", ("draws",), -1, "draws -1 and waiting"),
    "draws-beyond-integers": ("latent", ("draws",), 2**64, f"draws {2**64} and waiting"),
    "waiting-of-a-number": ("latent", ("waiting",), 3, "and waiting 3"),
    "c-beyond-integers": ("latent", ("lines", "fc1.weight", "c"), 10**400, "lines/fc1.weight {'c': 1000"),
    "c-of-text": ("latent", ("lines", "fc1.weight", "c"), "1", "lines/fc1.weight {'c': '1'"),
    "c-that-is-none": ("latent", ("lines", "fc1.weight", "c"), math.nan, "lines/fc1.weight {'c': nan"),
    "e-that-is-infinite": ("latent", ("lines", "fc1.weight", "e"), math.inf, "lines/fc1.weight {'c': 1.0"),
    "steps-of-a-fraction": ("latent", ("lines", "fc1.weight", "steps"), 0.5, "lines/fc1.weight {'c': 1.0"),
    "moving-of-a-number": ("latent", ("lines", "fc1.weight", "moving"), 1, "lines/fc1.weight {'c': 1.0"),
    "settings-that-are-none": ("latent", ("settings",), None, "settings None"),
    "others-that-are-none": ("latent", ("others",), None, "others None"),
    "a-table-that-is-none": ("latent", ("velocity",), None, "velocity None"),
    "latent-that-is-none": (
        *("latent", ("latent", "fc1.weight"), torch.full((30,), math.nan)),
        "The state of fc1.weight has a latent with numbers that are not finite.",
    ),
    "latent-of-integers": ("latent", ("latent", "fc1.weight"), torch.zeros(30).long(), "latent/fc1.weight"),
    "held-beyond-k": ("dense", ("held", "fc1.weight"), torch.full((5, 6), 4), OF_HELD),
    "held-below-0": ("dense", ("held", "fc1.weight"), torch.full((5, 6), -1), OF_HELD),
    "held-of-fractions": ("dense", ("held", "fc1.weight"), torch.zeros(5, 6), "held/fc1.weight"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "place", "value", "text"), FORGED.values(), ids=FORGED)
def test_a_state_with_forged_numbers_changes_nothing(
    form: str, place: tuple[str, ...], value: Any, text: str
) -> None:
    machine, other = (slotify(network(), 4, "PS", form=form) for _ in range(2))
    train(other, 3)
    state = copy.deepcopy(other.state_dict())
    *tables, name = place
    table = state
    for each in tables:
        table = table[each]
    assert name in table
    table[name] = value
    before = copy.deepcopy(machine.state_dict())
    with pytest.raises(SlotkitError, match=re.escape(text)) as refused:
        machine.load_state_dict(state)
    assert "It is damaged, or was put together by hand." in str(refused.value)
    after = machine.state_dict()
    assert after.pop("settings") == before.pop("settings")
    assert str(after) == str(before)


def test_a_held_sample_beyond_k_is_refused_by_the_model_too() -> None:
    machine = slotify(network(), 4, "PS", form="dense")
    state = machine.model.state_dict()
    (name,) = (name for name in state if name.startswith("fc1") and name.endswith("held"))
    with pytest.raises(
        RuntimeError, match="holds a sample that is not the number of an option, 0 to 3, for each connection"
    ):
        machine.model.load_state_dict(state | {name: torch.full_like(state[name], 4)})


# ---------------------------------------------------------------------------------------------------
# States of the other selection, of other number types and of inits without a name.

SELECTIONS = ("greedy", "probabilistic")


@pytest.mark.parametrize(("there", "here"), [SELECTIONS, SELECTIONS[::-1]], ids=["GS-to-PS", "PS-to-GS"])
def test_model_state_dict_of_the_other_selection_is_refused(there: str, here: str) -> None:
    """Taken over, a greedy machine would stay at the sample forever."""
    machine = slotify(network(), 4, here)
    before = selections(machine)
    text = (
        f"fc1.weight: this state_dict is that of a machine with {there} selection, and this one "
        f"selects by {here}. Build the network with the same selection."
    )
    with pytest.raises(RuntimeError, match=re.escape(text)):
        machine.model.load_state_dict(slotify(network(), 4, there).model.state_dict())
    assert equal(selections(machine), before)


def test_model_state_dict_of_rounded_options_is_refused() -> None:
    """A model that has been in half precision has other options than its reels."""
    rounded = slotify(network(), k=4)
    rounded.model.half().float()
    with pytest.raises(
        RuntimeError,
        match=r"saved with other options \(seed 0\) than those of Reel\(.*"
        r"Build the network with the seed, k, init, sharing and dtype of the saved one\.",
    ):
        slotify(network(), k=4).model.load_state_dict(rounded.model.state_dict())


class Ones:
    """An init whose repr is its address."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform + 1

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform


class Twos(Ones):
    """Another one."""


def test_inits_without_a_repr_are_told_apart_by_their_class() -> None:
    machine, fresh = (slotify(network(), k=4, init=Ones()) for _ in range(2))
    train(machine, 1)
    fresh.load_state_dict(machine.state_dict())
    assert equal(weights(fresh), weights(machine))
    with pytest.raises(SlotkitError, match="init is 'Ones' there and 'Twos' here"):
        slotify(network(), k=4, init=Twos()).load_state_dict(machine.state_dict())


# ---------------------------------------------------------------------------------------------------
# load_state_dict(assign=True) puts other Parameters in the model.


@pytest.mark.parametrize("selection", SELECTIONS)
def test_assigned_scores_are_the_machines(selection: str) -> None:
    machine, other = (slotify(network(), 4, selection) for _ in range(2))
    train(other, 3)
    machine.model.load_state_dict(copy.deepcopy(other.model.state_dict()), assign=True)
    assert equal({name: machine.scores(name) for name in machine.reels}, other.state_dict()["scores"])
    assert equal(machine.state_dict()["scores"], other.state_dict()["scores"])
    assert equal(selections(machine), selections(other))
    in_the_model = {id(value) for value in machine.model.parameters()}
    assert all(id(value) in in_the_model for value in machine.parameters())
    machine.draws = other.draws
    expected = train(other, 3)
    assert all(torch.equal(one, two) for one, two in zip(train(machine, 3), expected, strict=True))


def test_a_state_is_loaded_into_assigned_scores() -> None:
    machine, other = (slotify(network(), 4) for _ in range(2))
    machine.model.load_state_dict(copy.deepcopy(machine.model.state_dict()), assign=True)
    train(other, 3)
    machine.load_state_dict(other.state_dict())
    assert equal(weights(machine), weights(other))


def test_assigned_others_are_the_machines() -> None:
    machine, other = (slotify(network(), 4, others="trained") for _ in range(2))
    machine.model.load_state_dict(copy.deepcopy(other.model.state_dict()), assign=True)
    assert {id(value) for value in machine.parameters()} == {
        id(value) for value in machine.model.parameters()
    }


# ---------------------------------------------------------------------------------------------------
# A refused state changes nothing, whatever it lacks.


@pytest.mark.parametrize("part", ["settings", "draws", "others", "lines", "follows", "latent"])
def test_a_latent_state_that_lacks_a_part_changes_nothing(part: str) -> None:
    machine, other = (making.slotify(network(), 4, "PS", others="trained") for _ in range(2))
    train(other, 3)
    state = copy.deepcopy(other.state_dict())
    del state[part]
    before = copy.deepcopy(machine.state_dict())
    with pytest.raises(SlotkitError, match=rf"This state lacks {part}.*\. It is damaged"):
        machine.load_state_dict(state)
    after = machine.state_dict()
    assert all(equal(after[table], before[table]) for table in ("latent", "velocity", "others"))
    assert (after["draws"], after["lines"]) == (before["draws"], before["lines"])


def test_a_line_that_lacks_a_number_changes_nothing() -> None:
    machine, other = (making.slotify(network(), 4) for _ in range(2))
    train(other, 3)
    state = copy.deepcopy(other.state_dict())
    del state["lines"]["fc2.weight"]["moving"]
    before = weights(machine)
    with pytest.raises(SlotkitError, match=r"This state lacks lines/fc2\.weight\. It is damaged"):
        machine.load_state_dict(state)
    assert equal(weights(machine), before)


def test_a_layer_inside_that_refuses_leaves_all_as_it_was() -> None:
    """torch asks it in the middle of loading the others."""
    machine, other = (
        making.slotify(nn.Sequential(nn.Linear(4, 4), SlotLinear(4, 3, seed=1, init=init)), 4)
        for init in ("glorot-uniform", "glorot-deviation")
    )
    train_other = other.optimizer(lr=5.0)
    other.model(torch.ones(2, 4)).square().sum().backward()
    train_other.step()
    before = copy.deepcopy(machine.model.state_dict())
    with pytest.raises(RuntimeError, match="saved with other options"):
        machine.load_state_dict(other.state_dict())
    assert not equal(weights(other), weights(machine))
    after = machine.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    machine.state_dict()
