"""Labelled images, and their split into training and validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from slotkit.data.augmentations import PictureChange
from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError


class Images(Protocol):
    """What training and evaluation ask of images: `ImageSet`, or `slotkit.data.streams.StreamedImages`."""

    @property
    def labels(self) -> Tensor:
        """int64, shape (n,), on the device that images come to."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        ...

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images:
        """The images at `indices` (int64, shape (m,), any device), in that order."""
        ...

    def to(self, device: torch.device | str) -> Images:
        """The same images, which come to `device`."""
        ...

    def relabelled(self, labels: Tensor) -> Images:
        """The same images with other labels."""
        ...

    def read(self, parts: Sequence[Tensor], change: PictureChange | None = None) -> Iterator[Tensor]:
        """For each part, int64 indices (b,) on any device, in order: the pixels, uint8 (b, channels, height,
        width). With `change` each picture is changed by it.

        Raises SlotkitError, naming the file, for a picture that can't be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    images: uint8, shape (n, channels, height, width), values 0 to 255.
    labels: int64, shape (n,), on the same device.

    Raises SlotkitError if a shape, a dtype or a device differs from that.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise SlotkitError(
                f"images came as {_described(self.images)}; accepted is torch.uint8 of shape "
                "(n, channels, height, width). Convert them before building an ImageSet."
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise SlotkitError(
                f"labels came as {_described(self.labels)}; accepted is torch.int64 of shape (n,). "
                "Convert them before building an ImageSet."
            )
        if len(self.images) != len(self.labels):
            raise SlotkitError(
                f"there are {len(self.images)} images and {len(self.labels)} labels; "
                "give one label for every image."
            )
        if self.images.device != self.labels.device:
            raise SlotkitError(
                f"images are on {self.images.device} and labels on {self.labels.device}; "
                "move both to one device."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at `indices` (int64, shape (m,), any device), copied, in that order."""
        here = indices.to(self.labels.device)
        return ImageSet(self.images[here], self.labels[here])

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Images`."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def relabelled(self, labels: Tensor) -> ImageSet:
        """The same images with other labels."""
        return ImageSet(self.images, labels)

    def read(self, parts: Sequence[Tensor], change: PictureChange | None = None) -> Iterator[Tensor]:
        """See `Images`. Pictures are changed in this process, on the CPU."""
        for indices in parts:
            pixels = self.images[indices.to(self.images.device)]
            if change is not None:
                from slotkit.data.pictures import changed  # late, because it imports Pillow

                pixels = changed(pixels.cpu(), indices.tolist(), change).to(self.images.device)
            yield pixels


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set and a test set of images of one shape.

    classes: the name of each label; a label is a position in it.
    named: False if the source has no names, and `classes` counts from "0".
    notes: sentences on the source that who trains on it should know.

    Raises SlotkitError if the two sets differ in image shape, one is empty or a label has no class.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    named: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        train_shape, test_shape = self.train.shape, self.test.shape
        if train_shape != test_shape:
            raise SlotkitError(
                f"{self.name}: training images have shape {train_shape}, test images {test_shape}; "
                "the two must agree. Load the dataset with a size."
            )
        for half, images in (("training", self.train), ("test", self.test)):
            if not len(images):
                raise SlotkitError(f"{self.name} has no {half} images. Add some, or give another dataset.")
            row = first_stray_label(images.labels, len(self.classes))
            if row is not None:
                raise SlotkitError(
                    f"{self.name}: {half} image {row} has label {int(images.labels[row])}; accepted are "
                    f"0 to {len(self.classes) - 1}, one for each of the {len(self.classes)} classes. "
                    "Correct the labels."
                )

    @property
    def channels(self) -> int:
        """Of every image: 1 for grey, 3 for colour."""
        return self.train.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.train.shape[1], self.train.shape[2]

    @property
    def num_classes(self) -> int:
        """How many classes the labels count."""
        return len(self.classes)

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def first_stray_label(labels: Tensor, classes: int) -> int | None:
    """The first position in `labels` (int64, shape (n,)) whose value is outside [0, classes), or None."""
    stray = ((labels < 0) | (labels >= classes)).nonzero()
    return int(stray[0]) if len(stray) else None


@dataclass(frozen=True, eq=False)
class Split:
    """Which images train and which select a model: two disjoint, sorted int64 index tensors on the CPU."""

    train: Tensor
    validation: Tensor


def split(n: int, share: float, seed: int) -> Split:
    """Pick `round(n * share)` of `n` images at random for validation; the others train.

    A function of (n, share, seed) alone. `share` is a fraction in [0, 1). A share above 0 gives at least
    one validation image, and at least one training image is always kept.

    Raises SlotkitError for a share outside [0, 1) or for too few images.
    """
    if not 0 <= share < 1:
        raise SlotkitError(
            f"the validation share came as {share}; accepted is a fraction from 0 up to but not including 1, "
            "such as 0.1 for one image in ten."
        )
    needed = 2 if share > 0 else 1
    if n < needed:
        raise SlotkitError(
            f"there are {n} images to split; a validation share of {share} needs at least {needed}. "
            "Use a larger dataset or a share of 0."
        )
    count = min(max(1, round(n * share)), n - 1) if share > 0 else 0
    order = torch.randperm(n, generator=generator("split", seed))
    return Split(train=order[count:].sort().values, validation=order[:count].sort().values)


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
