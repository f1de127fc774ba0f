"""Images a second of a streamed folder of JPEGs beside a plain torchvision DataLoader's, and its memory.

    python benchmarks/streams.py [--pictures 20000] [--workers 2] [--turns 3]

Makes a folder of 224 x 224 JPEGs (a few hundred distinct ones, each under many names), then lets both read
it in turns, in one process: slotkit's batches of `imagefolder:`, and torchvision's ImageFolder with the same
transforms behind a DataLoader with as many workers. Both yield float32 batches, normalised. Prints JSON.

Memory is that of slotkit alone, in a process of its own that reads one epoch: resident memory (RSS) of the
main process and of each worker, which counts shared pages once for each, and their proportional share (PSS),
which counts them once. The peaks are of samples, ten in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLASSES, DISTINCT, EDGE, BATCH = 10, 300, 224, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTATIONS = {"none": "none", "resized-crop": "resized-crop+flip"}


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
    return lambda epoch: batches(train, BATCH, seed=0, epoch=epoch, augment=augment, mean=MEAN, std=STD)


def torchvisions(place: Path, workers: int, augment: str) -> Callable[[int], Iterator[Any]]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    change: list[Any] = [transforms.Resize((EDGE, EDGE))]  # as data.size: stretched
    if augment != "none":
        change = [transforms.RandomResizedCrop(EDGE), transforms.RandomHorizontalFlip()]
    steps = [*change, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    data = ImageFolder(str(place / "train"), transforms.Compose(steps))

    def epoch(number: int) -> Iterator[Any]:
        order = torch.Generator().manual_seed(number)
        return iter(DataLoader(data, BATCH, shuffle=True, num_workers=workers, generator=order))

    return epoch


def rate(stream: Iterator[Any], images: int) -> float:
    """Images a second, the start of the workers included, over so many images."""
    started, seen = time.perf_counter(), 0
    for pixels, _ in stream:
        seen += len(pixels)
        if seen >= images:
            break
    return seen / (time.perf_counter() - started)


def children() -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def memory_of(process: int) -> tuple[int, int]:
    """(RSS, PSS) in bytes; nothing of a process that has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    values = {line.split()[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
    return values["Rss:"], values["Pss:"]


class Watch(threading.Thread):
    """Samples memory until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.peaks = {"rss_main": 0, "rss_largest_worker": 0, "rss_sum": 0, "pss_sum": 0}

    def run(self) -> None:
        while not self.ended.wait(0.1):
            main, *workers = (memory_of(process) for process in [os.getpid(), *children()])
            now = {
                "rss_main": main[0],
                "rss_largest_worker": max((rss for rss, _ in workers), default=0),
                "rss_sum": main[0] + sum(rss for rss, _ in workers),
                "pss_sum": main[1] + sum(pss for _, pss in workers),
            }
            self.peaks = {name: max(value, now[name]) for name, value in self.peaks.items()}


def watched(place: Path, workers: int, augment: str) -> dict[str, Any]:
    """One epoch of slotkit's, from the reading of the folder on, and the memory that it took."""
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    stream = ours(place, workers, augment)
    opened = time.perf_counter() - started
    seen = sum(len(pixels) for pixels, _ in stream(1))
    watch.ended.set()
    watch.join()
    megabytes = {name: round(value / 1e6) for name, value in watch.peaks.items()}
    return {"images": seen, "seconds_to_open": round(opened, 2), "peak_MB": megabytes}


def measure(place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name, augment in AUGMENTATIONS.items():
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
        found[name] = {
            "images_per_second": rates,
            "ratio_median": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=4_000, help="images that each reads in a turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--watched", nargs=2, metavar=("DIR", "AUGMENT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watched:
        place, augment = arguments.watched
        print(json.dumps(watched(Path(place), arguments.workers, augment)))
        return
    import PIL
    import torch
    import torchvision

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        size = generate(place, arguments.pictures)
        memory = {}
        for name, augment in AUGMENTATIONS.items():
            command = [sys.executable, __file__, "--watched", folder, augment]
            command += ["--workers", str(arguments.workers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory[name] = json.loads(done.stdout)
        about = {
            "pictures": arguments.pictures,
            "distinct": min(DISTINCT, arguments.pictures),
            "bytes_per_file": size,
            "decoded_GB": round(arguments.pictures * 3 * EDGE**2 / 1e9, 2),
            "batch": BATCH,
            "workers": arguments.workers,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
        }
        print(json.dumps({**about, "memory": memory, "speed": measure(place, arguments)}, indent=2))


if __name__ == "__main__":
    main()
