"""Every analysis there is: the folders beside this file, but for common/. A new one needs no entry here."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from slotkit import analyses

if TYPE_CHECKING:
    from slotkit.analyses.common.analysis import Analysis

COMMON = "common"


def find() -> list[Analysis]:
    """What each folder declares as ANALYSIS, in the order of `slotkit analyze --help`."""
    folders = [
        module.name
        for module in pkgutil.iter_modules(analyses.__path__)
        if module.ispkg and module.name != COMMON
    ]
    declared: list[Analysis] = [import_module(f"{analyses.__name__}.{folder}").ANALYSIS for folder in folders]
    return sorted(declared, key=lambda one: (one.order, one.name))
