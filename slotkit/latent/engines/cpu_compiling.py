"""Says when the CPU engine is being compiled: seconds in which nothing else would be seen to happen.

numba tells its listeners when it compiles, and nothing when it takes a loop from its cache on disk.
"""

from __future__ import annotations

import logging
from typing import Any

from numba.core import event

LOGGER = logging.getLogger("slotkit")

_LOOPS = __name__.rpartition(".")[0]


class _Announcement(event.Listener):
    """Once in a process, at the first of the engine's loops that is compiled."""

    def __init__(self) -> None:
        self.is_made = False

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        if self.is_made or not dispatcher.py_func.__module__.startswith(_LOOPS):
            return
        self.is_made = True
        LOGGER.info(
            "compiling the CPU engine, once: this takes half a minute, and the next start finds it in %s",
            dispatcher.stats.cache_path,
        )

    def on_end(self, event: Any) -> None:
        pass


def announce() -> None:
    """From now on tell the logger "slotkit", at INFO, when the engine is compiled."""
    event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
