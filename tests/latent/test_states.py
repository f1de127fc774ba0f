"""Evaluation with another selection, copies, and states of a latent machine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from latent.trajectories import Run, bits, conv, few, mlp, train
from small_networks import each_is_an_option, equal, weights

from slotkit.errors import SlotkitError
from slotkit.latent.state import STATE
from slotkit.making import slotify
from slotkit.selection import take

# ---------------------------------------------------------------------------------------------------
# Evaluation with another selection.


class StopHereError(Exception):
    """Raised within a block."""


@pytest.mark.parametrize("failing", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("within", ["greedy", "probabilistic"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_using_puts_everything_back(
    selection: str, within: str, failing: bool, engine: str, device: torch.device
) -> None:
    """And doesn't count as tampering: the next step equals that of a machine that was never asked."""
    machine, other = (slotify(mlp().to(device), 4, selection, engine=engine) for _ in range(2))
    optimizers = [train(each, few(4, 1)) for each in (machine, other)]
    before = weights(machine)
    try:
        with machine.using(within, draw=3):
            inside = weights(machine)
            machine.model.train()
            machine.model(torch.ones(1, 12, device=device))
            assert equal(weights(machine), inside)
            assert each_is_an_option(machine)
            if failing:
                raise StopHereError
    except StopHereError:
        assert failing
    assert equal(before, inside) == (within == selection == "greedy")
    assert equal(weights(machine), before)
    for each, optimizer in zip((machine, other), optimizers, strict=True):
        train(each, few(4, 1), optimizer)
    assert equal(weights(machine), weights(other))
    assert machine.draws == other.draws


@pytest.mark.parametrize("within", ["greedy", "probabilistic"])
def test_a_step_within_using_leaves_no_stale_weight(within: str, engine: str, device: torch.device) -> None:
    """The weights of before belong to the scores of before; the next step must bring them in line."""
    machine, other = (slotify(mlp().to(device), 4, engine=engine) for _ in range(2))
    optimizers = [train(each, 2) for each in (machine, other)]
    gradients = [torch.randn_like(parameter) for parameter in machine.parameters()]

    def step(index: int, sign: float) -> None:
        for parameter, gradient in zip((machine, other)[index].parameters(), gradients, strict=True):
            parameter.grad = sign * gradient
        optimizers[index].step()

    with machine.using(within):
        step(0, 1.0)
    step(1, 1.0)
    step(0, -0.01)
    step(1, -0.01)
    assert equal(weights(machine), weights(other))


# ---------------------------------------------------------------------------------------------------
# Copies and states.


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_deep_copy_trains_alone(selection: str, engine: str, device: torch.device) -> None:
    machine = slotify(mlp().to(device), 4, selection, engine=engine)
    train(machine)
    before = bits(machine)
    model, copied = copy.deepcopy((machine.model, machine))
    assert copied.model is model
    assert equal(bits(copied), before)
    optimizer = train(copied)
    assert not equal(bits(copied), before)
    assert equal(bits(machine), before)
    train(machine)
    assert equal(bits(machine), bits(copied))
    assert set(optimizer.state) == set(copied.parameters())
    with pytest.raises(SlotkitError, match="belongs to a slot machine already"):
        slotify(model, where="*.weight")


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_state_dict_continues_with_the_same_bits(selection: str, engine: str, device: torch.device) -> None:
    """Into a new machine with a new optimizer: momentum is in the machine's state."""
    machine = slotify(conv().to(device), 4, selection, engine=engine)
    train(machine, few(5))
    state = copy.deepcopy(machine.state_dict())
    train(machine, few(5), machine.optimizer(1.0, 0.9))
    resumed = slotify(conv().to(device), 4, selection, engine=engine)
    resumed.load_state_dict(state)
    train(resumed, few(5))
    assert equal(bits(machine), bits(resumed))
    assert machine.draws == resumed.draws


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.filterwarnings("ignore:This probabilistic machine made a step without a draw")
@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_state_of_another_dtype_brings_its_options(
    selection: str, dtype: torch.dtype, to: torch.dtype
) -> None:
    """Not the roundings of them in the type that they were saved in."""
    saved, machine = (slotify(mlp().to(each), 8, selection) for each in (dtype, to))
    train(saved, 2)
    machine.load_state_dict(copy.deepcopy(saved.state_dict()))
    for name, reel in saved.reels.items():
        options = take(reel.options(), saved.selected(name))
        assert torch.equal(machine.model.get_parameter(name), options.to(to))
    machine.model.eval()  # no draw: what is not stepped stays
    train(machine, 1)
    machine.state_dict()
    assert each_is_an_option(machine)


@pytest.mark.parametrize("cast", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_state_for_a_machine_that_was_cast_since(selection: str, cast: torch.dtype) -> None:
    saved, machine = (slotify(mlp(), 8, selection) for _ in range(2))
    train(saved, 2)
    machine.model.to(cast)
    machine.load_state_dict(copy.deepcopy(saved.state_dict()))
    for name, reel in saved.reels.items():
        options = take(reel.options(), saved.selected(name))
        assert torch.equal(machine.model.get_parameter(name), options.to(cast))


def test_a_state_with_weights_that_are_no_options() -> None:
    """Greedily they follow from the latents. A sample can't be made good, and is refused before a change."""
    for selection in ("greedy", "probabilistic"):
        saved, machine = (slotify(mlp(), 4, selection) for _ in range(2))
        train(saved, 2)
        state, before = copy.deepcopy(saved.state_dict()), bits(machine)
        state["others"]["2.weight"] += 1
        if selection == "greedy":
            machine.load_state_dict(state)
            assert equal(bits(machine), bits(saved))
        else:
            with pytest.raises(SlotkitError) as caught:
                machine.load_state_dict(state)
            assert str(caught.value) == (
                "This state has others/2.weight with numbers that are no options of "
                f"{machine.reels['2.weight']}. It is damaged, or was put together by hand."
            )
            assert equal(bits(machine), before)


def test_a_state_holds_no_table_that_grows_with_k() -> None:
    sizes = []
    for k in (2, 64):
        state = slotify(mlp(), k, tables="recomputed").state_dict()
        tables: list[Any] = [state[name].values() for name in STATE]
        sizes.append(sum(tensor.nbytes for table in tables for tensor in table))
    assert sizes[0] == sizes[1] == 16 * (12 * 10 + 10 * 8 + 8 * 4)


def test_a_state_of_the_dense_form_is_refused(engine: str, device: torch.device) -> None:
    run = Run("mlp", 4)
    latent, dense = run.machine(device, "latent", engine), run.machine(device, "dense")
    before = bits(latent)
    with pytest.raises(SlotkitError, match="form is 'dense' there and 'latent' here"):
        latent.load_state_dict(dense.state_dict())
    with pytest.raises(SlotkitError, match="form is 'latent' there and 'dense' here"):
        dense.load_state_dict(latent.state_dict())
    assert equal(bits(latent), before)


def test_numba_leaves_pytorch_its_threads(tmp_path: Path, forks: Forks) -> None:
    """numba's OpenMP layer would set them to the number of cores, in the whole process."""
    program = (
        "import torch; torch.set_num_threads(1); from slotkit.making import slotify; "
        "m = slotify(torch.nn.Linear(300, 200), engine='numba'); m.model.weight.grad = torch.ones(200, 300); "
        "m.optimizer(lr=1.0).step(); print(torch.get_num_threads())"
    )
    assert forks.start(program, cwd=tmp_path).checked() == "1\n"
