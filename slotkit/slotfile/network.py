"""Networks that have no name in a registry: what their tensors are called, and whether a file fits one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from slotkit.dense import SlotWeight
from slotkit.errors import SlotkitError
from slotkit.layers import SlotLayer
from slotkit.picking import is_claimed
from slotkit.slotfile.architecture import Outline, outline_of

# What torch.compile and (Distributed)DataParallel put before the names of the network in them.
COMPILED, PARALLEL = "_orig_mod", "module"

# Names that an error lists of each kind of difference.
FEW = 3


def own_outline(model: nn.Module, reels: Iterable[str]) -> Outline:
    """The state_dict that a slot machine's model has as an ordinary network, with the weights in use.

    In the dense form a weight is computed from its scores. Of the names of a tied tensor that of its reel is
    the first.

    Raises SlotkitError for a network whose state is not tensors only.
    """
    entries: dict[str, Any] = dict(model.state_dict(keep_vars=True))
    same = {name: id(value) for name, value in entries.items()}
    parameters = {name for name, value in entries.items() if isinstance(value, nn.Parameter)}
    for prefix, module in model.named_modules(remove_duplicate=False):
        before = f"{prefix}." if prefix else ""
        if isinstance(module, SlotLayer):
            entries.pop(f"{before}_extra_state", None)
        if not parametrize.is_parametrized(module):
            continue
        for name, chain in module.get_submodule("parametrizations").named_children():
            if isinstance(chain.get_submodule("0"), SlotWeight):
                inside = f"{before}parametrizations.{name}."
                entries = {key: value for key, value in entries.items() if not key.startswith(inside)}
                entries[before + name], same[before + name] = getattr(module, name), id(chain)
                parameters.add(before + name)
    odd = [name for name, value in entries.items() if not isinstance(value, Tensor)]
    if odd:
        raise SlotkitError(
            f"{type(model).__name__} keeps {', '.join(odd[:FEW])}, which is no tensor, so it can't be "
            "written down."
        )
    firsts = {same[name]: name for name in reels}
    first = {name: firsts.setdefault(same[name], name) for name in entries}
    return Outline(entries, first, frozenset(parameters))


def places_in(model: nn.Module, outline: Outline, path: Path) -> dict[str, str]:
    """Name in the model's state_dict -> name in the file, for a file of that outline.

    Names that differ by the wrappers of torch.compile and DistributedDataParallel are the same.

    Raises SlotkitError, with the first names, if the file is of another network, or the model can't be loaded
    into.
    """
    kind = type(model).__name__
    _check_ordinary(model, kind)
    there, wanted = outline_of(kind, model), outline.entries
    places = _matched(there.entries, wanted)
    faults = _listed(f"{kind} lacks", [name for name in wanted if name not in places.values()])
    faults += _listed("the file lacks", [name for name in there.entries if name not in places])
    faults += _listed(
        "",
        [
            f"{name} is {_said(wanted[own])} in the file and {_said(there.entries[name])} in {kind}"
            for name, own in places.items()
            if _said(wanted[own]) != _said(there.entries[name])
        ],
    )
    faults += _listed(
        "",
        [
            f"{there.first[name]} and {name} are one tensor in {kind} and two in the file"
            for name, own in places.items()
            if there.first[name] in places and outline.first[own] != outline.first[places[there.first[name]]]
        ],
    )
    if faults:
        raise SlotkitError(
            f"{path} is of another network than this {kind}: {'; '.join(faults)}. Nothing was changed. "
            "Build the network that was saved, with the same sizes and types, and load into that."
        )
    return places


def _check_ordinary(model: nn.Module, kind: str) -> None:
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}".removeprefix(".")
            if is_claimed(value, [(module, name)]):
                raise SlotkitError(
                    f"{full} of this {kind} belongs to a slot machine, whose weights can't be loaded. "
                    "Give a network that slotify has not changed, or end the machine before, with "
                    "machine.to_learned()."
                )
            if value.is_meta or isinstance(value, nn.parameter.UninitializedParameter):
                raise SlotkitError(
                    f"{full} of this {kind} has no memory yet. Give the network memory first: "
                    "model.to_empty(device='cpu'), or one batch through its lazy layers."
                )


def _matched(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Name in the model -> name in the file, of those that have both."""
    if set(there) != set(wanted):
        mine, its = {_plain(name): name for name in there}, {_plain(name): name for name in wanted}
        if len(mine) == len(there) and len(its) == len(wanted):
            return {mine[name]: its[name] for name in mine if name in its}
    return {name: name for name in there if name in wanted}


def _plain(name: str) -> str:
    """The name without wrappers."""
    parts = [part for part in name.split(".") if part != COMPILED]
    while len(parts) > 1 and parts[0] == PARALLEL:
        del parts[0]
    return ".".join(parts)


def _said(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _listed(what: str, names: list[str]) -> list[str]:
    """The first names after `what`, or nothing if there are none."""
    if not names:
        return []
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return [f"{what} {', '.join(names[:FEW])}{more}".strip()]
