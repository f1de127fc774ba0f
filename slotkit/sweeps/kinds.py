"""Which runs of a sweep are alike: in the memory that they take, and in the time of an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slotkit.config import Config

# What decides how much memory a run takes, among its settings.
MEMORY = ("method", "model", "data.dataset", "data.size", "training.batch_size", "training.precision")

# Settings that hardly change the time of an epoch. The path of a mask is not what takes time.
SAME_TIME = (
    *("seeds.", "mask", "slots.init", "training.epochs", "training.lr", "training.momentum"),
    *("training.nesterov", "training.weight_decay", "training.schedule", "training.milestones"),
    *("training.gamma", "training.restart_epochs", "training.min_lr", "training.patience"),
)


def of_memory(settings: Mapping[str, Any]) -> str:
    """Runs of one such kind take about the same memory. `settings` are those of an entry of the manifest."""
    return _kind(
        {path: v for path, v in settings.items() if path in MEMORY or path.startswith("model.")}, settings
    )


def of_time(settings: Mapping[str, Any]) -> str:
    """Epochs of one such kind take about the same time."""
    deciding = {path: value for path, value in settings.items() if not path.startswith(SAME_TIME)}
    deciding.pop("slots.k", None)
    return _kind(deciding | {"mask": "mask" in settings}, settings)


def _kind(deciding: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """With K in the dense form, which has K scores a connection."""
    k = settings.get("slots.k", Config().slots.k) if _is_dense(settings) else None
    return json.dumps([deciding, k], sort_keys=True)


def _is_dense(settings: Mapping[str, Any]) -> bool:
    """As `Config.form`, of settings that nobody has checked: a manifest may have been edited."""
    form = settings.get("slots.form", "auto")
    decided = settings.get("slots.update") == "selected" or settings.get("slots.share") is not None
    return bool(form == "dense" or (form == "auto" and decided))
