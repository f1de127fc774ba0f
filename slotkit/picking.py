"""Which parameters of a model become reels."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from slotkit.errors import SlotkitError

Where = None | str | Iterable[str] | Callable[[str, nn.Parameter], bool]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# nn.MultiheadAttention keeps what others have in a Linear (timm's qkv) in parameters of its own.
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Picked:
    """A parameter that becomes reels: its first name in the model and all that hold it (ties)."""

    name: str
    parameter: nn.Parameter
    holders: list[tuple[nn.Module, str]]
    channel_dim: int

    @property
    def is_trained(self) -> bool:
        """Whether it has a gradient, or would if another machine in the model had not frozen it."""
        return self.parameter.requires_grad or FROZEN.is_on(self.parameter, self.holders)

    def take(self) -> bool:
        """`is_trained`, for the machine that takes it: that another one had frozen it is forgotten."""
        trained = self.is_trained
        FROZEN.take_off(self.parameter, self.holders)
        return trained


Holders = Iterable[tuple[nn.Module, str]]


class Mark(NamedTuple):
    """What slot machines note of a parameter: an attribute of it, and one of the modules that hold it.

    A deep copy and load_state_dict(assign=True) make other Parameters, without the attributes of the old
    ones.
    """

    on_parameter: str
    on_module: str

    def put(self, parameter: Tensor, holders: Holders) -> None:
        """Put it on the parameter and its holders."""
        setattr(parameter, self.on_parameter, True)
        for module, name in holders:
            module.__dict__.setdefault(self.on_module, set()).add(name)

    def take_off(self, parameter: Tensor, holders: Holders) -> None:
        """Undo `put`."""
        parameter.__dict__.pop(self.on_parameter, None)
        for module, name in holders:
            names = module.__dict__.get(self.on_module, set())
            names.discard(name)
            if not names:
                module.__dict__.pop(self.on_module, None)

    def is_on(self, parameter: Tensor, holders: Holders) -> bool:
        """Whether the parameter has it, or the one in its place before a copy had."""
        return getattr(parameter, self.on_parameter, False) or any(
            name in module.__dict__.get(self.on_module, ()) for module, name in holders
        )


CLAIMED = Mark("belongs_to_a_slot_machine", "of_a_slot_machine")
FROZEN = Mark("frozen_by_a_slot_machine", "frozen_by_slot_machines")
TRAINED = Mark("trained_by_a_slot_machine", "trained_by_slot_machines")


def claim(parameter: Tensor, holders: Holders = ()) -> None:
    """Mark a parameter as a slot machine's, so that no second machine takes or freezes it."""
    CLAIMED.put(parameter, holders)


def release(parameter: Tensor, holders: Holders = ()) -> None:
    """Undo `claim`."""
    CLAIMED.take_off(parameter, holders)


def is_claimed(parameter: Tensor, holders: Holders = ()) -> bool:
    """Whether a slot machine has the parameter, or had the one in its place before a copy."""
    return CLAIMED.is_on(parameter, holders)


def freeze(parameter: Tensor, holders: Holders) -> None:
    """Switch the gradient of a parameter off for as long as no machine takes it."""
    if parameter.requires_grad:
        FROZEN.put(parameter.requires_grad_(False), holders)


def unfreeze(parameter: Tensor, holders: Holders) -> None:
    """Undo `freeze`."""
    FROZEN.take_off(parameter.requires_grad_(True), holders)


def is_sharded(parameter: Tensor | None) -> bool:
    """Whether it lies in shards, one a process: a DTensor, as FSDP2's fully_shard makes them."""
    return hasattr(parameter, "device_mesh")


def sharded(name: str) -> SlotkitError:
    """The error for such a parameter."""
    return SlotkitError(
        f"{name} lies in shards, one a process (fully_shard does that), and a slot machine needs whole "
        "weights. Leave fully_shard out: DistributedDataParallel, and torchrun with `slotkit train`, keep a "
        "whole network in every process and send the gradients of its weights only."
    )


def pick(model: nn.Module, where: Where = None) -> list[Picked]:
    """The parameters that `where` picks, in the model's order, each tied tensor once.

    Raises SlotkitError if nothing is picked, if a pattern matches nothing, or if a parameter is lazy, in
    shards or already a slot machine's.
    """
    by_name = holders_of(model)
    return [_picked(name, by_name[name]) for name in _names(model, where, by_name)]


