"""Images a second of a streamed folder of JPEGs beside a plain torchvision DataLoader's, and its memory.

    python benchmarks/streams.py [--pictures 20000] [--workers 2] [--runs 3] [--turns 3] [--only none]

Makes a folder of 224 x 224 JPEGs (a few hundred distinct ones, each under many names), then lets both read
it in turns, in one process: slotkit's batches of `imagefolder:`, and torchvision's ImageFolder with the same
transforms behind a DataLoader with as many workers. Both yield float32 batches, normalised. Prints a line of
JSON for each measurement.

Memory is that of slotkit, in a process of its own that reads one epoch, and of its workers. Ten samples in a
second until the last image has come, the peak of each. (As a process ends, torch's libraries read pages of
their files that nobody has used before, hundreds of MB, which the kernel can drop at any time.)

rss_sum       resident memory of all processes; pages that they share count in each of them
pss_sum       each page counts once. But pages of files, such as torch's libraries, are shared with all
              programs of the machine that use them, and count less where other programs use torch
own_sum       what it would be without other programs: as pss_sum, and pages of files in full, as the process
              has them that has most
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

CLASSES, DISTINCT, EDGE, BATCH = 10, 300, 224, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTATIONS = {
    "none": "none",
    "resized-crop": "resized-crop+flip",
    "randaugment": "resized-crop+randaugment+flip",
    "mixup": "resized-crop+flip+mixup",
}


def generate(place: Path, pictures: int) -> int:
    """Pictures with large and small structures, as photographs have. Returns the mean size of a file."""
    import numpy as np
    from PIL import Image

    random, sizes = np.random.default_rng(0), []
    for number in range(min(DISTINCT, pictures)):
        layers = [
            np.asarray(
                Image.fromarray(random.integers(0, 256, (edge, edge, 3), dtype=np.uint8)).resize(
                    (EDGE, EDGE), 3
                )
            )
            for edge in (4, 16, 56, 224)
        ]
        mixed = sum(w * layer.astype(float) for w, layer in zip((0.5, 0.25, 0.17, 0.08), layers, strict=True))
        first = place / f"distinct-{number}.jpg"
        Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).save(first, quality=90)
        sizes.append(first.stat().st_size)
        for at in range(number, pictures + CLASSES, DISTINCT):
            half = "train" if at < pictures else "test"
            folder = place / half / f"class{at % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{at}.jpg").write_bytes(first.read_bytes())
    return round(statistics.fmean(sizes))


def ours(place: Path, workers: int, augment: str) -> Callable[[int], Iterator[Any]]:
    from slotkit.data.augmentations import parse
    from slotkit.data.batches import batches
    from slotkit.data.source import Loading
    from slotkit.data.sources import load

    whole = parse(augment).takes_whole_pictures
    loading = Loading(memory=2**30, whole_pictures=whole, crop=whole, workers=workers)
    train = load(f"imagefolder:{place}", None, EDGE, loading=loading).train
    options = {"augment": augment, "mean": MEAN, "std": STD, "classes": CLASSES}
    return lambda epoch: batches(train, BATCH, seed=0, epoch=epoch, **options)


def torchvisions(place: Path, workers: int, augment: str) -> Callable[[int], Iterator[Any]]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    known = {
        "none": [transforms.Resize((EDGE, EDGE))],  # as data.size: stretched
        "resized-crop": [transforms.RandomResizedCrop(EDGE)],
        "randaugment": [transforms.RandAugment()],
        "flip": [transforms.RandomHorizontalFlip()],
        "mixup": [],
    }
    change = [step for name in augment.split("+") for step in known[name]]
    steps = [*change, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    data = ImageFolder(str(place / "train"), transforms.Compose(steps))
    mix = v2.MixUp(alpha=0.2, num_classes=CLASSES) if "mixup" in augment else lambda *pair: pair

    def epoch(number: int) -> Iterator[Any]:
        order = torch.Generator().manual_seed(number)
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, generator=order)
        return (mix(*pair) for pair in loader)

    return epoch


def rate(stream: Iterator[Any], images: int) -> float:
    """Images a second, the start of the workers included, over so many images."""
    started, seen = time.perf_counter(), 0
    for pixels, _ in stream:
        seen += len(pixels)
        del pixels  # as slotkit's training does, before the next ones are made
        if seen >= images:
            break
    return seen / (time.perf_counter() - started)


def tree(process: int) -> list[int]:
    """The process and what it has started."""
    found = [process]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text(encoding="ascii").split())
    return found


def memory_of(process: int) -> dict[str, int]:
    """In bytes, by the kernel's names; nothing of a process that has ended."""
    lines = []
    with suppress(OSError):
        place = Path(f"/proc/{process}")
        for name in ("smaps_rollup", "status"):
            lines += (place / name).read_text(encoding="ascii").splitlines()
    words = [line.split() for line in lines if line.endswith(" kB")]
    return Counter({name.rstrip(":"): int(value) * 1024 for name, value, _ in words})


