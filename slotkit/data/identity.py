"""What a dataset is, in a few lines: a run keeps them, and whatever reads its data again compares.

The identity is of the images as they are loaded, before augmentation and normalisation. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slotkit.errors import many

if TYPE_CHECKING:
    from slotkit.data.images import Dataset, Images

# Of a larger split evenly spread images are digested, so that it takes a tenth of a second.
PIXEL_BYTES = 64 * 2**20
AT_ONCE = 256  # images

SPLITS = {"train": "training", "test": "test"}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Half(_Record):
    """The training or the test images: how many, and digests (BLAKE2b) of labels and pixels in order."""

    images: int = Field(ge=1)
    labels: str
    pixels: str


class Identity(_Record):
    """What a run's data are.

    Attributes:
        format: the version of this record.
        dataset: where they lay then; it is told, not compared.
        classes: the names of the labels; None where the source has none.
        class_count: how many there are.
        image: channels, height, width.
    """

    format: Literal[1] = 1
    dataset: str
    classes: list[str] | None
    class_count: int = Field(ge=1)
    image: list[int] = Field(min_length=3, max_length=3)
    train: Half
    test: Half

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.image
        return (channels, height, width)

    def in_short(self) -> list[tuple[str, str]]:
        """(what, value) for people."""
        return [
            ("dataset", self.dataset),
            ("images", f"{self.train.images} training, {self.test.images} test, {_shape(self.image)}"),
            ("classes", f"{self.class_count}: {listed(self.classes)}" if self.classes else "without names"),
        ]


def identity_of(dataset: Dataset) -> Identity:
    """The identity of a dataset on the CPU."""
    return Identity(
        dataset=dataset.name,
        classes=list(dataset.classes) if dataset.named else None,
        class_count=dataset.num_classes,
        image=[dataset.channels, *dataset.size],
        train=_half(dataset.train),
        test=_half(dataset.test),
    )


def differences(before: Identity, now: Identity) -> list[str]:
    """What is not as it was, a clause each; empty if the two are the same data."""
    told = _classes_changed(before, now)
    if before.image != now.image:
        told.append(f"its images are {_shape(now.image)}, and were {_shape(before.image)}")
    same_kind = not told  # else labels and pixels differ as a consequence
    for name, words in SPLITS.items():
        was: Half = getattr(before, name)
        half: Half = getattr(now, name)
        if half.images != was.images:
            told.append(f"it has {half.images} {words} images, and had {was.images}")
        elif half.labels != was.labels and same_kind:
            told.append(f"the labels of its {words} images have changed")
        elif half.pixels != was.pixels and same_kind:
            told.append(f"the pixels of its {words} images have changed")
    return told


def listed(names: Sequence[str], at_most: int = 5) -> str:
    """Class names for a sentence; of many the first ones."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(repr(name) for name in names[:at_most]) + more


def _classes_changed(before: Identity, now: Identity) -> list[str]:
    if before.classes is None or now.classes is None:
        counts = before.class_count, now.class_count
        return [] if counts[0] == counts[1] else [f"it has {counts[1]} classes, and had {counts[0]}"]
    was, are = Counter(before.classes), Counter(now.classes)
    gone, new = list((was - are).elements()), list((are - was).elements())
    if not gone and not new and before.classes != now.classes:
        return ["its classes are in another order"]
    words = [(gone, "gone"), (new, "new")]
    return [
        f"class{'es' if len(names) > 1 else ''} {listed(names)} {'are' if len(names) > 1 else 'is'} {what}"
        for names, what in words
        if names
    ]


def _half(images: Images) -> Half:
    import torch  # it is there: without it there were no images

    size = len(images) * math.prod(images.shape)
    some = torch.arange(0, len(images), max(1, -(-size // PIXEL_BYTES)))
    labels = images.labels.contiguous().numpy().astype("<i8", copy=False)
    pixels = (part.numpy() for part in images.read(torch.split(some, AT_ONCE)))
    return Half(images=len(images), labels=_digest([labels]), pixels=_digest(pixels))


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for some in values:
        digest.update(some)
    return digest.hexdigest()


def _shape(image: Sequence[int]) -> str:
    channels, height, width = image
    return f"{height} x {width} pixels in {many(channels, 'channel')}"
