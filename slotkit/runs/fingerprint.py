"""What a checkpoint says of the settings and the data that it comes from, and how the run is held to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotkit.config import Config, flatten
from slotkit.errors import SlotkitError
from slotkit.inits import plain_init
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming

# Settings that do not change what a run trains: where data lies and how it is read, how often a checkpoint is
# written, who else is told. In how many pieces a batch is taken may change too, for another number of
# processes; sums are rounded otherwise then, and the run says so.
FREE = (
    "data.dir",
    "data.download",
    "data.memory",
    "data.workers",
    "training.accumulate",
    "evaluation.batch_size",
    "recording.checkpoint_epochs",
    "recording.checkpoint_minutes",
    "recording.keep_epochs",
    "recording.keep_last",
    "recording.loggers",
)

# Where dropout is kept in evaluation, its masks are drawn batch by batch: there this decides, too.
OF_MASKS = "evaluation.batch_size"

# What else a checkpoint does not hold a run to: epochs may be added, and the device and how often a loss is
# told do not change what is trained.
CHANGEABLE = ("training.epochs", "training.device", "training.log_every")

# Where a run keeps the identity of its data, if it does.
DATA = "data.json"


def free_of(config: Config) -> tuple[str, ...]:
    """FREE, for a run with these settings."""
    return tuple(path for path in FREE if path != OF_MASKS or not config.evaluation.keep_dropout)


def fingerprint(folder: RunFolder, config: Config) -> dict[str, Any]:
    """For the description of a checkpoint: the settings that matter, by path, and a digest of the data."""
    return {"settings": _deciding(config), "data": _data(folder.path)}


def check(folder: RunFolder, path: Path, about: Mapping[str, Any]) -> None:
    """Hold config.toml and data to what the checkpoint at `path` says of them; those of before say nothing.

    Raises SlotkitError with the setting, what it was and what it is.
    """
    config = folder.config()
    there: dict[str, Any] = dict(about.get("settings") or {})
    if "slots.init" in there:
        there["slots.init"] = plain_init(there["slots.init"])
    usual, here, free = _deciding(Config()), _deciding(config), (*free_of(config), *CHANGEABLE)
    different = [
        f"{name} was {there[name]!r} and is {here.get(name)!r}"
        for name in there
        if name not in free and here.get(name) != there[name]
    ]
    # Settings that were added to slotkit since then are at their defaults, or were put there.
    different += [
        f"{name} was not set and is {value!r}"
        for name, value in here.items()
        if there and name not in there and name != OF_MASKS and usual.get(name) != value
    ]
    epochs = about.get("epochs") or 0
    if config.training.epochs < epochs:
        different.append(f"training.epochs was {epochs} and is {config.training.epochs}")
    if different:
        raise SlotkitError(
            f"{folder.path / 'config.toml'} was changed since {path} was written: {'; '.join(different)}. "
            "Put the old values back, or train a new run with the new ones."
        )
    folder.data()  # says so if it is damaged
    if about.get("data") is not None and about["data"] != _data(folder.path):
        raise SlotkitError(
            f"{folder.path / DATA} was changed since {path} was written, so the data may be other data. "
            "Put it back, or train a new run."
        )


def _deciding(config: Config) -> dict[str, Any]:
    free = (*free_of(config), *CHANGEABLE)
    told = {name: value for name, value in flatten(config.model_dump(mode="json")) if name not in free}
    # A folder of one's own may lie elsewhere; what is in it is compared by data.json.
    return told | {"data.dataset": config.data.dataset.partition(":")[0]}


def _data(folder: Path) -> str | None:
    path = folder / DATA
    with naming(path, "Restore it, or train again."):
        if not path.exists():
            return None
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def load(folder: RunFolder, which: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and description of a checkpoint of a run: "best", "last", "epoch-N", "step-N" or "start".

    Raises SlotkitError if it is missing or damaged, or comes from other settings or data than the run's.
    """
    path = folder.checkpoint(which)
    state, about = checkpoint.load(path)
    check(folder, path, about)
    if not {"step", "epoch"} <= about.keys():
        raise SlotkitError(
            f"{path} doesn't say of which step and epoch it is. Use another one, or train again."
        )
    return state, about
