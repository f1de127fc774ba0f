"""Where and by what a run was made: what a report says beside a number."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSIONS = ("slotkit", "torch", "torchvision", "timm", "numpy")


def environment(device: str, threads: int) -> dict[str, Any]:
    """The command, device, threads, versions and so on of this process."""
    return {
        "command": typed(sys.argv).encode("utf-8", "backslashreplace").decode("utf-8"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "threads": threads,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in VERSIONS},
        "git_commit": _git_commit(),
    }


def typed(argv: Sequence[str]) -> str:
    """The command of a process, to be typed again: `slotkit`, wherever it is installed, and its arguments."""
    program, *arguments = argv
    if " " in program and not arguments:
        return program  # a whole command: a worker of a sweep has that of the sweep
    path = Path(program)
    if path.name == "slotkit" or path.parts[-2:] == ("slotkit", "__main__.py"):
        program = "slotkit"
    return shlex.join([program, *arguments])


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    """The commit of the working folder, "-dirty" with changes; "none" without a checkout or git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() or "none"
