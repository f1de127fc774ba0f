"""What a network will see: the images of a run's settings as they come to it, made visible again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slotkit.config import Resolved
from slotkit.data.batches import batches, ordered_batches
from slotkit.data.images import split
from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.training.prepare import as_of_new_run, open_data

PARTS = {"train": "training", "validation": "validation", "test": "test"}

# Of a mixed label as many classes are named.
NAMED = 2


@dataclass(frozen=True)
class Shown:
    """Images, uint8 (n, channels, height, width), the caption of each, and what they are.

    `name` is short, for a file.
    """

    images: Tensor
    captions: tuple[str, ...]
    title: str
    name: str

    def save(self, path: Path) -> None:
        """Write them as a contact sheet, a PNG."""
        from slotkit.data.contact_sheet import contact_sheet

        sheet = contact_sheet(self.images, self.captions, self.title)
        write_whole(path, lambda file: sheet.save(file, "PNG"))


def shown(
    resolved: Resolved, count: int = 40, part: str = "train", epoch: int = 1, of_run: bool = False
) -> Shown:
    """The first `count` images that a network trained by these settings gets in an epoch, or is evaluated on.

    Args:
        part: "train" (in the order of the epoch, augmented), "validation" or "test".
        of_run: whether the settings are of a run that is there: `data.dir` says where its data lie now then.

    Raises SlotkitError for another part, for settings that are not possible, or for data that are missing or
    damaged.
    """
    if part not in PARTS:
        raise SlotkitError(f"there are no images {part!r}. Choose one of {', '.join(PARTS)}.")
    resolved, dataset = open_data(resolved if of_run else as_of_new_run(resolved))
    data, seed = resolved.config.data, resolved.config.seeds.data
    assert data.validation is not None
    indices = split(len(dataset.train), data.validation, seed)
    images = dataset.test
    if part != "test":
        images = dataset.train.subset(indices.train if part == "train" else indices.validation)
    if part == "train":
        pairs = batches(
            images,
            resolved.config.training.batch_size,
            seed=seed,
            epoch=epoch,
            augment=data.augment,
            mean=data.mean,
            std=data.std,
            classes=dataset.num_classes,
        )
    else:
        pairs = ordered_batches(images, min(count, len(images)), mean=data.mean, std=data.std)
    inputs, labels = _first(pairs, count)
    captions = tuple(_caption(label, dataset.classes) for label in labels)
    title = _title(resolved, len(images), captions, part, epoch)
    kind, _, place = data.dataset.partition(":")
    return Shown(_visible(inputs, data.mean, data.std), captions, title, Path(place).name or kind)


def _first(pairs: Iterator[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    for some, theirs in pairs:
        inputs, labels = [*inputs, some], [*labels, theirs]
        if sum(map(len, labels)) >= count:
            break
    return torch.cat(inputs)[:count], torch.cat(labels)[:count]


def _visible(inputs: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    """uint8 pixels again: without the normalisation, and rounded."""
    if mean is not None and std is not None:
        inputs = inputs * inputs.new_tensor(std)[:, None, None] + inputs.new_tensor(mean)[:, None, None]
    return (255 * inputs).round().clamp(0, 255).to(torch.uint8)


def _caption(label: Tensor, classes: tuple[str, ...]) -> str:
    if not label.ndim:
        return classes[int(label)]
    shares = label.sort(descending=True, stable=True)
    named: list[tuple[str, float]] = [
        (classes[at], share)
        for at, share in zip(shares.indices.tolist(), shares.values.tolist(), strict=True)
        if share >= 0.005
    ][:NAMED]
    if len(named) == 1:
        return named[0][0]
    return "\n".join(f"{name}: {100 * share:.0f} %" for name, share in named)


def _title(resolved: Resolved, images: int, captions: tuple[str, ...], part: str, epoch: int) -> str:
    data = resolved.config.data
    told = f"{data.dataset}: {len(captions)} of {images} {PARTS[part]} images"
    if part == "train":
        told += f", epoch {epoch}, augmentation {data.augment}"
    return told
