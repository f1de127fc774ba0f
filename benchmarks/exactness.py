"""Full LeNet-300-100 in float64: does every engine select what the dense form selects, at every step?

    python benchmarks/exactness.py --dataset mnist --data-dir DIR --k 1,2,3,8,64 --steps 300

Nesterov, momentum 0.9, L2 1e-4, cosine. Prints, for each K, the flips of the dense form and the weights
that differ from it, summed over all steps: 0 is the claim. K = 64 takes minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from slotkit.data.batches import batches
from slotkit.data.images import ImageSet
from slotkit.data.sources import load
from slotkit.latent.engines.registry import runnable
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.models import create


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--k", default="1,2,3,8,64")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    data = load(given.dataset, given.data_dir)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.dataset}, seed 1")
    for k in map(int, given.k.split(",")):
        flips, different = compare(data.train, (data.channels, *data.size), k, given.steps)
        told = ", ".join(f"{engine} {count}" for engine, count in different.items())
        print(f"K = {k}: {given.steps} steps, {flips} flips, weights that differ: {told}", flush=True)


def compare(images: ImageSet, image: tuple[int, int, int], k: int, steps: int) -> tuple[int, dict[str, int]]:
    """Flips of the dense form, and by engine how many weights differed from it, summed over the steps."""
    engines = runnable(torch.device("cpu"))
    settings = {"dense": {"form": "dense"}} | {name: {"engine": name} for name in engines}
    machines = {name: build(image, k, chosen) for name, chosen in settings.items()}
    optimizers = {
        name: machine.optimizer(0.1, 0.9, 1e-4, nesterov=True) for name, machine in machines.items()
    }
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in optimizers.values()]
    before = weights(machines["dense"])
    flips, different = 0, dict.fromkeys(engines, 0)
    for pixels, labels in stream(images, steps):
        for name, machine in machines.items():
            optimizers[name].zero_grad()
            nn.functional.cross_entropy(machine.model(pixels), labels).backward()
            optimizers[name].step()
        for schedule in schedules:
            schedule.step()
        expected = weights(machines["dense"])
        flips += count(expected, before)
        for name in different:
            different[name] += count(expected, weights(machines[name]))
        before = expected
    return flips, different


def build(image: tuple[int, int, int], k: int, settings: dict[str, str]) -> SlotMachine:
    return slotify(create("lenet", image, 10).double(), k, seed=1, **settings)  # type: ignore[arg-type]


def stream(images: ImageSet, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 128, epoch after epoch, in float64."""
    found: list[tuple[Tensor, Tensor]] = []
    epoch = 0
    while len(found) < steps:
        epoch += 1
        found += batches(images, 128, seed=0, epoch=epoch, dtype=torch.float64)
    return found[:steps]


def weights(machine: SlotMachine) -> list[Tensor]:
    """The weights in use, of either form."""
    found = []
    for name in machine.reels:
        owner, _, attribute = name.rpartition(".")
        found.append(getattr(machine.model.get_submodule(owner), attribute).detach().clone())
    return found


def count(one: list[Tensor], two: list[Tensor]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(one, two, strict=True))


if __name__ == "__main__":
    main()
