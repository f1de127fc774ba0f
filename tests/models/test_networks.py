"""The networks: sizes as in the sources, options, and refusals."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.making import slotify
from slotkit.models import NETWORKS, create, describe

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
IMAGES = dict.fromkeys(NETWORKS, CIFAR) | {"lenet": MNIST}
SPARSE = ("vgg-c", "vgg-d", "resnet18", "resnet34")


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.children()]


def sizes(model: nn.Module) -> list[tuple[int, int]]:
    """(out, in) of every convolution and dense layer."""
    return [
        (module.weight.shape[0], module.weight.shape[1])
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [2, 10])
def test_logits(name: str, classes: int) -> None:
    image = IMAGES[name]
    assert create(name, image, classes).eval()(torch.randn(2, *image)).shape == (2, classes)


def test_lenet() -> None:
    model = create("lenet", MNIST, 10)
    assert sizes(model) == [(300, 784), (100, 300), (10, 100)]
    assert parameters(model) == 784 * 300 + 300 * 100 + 100 * 10 == 266_200
    assert parameters(create("lenet", MNIST, 10, bias=True)) == 266_200 + 410
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


CONVS = {"conv2": [64, 64], "conv4": [64, 64, 128, 128], "conv6": [64, 64, 128, 128, 256, 256]}


@pytest.mark.parametrize(
    ("name", "padding", "flattened"),
    [
        ("conv2", "authors", 12_544),
        ("conv4", "authors", 3_200),
        ("conv6", "authors", 1_024),
        ("conv2", "same", 64 * 16 * 16),
        ("conv4", "same", 128 * 8 * 8),
        ("conv6", "same", 256 * 4 * 4),
    ],
)
def test_conv(name: str, padding: str, flattened: int) -> None:
    model = create(name, CIFAR, 10, padding=padding).eval()
    widths = CONVS[name]
    expected = [*zip(widths, [3, *widths], strict=False), (256, flattened), (256, 256), (10, 256)]
    assert sizes(model) == expected
    weights = sum(a * b * 9 for a, b in expected[:-3]) + sum(a * b for a, b in expected[-3:])
    assert parameters(model) == weights
    assert model(torch.randn(1, *CIFAR)).shape == (1, 10)


def test_vgg19() -> None:
    model = create("vgg19", CIFAR, 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert parameters(model) == 20_024_000
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 16
    assert sum(parameters(norm) for norm in norms) == 0
    assert [type(module) for module in model.modules()].count(nn.MaxPool2d) == 4
    assert create("vgg19", CIFAR, 10, batch_norm="none").get_submodule("pool5").output_size == 1


def test_vgg19_without_batch_norm() -> None:
    model = create("vgg19", (3, 16, 16), 10, batch_norm="none")
    assert nn.BatchNorm2d not in map(type, model.modules())
    assert parameters(model) == 20_024_000
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 10)


def test_vgg19_averages_what_is_left() -> None:
    """2 x 2 on CIFAR: the head's input is the mean over four places."""
    model = create("vgg19", CIFAR, 10).eval()
    pool = model.get_submodule("pool5")
    seen: list[torch.Size] = []
    pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(torch.randn(2, *CIFAR))
    assert seen == [(2, 512, 2, 2)]
    x = torch.randn(2, 512, 2, 2)
    torch.testing.assert_close(pool(x)[..., 0, 0], x.mean(dim=(2, 3)))


# Prunable layers and weights: those of Linear and Conv.
WEIGHTS = {
    ("vgg-d", True): (16, 15_239_872),
    ("vgg-c", True): (16, 11_307_712),
    ("resnet18", True): (21, 11_164_352),
    ("resnet18", False): (18, 11_164_352 - 64 * 128 - 128 * 256 - 256 * 512),
    ("resnet34", True): (37, 21_265_088),
    ("resnet34", False): (34, 21_265_088 - 64 * 128 - 128 * 256 - 256 * 512),
}


@pytest.mark.parametrize(("name", "skip"), WEIGHTS)
def test_networks_of_sparse_training_have_the_weights_of_the_sources(name: str, skip: bool) -> None:
    with torch.device("meta"):
        model = create(name, CIFAR, 10, **({} if skip else {"skip": False}))
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert (len(weights), sum(weight.numel() for weight in weights)) == WEIGHTS[name, skip]
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))]
    assert len(norms) == len(weights) - 1
    assert parameters(model) == WEIGHTS[name, skip][1] + 2 * sum(norm.num_features for norm in norms)


