"""Masks at initialisation: scores against their definitions, exact numbers, and a network left as it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.masks import saliency
from slotkit.masks.controls import CONTROLS, find_control
from slotkit.masks.densities import epsilon_of, er_densities, erk_densities, kept_by_layer
from slotkit.masks.file import About, Start
from slotkit.masks.keeping import keep_highest, keep_highest_by_layer, number_kept
from slotkit.masks.methods import METHODS, Request, find_method, random_masks
from slotkit.masks.saliency import measuring
from slotkit.models import create
from slotkit.picking import pick

Batches = list[tuple[Tensor, Tensor]]


def network(seed: int = 0) -> nn.Sequential:
    """A convolution, norms, dropout and dense layers, float64."""
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    return nn.Sequential(*layers).double()


def batches(number: int = 2) -> Batches:
    chance = torch.Generator().manual_seed(1)
    return [
        (torch.rand(5, 1, 4, 4, generator=chance, dtype=torch.float64), torch.arange(5) % 3)
        for _ in range(number)
    ]


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {one.name: one.parameter for one in pick(model)}


def slope(loss: Callable[[], float], weight: Tensor, at: tuple[int, ...], step: float = 1e-6) -> float:
    """dL/dw of one connection, by differences."""
    with torch.no_grad():
        before = float(weight[at])
        ends = []
        for moved in (before + step, before - step):
            weight[at] = moved
            ends.append(loss())
        weight[at] = before
    return (ends[0] - ends[1]) / (2 * step)


def highest(scores: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """A connection of each layer that matters."""
    return {
        name: tuple(int(i) for i in torch.unravel_index(score.abs().argmax(), score.shape))
        for name, score in scores.items()
    }


# ---------------------------------------------------------------------------------------------------
# Scores.


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_snip_is_what_a_connection_is_worth(mode: str) -> None:
    model, given_ = network(), batches()
    weights = weights_of(model)
    with measuring(model, weights, mode):
        scores = saliency.snip(model, weights, given_)

        def loss() -> float:
            with torch.no_grad():
                return sum(float(nn.functional.cross_entropy(model(x), y)) for x, y in given_)

        ratios = [
            abs(slope(loss, weights[name], at) * float(weights[name].detach()[at])) / float(scores[name][at])
            for name, at in highest(scores).items()
        ]
    assert math.isclose(sum(float(score.sum()) for score in scores.values()), 1, rel_tol=1e-9)
    torch.testing.assert_close(torch.tensor(ratios), torch.full((3,), ratios[0]), rtol=1e-4, atol=0)


def test_grasp_is_w_times_hessian_times_gradient() -> None:
    model, given_ = network(), batches(1)
    weights = weights_of(model)
    with measuring(model, weights, "eval"):
        scores = saliency.grasp(model, weights, given_)
        (images, labels) = given_[0]

        @torch.enable_grad()
        def half_norm() -> float:
            """Its gradient is H g."""
            loss = nn.functional.cross_entropy(model(images) / saliency.TEMPERATURE, labels)
            return (
                sum(float(part.square().sum()) for part in torch.autograd.grad(loss, list(weights.values())))
                / 2
            )

        for name, at in highest(scores).items():
            wanted = float(weights[name].detach()[at]) * slope(half_norm, weights[name], at, 1e-4)
            assert math.isclose(float(scores[name][at]), wanted, rel_tol=1e-4)


def test_synflow_passes_the_same_flow_through_every_layer() -> None:
    model = create("lenet", (1, 4, 4), 5)
    scores = saliency.synflow(model, weights_of(model), (1, 4, 4))
    absolute = [parameter.detach().abs().double() for parameter in model.parameters()]
    flow = float((absolute[2] @ absolute[1] @ absolute[0]).sum())
    for score in scores.values():
        assert math.isclose(float(score.sum()), flow, rel_tol=1e-9)
        assert bool((score >= 0).all())


def test_synflow_in_one_step_empties_a_layer_and_in_steps_does_not() -> None:
    """A wide layer between narrow ones: each of its connections has little of the flow."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 60, bias=False),
        nn.ReLU(),
        nn.Linear(60, 200, bias=False),
        nn.ReLU(),
        nn.Linear(200, 2, bias=False),
    )
    kept = {}
    for rounds in (1, 100):
        masks = METHODS["synflow"].masks(model, Request(0.02, rounds=rounds, image=(1, 4, 4)))
        assert sum(int(mask.sum()) for mask in masks.values()) == number_kept(0.02, 16 * 60 + 60 * 200 + 400)
        kept[rounds] = [int(mask.sum()) for mask in masks.values()]
    assert min(kept[1]) == 0 < min(kept[100])


