"""How much memory there is, and how much a process has taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# What a run is expected to need before one of its kind has told: PyTorch and slotkit alone take half of it.
UNKNOWN = 1 << 30

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that processes can still take on this machine or in this container; None if it can't be known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    within = _left_in_container()
    return free if within is None else min(free, within)


def own() -> tuple[int, int]:
    """Bytes that this process has now, and had at most since `begin_peak`."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        told = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
        now, most = (int(told[name][0]) << 10 for name in ("VmRSS", "VmHWM"))
        return now, max(now, most)
    except (OSError, KeyError, ValueError):
        return _most_ever(), _most_ever()


def begin_peak() -> None:
    """Let the peak of `own` begin anew. Where the system has no way to, it is that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _most_ever() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size << 10


def _left_in_container() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        cached = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Pages of files are given back when others need the memory.
    return int(limit) - used + int(cached.get("inactive_file", 0))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
