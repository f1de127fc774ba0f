"""What a step of sparse training costs beside plain SGD, updates of the mask apart.

    python benchmarks/sparse_step.py [--model lenet] [--width 0.25] [--batch 128] [--steps 200]

In one process take turns, step by step: plain SGD on all weights, SGD under masks (`MaskedWeights`), and
under masks that a hook of each gradient fills in, as slotkit had it before. Times are CPU times of this
process, so that other processes don't count as much, and ratios are medians over rounds; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from slotkit.masks.masked import MaskedWeights
from slotkit.masks.sparse_settings import SparseSettings
from slotkit.masks.topology import Topology
from slotkit.models import create


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--width", type=float, default=None, help="of vgg-c, vgg-d and ResNets")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--density", type=float, default=0.05)
    asked = parser.parse_args()
    image = (1, 28, 28) if asked.model == "lenet" else (3, 32, 32)
    chance = torch.Generator().manual_seed(0)
    images = torch.rand(asked.batch, *image, generator=chance)
    labels = torch.randint(10, (asked.batch,), generator=chance)
    options = {} if asked.width is None else {"width": asked.width}
    settings = SparseSettings(method="set", density=asked.density)
    makers: dict[str, Callable[[nn.Module], MaskedWeights | None]] = {
        "plain SGD": lambda network: None,
        "under masks": lambda network: Topology(network, settings, 0).masked,
        "a hook that fills": lambda network: _hooked(Topology(network, settings, 0).masked),
    }
    steps = {}
    for name, make in makers.items():
        torch.manual_seed(0)
        network = create(asked.model, image, 10, **options)
        steps[name] = _step(network, make(network), images, labels)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(asked.steps + 5):
        # Another one begins each time, so that none always comes after the same one.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took = steps[name]()
            if number >= 5:
                seconds[name].append(took)
    about = f"{asked.model} {options or ''} batch {asked.batch}, density {asked.density}"
    print(f"{about}, {asked.steps} steps each; torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds["plain SGD"], strict=True))
        median, fastest = 1000 * statistics.median(own), 1000 * min(own)
        print(f"{name:18} median {median:9.3f} ms  fastest {fastest:9.3f} ms  ratio {ratio:.3f}")


def _step(
    network: nn.Module, masked: MaskedWeights | None, images: Tensor, labels: Tensor
) -> Callable[[], float]:
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)

    def step() -> float:
        started = time.process_time()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        if masked is not None:
            masked.mask_gradients()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - started

    return step


def _hooked(masked: MaskedWeights) -> None:
    """Hooks in the place of `mask_gradients`."""
    for name, weight in masked.weights.items():
        outside = ~masked.masks[name]
        weight.register_hook(lambda gradient, outside=outside: gradient.masked_fill(outside, 0.0))  # type: ignore[misc]


if __name__ == "__main__":
    main()
