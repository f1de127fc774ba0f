"""The loggers by name. A new one is a module whose `make(training)` returns a `Logger`, and a line here."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from slotkit.errors import SlotkitError
from slotkit.loggers.contract import Logger, Training


@dataclass(frozen=True)
class LoggerEntry:
    """Where a logger is, and the package that it needs: an extra of slotkit has the logger's name."""

    module: str
    package: str


LOGGERS = {
    "tensorboard": LoggerEntry("slotkit.loggers.tensorboard", "tensorboard"),
    "wandb": LoggerEntry("slotkit.loggers.wandb", "wandb"),
    "mlflow": LoggerEntry("slotkit.loggers.mlflow", "mlflow"),
}


def check(names: Sequence[str]) -> None:
    """Raise SlotkitError if there is no such logger, one is named twice, or its package is not installed."""
    for name in names:
        if names.count(name) > 1:
            raise SlotkitError(
                f"The logger {name} is named {names.count(name)} times and would get every number as often. "
                "Name it once."
            )
        if name not in LOGGERS:
            near = difflib.get_close_matches(name, LOGGERS, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SlotkitError(f"There is no logger {name!r}.{hint} There are {', '.join(LOGGERS)}.")
        package = LOGGERS[name].package
        if package not in sys.modules and find_spec(package) is None:
            raise SlotkitError(
                f"The logger {name} needs the package {package}. Install it with "
                f"`pip install 'slotkit[{name}]'`, or train without that logger "
                "(recording.loggers)."
            )


def make(name: str, training: Training) -> Logger:
    """The logger of that name. Raises SlotkitError as `check` does."""
    check([name])
    logger: Logger = import_module(LOGGERS[name].module).make(training)
    return logger