def peaks(command: list[str]) -> tuple[dict[str, int], str]:
    """The peaks of a command's memory in MB, and what it prints."""
    highest: Counter[str] = Counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        while not select.select([started.stdout], [], [], 0.1)[0]:
            every = [memory_of(process) for process in tree(started.pid)]
            total = sum(every, Counter())
            files = max(one["RssFile"] for one in every)
            now = {
                "rss_main": every[0]["Rss"],
                "rss_largest_worker": max((one["Rss"] for one in every[1:]), default=0),
                "rss_sum": total["Rss"],
                "pss_sum": total["Pss"],
                "own_sum": total["Pss_Anon"] + total["Pss_Shmem"] + files,
            }
            if not select.select([started.stdout], [], [], 0)[0]:  # a slow sample may be one of the end
                highest |= Counter(now)
        printed = started.stdout.read()
    if started.returncode:
        sys.exit(f"{command} ended with {started.returncode}")
    return {name: round(value / 1e6) for name, value in highest.items()}, printed


def watched(place: Path, workers: int, augment: str, images: int) -> dict[str, Any]:
    """Some images of an epoch of slotkit's, from the reading of the folder on."""
    import torch

    started = time.perf_counter()
    stream = ours(place, workers, augment)
    told = {"threads": torch.get_num_threads(), "images": images}
    opened = round(time.perf_counter() - started, 1)
    return {**told, "seconds_to_open": opened, "images_per_second": round(rate(stream(1), images), 1)}


def speeds(place: Path, augment: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both in turns, in this process."""
    contenders = {
        "slotkit": ours(place, arguments.workers, augment),
        "torchvision": torchvisions(place, arguments.workers, augment),
    }
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    for turn in range(1 + arguments.turns):
        for contender, stream in contenders.items():
            one = rate(stream(turn), arguments.images)
            if turn:  # the first warms up: files, imports
                rates[contender].append(round(one, 1))
    ratios = [one / other for one, other in zip(rates["slotkit"], rates["torchvision"], strict=True)]
    return {
        "augment": augment,
        "images_per_second": rates,
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio_median": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=4_000, help="images that each reads in a turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="runs whose memory is measured")
    parser.add_argument("--read", type=int, help="images that such a run reads; default an epoch")
    parser.add_argument("--only", choices=AUGMENTATIONS, action="append", help="augmentations; default all")
    parser.add_argument("--folder", type=Path, help="a folder made before, or where to make it and leave it")
    parser.add_argument("--watched", metavar="AUGMENT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watched:
        images = arguments.read or arguments.pictures
        told = watched(arguments.folder, arguments.workers, arguments.watched, images)
        print(json.dumps(told), flush=True)  # no more is measured
        return
    with ExitStack() as stack:
        place = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        size = None if (place / "train").is_dir() else generate(place, arguments.pictures)
        about = {
            "pictures": arguments.pictures,
            "distinct": min(DISTINCT, arguments.pictures),
            "bytes_per_file": size,
            "decoded_GB": round(arguments.pictures * 3 * EDGE**2 / 1e9, 2),
            "batch": BATCH,
            "workers": arguments.workers,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            # Not imported here: this process would share their files with those that it measures.
            **{name: version(name) for name in ("torch", "torchvision", "pillow")},
        }
        print(json.dumps(about), flush=True)
        for name in arguments.only or AUGMENTATIONS:
            for run in range(arguments.runs):
                command = [sys.executable, __file__, "--folder", str(place), "--watched", AUGMENTATIONS[name]]
                command += ["--workers", str(arguments.workers)]
                command += ["--read", str(arguments.read or arguments.pictures)]
                memory, printed = peaks(command)
                told = {"augment": AUGMENTATIONS[name], "run": run, "peak_MB": memory, **json.loads(printed)}
                print(json.dumps(told), flush=True)
            if arguments.turns:
                print(json.dumps(speeds(place, AUGMENTATIONS[name], arguments)), flush=True)


if __name__ == "__main__":
    main()
