"""The dense form against a slow loop over connections, one step and many, right and deliberately wrong."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Array, Geometry, LiteralNetwork, LiteralReels, argmax, score_gradients
from torch import Tensor, nn

from slotkit import making
from slotkit.dense import DenseForm, SlotWeight
from slotkit.machine import SlotMachine
from slotkit.reel import Reel
from slotkit.selection import StraightThrough, greedy, take

# The literal form: these tests are about what it stores and hands out.
slotify = functools.partial(making.slotify, form="dense")

GEOMETRIES = {
    "linear": (Geometry(5, 4), ()),
    "conv1d": (Geometry(2, 3, (3,)), (6,)),
    "conv1d-strided-padded": (Geometry(2, 3, (3,), stride=2, padding=1), (6,)),
    "conv1d-depthwise": (Geometry(3, 3, (2,), groups=3), (4,)),
    "conv2d": (Geometry(2, 2, (2, 3)), (4, 5)),
    "conv2d-strided-padded": (Geometry(2, 3, (3, 3), stride=2, padding=1), (5, 4)),
    "conv2d-dilated": (Geometry(2, 2, (2, 2), dilation=2, padding=1), (4, 4)),
    "conv2d-grouped": (Geometry(4, 6, (2, 2), groups=2), (3, 3)),
    "conv3d": (Geometry(2, 2, (2, 1, 2), padding=1), (2, 2, 3)),
    "transposed-conv1d": (Geometry(3, 2, (3,), stride=2, transposed=True), (4,)),
    "transposed-conv1d-grouped": (Geometry(4, 6, (2,), groups=2, transposed=True), (3,)),
    "transposed-conv2d": (Geometry(2, 3, (3, 2), stride=2, padding=1, transposed=True), (3, 3)),
    "transposed-conv2d-grouped-dilated": (
        Geometry(4, 2, (2, 2), groups=2, dilation=2, transposed=True),
        (2, 2),
    ),
    "transposed-conv3d": (Geometry(2, 1, (2, 2, 1), stride=2, transposed=True), (2, 2, 2)),
}


def layer_of(geometry: Geometry, bias: bool) -> nn.Module:
    """PyTorch's layer of that geometry, in float64."""
    if not geometry.kernel:
        return nn.Linear(geometry.inputs, geometry.outputs, bias=bias, dtype=torch.float64)
    name = f"Conv{'Transpose' if geometry.transposed else ''}{len(geometry.kernel)}d"
    layer: nn.Module = getattr(nn, name)(
        geometry.inputs,
        geometry.outputs,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        bias=bias,
        dtype=torch.float64,
    )
    return layer


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def normal(*shape: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)