def test_modes_and_batches_change_snip() -> None:
    def masks(number: int, mode: str) -> list[bool]:
        found = METHODS["snip"].masks(network(), Request(0.3, mode=mode), batches(number))
        return torch.cat([mask.flatten() for mask in found.values()]).tolist()  # type: ignore[no-any-return]

    assert masks(1, "train") != masks(1, "eval")
    assert masks(1, "train") != masks(3, "train")
    assert masks(2, "train") == masks(2, "train")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_n_batches_are_n_passes(number: int) -> None:
    model, calls = network(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    METHODS["snip"].masks(model, Request(0.3), batches(number))
    assert len(calls) == number


@pytest.mark.parametrize("name", ["snip", "grasp", "iter-snip"])
def test_dropout_comes_from_the_seed_and_leaves_the_generator_alone(name: str) -> None:
    def masks(seed: int, before: int = 0) -> list[bool]:
        layers = network()
        layers.insert(4, nn.Dropout(0.5))
        state = torch.manual_seed(before).get_state()
        found = METHODS[name].masks(layers, Request(0.3, seed=seed), batches(1))
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([mask.flatten() for mask in found.values()]).tolist()  # type: ignore[no-any-return]

    assert masks(0, before=1) == masks(0, before=2)
    assert any(masks(seed) != masks(0) for seed in range(1, 5))


# ---------------------------------------------------------------------------------------------------
# Every method of the registry.


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("density", [0.03, 0.31, 1.0])
def test_exactly_k_connections_and_the_network_as_it_was(name: str, density: float) -> None:
    model = network()
    frozen = next(model.parameters()).requires_grad_(False)
    model[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masks = METHODS[name].masks(
        model, Request(density, rounds=3 if METHODS[name].rounds > 1 else None, image=(1, 4, 4)), batches(1)
    )
    shapes = {key: weight.shape for key, weight in weights_of(model).items()}
    assert {key: mask.shape for key, mask in masks.items()} == shapes
    assert all(mask.dtype == torch.bool for mask in masks.values())
    connections = sum(math.prod(shape) for shape in shapes.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * connections)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not frozen.requires_grad
    assert [module.training for module in model] == [False] + [True] * 6
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in METHODS if name.endswith("random")])
def test_what_is_drawn_comes_from_the_seed(name: str) -> None:
    one, two, other = (METHODS[name].masks(network(9), Request(0.3, seed=seed)) for seed in (4, 4, 5))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


# ---------------------------------------------------------------------------------------------------
# Numbers that are kept.


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 30))
def test_of_equal_scores_the_first_are_kept(values: list[int], kept: int) -> None:
    kept = min(kept, len(values))
    cut = len(values) // 2
    scores = {
        "a": torch.tensor(values[:cut], dtype=torch.float32),
        "b": torch.tensor(values[cut:], dtype=torch.float32),
    }
    found = torch.cat(list(keep_highest(scores, kept).values())).tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert [i for i, there in enumerate(found) if there] == sorted(order[:kept])


def test_each_layer_may_keep_none_or_all() -> None:
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([1.0, 2.0]), "c": torch.tensor([0.0, 4.0])}
    found = keep_highest_by_layer(scores, {"a": 0, "b": 2, "c": 1})
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "a": [False, False],
        "b": [True, True],
        "c": [False, True],
    }


# At density 0.01.
VGG_D = [0.6182, 0.0532, 0.0393, 0.0260, 0.0194, 0.0129, 0.0129, 0.0096, *[0.0064] * 5, 0.0572, 0.0572, 1]
VGG_C = [
    *(0.3944, 0.0339, 0.0251, 0.0166, 0.0123, 0.0082, 0.0732, 0.0061, 0.0041, 0.0365, 0.0041, 0.0041),
    *(0.0365, 0.0228, 0.0365, 0.9519),
]
EPSILONS = {
    "vgg-d": {0.01: 14.633, 0.05: 75.58, 0.1: 151.84},
    "vgg-c": {0.01: 9.337, 0.05: 48.50, 0.1: 97.60},
}


@pytest.mark.parametrize(("model", "listed"), [("vgg-d", VGG_D), ("vgg-c", VGG_C)])
def test_erk_of_the_vggs(model: str, listed: list[float]) -> None:
    with torch.device("meta"):
        made = create(model, (3, 32, 32), 10)
    shapes = {name: tuple(value.shape) for name, value in made.named_parameters() if value.ndim > 1}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    for density, epsilon in EPSILONS[model].items():
        assert math.isclose(epsilon_of(raw, shapes, density), epsilon, rel_tol=5e-4)
        found = erk_densities(shapes, density)
        total = sum(found[name] * math.prod(shape) for name, shape in shapes.items())
        assert math.isclose(total, density * sum(map(math.prod, shapes.values())), rel_tol=1e-9)
        kept = kept_by_layer(shapes, found, density)
        assert sum(kept.values()) == round(density * sum(map(math.prod, shapes.values())))
    assert [round(value, 4) for value in erk_densities(shapes, 0.01).values()] == listed
    dense = [value == 1 for value in erk_densities(shapes, 0.05).values()]
    assert dense == [True] + [False] * 14 + [True]


def test_er_counts_channels_alone() -> None:
    shapes = {"conv": (4, 8, 3, 3), "fc": (4, 8)}
    found = er_densities(shapes, 0.1)
    assert math.isclose(found["conv"], found["fc"])
    assert erk_densities(shapes, 0.1)["conv"] < erk_densities(shapes, 0.1)["fc"]


