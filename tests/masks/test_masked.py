"""Learned weights under a fixed mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke, refuse
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.masked import MaskedWeights, strays
from slotkit.runs import checkpoint

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).double()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_trains_as_a_network_whose_weights_are_multiplied_by_the_mask(optimizer: Any) -> None:
    model, plain = network(), network()
    chance = torch.Generator().manual_seed(0)
    masks = {f"{i}.weight": torch.rand(model[i].weight.shape, generator=chance) < 0.4 for i in (0, 2)}
    masked = MaskedWeights(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
    steppers = optimizer(model.parameters()), optimizer(plain.parameters())
    for _ in range(20):
        images, labels = torch.randn(8, 6, generator=chance, dtype=torch.float64), torch.arange(8) % 3
        for each, stepper in zip((model, plain), steppers, strict=True):
            weights = {name: each.get_parameter(name) * mask for name, mask in masks.items()}
            logits = each(images) if each is model else torch.func.functional_call(each, weights, (images,))
            stepper.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            if each is model:
                masked.mask_gradients()
            stepper.step()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert name not in masks or bool((ours[~masks[name]] == 0).all())
    momenta = [value for state in steppers[0].state.values() for value in state.values() if value.ndim > 1]
    shapes = {mask.shape: mask for mask in masks.values()}
    assert momenta
    assert all(bool((value[~shapes[value.shape]] == 0).all()) for value in momenta)


def test_masks_of_another_network_change_nothing() -> None:
    model = network()
    before = model[0].weight.clone()
    masks = {"0.weight": torch.zeros(20, 6, dtype=torch.bool), "2.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(SlotkitError) as caught:
        MaskedWeights(model, masks)
    assert str(caught.value) == (
        "The mask of 2.weight has shape (2, 2), and in this network it is (3, 20). Choose the network and "
        "the size of images that the mask was made for."
    )
    assert torch.equal(model[0].weight, before)
    assert strays(model.state_dict(), {"0.weight": masks["0.weight"]}) == ["0.weight"]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLOTKIT_RUNS", "SLOTKIT_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("in_a_folder")
def test_a_mask_is_trained_from_its_initial_weights_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed to the same bits, though the mask file is gone: the run has a copy."""
    invoke("masks", "make", "--density", "0.1", "--seed", "4", "--out", "x")
    masks, about = mask_file.load(Path("x"))
    few = ("--set", "training.limit_batches=3", "--device", "cpu")
    for name, epochs in (("whole", "2"), ("part", "1")):
        invoke("masks", "train", "x", "--epochs", epochs, "--name", name, *few)
    Path("x").unlink()
    invoke("train", "--resume", "part", "--epochs", "2")
    states = [
        checkpoint.load(Path(f"runs/{name}/checkpoints/best.safetensors"))[0] for name in ("whole", "part")
    ]
    for name, mask in masks.items():
        weight = states[0]["weights"][name]
        assert torch.equal(weight, states[1]["weights"][name])
        assert torch.equal(weight != 0, mask)
    initial = dict(about.build().named_parameters())["fc1.weight"].detach()
    moved = (states[0]["weights"]["fc1.weight"] - initial)[masks["fc1.weight"]]
    assert 0 < float(moved.abs().mean()) < float(initial.std())  # a few steps from there
    found = json.loads(invoke("masks", "score", "part", "--json").stdout)
    assert sum(layer["edges"] for layer in found["layers"]) == round(0.1 * 50_200)
    assert json.loads(invoke("evaluate", "part", "--json").stdout)
    told = refuse(monkeypatch, capsys, "masks", "train", "x")
    assert "x is no mask file, and no search: neither as a path nor in runs." in told


@pytest.mark.usefixtures("in_a_folder")
def test_a_run_that_has_lost_its_mask_does_not_take_another_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--epochs", "1", "--set", "training.limit_batches=1", "--device", "cpu", "--name", "one")
    invoke("masks", "make", "--method", "random", "--density", "0.1", "--out", "x")
    assert invoke("masks", "train", "x", *few).exit_code == 0
    Path("runs/one/mask.safetensors").unlink()
    invoke("masks", "make", "--method", "random", "--density", "1", "--out", "x")
    for typed in (("train", "--resume", "one", "--epochs", "2"), ("evaluate", "one")):
        assert refuse(monkeypatch, capsys, *typed) == (
            f"Error: {Path('runs/one/mask.safetensors')} is gone, the mask that one is trained under. "
            "Restore it, or train again.\n"
        )


@pytest.mark.usefixtures("in_a_folder")
def test_what_has_no_mask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = refuse(monkeypatch, capsys, "train", "--set", "mask=x")
    assert "mask is for learned weights, and this run trains a slot machine. Choose --method learned" in told
    assert not Path("runs").exists()
