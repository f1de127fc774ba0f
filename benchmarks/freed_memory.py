"""A step on the CPU where the process keeps the memory that it frees, and where it gives it back.

    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py --model conv2 --precision bf16 --rounds 3
    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py --model lenet

Starts, in turns, a process for each way that trains the network (K = 8, batch 128) on made-up images. Prints
milliseconds a step (lowest, median and highest of the rounds), pages that the system gave out a step, and the
most memory that was in use.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

from slotkit.memory_policy import POLICIES, keep_freed_memory

WAYS = ("given back", "kept")


def train(model: str, precision: str, steps: int) -> None:
    """Print ms a step, pages a step and the peak in MB, after as many steps that compile and warm up."""
    import torch

    from slotkit.making import slotify
    from slotkit.models import create

    shape = (1, 28, 28) if model == "lenet" else (3, 32, 32)
    network = create(model, shape, 10).to(memory_format=torch.channels_last)
    images, labels = torch.rand(128, *shape), torch.randint(10, (128,))
    images = images.to(memory_format=torch.channels_last)
    optimizer = slotify(network, k=8).optimizer(lr=0.1, momentum=0.9)
    for _ in range(2):
        pages, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = torch.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(1000 * seconds / steps, (used.ru_minflt - pages) / steps, used.ru_maxrss / 1024)


def measured(way: str, given: argparse.Namespace) -> list[float]:
    """ms a step, pages a step and the peak in MB of a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in POLICIES}
    command = [sys.executable, __file__, "--train", way, "--model", given.model]
    command += ["--precision", given.precision, "--steps", str(given.steps)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="conv2")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        if given.train == "kept" and not keep_freed_memory(os.environ):
            sys.exit("Memory can't be kept here: the C library is not glibc.")
        train(given.model, given.precision, given.steps)
        return
    print(f"{given.model}, {given.precision}, {given.steps} steps, n = {given.rounds} rounds")
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            found[way].append(measured(way, given))
    print(f"{'freed memory':14}{'ms a step':>24}{'pages a step':>14}{'peak, MB':>10}")
    for way, rounds in found.items():
        ms, pages, peak = zip(*rounds, strict=True)
        times = f"{min(ms):.1f} {statistics.median(ms):.1f} {max(ms):.1f}"
        print(f"{way:14}{times:>24}{statistics.median(pages):>14.0f}{max(peak):>10.0f}")


if __name__ == "__main__":
    main()
