"""What becomes of the parameters that are not reels."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from small_networks import (
    equal,
    network,
    slotify,
)
from timm import layers
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from slotkit.machine import SlotMachine


class Norms(nn.Module):
    """One norm of each kind, with values that are not their start values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.batch = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.timm = LayerNorm2d(4)
        self.layer = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4))
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.randn(parameter.shape) + number)

    def forward(self, x: Tensor) -> Tensor:
        x = self.timm(self.group(self.batch(self.conv(x))))
        y: Tensor = self.layer(x.mean(dim=(2, 3))) * self.scale
        return y


NORMS = ("batch", "group", "timm", "layer")


def others_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if "parametrizations" not in name
    }


def step(machine: SlotMachine, model: nn.Module) -> None:
    optimizer = machine.optimizer(lr=0.1)
    model(torch.randn(3, 2, 2, 2)).square().sum().backward()
    optimizer.step()


def test_frozen_others_are_neutral_and_stay_so() -> None:
    model = Norms()
    scale = model.scale.detach().clone()
    machine = slotify(model, where="conv.weight")
    step(machine, model)
    found = others_of(model)
    for norm in NORMS:
        assert torch.equal(found[f"{norm}.weight"], torch.ones(4))
        assert torch.equal(found[f"{norm}.bias"], torch.zeros(4))
    assert torch.equal(found["conv.bias"], torch.zeros(4))
    assert torch.equal(found["scale"], scale), "what is neither bias nor norm keeps its value"
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "conv.parametrizations.weight.original"
    ]
    assert len(list(machine.parameters())) == 1


def test_kept_others_keep_their_values() -> None:
    model = Norms()
    before = others_of(model)
    before.pop("conv.weight")
    machine = slotify(model, others="kept")
    step(machine, model)
    assert equal(others_of(model), before)
    assert len(list(machine.parameters())) == 1


def test_trained_others_are_trained_unless_they_were_frozen_before() -> None:
    model = Norms()
    model.scale.requires_grad_(False)
    before = others_of(model)
    before.pop("conv.weight")
    machine = slotify(model, others="trained")
    assert equal(others_of(model), before)
    step(machine, model)
    moved = {name for name, value in others_of(model).items() if not torch.equal(value, before[name])}
    # A norm follows, so these two have no gradient but rounding: their movement is not asked for.
    silent = {"conv.bias", "batch.bias"}
    assert moved | silent == before.keys() - {"scale"}
    assert len(list(machine.parameters())) == len(before)


def test_running_statistics_are_left_alone() -> None:
    model = network()
    model.norm.running_mean.fill_(2.0)  # type: ignore[operator, union-attr]
    slotify(model)
    assert model.norm.running_mean.eq(2.0).all()  # type: ignore[operator, union-attr]


# ---------------------------------------------------------------------------------------------------
# Frozen: norms compute the identity afterwards, by type or by effect, and names prove nothing.


def randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) + 2)
    return module


def frozen(module: nn.Module) -> nn.Module:
    """After a machine was made beside it."""
    model = nn.ModuleDict({"reels": nn.Linear(2, 2, bias=False), "it": randomized(module)})
    slotify(model, where="reels.weight")
    return model["it"]


X = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(3))
NORM_TYPES: dict[str, tuple[nn.Module, nn.Module]] = {
    "batch": (nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)),
    "instance": (nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(8)),
    "group": (nn.GroupNorm(2, 8), nn.GroupNorm(2, 8, affine=False)),
    "layer": (nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False)),
    "rms": (nn.RMSNorm(4), nn.RMSNorm(4, elementwise_affine=False)),
    "timm-batch-act": (layers.BatchNormAct2d(8, apply_act=False), nn.BatchNorm2d(8, affine=False)),
    "timm-group-1": (layers.GroupNorm1(8), nn.GroupNorm(1, 8, affine=False)),
    "timm-layer-2d": (LayerNorm2d(8), LayerNorm2d(8, affine=False)),
    "timm-rms": (layers.RmsNorm(4), layers.RmsNorm(4, affine=False)),
    "timm-rms-2d": (layers.RmsNorm2d(8), layers.RmsNorm2d(8, affine=False)),
    "timm-response": (GlobalResponseNorm(8, channels_last=False), nn.Identity()),
    "torchvision-frozen": (FrozenBatchNorm2d(8, eps=0.0), nn.Identity()),
}


@pytest.mark.parametrize(("norm", "without"), NORM_TYPES.values(), ids=NORM_TYPES)
def test_a_frozen_norm_is_that_without_weights(norm: nn.Module, without: nn.Module) -> None:
    torch.testing.assert_close(frozen(copy.deepcopy(norm))(X), without(X))


