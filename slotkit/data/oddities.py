"""What is odd about pictures of one's own, and not wrong for certain: told when a run begins."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

from slotkit.data.identity import listed
from slotkit.data.images import Dataset, ImageSet


def oddities(dataset: Dataset) -> list[str]:
    """Sentences; empty for most datasets."""
    if isinstance(dataset.train, ImageSet) and isinstance(dataset.test, ImageSet):
        return [*_classes(dataset), *_twice(dataset.train, dataset.test)]
    return _classes(dataset)  # pictures that are there twice show in all pixels only, which aren't in memory


def _classes(dataset: Dataset) -> list[str]:
    found = []
    counts = dataset.train.labels.bincount(minlength=dataset.num_classes).tolist()
    never = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if never:
        found.append(f"No training image is of class {listed(never)}, of {dataset.num_classes} classes.")
    spelt = Counter(name.strip().casefold() for name in dataset.classes)
    alike = [name for name in dataset.classes if spelt[name.strip().casefold()] > 1]
    if alike:
        found.append(f"Classes differ by case or spaces alone: {listed(alike)}.")
    return found


def _twice(training: ImageSet, tested: ImageSet) -> list[str]:
    """Pictures that are there more than once, pixel by pixel, where that changes what an accuracy means."""
    train, test = _digests(training), _digests(tested)
    labels = defaultdict(set)
    for digest, label in zip(train, training.labels.tolist(), strict=True):
        labels[digest].add(label)
    known = sum(digest in labels for digest in test)
    torn = sum(len(named) > 1 for named in labels.values())
    found = []
    if known:
        found.append(
            f"{known} of {len(test)} test images are also among the training images, pixel by pixel: the "
            "test accuracy is partly one of training."
        )
    if torn:
        found.append(f"{torn} training images are there more than once, with different labels.")
    return found


def _digests(images: ImageSet) -> list[bytes]:
    return [hashlib.blake2b(image, digest_size=16).digest() for image in images.images.contiguous().numpy()]