# ---------------------------------------------------------------------------------------------------
# Controls.


ABOUT = About(method="snip", density=0.3, settings={"seed": 0}, start=Start(init="glorot-uniform", seed=0))


@pytest.mark.parametrize("name", CONTROLS)
def test_controls(name: str) -> None:
    masks = METHODS["snip"].masks(network(), Request(0.3), batches(1))
    found, about = CONTROLS[name].make(masks, ABOUT, 7)
    assert about.method == f"{name} snip"
    assert about.settings == {"seed": 0, "control_seed": 7}
    assert about.start is not None
    kept = [[int(mask.sum()) for mask in one.values()] for one in (masks, found)]
    assert sum(kept[0]) == sum(kept[1])
    assert (kept[0] == kept[1]) == (name != "erk-random")
    same = all(torch.equal(found[key], masks[key]) for key in masks)
    assert (same, about.start.seed) == ((True, 7) if name == "reinitialised" else (False, 0))
    if name != "reinitialised":
        again, _ = CONTROLS[name].make(masks, ABOUT, 7)
        other, _ = CONTROLS[name].make(masks, ABOUT, 8)
        assert all(torch.equal(found[key], again[key]) for key in masks)
        assert any(not torch.equal(found[key], other[key]) for key in masks)


def test_random_masks_use_every_place() -> None:
    counts = sum(random_masks({"w": (4, 5)}, {"w": 10}, seed)["w"].int() for seed in range(200))
    assert isinstance(counts, Tensor)
    # 100 of 200 expected, standard deviation 7.
    assert bool(((counts > 65) & (counts < 135)).all())


# ---------------------------------------------------------------------------------------------------
# Refusals.


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "method": (
        lambda: find_method("x"),
        "There is no method 'x' of making a mask. Choose snip, iter-snip, grasp, synflow, magnitude, random, "
        "equal-random, er-random, erk-random.",
    ),
    "control": (
        lambda: find_control("x"),
        "There is no control 'x'. Choose shuffled, reinitialised, erk-random.",
    ),
    "mode": (
        lambda: METHODS["snip"].masks(network(), Request(0.1, mode="x"), batches(1)),
        "There is no mode 'x'. Choose train or eval: how norms and dropout behave.",
    ),
    "batches": (
        lambda: METHODS["grasp"].masks(network(), Request(0.1)),
        "grasp looks at data. Give at least one batch.",
    ),
    "image": (
        lambda: METHODS["synflow"].masks(network(), Request(0.1)),
        "SynFlow sends an image of ones through the network. Give the image's shape.",
    ),
    "rounds": (
        lambda: METHODS["snip"].masks(network(), Request(0.1, rounds=3), batches(1)),
        "rounds is 3. snip takes 1.",
    ),
    "no-rounds": (
        lambda: METHODS["synflow"].masks(network(), Request(0.1, rounds=0), batches(1)),
        "rounds is 0. synflow takes 1 or more.",
    ),
    "density": (
        lambda: METHODS["magnitude"].masks(network(), Request(1.5)),
        "The density is 1.5. Give a share of the connections above 0, at most 1.",
    ),
    "nothing-left": (
        lambda: METHODS["magnitude"].masks(network(), Request(0.001)),
        "The density 0.001 of 117 connections keeps none. Give 0.0085 or more.",
    ),
    "nan": (
        lambda: keep_highest({"w": torch.tensor([1.0, math.nan])}, 1),
        "The scores of w are not numbers.",
    ),
    "same-seed": (
        lambda: CONTROLS["reinitialised"].make({}, ABOUT, 0),
        "These masks were made for initial weights of seed 0. Give another seed.",
    ),
    "no-start": (
        lambda: CONTROLS["reinitialised"].make({}, About(method="x"), 1),
        "These masks say nothing of initial weights, so there are no others to give them.",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(SlotkitError, match="^" + re.escape(text)):
        call()


class WithSpare(nn.Sequential):
    """A network with a layer that it doesn't use."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3).double())
        self.spare = nn.Linear(4, 4).double()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self[1](self[0](images))
        return found


@pytest.mark.parametrize("name", ["snip", "iter-snip", "grasp", "synflow"])
def test_a_layer_that_is_not_used_is_worth_nothing(name: str) -> None:
    request = Request(0.2, image=(1, 4, 4))
    scores = METHODS[name].score(model := WithSpare(), weights_of(model), batches(1), request)
    assert bool((scores["spare.weight"] == 0).all())
    assert bool((scores["1.weight"] != 0).any())
    assert sum(int(mask.sum()) for mask in METHODS[name].masks(model, request, batches(1)).values()) == 13


def test_snip_of_a_network_without_gradients() -> None:
    model = network()
    with torch.no_grad():
        model[6].weight.zero_()
        model[4].weight.zero_()
        model[4].bias.fill_(-1)
    with pytest.raises(SlotkitError, match="Every gradient of this network is 0, so SNIP can't tell"):
        METHODS["snip"].masks(model, Request(0.1), batches(1))
