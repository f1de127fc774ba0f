"""to_learned: the ordinary network back, with the selected weights, and nothing of slotkit on it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slotkit
from slotkit.errors import SlotkitError

FORMS = ("latent", "dense")
X = torch.linspace(-1, 1, 2 * 16).reshape(2, 1, 4, 4)


class Net(nn.Module):
    """Biases, norms, a tied weight, and a parameter that the user has frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(self.norm(self.conv(x)).flatten(1)).relu())
        return result


def trained(**slots: Any) -> slotkit.SlotMachine:
    torch.manual_seed(2)
    machine = slotkit.slotify(Net(), k=4, **slots)
    optimizer = machine.optimizer(lr=2.0)
    for _ in range(2):
        optimizer.zero_grad()
        machine.model(X + torch.randn(X.shape)).square().sum().backward()
        optimizer.step()
    return machine


def traces(model: nn.Module) -> list[object]:
    """All that is attached to modules and parameters."""
    hooks = ("_forward_pre_hooks", "_load_state_dict_post_hooks", "_forward_hooks")
    found: list[object] = []
    for module in model.modules():
        found += [type(module), sorted(module.__dict__), [len(module.__dict__[name]) for name in hooks]]
    return [*found, [(name, sorted(value.__dict__)) for name, value in model.named_parameters()]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("others", ["frozen", "trained", "kept"])
def test_nothing_of_slotkit_is_left(form: str, selection: str, others: str) -> None:
    machine = trained(form=form, selection=selection, others=others)
    model = machine.model
    with machine.using("greedy"):
        wanted = model.eval()(X)
    assert machine.to_learned() is model
    plain = Net()
    assert torch.equal(model(X), wanted)
    assert traces(model) == traces(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    told = [(name, value.requires_grad, value.grad is None) for name, value in model.named_parameters()]
    assert [each[:2] for each in told] == [(n, p.requires_grad) for n, p in plain.named_parameters()]
    assert all(empty for name, _, empty in told if name.endswith("weight") and "norm" not in name)
    assert model.second.weight is model.first.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    model.train()(X).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if p.requires_grad)
    slotkit.slotify(model, k=2, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_the_sample_in_use(form: str) -> None:
    machine = trained(form=form, selection="PS")
    machine.spin()
    sample = machine.model.get_submodule("first").weight.detach().clone()
    model = machine.to_learned("in use")
    assert torch.equal(model.get_parameter("first.weight"), sample)
    with pytest.raises(SlotkitError, match=r"There is no reading 'best'\. Choose one of greedy, in use\."):
        trained(form=form).to_learned("best")


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_the_user_froze_stays_frozen(form: str) -> None:
    machine = trained(form=form)
    next(iter(machine.parameters())).requires_grad_(False)
    frozen = {name for name, value in machine.to_learned().named_parameters() if not value.requires_grad}
    assert frozen == {"conv.weight", "norm.bias"}


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_ends_alone(form: str) -> None:
    machine = trained(form=form, selection="PS")
    _, other = copy.deepcopy((machine.model, machine))
    wanted = machine.scores("conv.weight")
    other.to_learned()
    assert traces(other.model) == traces(Net())
    machine.model.train()(X)
    assert torch.equal(machine.scores("conv.weight"), wanted)
    machine.optimizer(lr=0.1).step()


@pytest.mark.parametrize("form", FORMS)
def test_of_two_machines_one_ends(form: str) -> None:
    model = Net()
    first = slotkit.slotify(model, k=4, where="conv.weight", form=form)
    second = slotkit.slotify(model, k=4, where="first.weight", form=form)
    first.to_learned()
    assert second.selected("first.weight").shape == (16, 16)
    assert model.conv.weight.requires_grad


def test_an_ended_machine_says_so() -> None:
    machine = trained()
    optimizer = machine.optimizer(lr=1.0)
    model = machine.to_learned()
    assert repr(machine) == "SlotMachine(ended: its network has learned weights)"
    sentence = r"This slot machine has ended: to_learned\(\) gave its network back"
    for use in (machine.spin, machine.state_dict, machine.to_learned, lambda: machine.optimizer(lr=1.0)):
        with pytest.raises(SlotkitError, match=sentence):
            use()
    model(X).sum().backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        SlotkitError, match=r"conv\.weight is an ordinary weight now: machine\.to_learned\(\) has ended"
    ):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_somebody_wrote_are_refused_first() -> None:
    machine = trained()
    with torch.no_grad():
        machine.model.get_parameter("conv.weight").add_(1)
    with pytest.raises(SlotkitError, match=r"conv\.weight was changed by something else than slotkit"):
        machine.to_learned()
    machine.spin()
    machine.to_learned()


@pytest.mark.parametrize("linear", [True, False])
def test_a_layer_built_by_hand_becomes_pytorchs_own(linear: bool) -> None:
    layer: Any = slotkit.SlotLinear(6, 4, k=4, bias=True) if linear else slotkit.SlotConv2d(1, 2, 3, k=4)
    wanted = layer.weight.detach().clone()
    plain = nn.Linear(6, 4) if linear else nn.Conv2d(1, 2, 3, bias=False)
    layer.machine.to_learned()
    assert traces(layer) == traces(plain)
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert torch.equal(layer.weight, wanted)


def test_a_layer_of_ones_own_keeps_its_class() -> None:
    class Twice(slotkit.SlotLinear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = Twice(3, 2, k=4, seed=1)
    wanted = layer(torch.ones(3))
    layer.machine.to_learned()
    assert torch.equal(layer(torch.ones(3)), wanted)
    layer.load_state_dict(layer.state_dict())
    assert type(layer) is Twice


@pytest.mark.parametrize("form", FORMS)
def test_kept_leaves_pretrained_biases_and_norms(form: str) -> None:
    """And no weight that becomes reels keeps its value: the README says so."""
    pretrained = Net()
    for value in pretrained.parameters():
        nn.init.uniform_(value.data, 0.3, 0.4)
    model = copy.deepcopy(pretrained)
    machine = slotkit.slotify(model, k=4, form=form, others="kept")
    optimizer = machine.optimizer(lr=1.0)
    model(X).sum().backward()
    optimizer.step()
    found = dict(machine.to_learned().named_parameters())
    kept = {name for name, value in pretrained.named_parameters() if torch.equal(value, found[name])}
    assert kept == set(found) - {"conv.weight", "first.weight"}
    assert not (found["conv.weight"] == pretrained.conv.weight).any()