@pytest.mark.parametrize(("name", "sizes_after"), [("vgg-d", [16, 8, 4, 2, 1]), ("vgg-c", [16, 8, 5, 3, 2])])
def test_images_in_vgg_c_and_d(name: str, sizes_after: list[int]) -> None:
    model = create(name, CIFAR, 10, width=1 / 64).eval()
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    model(torch.zeros(1, *CIFAR))
    assert seen == sizes_after
    kernels = [module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv2d)]
    narrow = {6, 9, 12} if name == "vgg-c" else set()
    assert kernels == [1 if at in narrow else 3 for at in range(13)]
    with torch.device("meta"):
        first = create(name, CIFAR, 10).get_parameter("fc1.weight")
    assert first.shape == (512, 512 * sizes_after[-1] ** 2)


def test_skip_connections_add_the_input() -> None:
    """A block whose second convolution is 0 passes its input on, or nothing."""
    for skip in (True, False):
        model = create("resnet18", (1, 8, 8), 2, width=1 / 16, batch_norm="none", skip=skip)
        block = model.get_submodule("stage1_block2")
        nn.init.zeros_(block.get_parameter("conv2.weight"))
        images = torch.rand(2, 4, 8, 8)
        assert torch.equal(block(images), images if skip else torch.zeros_like(images))


DENSE_LAYERS = {
    "before": [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear],
    "after": [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear],
}