class PlainNorm(nn.Module):
    """A layer norm that somebody wrote."""

    def __init__(self, size: int, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.layer_norm(x, x.shape[-1:]) * (self.offset + self.weight) + self.bias
        return y


class OffsetNorm(nn.LayerNorm):
    """A subclass whose weight counts from 0, as in Gemma."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias)


class ResponseNorm(nn.Module):
    """Nothing at a weight of 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * x * x.norm(dim=-1, keepdim=True)


class Product(nn.Module):
    """A linear layer that somebody wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.out_bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix, self.out_bias)


def test_a_norm_that_somebody_wrote_is_known_by_its_effect() -> None:
    x = torch.randn(5, 6)
    expected = nn.functional.layer_norm(x, (6,))
    for norm in (PlainNorm(6), PlainNorm(6, offset=1.0), OffsetNorm(6)):
        torch.testing.assert_close(frozen(norm)(x), expected)
    assert torch.equal(frozen(ResponseNorm(6))(x), x)


def test_a_bias_that_somebody_wrote_is_known_by_its_effect() -> None:
    product = frozen(Product())
    assert torch.equal(product.get_parameter("out_bias"), torch.zeros(3))
    assert product.get_parameter("matrix").abs().min() > 0


@pytest.mark.parametrize("around", ["float64", "meta"])
def test_the_default_dtype_and_device_have_no_say(around: str) -> None:
    """ "meta" stands for a GPU here."""
    modules = (Product(), PlainNorm(6))
    try:
        if around == "float64":
            torch.set_default_dtype(torch.float64)
        with torch.device("meta" if around == "meta" else "cpu"), warnings.catch_warnings():
            warnings.simplefilter("error")
            product, norm = (slotify(nn.Sequential(linear(), module)).model[1] for module in modules)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(product.get_parameter("out_bias"), torch.zeros(3))
    assert torch.equal(norm.get_parameter("weight"), torch.ones(6))


def linear() -> nn.Module:
    return nn.Linear(2, 2, device="cpu")


def test_biases_of_recurrent_and_attention_layers() -> None:
    lstm, attention = frozen(nn.LSTM(3, 2)), frozen(nn.MultiheadAttention(4, 2))
    biases = [value for name, value in lstm.named_parameters() if "bias" in name]
    assert len(biases) == 2
    assert all(not value.any() for value in (*biases, attention.get_parameter("in_proj_bias")))


class FCNorm(nn.Module):
    """A classifier of normalized features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(x), self.weight)


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position_bias = nn.Parameter(torch.ones(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position_bias


class GateNorm(nn.Module):
    """Neither 0 nor 1 makes it the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sigmoid()


class Scaled(nn.Linear):
    """What its bias does is not what a bias does."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x) * self.bias
        return y


def test_what_only_goes_by_the_name_is_left_and_named() -> None:
    model = nn.ModuleDict(
        {
            "reels": nn.Linear(2, 2),
            "head": FCNorm(),
            "positions": Positions(),
            "gate": GateNorm(),
            "scaled": Scaled(3, 2),
            "norm": nn.LayerNorm(3),
        }
    )
    randomized(model)
    left = ("head.weight", "positions.position_bias", "gate.weight", "scaled.bias")
    before = {name: value.clone() for name, value in others_of(model).items() if name in left}
    text = (
        "others='frozen' leaves head.weight (of FCNorm), positions.position_bias (of Positions), gate.weight "
        "(of GateNorm), scaled.bias (of Scaled) as they are: a bias or of a norm by name, but not by type or "
        "by what the module computes. Set the values yourself if they should be neutral, or choose "
        "others='trained'."
    )
    with pytest.warns(UserWarning, match=re.escape(text)) as told:
        slotify(model, where="reels.weight")
    assert len(told) == 1
    after = others_of(model)
    assert equal({name: after[name] for name in left}, before)
    assert torch.equal(after["norm.weight"], torch.ones(3))
    assert torch.equal(after["reels.bias"], torch.zeros(2))
    assert not any(after[name].requires_grad for name in after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slotify(nn.ModuleDict({"reels": nn.Linear(2, 2), "head": FCNorm()}), others="kept")


def test_looking_at_a_module_changes_no_random_number() -> None:
    model = nn.Sequential(nn.Linear(2, 2), PlainNorm(2))
    before = torch.get_rng_state()
    slotify(model)
    assert torch.equal(torch.get_rng_state(), before)
