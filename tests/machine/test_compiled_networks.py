"""torch.compile: greedy machines train in one graph, probabilistic ones draw, and a missing draw is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import slotkit
from slotkit.draws import NO_DRAW
from slotkit.machine import SlotMachine

# torch's compiler looks at the .grad of what comes out of a graph.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

Made = tuple[nn.Module, SlotMachine]
Compile = Callable[[nn.Module], Callable[[Tensor], Tensor]]


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(selection: str, form: str = "latent") -> Made:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    return network, slotkit.slotify(network, k=8, selection=selection, form=form, others="trained")


def train(made: Made, forward: Callable[[Tensor], Tensor], layout: torch.memory_format | None = None) -> None:
    optimizer = made[1].optimizer(lr=0.5, momentum=0.9)
    for step in range(5):
        images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        images = images if layout is None else images.to(memory_format=layout)
        nn.functional.cross_entropy(forward(images), torch.arange(8) % 5).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def whole(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(network, backend="eager", fullgraph=True)


def in_parts(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(network, backend="eager")


def same(one: Made, other: Made) -> bool:
    return all(torch.equal(one[1].selected(name), other[1].selected(name)) for name in one[1].reels)


@pytest.mark.parametrize(
    ("selection", "form", "compiled"),
    [
        ("greedy", "latent", whole),
        ("greedy", "dense", in_parts),
        ("probabilistic", "latent", in_parts),
        ("probabilistic", "dense", in_parts),
    ],
)
def test_compiled_networks_train_to_the_same_selections(selection: str, form: str, compiled: Compile) -> None:
    plain, other = make(selection, form), make(selection, form)
    train(plain, plain[0])
    train(other, compiled(other[0]))
    assert same(plain, other)
    assert other[1].drawing.number == plain[1].drawing.number


def test_channels_last_and_compiled() -> None:
    plain, other = make("greedy"), make("greedy")
    other[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(plain, plain[0])
    train(other, whole(other[0]), torch.channels_last)
    assert same(plain, other)


def test_a_graph_of_another_network_draws_nothing_and_that_is_told() -> None:
    greedy, made = make("greedy"), make("probabilistic")
    train(greedy, in_parts(greedy[0]))
    with pytest.warns(UserWarning, match="made a step without a draw of its own") as told:
        train(made, in_parts(made[0]))
    assert [str(one.message) for one in told] == [NO_DRAW]
    assert made[1].drawing.number == 1


def test_what_the_warning_says_to_do_helps() -> None:
    plain = make("probabilistic")
    train(plain, plain[0])
    greedy, made = make("greedy"), make("probabilistic")
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        train(greedy, in_parts(greedy[0]))
        train(made, in_parts(made[0]))
    assert same(plain, made)


@pytest.mark.parametrize("form", ["latent", "dense"])
def test_a_step_in_evaluation_mode_is_told_once(form: str) -> None:
    made = make("probabilistic", form)
    made[0].eval()
    with pytest.warns(UserWarning, match="That is so in evaluation mode") as told:
        train(made, made[0])
    assert len(told) == 1


@pytest.mark.parametrize("form", ["latent", "dense"])
def test_spinning_by_hand_or_resting_is_not_told(form: str) -> None:
    made = make("probabilistic", form)
    optimizer = made[1].optimizer(lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()  # no gradient, so there is nothing to be told
        made[0].eval()
        for _ in range(2):
            made[1].spin()
            made[0](torch.ones(2, 3, 6, 6)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
