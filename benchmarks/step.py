"""Step times of slot machines over the same network with learned weights, side by side in one process.

    python benchmarks/step.py --model lenet --k 2 8 64

Every contender is built first; then their steps take turns, so that a machine that slows down slows
all of them. The table gives medians over the steps, and ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from slotkit import slotify
from slotkit.models import create

IMAGES = {"lenet": (1, 28, 28)}


def contender(model: str, k: int | None, batch: int) -> Callable[[], float]:
    """A training step that returns its seconds; k = None is the network with learned weights."""
    image = IMAGES.get(model, (3, 32, 32))
    network = create(model, image, 10)
    if k is None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = slotify(network, k=k).optimizer(lr=0.1, momentum=0.9)
    images, labels = torch.rand(batch, *image), torch.randint(10, (batch,))

    def step() -> float:
        started = time.perf_counter()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 8, 64])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = ["learned weights", *(f"dense form, K = {k}" for k in arguments.k)]
    steps = [contender(arguments.model, k, arguments.batch) for k in (None, *arguments.k)]
    for step in steps:
        step()
    seconds = [[step() for step in steps] for _ in range(arguments.steps)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    rows = [
        {"contender": name, "milliseconds": 1000 * median, "ratio": median / medians[0]}
        for name, median in zip(names, medians, strict=True)
    ]
    told = {
        "model": arguments.model,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(told, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in told.items() if key != "rows"))
    for row in rows:
        print(f"{row['contender']:<24}{row['milliseconds']:>10.2f} ms{row['ratio']:>8.2f} x")


if __name__ == "__main__":
    main()
