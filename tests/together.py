"""Processes that train together, started as torchrun starts them but without its own process."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from forks import COMMAND, Fork, Forks  # type: ignore[import-not-found]


def told_by_torchrun(rank: int, count: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start_together(
    forks: Forks,
    *arguments: str,
    cwd: Path,
    code: str = COMMAND,
    count: int = 2,
    env: Mapping[str, str] | None = None,
) -> list[Fork]:
    """`count` processes of `code`, by default the slotkit command."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    return [
        forks.start(code, *arguments, cwd=cwd, env=told_by_torchrun(rank, count, port) | dict(env or {}))
        for rank in range(count)
    ]


def run_together(forks: Forks, *arguments: str, cwd: Path, code: str = COMMAND, count: int = 2) -> list[str]:
    """What each has printed, at the end of all without an error."""
    ends = start_together(forks, *arguments, cwd=cwd, code=code, count=count)
    codes = [one.wait() for one in ends]
    assert codes == [0] * count, "\n".join(one.err.read_text()[-2000:] for one in ends)
    return [one.out.read_text() for one in ends]
