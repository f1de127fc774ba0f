"""Processes that train together, started as torchrun starts them but without its own process."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from forks import COMMAND, Fork, Forks  # type: ignore[import-not-found]

# What they train: a module of networks, written into their folder as net.py.
NETWORK = """
import torch
from torch import nn

class Centre(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, size).T[:, 0])  # with gaps
        self.register_buffer("positive", torch.zeros(size, dtype=torch.bool))
    def forward(self, x):
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
            self.positive.copy_(self.mean > 0)
        return x - self.mean

def centred():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), Centre(24), nn.ReLU(), nn.Linear(24, 10))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 10))

def make():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 10)
    )

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""

SMALL = (
    "--device",
    "cpu",
    "--set",
    "slots.engine=eager",
    "--set",
    "slots.k=4",
    "--set",
    "training.log_every=5",
)


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


def told(ends: list[Fork]) -> list[str]:
    """What was told of an error, by whichever process."""
    lines = [line for one in ends for line in one.err.read_text().splitlines()]
    return [line for line in lines if line.startswith(("Error", "Stopped", "Traceback"))]