def assert_close(result: Tensor | None, expected: Array) -> None:
    """Equal up to the order of float64 sums."""
    assert result is not None
    np.testing.assert_allclose(numpy(result), expected, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class Case:
    """One layer, one batch, and how the scores are updated."""

    geometry: Geometry
    size: tuple[int, ...]
    bias: bool = True
    k: int = 3
    update: str = "all"
    batch: int = 2
    selection: str = "greedy"
    sharing: str = "none"


def assert_equals_the_loop(case: Case, device: torch.device) -> None:
    """Outputs, score gradients, input gradients and bias gradient of one forward and backward."""
    geometry = case.geometry
    layer = layer_of(geometry, case.bias).to(device)
    bias = layer.get_parameter("bias") if case.bias else None
    machine = slotify(
        layer, case.k, case.selection, case.sharing, seed=5, others="trained", update=case.update
    )
    x = normal(case.batch, geometry.inputs, *case.size, seed=1, device=device).requires_grad_(True)
    y = layer(x)
    dy = normal(*y.shape, seed=2, device=device)
    y.backward(dy)

    scores, options = numpy(machine.scores("weight")), numpy(machine.options("weight"))
    selected = machine.selected("weight").cpu().numpy()
    weight = np.zeros(selected.shape)
    for at in np.ndindex(*selected.shape):
        if case.selection == "greedy":
            assert selected[at] == argmax(scores[at].tolist())
        weight[at] = options[at][selected[at]]
    trained = next(machine.parameters())
    dw, dx = geometry.backward(weight, numpy(x), numpy(dy))
    assert_close(y, geometry.forward(weight, numpy(x), None if bias is None else numpy(bias)))
    assert_close(x.grad, dx)
    assert_close(trained.grad, score_gradients(options, selected, dw, case.update))
    if bias is not None:
        assert_close(bias.grad, numpy(dy).sum(axis=(0, *range(2, y.dim()))))


@pytest.mark.parametrize("update", ["all", "selected"])
@pytest.mark.parametrize("k", [1, 2, 3, 8], ids="k={}".format)
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_layer_equals_the_loop(name: str, bias: bool, k: int, update: str, device: torch.device) -> None:
    geometry, size = GEOMETRIES[name]
    assert_equals_the_loop(Case(geometry, size, bias, k, update), device)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_empty_batch(name: str, device: torch.device) -> None:
    geometry, size = GEOMETRIES[name]
    assert_equals_the_loop(Case(geometry, size, batch=0), device)


@pytest.mark.parametrize("sharing", ["none", "layer", "channel", "network"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("name", ["linear", "conv2d-grouped", "transposed-conv1d-grouped"])
def test_selections_and_sharings(name: str, selection: str, sharing: str, device: torch.device) -> None:
    geometry, size = GEOMETRIES[name]
    assert_equals_the_loop(Case(geometry, size, selection=selection, sharing=sharing), device)


# ---------------------------------------------------------------------------------------------------
# Wrong on purpose: the comparison above must reject each of these.


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]  # dL/dw, the options, the weight in use -> dL/ds


class AnotherBackward(StraightThrough):
    """`StraightThrough` with a rule in the place of the update."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, options, selected, ctx.update = inputs
        ctx.save_for_backward(options, selected)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        options, selected = ctx.saved_tensors
        in_use = take(options, selected).unsqueeze(-1)
        return ctx.update(gradients[0].unsqueeze(-1), options, in_use), None, None, None


def wrong(rule: Rule) -> Callable[..., Tensor]:
    def select(scores: Tensor, options: Tensor, selected: Tensor, update: str) -> Tensor:
        weight: Tensor = AnotherBackward.apply(scores, options, selected, rule)
        return weight

    return select


def other_update(scores: Tensor, options: Tensor, selected: Tensor, update: str) -> Tensor:
    """update="all" and update="selected" mixed up."""
    weight: Tensor = StraightThrough.apply(
        scores, options, selected, {"all": "selected", "selected": "all"}[update]
    )
    return weight


def lowest_score(scores: Tensor, options: Tensor, selected: Tensor, update: str) -> Tensor:
    """The option with the lowest score, told as if it had the highest."""
    weight: Tensor = StraightThrough.apply(scores, options, scores.argmin(dim=-1), update)
    return weight


def soft_gradient(scores: Tensor, options: Tensor, selected: Tensor, update: str) -> Tensor:
    """The gradient of the softmax mixture instead of the straight-through one."""
    soft = (scores.softmax(dim=-1) * options).sum(dim=-1)
    return take(options, selected) + soft - soft.detach()


WRONG = {
    "gradient-without-the-option": wrong(lambda g, options, in_use: g.expand_as(options).clone()),
    "gradient-times-the-weight-in-use": wrong(
        lambda g, options, in_use: (g * in_use).expand_as(options).clone()
    ),
    "sign": wrong(lambda g, options, in_use: -g * options),
    "update": other_update,
    "lowest-score": lowest_score,
    "softmax-gradient": soft_gradient,
}


@pytest.mark.parametrize("select", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("update", ["all", "selected"])
@pytest.mark.parametrize("name", ["linear", "conv2d-strided-padded"])
def test_a_wrong_step_is_rejected(
    name: str, update: str, select: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotkit.dense.select", select)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equals_the_loop(Case(*GEOMETRIES[name], update=update), torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------
# Many steps: torch.optim.SGD on the scores against the update written out for every score.


@dataclass(frozen=True)
class Sgd:
    """Settings of a run; lr is one number a step."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    lr: tuple[float, ...] = (2.0,) * 8


# Warm restarts in small: cosine from 2 down, twice.
RESTARTS = tuple(1 + math.cos(math.pi * (step % 4) / 4) for step in range(8))

RUNS = {
    "plain": Sgd(),
    "momentum": Sgd(momentum=0.9),
    "l2": Sgd(weight_decay=0.05),
    "momentum-l2": Sgd(momentum=0.9, weight_decay=0.05),
    "nesterov-l2": Sgd(momentum=0.9, weight_decay=0.05, nesterov=True),
    "dampening": Sgd(momentum=0.5, dampening=0.3),
    "changing-lr": Sgd(momentum=0.9, weight_decay=0.01, lr=RESTARTS),
    "lr-zero-at-times": Sgd(momentum=0.9, lr=(2.0, 0.0, 3.0, 0.0, 0.0, 1.0)),
}

LAYERS = (Geometry(2, 2, (2, 2)), Geometry(8, 3))


def two_layers() -> nn.Sequential:
    conv, linear = (layer_of(geometry, bias=False) for geometry in LAYERS)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)


def literal(machine: SlotMachine) -> LiteralNetwork:
    """The same options and scores, a plain float each."""
    reels = [
        LiteralReels(numpy(machine.options(name)), numpy(machine.scores(name)).copy())
        for name in machine.reels
    ]
    return LiteralNetwork(list(zip(LAYERS, reels, strict=True)))


def assert_same_run(run: Sgd, update: str, device: torch.device) -> None:
    """The same selections and scores after each step of 1/2 |output - target|^2."""
    model = two_layers().to(device)
    machine = slotify(model, k=3, seed=2, update=update)
    optimizer = machine.optimizer(
        1.0, run.momentum, run.weight_decay, dampening=run.dampening, nesterov=run.nesterov
    )
    network = literal(machine)
    x, target = normal(3, 2, 3, 3, seed=4, device=device), normal(3, 3, seed=5, device=device)
    flips = 0
    for step, lr in enumerate(run.lr):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        (0.5 * (model(x) - target).square().sum()).backward()
        optimizer.step()

        gradients = network.gradients(numpy(x), lambda output: output - numpy(target))
        for name, (_, reels), gradient in zip(machine.reels, network.layers, gradients, strict=True):
            before = reels.selected()
            reels.sgd_step(gradient, lr, run.momentum, run.weight_decay, run.dampening, run.nesterov, update)
            flips += int((reels.selected() != before).sum())
            np.testing.assert_array_equal(
                machine.selected(name).cpu().numpy(), reels.selected(), f"step {step}"
            )
            np.testing.assert_allclose(numpy(machine.scores(name)), reels.scores, rtol=1e-9, atol=1e-9)
    assert flips > 5, "a run without flips tests nothing"


@pytest.mark.parametrize("update", ["all", "selected"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_sgd_equals_the_literal_update(run: Sgd, update: str, device: torch.device) -> None:
    assert_same_run(run, update, device)


@pytest.mark.parametrize("select", WRONG.values(), ids=WRONG)
def test_a_wrong_run_is_rejected(select: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotkit.dense.select", select)
    with pytest.raises(AssertionError, match=r"Arrays are not equal|Not equal to tolerance"):
        assert_same_run(RUNS["momentum"], "all", torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------
# The parametrization itself.


def slot_weight(**settings: object) -> SlotWeight:
    reel = Reel("weight", (3, 2), 4, **settings)  # type: ignore[arg-type]
    return SlotWeight(reel, "greedy", "all", torch.device("cpu"), torch.float64)


def test_options_are_the_reels(device: torch.device) -> None:
    reel = Reel("weight", (3, 2), 4)
    weight = SlotWeight(reel, "greedy", "all", device, torch.float64)
    assert torch.equal(weight.options, reel.options(device).double())
    assert weight.options.device == weight.right_inverse(weight.options[..., 0]).device


@pytest.mark.parametrize("sharing", ["none", "layer", "channel", "network"])
def test_shared_options_are_stored_once(sharing: str) -> None:
    assert (
        slot_weight(sharing=sharing).options.numel()
        == {"none": 24, "layer": 4, "channel": 12, "network": 4}[sharing]
    )


def test_initial_scores_are_handed_out_once_and_not_kept() -> None:
    """K numbers a connection more would be a second copy of the scores."""
    weight = slot_weight()
    assert torch.equal(weight.right_inverse(torch.zeros(3, 2)), Reel("weight", (3, 2), 4).scores().double())
    assert weight._initial is None


def test_held_selection_overrules_the_scores() -> None:
    weight = slot_weight()
    scores = weight.right_inverse(torch.zeros(3, 2))
    assert torch.equal(weight(scores), take(weight.options, greedy(scores)))
    weight.held = torch.full((3, 2), 2)
    assert torch.equal(weight(scores), weight.options[..., 2])


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_state_dict_says_how_training_selects(selection: str, device: torch.device) -> None:
    weight = SlotWeight(Reel("weight", (3, 2), 4, seed=7), selection, "all", device, torch.float64)
    state = weight.state_dict()
    assert sorted(state) == ["last_options", "probabilistic", "seed"]
    assert state["probabilistic"].device.type == device.type
    assert state["probabilistic"].item() == (selection == "probabilistic")
    assert state["seed"].item() == 7
    assert weight.half().probabilistic.dtype == torch.bool


@pytest.mark.parametrize("channel_dim", [0, 1])
@pytest.mark.parametrize("sharing", ["none", "layer", "channel", "network"])
def test_a_state_dict_has_the_options_of_the_last_connection(sharing: str, channel_dim: int) -> None:
    weight = slot_weight(sharing=sharing, channel_dim=channel_dim)
    assert torch.equal(weight.last_options, weight.options.expand(3, 2, 4)[-1, -1])


@pytest.mark.parametrize("update", ["all", "selected"])
def test_the_form_of_a_machine(update: str) -> None:
    machine = slotify(two_layers(), k=3, update=update)
    assert isinstance(machine.form, DenseForm)
    assert (machine.form.name, machine.form.update, str(machine.form)) == ("dense", update, "dense form")
    assert machine.form.reels == machine.reels
