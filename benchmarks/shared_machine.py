"""A step while other processes use the cores too, by the way that OpenMP's threads wait for each other.

    python benchmarks/shared_machine.py --busy 2 --rounds 3 --seconds 10
    python benchmarks/shared_machine.py --busy 0

Starts that many processes that do nothing but count, and then, in turns, a process for each way to wait that
trains LeNet-300-100 (K = 8, batch 128) on made-up images for some seconds. Prints milliseconds a step, the
lowest, median and highest of the rounds, of the slot machine and of the same network with learned weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from slotkit.wait_policy import COUNT, POLICIES

# Ways to wait, as environments. A number is GNU OpenMP's count.
WAYS = {"default": {}, "one thread": {"OMP_NUM_THREADS": "1"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
COUNTS = ("100", "1000", "3000", "10000")


def train(seconds: float) -> None:
    """Print ms a step of both networks, each trained for so long after steps that compile and warm up."""
    import torch

    from slotkit.making import slotify
    from slotkit.models import create

    images, labels = torch.rand(128, 1, 28, 28), torch.randint(10, (128,))
    for slots in (True, False):
        model = create("lenet", (1, 28, 28), 10)
        if slots:
            optimizer = slotify(model, k=8).optimizer(lr=0.1, momentum=0.9)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        steps, started = -3, time.perf_counter()
        while (now := time.perf_counter()) - started < seconds or steps < 1:
            if steps == 0:
                started = now
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        print(1000 * (now - started) / steps)


def measured(way: str, seconds: float) -> tuple[float, float]:
    """ms a step of both networks in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in (*POLICIES, "OMP_NUM_THREADS")}
    environment = clean | WAYS.get(way, {COUNT: way})
    command = [sys.executable, __file__, "--train", "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    slot, ordinary = map(float, done.stdout.split())
    return slot, ordinary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="other processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="a network in a round")
    parser.add_argument("--ways", default=",".join((*WAYS, *COUNTS)))
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.seconds)
        return
    ways = given.ways.split(",")
    print(f"{os.cpu_count()} CPU cores, {given.busy} busy processes, n = {given.rounds} rounds")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)]
    try:
        found = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way in ways:
                found[way].append(measured(way, given.seconds))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print(f"{'ms a step':14}{'slot machine':>24}{'learned weights':>24}")
    for way, times in found.items():
        columns = [f"{min(t):.2f} {statistics.median(t):.2f} {max(t):.2f}" for t in zip(*times, strict=True)]
        print(f"{way:14}{columns[0]:>24}{columns[1]:>24}")


if __name__ == "__main__":
    main()
