"""Machines made or trained inside of PyTorch's contexts, and tensors that can't be reels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import slotkit
from slotkit import SlotAdam, SlotkitError, SlotLinear, slotify

FORMS = ("latent", "dense")


def trained(form: str, selection: str, make: Callable[[], object]) -> dict[str, torch.Tensor]:
    """Weights after some steps; `make` gives the context that everything of slotkit happens in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    with make():  # type: ignore[attr-defined]
        machine = slotify(model, 4, selection, form=form)
        optimizer = (
            machine.optimizer(0.5, 0.9) if form == "latent" else torch.optim.SGD(machine.parameters(), 0.5)
        )
        for _ in range(3):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        machine.load_state_dict(machine.state_dict())
        machine.spin()
        machine.selected("0.weight")
        machine.scores("0.weight")
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("form", FORMS)
def test_a_default_device_changes_nothing(form: str, selection: str) -> None:
    """The model's own device counts. "meta" stands for a GPU here: it has no numbers to go on with."""
    right = trained(form, selection, lambda: torch.device("cpu"))
    found = trained(form, selection, lambda: torch.device("meta"))
    assert all(torch.equal(found[name], value) for name, value in right.items())


@pytest.mark.parametrize("form", FORMS)
def test_a_machine_made_in_inference_mode_trains(form: str) -> None:
    model = nn.Linear(4, 3)
    with torch.inference_mode():
        machine = slotify(model, 4, form=form)
    optimizer = torch.optim.SGD(machine.parameters(), 0.5) if form == "dense" else machine.optimizer(0.5)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    machine.spin()


def inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(4, 3)


def inference_layer() -> nn.Module:
    with torch.inference_mode():
        return SlotLinear(4, 3, k=2)


IN_INFERENCE = (
    "weight was made in torch.inference_mode(), where PyTorch makes tensors that can't be trained. Build the "
    "network outside of it."
)
WITHOUT_NUMBERS = (
    "weight is on the meta device, where tensors have no numbers. Give the model memory first: "
    "model.to_empty(device='cpu')."
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (inference, IN_INFERENCE),
        (inference_layer, IN_INFERENCE),
        (lambda: nn.Linear(4, 3, device="meta"), WITHOUT_NUMBERS),
    ],
    ids=["inference", "inference-layer", "meta"],
)
def test_what_can_not_be_a_reel(make: Callable[[], nn.Module], text: str, form: str) -> None:
    with pytest.raises(SlotkitError) as caught:
        slotify(make(), 4, form=form)
    assert str(caught.value) == text


@pytest.mark.parametrize("make", [lambda machine: machine.optimizer(0.1), SlotAdam], ids=["sgd", "adam"])
def test_a_sparse_gradient_is_refused_before_anything_changes(
    make: Callable[[slotkit.SlotMachine], torch.optim.Optimizer],
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, sparse=True))
    machine = slotify(model, 4, where=["0.weight", "1.weight"])
    optimizer = make(machine)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0](model[1](torch.tensor([1, 2]))).square().sum().backward()
    with pytest.raises(SlotkitError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "The gradient of 1.weight is sparse. Nothing was changed. Give a dense one: build the embedding with "
        "sparse=False, or leave it out of `where`."
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert machine.scores("0.weight").isfinite().all()
