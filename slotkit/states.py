"""Whether a state can be loaded, asked before anything is changed: a refused one leaves all as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.inits import plain_init
from slotkit.latent.line import is_count, is_line
from slotkit.latent.weight import LatentWeight
from slotkit.selection import are_selected


def check_machine_state(state: Mapping[str, Any], own: Mapping[str, Any], holds_none: bool) -> None:
    """Raise SlotkitError unless `state` has all that a machine's `own` has, in the same shapes.

    Args:
        holds_none: whether the state is that of a machine which follows its scores, even if the own one
            holds a sample just now.
    """
    absent = [key for key in ("settings", "draws", "others") if key not in state]
    if absent:
        raise _lacks(absent)
    for key, value in own.items():
        if isinstance(value, Mapping) and not isinstance(state.get(key, {}), Mapping):
            raise _is_wrong(f"{key} {state[key]!r:.40}")
    _check_settings(own["settings"], state["settings"])
    tables = {key: value for key, value in own.items() if isinstance(value, Mapping)}
    for key in ("settings", "others", *(["held"] if holds_none else [])):
        tables.pop(key, None)
    entries = {(table, name): value for table, names in tables.items() for name, value in names.items()}
    absent = [
        f"{table}/{name}" for (table, name), value in entries.items() if not _has(state, table, name, value)
    ]
    if absent:
        raise _lacks(absent)
    misshapen = [
        f"{table}/{name}"
        for (table, name), value in entries.items()
        if isinstance(value, Tensor) and not _is_alike(state[table][name], value)
    ]
    if misshapen:
        raise SlotkitError(
            f"This state has {', '.join(misshapen)} in another shape or of another kind of numbers. It is "
            "damaged, or was put together by hand."
        )
    _check_numbers(state, own)
    # What get_extra_state of a module gives may be anything, and is the module's to refuse.
    shapes = [
        {name: getattr(value, "shape", None) for name, value in each["others"].items()}
        for each in (own, state)
    ]
    if shapes[0].keys() != shapes[1].keys() or any(
        isinstance(value, Tensor) and shapes[0][name] != shapes[1][name]
        for name, value in own["others"].items()
    ):
        raise SlotkitError("This state belongs to a model with other parameters. Build that model first.")


def _has(state: Mapping[str, Any], table: str, name: str, own: Any) -> bool:
    """Whether the state has an entry like the machine's own."""
    found = state.get(table, {}).get(name)
    if isinstance(own, Mapping):
        return isinstance(found, Mapping) and not own.keys() - found.keys()
    return isinstance(found, Tensor) if isinstance(own, Tensor) else found is not None


def _is_alike(found: Tensor, own: Tensor) -> bool:
    return found.shape == own.shape and found.is_floating_point() == own.is_floating_point()


def _check_numbers(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Whether numbers are such as a machine can have: how often it drew, its lines, the options it holds."""
    draws, waiting, k = state["draws"], state.get("waiting"), own["settings"]["k"]
    if not is_count(draws) or not (
        waiting is None
        or (isinstance(waiting, Collection) and all(isinstance(name, str) for name in waiting))
    ):
        raise _is_wrong(f"draws {draws!r:.40} and waiting {waiting!r:.40}")
    for name, line in state.get("lines", {}).items():
        if not is_line(line):
            raise _is_wrong(f"lines/{name} {line!r:.120}")
    for name, held in state.get("held", {}).items():
        if name in own["scores"] and not are_selected(held, own["scores"][name].shape[:-1], k):
            raise _is_wrong(f"held/{name}, which is not the number of an option, 0 to {k - 1}, a connection")


def _is_wrong(what: str) -> SlotkitError:
    return SlotkitError(f"This state has {what}. It is damaged, or was put together by hand.")


def _lacks(absent: Sequence[str]) -> SlotkitError:
    return SlotkitError(f"This state lacks {', '.join(absent)}. It is damaged, or was put together by hand.")


def _check_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    theirs = dict(theirs)
    if "init" in theirs:
        theirs["init"] = plain_init(theirs["init"])
    different = [key for key in {**mine, "kind": None, "share": None} if mine.get(key) != theirs.get(key)]
    if different:
        told = "; ".join(
            f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here" for key in different
        )
        raise SlotkitError(f"This state belongs to another slot machine: {told}. Build that one first.")


def check_optimizer_state(
    state: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    weights: Mapping[Tensor, LatentWeight],
    needed: Sequence[str],
    kind: str,
) -> None:
    """Raise SlotkitError unless `state` is that of an optimizer of this kind, of these groups and weights.

    Args:
        weights: the slot machines' own among the parameters.
        needed: what a param group must have.
    """
    theirs = state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in theirs]:
        return  # torch refuses it, with its own words
    for i, (group, saved) in enumerate(zip(groups, theirs, strict=True)):
        absent = [name for name in needed if name not in saved]
        if absent:
            raise SlotkitError(
                f"Group {i} of this state has no {', '.join(absent)}: it is that of another kind of "
                f"optimizer. Load one that {kind} has saved."
            )
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            kept, weight = state["state"].get(key, {}), weights.get(parameter)
            if weight is not None:
                weight.check(kept)
                _check_moments(kept, weight.reel.name)
            _check_buffers(kept, parameter if weight is None else weight.latent)


def check_ordinary_state(state: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise SlotkitError unless what torch's optimizers remember of a parameter has the parameter's shape.

    The rest of a state is the optimizer's own business.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise SlotkitError(f"The state of an optimizer is {state!r:.40}. It is damaged, or not of one.")
    parameters = [parameter for group in groups for parameter in group["params"]]
    for key, kept in state["state"].items():
        if not isinstance(kept, Mapping):
            raise SlotkitError(
                f"The state has {kept!r:.40} for a parameter. It is damaged, or was put together by hand."
            )
        if type(key) is int and 0 <= key < len(parameters):
            _check_buffers(kept, parameters[key])


def _check_moments(kept: Mapping[str, Any], name: str) -> None:
    moments = ("step", "exp_avg", "exp_avg_sq")
    absent = [moment for moment in moments if moment not in kept]
    if absent and len(absent) < len(moments):
        raise SlotkitError(
            f"The state of {name} lacks {', '.join(absent)}. It is damaged, or was put together by hand."
        )
    step = kept.get("step", 0.0)
    if not isinstance(step, int | float) and not (isinstance(step, Tensor) and step.numel() == 1):
        raise SlotkitError(
            f"The state of {name} has step {step!r:.40}, which is no number. It is damaged, or was put "
            "together by hand."
        )


def _check_buffers(kept: Mapping[str, Any], trained: Tensor) -> None:
    for name in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
        buffer = kept.get(name)
        if buffer is not None and not (isinstance(buffer, Tensor) and buffer.is_floating_point()):
            raise SlotkitError(
                f"The state has {name} {buffer!r:.40} for a parameter. It is damaged, or was put together by "
                "hand."
            )
        if buffer is not None and buffer.shape != trained.shape:
            raise SlotkitError(
                f"The state has {name} of shape {tuple(buffer.shape)} for a parameter of shape "
                f"{tuple(trained.shape)}. Build the network that the state was saved with."
            )
