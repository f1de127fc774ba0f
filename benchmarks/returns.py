"""How often a flip goes back to an option that the connection has had before: why recent options are kept.

    python benchmarks/returns.py --dataset mnist --data-dir DIR --k 8,64,1024 --epochs 2

Of every epoch: flips a step, and of them the share that goes back to one of the last one, two, three and
four options that the connection had. LeNet-300-100, batch 128, lr 0.1, momentum 0.9, seed 0.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from slotkit.benchmark import Contender, Network
from slotkit.data.batches import batches
from slotkit.data.images import Dataset
from slotkit.data.sources import load
from slotkit.latent.form import LatentForm

REMEMBERED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--k", default="8,64,1024")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    data = load(given.dataset, given.data_dir, size=28)
    print(f"{given.dataset}, seed 0\n{'K':>6}{'epoch':>7}{'flips':>7}  back to one of the last 1, 2, 3, 4")
    for k in map(int, given.k.split(",")):
        report(data, k, given.epochs)


def report(data: Dataset, k: int, epochs: int) -> None:
    network = Network(Contender("latent", k, {"engine": "numba"}), "lenet", 128)
    assert network.machine is not None
    assert isinstance(network.machine.form, LatentForm)
    weights = list(network.machine.form.weights.values())
    initial = [weight.selected().flatten().tolist() for weight in weights]
    # Of every connection that flipped, the options it had, the last one first.
    had: dict[tuple[int, int], list[int]] = {}
    for weight in weights:
        weight.recorded = True
    for epoch in range(1, epochs + 1):
        back, flips, steps = Counter[int](), 0, 0
        for images, labels in batches(data.train, 128, seed=0, epoch=epoch, mean=[0.1307], std=[0.3081]):
            network.images, network.labels = images, labels
            network.step()
            steps += 1
            for number, weight in enumerate(weights):
                connections, options = (events.tolist() for events in weight.events)
                flips += len(connections)
                for connection, option in zip(connections, options, strict=True):
                    before = had.setdefault((number, connection), [initial[number][connection]])
                    if option in before:
                        back[before.index(option)] += 1
                        before.remove(option)
                    before.insert(0, option)
                    del before[REMEMBERED + 1 :]
        shares = [
            sum(back[place] for place in range(1, last + 1)) / flips for last in range(1, REMEMBERED + 1)
        ]
        print(f"{k:6}{epoch:7}{flips / steps:7.0f}  " + "  ".join(f"{100 * share:.1f} %" for share in shares))


if __name__ == "__main__":
    main()