@pytest.mark.parametrize("place", DENSE_LAYERS)
@pytest.mark.parametrize("name", CONVS)
def test_dropout(name: str, place: str) -> None:
    model = create(name, CIFAR, 10, dropout_at=place, dropout=0.25)
    block = [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert kinds(model) == block * (len(CONVS[name]) // 2) + [nn.Flatten] + DENSE_LAYERS[place]
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_bias_unless_asked(name: str) -> None:
    plain = {"batch_norm": "plain"} if name in SPARSE else {}
    without, with_bias = (create(name, IMAGES[name], 10, bias=bias, **plain) for bias in (False, True))
    assert not any(key.endswith("bias") for key in without.state_dict())
    outputs = sum(out for out, _ in sizes(with_bias))
    assert parameters(with_bias) == parameters(without) + outputs


@pytest.mark.parametrize("form", ["latent", "dense"])
@pytest.mark.parametrize("name", ["lenet", "conv2", "conv6"])
@pytest.mark.usefixtures("narrow_networks")
def test_slot_machine_and_learned_twin_have_the_same_modules(name: str, form: str) -> None:
    learned, slots = create(name, IMAGES[name], 10), create(name, IMAGES[name], 10)
    machine = slotify(slots, k=2, form=form)
    names = [key for key, _ in learned.named_modules()]
    assert [key for key, _ in slots.named_modules() if "parametrizations" not in key] == names
    for key, module in learned.named_modules():
        twin = slots.get_submodule(key)
        assert isinstance(twin, type(module))
        assert twin.extra_repr() == module.extra_repr()
    shapes = {key: value.shape for key, value in learned.named_parameters()}
    assert {key: torch.Size(reel.shape) for key, reel in machine.reels.items()} == shapes
    if form == "latent":
        assert [key for key, _ in slots.named_modules()] == names
        assert {key: value.shape for key, value in slots.state_dict().items()} == shapes


def test_same_torch_seed_same_network() -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(create("lenet", MNIST, 10).get_parameter("fc3.weight"))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_timm() -> None:
    model = create("timm/test_resnet", (1, 32, 32), 7)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


REFUSALS: dict[str, tuple[str, tuple[int, int, int], dict[str, Any], str]] = {
    "model": ("lenett", MNIST, {}, "There is no model 'lenett'. Did you mean lenet? Choose one of lenet,"),
    "model-like-nothing": (
        "?",
        MNIST,
        {},
        "There is no model '?'. Choose one of lenet, conv2, conv4, conv6, vgg19, vgg-c, vgg-d, resnet18, "
        "resnet34, or timm/NAME",
    ),
    "timm-model": ("timm/test_resnett", CIFAR, {}, "timm has no model 'test_resnett'. Near it: test_resnet"),
    "timm-option": (
        "timm/test_resnet",
        CIFAR,
        {"depth": -1},
        "timm could not build 'test_resnet' with {'depth': -1}: ",
    ),
    "option": ("lenet", MNIST, {"dropout": 0.5}, "lenet has no option dropout. Its options are bias."),
    "options": (
        "conv2",
        CIFAR,
        {"b": 1, "a": 1},
        "conv2 has no option a, b. Its options are padding, dropout, dropout_at, bias.",
    ),
    "fixed-option": ("conv2", CIFAR, {"blocks": 3}, "conv2 has no option blocks."),
    "padding": ("conv2", CIFAR, {"padding": "valid"}, "There is no padding 'valid'. Choose same or authors."),
    "dropout-at": (
        "conv2",
        CIFAR,
        {"dropout_at": "both"},
        "There is no dropout_at 'both'. Choose before or after.",
    ),
    "batch-norm": (
        "vgg19",
        CIFAR,
        {"batch_norm": "full"},
        "There is no batch_norm 'full'. Choose plain or none.",
    ),
    "conv-image": (
        "conv6",
        (3, 8, 8),
        {"padding": "authors"},
        "Images of 8 x 8 pixels are too small for conv6 with padding='authors'. Use larger images (data."
        "size=32 resizes them) or padding=same.",
    ),
    "conv-narrow-image": (
        "conv4",
        (3, 32, 2),
        {},
        "Images of 32 x 2 pixels are too small for conv4 with padding='same'. Use larger images (data."
        "size=32 resizes them).",
    ),
    "vgg-d-image": ("vgg-d", (3, 31, 32), {}, "Images of 31 x 32 pixels are too small for vgg-d: nothing is"),
    "norm": (
        "resnet18",
        CIFAR,
        {"batch_norm": "x"},
        "There is no batch_norm 'x'. Choose affine, plain, none.",
    ),
    "width": ("vgg-c", CIFAR, {"width": 0.0}, "width is 0.0. Give the share of the channels, above 0 and at"),
    "text-for-a-number": (
        "conv4",
        CIFAR,
        {"dropout": "much"},
        "conv4 has the option dropout='much'; it takes a float, such as 0.5.",
    ),
    "no-number": (
        "conv4",
        CIFAR,
        {"dropout": math.nan},
        "conv4 has the option dropout=nan; it takes a float,",
    ),
    "number-for-a-text": (
        "conv2",
        CIFAR,
        {"padding": 1},
        "conv2 has the option padding=1; it takes a str, such",
    ),
    # --set model.options.skip=False is this text, which is true in Python.
    "text-for-a-bool": (
        "resnet18",
        CIFAR,
        {"skip": "False"},
        "resnet18 has the option skip='False'; it takes true or false.",
    ),
    "number-for-a-bool": (
        "lenet",
        MNIST,
        {"bias": 0},
        "lenet has the option bias=0; it takes true or false.",
    ),
    "vgg-image": ("vgg19", (3, 15, 32), {}, "Images of 15 x 32 pixels are too small for vgg19"),
}


@pytest.mark.parametrize(("name", "image", "options", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(name: str, image: tuple[int, int, int], options: dict[str, Any], text: str) -> None:
    with pytest.raises(SlotkitError, match="^" + re.escape(text)):
        create(name, image, 10, **options)


WRONG_VALUES: dict[str, tuple[str, dict[str, Any], str]] = {
    "too-much-dropout": (
        "conv2",
        {"dropout": 1.5},
        "conv2 can't be built with {'dropout': 1.5}: dropout probability has to be between 0 and 1, but ",
    ),
    "negative-dropout": (
        "conv6",
        {"dropout": -0.1, "bias": True},
        "conv6 can't be built with {'dropout': -0.1, 'bias': True}: dropout probability has to be between",
    ),
}


@pytest.mark.parametrize(("name", "options", "text"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_torch_refuses_a_value(name: str, options: dict[str, Any], text: str) -> None:
    """Not a fault of slotkit: a sentence that names the network and its options."""
    with pytest.raises(SlotkitError, match="^" + re.escape(text)) as caught:
        create(name, CIFAR, 10, **options)
    assert isinstance(caught.value.__cause__, (TypeError, ValueError))
    assert not isinstance(caught.value.__cause__, SlotkitError)


@pytest.mark.parametrize(
    ("name", "padding", "smallest"),
    [
        *(("conv2", "same", 2), ("conv4", "same", 4), ("conv6", "same", 8)),
        *(("conv2", "authors", 6), ("conv4", "authors", 16), ("conv6", "authors", 20)),
    ],
)
def test_the_smallest_images(name: str, padding: str, smallest: int) -> None:
    image = (1, smallest, smallest)
    assert create(name, image, 2, padding=padding)(torch.zeros(1, *image)).shape == (1, 2)
    with pytest.raises(SlotkitError, match="are too small for"):
        create(name, (1, smallest - 1, smallest - 1), 2, padding=padding)


def test_describe_names_every_network() -> None:
    assert list(describe()) == [*NETWORKS, "timm/NAME"]
    assert all(describe().values())
