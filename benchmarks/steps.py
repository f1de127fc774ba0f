"""Step times on real images, and what the flight recorder adds: all contenders in turns, in one process.

    python benchmarks/steps.py --dataset mnist --data-dir DIR --k 2,64,1024 --steps 9380
    python benchmarks/steps.py --dataset mnist --data-dir DIR --k 8 --steps 2000 --traces --selection PS
    python benchmarks/steps.py --dataset mnist --data-dir DIR --k 8,64 --steps 938 --optimizer adam

Prints mean and median milliseconds, their ratios to those of learned weights under torch's optimizer (fused),
and the mean of the flips a step (under PS of the changes by draws): of the first epoch, of the second, and of
all steps, and the bytes of the traces. LeNet-300-100, batch 128, learning rates of `slotkit bench`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slotkit.benchmark import ORDINARY, Contender, Network
from slotkit.data.batches import batches
from slotkit.data.images import Dataset
from slotkit.data.sources import load
from slotkit.recording.recorder import Recorder
from slotkit.recording.trace import Trace
from slotkit.selection import find_selection


class Timed:
    """A contender, its recorder if it has one, and the seconds and flips of its steps."""

    def __init__(
        self, contender: Contender, image: tuple[int, int, int], trace: tuple[Path, str] | None
    ) -> None:
        self.name, self.k = contender.name, contender.k
        self.network = Network(contender, "lenet", image, 10)
        self.recorder: Recorder | None = None
        self.trace = None if trace is None else trace[0]
        if trace is not None and self.network.machine is not None:
            self.recorder = Recorder(self.network.machine, Trace(trace[0]), trace[1], every=100)
        self.seconds: list[float] = []
        self.flips: list[int] = []

    def step(self, number: int, images: Tensor, labels: Tensor) -> None:
        started = time.perf_counter()
        self.network.step(images, labels)
        if self.recorder:
            self.recorder.record(number, 0.1)
        self.seconds.append(time.perf_counter() - started)
        machine = self.network.machine
        if machine is not None:
            self.flips.append(sum(weight.changed for weight in machine.form.latents.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--k", default="2,64,1024")
    parser.add_argument("--steps", type=int, default=938)
    parser.add_argument("--traces", action="store_true")
    parser.add_argument("--selection", default="GS", type=find_selection)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    given = parser.parse_args()
    data = load(given.dataset, given.data_dir, size=28)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.dataset}, seed 0")
    with tempfile.TemporaryDirectory() as folder:
        image = (data.channels, *data.size)
        learned = ORDINARY[1 if given.optimizer == "sgd" else 2]
        timed = [Timed(replace(learned, name="learned weights"), image, None)]
        for k in map(int, given.k.split(",")):
            latent = Contender("latent", k, given.selection, given.optimizer, {"engine": "numba"})
            timed.append(Timed(latent, image, None))
            for level in ("summary", "full") if given.traces else ():
                trace = Path(folder) / f"{level}-{k}", level
                timed.append(Timed(replace(latent, name=f"latent, trace {level}"), image, trace))
        run(data, given.steps, timed)
        epoch = -(-len(data.train) // 128)
        for what, first, last in (
            ("epoch 1", 0, epoch),
            ("epoch 2", epoch, 2 * epoch),
            ("all steps", 0, given.steps),
        ):
            if last <= given.steps:
                report(what, timed, slice(first, last))
        for each in timed:
            if each.recorder is not None and each.trace is not None:
                each.recorder.flush()
                size = sum(path.stat().st_size for path in each.trace.iterdir())
                print(f"{each.name}, K = {each.k}: {size / 1e6:.2f} MB of trace")


def run(data: Dataset, steps: int, timed: list[Timed]) -> None:
    done = epoch = 0
    while done < steps:
        epoch += 1
        for images, labels in batches(data.train, 128, seed=0, epoch=epoch, mean=[0.1307], std=[0.3081]):
            done += 1
            for each in timed:
                each.step(done, images, labels)
            if done == steps:
                return


def report(what: str, timed: list[Timed], steps: slice) -> None:
    times = [each.seconds[steps] for each in timed]
    base = statistics.fmean(times[0]), statistics.median(times[0])
    print(f"{what:24}{'K':>6}{'mean ms':>9}{'ratio':>7}{'median ms':>11}{'ratio':>7}{'flips':>7}")
    for each, seconds in zip(timed, times, strict=True):
        mean, median = statistics.fmean(seconds), statistics.median(seconds)
        flips = f"{statistics.fmean(each.flips[steps]):.0f}" if each.flips else "-"
        print(
            f"{each.name:24}{each.k or '-':>6}{1e3 * mean:9.3f}{mean / base[0]:7.3f}{1e3 * median:11.3f}"
            f"{median / base[1]:7.3f}{flips:>7}"
        )


if __name__ == "__main__":
    main()
