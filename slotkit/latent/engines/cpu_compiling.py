"""How the loops of the CPU engine are compiled, and the word that tells of it: it takes ten silent seconds.

numba keeps compiled loops on disk, and takes one from there if the text of its own file is as it was. A loop
also holds the compiled functions of other files. So the names under which loops are kept have a digest of all
files: after an update of slotkit no loop is a mixture of old and new.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba
from numba.core import event

from slotkit import philox_cpu, reel
from slotkit.latent import line

LOGGER = logging.getLogger("slotkit")

# The packages whose loops take long to compile, and what they are called when that is told.
_told = {__name__.rpartition(".")[0]: "the CPU engine"}

Loop = TypeVar("Loop", bound=Callable[..., Any])

# Every file with a function or a constant that is compiled into a loop.
SOURCES = [
    *sorted(Path(__file__).parent.glob("cpu*.py")),
    *(Path(str(module.__file__)) for module in (line, philox_cpu, reel)),
]


def digest(sources: list[Path]) -> str:
    """A few letters that change with the text of any of the files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:10]


DIGEST = digest(SOURCES)


def _compile(function: Loop, name: str, **settings: Any) -> Loop:
    twin = FunctionType(function.__code__, function.__globals__, function.__name__)
    twin.__module__, twin.__doc__, twin.__qualname__ = (
        function.__module__,
        function.__doc__,
        f"{name}-{DIGEST}",
    )
    loop: Loop = numba.njit(cache=True, nogil=True, error_model="numpy", **settings)(twin)
    return loop


def compiled(function: Loop) -> Loop:
    """The function compiled, kept on disk."""
    return _compile(function, function.__name__)


def parallel(function: Loop) -> Loop:
    """The same, with the blocks of a prange divided among numba's threads."""
    return _compile(function, function.__name__, parallel=True)


def serial(loop: Loop) -> Loop:
    """A `parallel` loop on one thread, with the same bits."""
    function: Loop = getattr(loop, "py_func", loop)  # numba returns the function itself if it is switched off
    return _compile(function, f"serial_{function.__name__}")


inlined = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


class _Announcement(event.Listener):
    """Once in a process and package, at the first of its loops that is compiled."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        package = dispatcher.py_func.__module__.rpartition(".")[0]
        if package in self._made or package not in _told:
            return
        self._made.add(package)
        LOGGER.info(
            "compiling %s, once: this takes half a minute, and the next start finds it in %s",
            _told[package],
            dispatcher.stats.cache_path,
        )

    def on_end(self, event: Any) -> None:
        pass


def tell_of(module: str, words: str) -> None:
    """Loops of the package of `module` are called `words` when it is told that they compile."""
    _told[module.rpartition(".")[0]] = words


def announce() -> None:
    """From now on tell the logger "slotkit", at INFO, when the engine is compiled."""
    event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
