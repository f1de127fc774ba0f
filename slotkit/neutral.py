"""What makes a bias nothing and a norm the identity: known by type, else seen in what the module computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

AFFINE = {"weight": 1.0, "bias": 0.0}
BIAS = {"bias": 0.0, "in_proj_bias": 0.0}

TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
TORCH_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
TORCH_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

# Those of timm's norms that do not come from torch's.
TIMM_NORMS = {
    *("RmsNorm", "RmsNormFp32", "RmsNorm2d", "RmsNorm2dFp32"),
    *("SimpleNorm", "SimpleNormFp32", "SimpleNorm2d", "SimpleNorm2dFp32"),
    *("FilterResponseNormTlu2d", "FilterResponseNormAct2d", "InplaceAbn"),
    *("EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2", "EvoNorm2dS0", "EvoNorm2dS1", "EvoNorm2dS2"),
}
# What timm's own modules add to a product: of queries, of values, of an MLP's and an activation's output.
TIMM_BIASES = {"bias": 0.0, "q_bias": 0.0, "v_bias": 0.0, "mlp_bias": 0.0}

# Packages whose subclasses mean what their base class does. A subclass of anybody else may not.
TRUSTED = ("torch.", "timm.", "torchvision.")


def neutral_values(module: nn.Module) -> dict[str, float]:
    """Names of the module's own parameters that can be neutral, and the value that makes them so."""
    own = dict(module.named_parameters(recurse=False))
    found = _known(module, own) if _author(module).startswith(TRUSTED) else _proven(module, own)
    return {name: value for name, value in found.items() if name in own}


def may_be_meant(module: nn.Module, name: str) -> bool:
    """Whether a parameter goes by the name of a bias, or its module by that of a norm."""
    of_a_norm = _is_called_norm(module) and (name == "weight" or not _has_parts(module))
    return name.startswith("bias") or name.endswith("bias") or of_a_norm


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _is_called_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _author(module: nn.Module) -> str:
    """Where the forward of a module is from."""
    if "forward" in module.__dict__:
        return ""
    return next(cls.__module__ for cls in type(module).__mro__ if "forward" in vars(cls)) + "."


# ---------------------------------------------------------------------------------------------------
# By type.


def _known(module: nn.Module, own: Mapping[str, Tensor]) -> dict[str, float]:
    if isinstance(module, TORCH_NORMS):
        return AFFINE
    if isinstance(module, TORCH_LAYERS):
        return BIAS
    if isinstance(module, TORCH_RECURRENT):
        return {name: 0.0 for name in own if name.startswith("bias")}
    return _known_of_timm(module) if _author(module).startswith("timm.") else {}


def _known_of_timm(module: nn.Module) -> dict[str, float]:
    # By name, because timm takes a second to import.
    types = {cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("timm.")}
    if "GlobalResponseNorm" in types:
        return {"weight": 0.0, "bias": 0.0}  # x + weight * norm(x) + bias
    return AFFINE if types & TIMM_NORMS else TIMM_BIASES


# ---------------------------------------------------------------------------------------------------
# By effect: a module of somebody else is looked at with random inputs.


def _proven(module: nn.Module, own: Mapping[str, Tensor]) -> dict[str, float]:
    whole = not any(isinstance(value, nn.parameter.UninitializedParameter) for value in own.values())
    if not whole or _has_parts(module):
        return {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            twin = copy.deepcopy(module).float().train()
        except (TypeError, RuntimeError, AttributeError):
            return {}  # it can't be copied, so it is left as it is, and named in the warning
        return _proven_norm(twin) or _proven_biases(twin)


def _proven_norm(twin: nn.Module) -> dict[str, float]:
    """The values with which a module named a norm puts out its input, or that at a mean square of 1."""
    vectors = dict(twin.named_parameters())
    if not _is_called_norm(twin) or any(value.dim() != 1 for value in vectors.values()):
        return {}
    for scale in (1.0, 0.0):
        values = {name: 0.0 if "bias" in name else scale for name in vectors}
        for name, value in values.items():
            vectors[name].fill_(value)
        seen = [_is_normal(twin, x) for x in _inputs(vectors) if _output(twin, x) is not None]
        if seen and all(seen):
            return values
    return {}


def _is_normal(twin: nn.Module, x: Tensor) -> bool:
    y, larger = _output(twin, x), _output(twin, 3 * x)
    if y is None or larger is None or y.shape != x.shape:
        return False
    if torch.allclose(y, x, rtol=1e-3, atol=1e-3):
        return True
    like_x = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1] > 0.2
    same_size = torch.allclose(larger, y, rtol=1e-2, atol=1e-2)
    return bool(like_x and same_size and abs(float(y.square().mean()) - 1) < 0.05)


def _proven_biases(twin: nn.Module) -> dict[str, float]:
    """Zero for each vector named a bias that the module does nothing with but add it to its output."""
    parameters = dict(twin.named_parameters())
    found = {}
    for name, value in parameters.items():
        if may_be_meant(twin, name) and "bias" in name and value.dim() == 1:
            seen = [_is_added(twin, value, x) for x in _inputs(parameters) if _output(twin, x) is not None]
            if seen and all(seen):
                found[name] = 0.0
    return found


def _is_added(twin: nn.Module, bias: Tensor, x: Tensor) -> bool:
    numbers = torch.linspace(-1, 2, len(bias), dtype=bias.dtype, device=bias.device)
    bias.copy_(numbers)
    with_it = _output(twin, x)
    bias.zero_()
    without = _output(twin, x)
    if with_it is None or without is None or with_it.shape != without.shape:
        return False
    difference = with_it - without
    columns = [difference.movedim(at, -1) for at in {1, difference.dim() - 1} if at < difference.dim()]
    return any(
        column.shape[-1] == len(bias) and torch.allclose(column, numbers.expand_as(column), atol=1e-3)
        for column in columns
    )


def _inputs(parameters: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Inputs of the shapes that layers are given, for every size that the parameters have.

    They are float32 and on the device of the twin: torch's default dtype and device have no say.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    for size in {length for value in parameters.values() for length in value.shape}:
        one, two = [other for other in (7, 8, 9) if other != size][:2]
        shapes = ((6, size), (2, one, size), (2, size, one), (2, size, one, two), (2, one, two, size))
        for shape in shapes:
            device = next(iter(parameters.values())).device
            numbers = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            yield (20 * numbers + 3).to(device)


def _output(twin: nn.Module, x: Tensor) -> Tensor | None:
    """What the module makes of an input, without its hooks; None if that is not of a kind that it takes.

    The code is somebody else's and the inputs are guesses, so whatever it raises means that: its parameters
    are then left as they are, and named in the warning.
    """
    try:
        y: Any = twin.forward(x.clone())
    except Exception:
        return None
    return y if isinstance(y, Tensor) else None
