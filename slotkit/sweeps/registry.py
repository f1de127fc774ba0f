"""The executors by name. A new one is a class like `slotkit.sweeps.contract.Executor`, and a line here."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import cast

from slotkit.errors import SlotkitError
from slotkit.sweeps.contract import Executor, Options

# Name -> module and class; a module is imported when its executor is asked for.
EXECUTORS = {
    "local": ("slotkit.sweeps.local", "Local"),
    "ray": ("slotkit.sweeps.ray_cluster", "RayCluster"),
    "inline": ("slotkit.sweeps.inline", "Inline"),
}


def at_a_time(name: str, options: Options) -> int | None:
    """How many runs an executor of that name trains at the same time; None if only its cluster knows."""
    if name == "local":
        from slotkit.sweeps.local import jobs_of

        return jobs_of(options)
    return 1 if name == "inline" else options.jobs


def make(name: str, options: Options) -> Executor:
    """The executor of that name. Raises SlotkitError if there is none, or it has no use for an option."""
    if name not in EXECUTORS:
        near = difflib.get_close_matches(name, EXECUTORS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SlotkitError(f"There is no executor {name!r}.{hint} There are {', '.join(EXECUTORS)}.")
    module, executor = EXECUTORS[name]
    return cast(Executor, getattr(import_module(module), executor)(options))
