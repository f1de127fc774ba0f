"""How many LeNets with shared options have a dead layer before the first step: the table in lenet.md.

python docs/results/born_dead.py DIR    # DIR has MNIST
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torchvision.datasets import MNIST

from slotkit import dead_layers, slotify
from slotkit.models.registry import create

KS = (2, 4, 8, 16, 64)
SEEDS = 200


def shares(inputs: torch.Tensor) -> Iterator[tuple[str, bool, list[float]]]:
    """Sharing, whether options are in pairs, and for each K the share (%) of networks with a dead layer."""
    for sharing in ("layer", "network"):
        for symmetric in (False, True):
            yield sharing, symmetric, [share(sharing, symmetric, k, inputs) for k in KS]


def share(sharing: str, symmetric: bool, k: int, inputs: torch.Tensor) -> float:
    """Of `SEEDS` networks, in %."""
    dead = 0
    for seed in range(SEEDS):
        model = create("lenet", (1, 28, 28), 10)
        slotify(model, k=k, sharing=sharing, symmetric=symmetric, seed=seed, init="glorot-uniform")
        dead += bool(dead_layers(model, inputs))
    return 100 * dead / SEEDS


def main(folder: str) -> None:
    """Print the table; the images are the first 128 of MNIST, as pixels in [0, 1]."""
    inputs = MNIST(folder, train=True).data[:128, None] / 255
    print("| sharing | options | " + " | ".join(f"K = {k}" for k in KS) + " |")
    print("|---" * (2 + len(KS)) + "|")
    for sharing, symmetric, found in shares(inputs):
        words = "pairs +v, -v" if symmetric else "plain"
        print(f"| {sharing} | {words} | " + " | ".join(f"{value:.1f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
