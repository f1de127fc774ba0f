"""The paper's own numbers (Aladago & Torresani, ICML 2021), in % of the test images.

They were read off its plots by pixel, to about 0.01 (Lenet) and 0.05 (CONV) points: mean, and the
ends of its bar. VGG-19's number stands in the text. No number was found for finetuning and for sharing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KS = (2, 4, 8, 16, 32, 64)

Read = tuple[float, float, float]  # mean, low, high

_GREEDY: dict[str, tuple[Read, ...]] = {
    "lenet": (
        (97.14, 97.08, 97.27),
        (98.00, 97.92, 98.08),
        (98.21, 98.15, 98.31),
        (98.17, 98.15, 98.19),
        (98.18, 98.15, 98.23),
        (98.17, 98.06, 98.21),
    ),
    "conv2": (
        (75.2, 74.6, 75.6),
        (77.8, 77.6, 78.0),
        (78.1, 77.8, 78.5),
        (78.2, 77.9, 78.5),
        (77.7, 77.4, 78.0),
        (77.5, 77.3, 77.7),
    ),
    "conv4": (
        (81.8, 81.65, 82.3),
        (85.7, 85.3, 86.0),
        (86.0, 85.7, 86.3),
        (86.35, 86.2, 86.5),
        (86.3, 86.15, 86.4),
        (85.1, 84.8, 85.5),
    ),
    "conv6": (
        (85.25, 85.1, 85.5),
        (87.9, 87.5, 88.1),
        (88.4, 88.2, 88.6),
        (88.15, 87.8, 88.5),
        (88.1, 87.9, 88.3),
        (87.7, 87.1, 88.1),
    ),
}
_PROBABILISTIC: dict[str, tuple[Read, ...]] = {
    "lenet": (
        (97.06, 97.02, 97.10),
        (97.83, 97.73, 97.88),
        (97.84, 97.81, 97.90),
        (97.87, 97.81, 97.96),
        (98.02, 97.94, 98.10),
        (97.84, 97.80, 97.91),
    ),
    "conv2": (
        (70.1, 69.6, 71.2),
        (70.5, 68.7, 71.5),
        (71.6, 70.6, 72.9),
        (71.7, 70.8, 72.1),
        (70.9, 68.9, 72.1),
        (70.9, 68.5, 72.8),
    ),
    "conv4": (
        (78.9, 78.4, 79.2),
        (80.2, 79.25, 81.0),
        (79.6, 78.4, 80.3),
        (79.2, 78.2, 80.55),
        (79.35, 77.4, 80.8),
        (79.4, 78.2, 80.6),
    ),
    "conv6": (
        (81.7, 81.1, 82.3),
        (81.6, 81.1, 82.2),
        (81.2, 80.6, 81.9),
        (80.7, 79.4, 82.1),
        (80.9, 80.45, 81.5),
        (80.5, 80.15, 81.0),
    ),
}
_LEARNED: dict[str, Read] = {
    "lenet": (97.94, 97.76, 98.09),
    "conv2": (79.28, 79.23, 79.35),
    "conv4": (86.49, 86.33, 86.62),
    "conv6": (87.99, 87.80, 88.35),
}
_TEXT: dict[tuple[str, int], Read] = {("vgg19", 8): (91.0, 91.0, 91.0)}

DATASETS = {"lenet": "mnist", "conv2": "cifar10", "conv4": "cifar10", "conv6": "cifar10", "vgg19": "cifar10"}


@dataclass(frozen=True)
class Paper:
    """What the paper has for a network on a dataset; empty for what it doesn't have.

    Attributes:
        greedy, probabilistic: by K.
    """

    greedy: dict[int, Read]
    probabilistic: dict[int, Read]
    learned: Read | None

    def read(self, method: str, selection: str, k: int) -> Read | None:
        if method == "learned":
            return self.learned
        return (self.greedy if selection == "greedy" else self.probabilistic).get(k)


def of(model: str, dataset: str) -> Paper:
    """The paper's numbers for a network on a dataset, which may be a folder of that name."""
    name = Path(dataset.partition(":")[2] or dataset).name.lower().replace("-", "").replace("_", "")
    if DATASETS.get(model) != name:
        return Paper({}, {}, None)
    greedy = dict(zip(KS, _GREEDY.get(model, ()), strict=False))
    greedy |= {k: read for (name, k), read in _TEXT.items() if name == model}
    return Paper(greedy, dict(zip(KS, _PROBABILISTIC.get(model, ()), strict=False)), _LEARNED.get(model))
