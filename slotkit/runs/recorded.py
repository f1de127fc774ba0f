"""What a run folder says of a loop that is not slotkit's own: see `slotkit.record`.

config.toml has the settings that are known (of the machine, the optimizer and the recording) and a table
"recorded" with the rest. The names of network and dataset are OWN: slotkit can't make them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.inits import NAMED_INITS
from slotkit.machine import SlotMachine
from slotkit.models import OWN
from slotkit.settings import RecordingSettings

# The table of config.toml, and the kind in summary.json.
KIND = "recorded"

ORIGIN = "slotkit.record"


def describe(
    machine: SlotMachine,
    optimizers: Sequence[Optimizer],
    recording: RecordingSettings,
    config: Mapping[str, Any],
) -> tuple[Resolved, dict[str, Any]]:
    """The settings that are known, and the table "recorded"."""
    reels = machine.reels
    settings = next(iter(reels.values())).settings.to_dict()
    group = optimizers[0].param_groups[0]
    values: dict[str, Any] = {
        "method": "slot",
        "model.name": OWN,
        "data.dataset": OWN,
        "slots.k": settings["k"],
        "slots.selection": machine.selection,
        "slots.sharing": settings["sharing"],
        "slots.symmetric": settings["symmetric"],
        "slots.form": machine.form.name,
        "slots.update": machine.form.update,
        "slots.where": tuple(reels),
        # Without non-slot parameters nothing of the kind is trained.
        "slots.others": "kept" if machine.others == "trained" and not machine.trained else machine.others,
        "seeds.reels": settings["seed"],
        "training.optimizer": "adam" if "betas" in group else "sgd",
        "training.lr": float(group["lr"]) or None,
        "training.momentum": float(group["momentum"]) if "momentum" in group else None,
        "training.weight_decay": float(group.get("weight_decay", 0.0)),
        "recording.trace": recording.trace,
        "recording.every": recording.every,
        "recording.keep_last": recording.keep_last,
    }
    if settings["init"] in NAMED_INITS:
        values["slots.init"] = settings["init"]
    if "kind" in settings:
        values["slots.kind"] = settings["kind"]
    known = {path: value for path, value in values.items() if value is not None}
    told = {
        "network": type(machine.model).__qualname__,
        "optimizer": type(optimizers[0]).__qualname__,
        "init": settings["init"],
        "channel_dims": {name: reel.channel_dim for name, reel in reels.items()},
        "config": dict(config),
    }
    return resolve([Overrides(ORIGIN, known)]), told


def optimizers_of(given: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """torch's own optimizers, out of the wrappers of accelerate and Lightning.

    Raises SlotkitError for what is none.
    """
    found = []
    for one in given if isinstance(given, list | tuple) else [given]:
        inner: Any = one
        while not _is_plain(inner) and hasattr(inner, "optimizer"):
            inner = inner.optimizer
        if not isinstance(inner, Optimizer):
            raise SlotkitError(
                f"The optimizer is {one!r:.60}. Give a torch optimizer, such as the one of "
                "machine.optimizer(...)."
            )
        found.append(inner)
    if not found:
        raise SlotkitError("No optimizer is given. Give the one that steps on the machine.")
    return found


def _is_plain(one: Any) -> bool:
    return isinstance(one, Optimizer) and not isinstance(getattr(one, "optimizer", None), Optimizer)


def plain(config: Mapping[str, Any], place: str = "config") -> dict[str, Any]:
    """A table that TOML can hold. Raises SlotkitError, with the entry, for what it can't."""
    if not isinstance(config, Mapping):
        raise SlotkitError(f"{place} is {config!r:.60}. Give a table of names and values.")
    return {str(name): _value(value, f"{place}[{name!r}]") for name, value in config.items()}


def _value(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return plain(value, place)
    if isinstance(value, list | tuple):
        return [_value(one, place) for one in value]
    if isinstance(value, bool | int | float | str):
        return value
    raise SlotkitError(
        f"{place} is {value!r:.60}, and a run's config holds numbers, texts, true and false, lists and "
        "tables. Write it as a text, or leave it out."
    )