def names_picked(model: nn.Module, where: Where = None) -> list[str]:
    """The names of what `pick` picks, also of a model on the meta device."""
    return _names(model, where, holders_of(model))


def _names(model: nn.Module, where: Where, by_name: dict[str, list[tuple[nn.Module, str]]]) -> list[str]:
    if where is None:
        names = [
            name
            for name, holders in by_name.items()
            if _is_layer_weight(holders) and not is_claimed(_parameter(holders), holders)
        ]
    elif callable(where):
        names = [name for name, holders in by_name.items() if where(name, _parameter(holders))]
    else:
        names = _matching([where] if isinstance(where, str) else list(where), first_names(model))
    if not names:
        if where is None and any(is_claimed(_parameter(one), one) for one in by_name.values()):
            raise SlotkitError(
                f"{type(model).__name__} is already a slot machine: every weight of its Linear and Conv "
                "layers belongs to one. Go on with that machine, or slotify a new model."
            )
        raise SlotkitError(
            f"{type(model).__name__} has no weight to slotify: `where` picks none of its parameters "
            f"({', '.join(by_name) or 'it has none'}). By default every weight of Linear and Conv "
            "layers is picked."
        )
    return names


def holders_of(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """First full name of each parameter -> every (module, name) that holds it."""
    by_name: dict[str, list[tuple[nn.Module, str]]] = {}
    modules = dict(model.named_modules())
    for full, first in first_names(model).items():
        prefix, _, name = full.rpartition(".")
        by_name.setdefault(first, []).append((modules[prefix], name))
    return by_name


def first_names(model: nn.Module) -> dict[str, str]:
    """Every full name of each parameter -> its first one: a tied parameter has several."""
    first_name: dict[int, str] = {}
    found: dict[str, str] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            found[full] = first_name.setdefault(id(parameter), full)
    return found


def _is_layer_weight(holders: list[tuple[nn.Module, str]]) -> bool:
    return any(
        (isinstance(module, (nn.Linear, *CONVOLUTIONS)) and name == "weight")
        or (isinstance(module, nn.MultiheadAttention) and name in PROJECTIONS)
        for module, name in holders
    )


def _parameter(holders: list[tuple[nn.Module, str]]) -> nn.Parameter:
    module, name = holders[0]
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter


def _matching(patterns: list[str], firsts: dict[str, str]) -> list[str]:
    """First names of the parameters that have a name which a pattern matches."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in firsts):
            near = difflib.get_close_matches(pattern, firsts, n=3, cutoff=0.3) or list(firsts)[:3]
            raise SlotkitError(
                f"`where` names {pattern!r}, which matches no parameter. Near it: {', '.join(near)}."
            )
    found = {first for name, first in firsts.items() if any(fnmatchcase(name, each) for each in patterns)}
    return [name for name in dict.fromkeys(firsts.values()) if name in found]


def _picked(name: str, holders: list[tuple[nn.Module, str]]) -> Picked:
    parameter = _parameter(holders)
    if is_sharded(parameter):
        raise sharded(name)
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise SlotkitError(
            f"{name} belongs to a lazy layer without a shape yet. Run one batch through the model first."
        )
    if parameter.is_inference():
        raise SlotkitError(
            f"{name} was made in torch.inference_mode(), where PyTorch makes tensors that can't be trained. "
            "Build the network outside of it."
        )
    if parameter.is_meta:
        raise SlotkitError(
            f"{name} is on the meta device, where tensors have no numbers. Give the model memory first: "
            "model.to_empty(device='cpu')."
        )
    if is_claimed(parameter, holders):
        raise SlotkitError(f"{name} belongs to a slot machine already. Leave it out of `where`.")
    if any(isinstance(module, nn.utils.parametrize.ParametrizationList) for module, _ in holders):
        raise SlotkitError(
            f"{name} is parametrized already (a slot machine, or weight norm). Remove that first, "
            "or leave it out of `where`."
        )
    if not parameter.is_floating_point():
        raise SlotkitError(
            f"{name} is of type {parameter.dtype}. Reels are real numbers: leave it out of `where`."
        )
    return Picked(name, parameter, holders, int(isinstance(holders[0][0], TRANSPOSED)))
