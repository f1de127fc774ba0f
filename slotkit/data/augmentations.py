"""Random changes of training images, by name: "resized-crop+flip+randaugment+mixup".

There are three kinds, applied in this order. Those of pictures see one picture at a time, at the size that
it is stored in; those of batches see the uint8 pixels of a batch; those of mixtures see what goes into the
network, and its labels. Each draws from a generator of its own, a function of (seed, epoch, picture) or
(seed, epoch, step): neither the number of workers nor a resume changes a bit. Importing this does not import
torchvision.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slotkit.data.seeds import subseed
from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from PIL import Image

CROP_PADDING = 4  # pixels on each side
CHANGED_AT_ONCE = 2**20  # bytes; what is larger leaves gaps in glibc's heap, see slotkit.data.streams._joined
RANDAUGMENT_OPERATIONS = 2

# Of resized-crop, as torchvision has them: width over height, and how many windows are tried.
FORMS = (3 / 4, 4 / 3)
WINDOWS = 10
BILINEAR = 2  # Pillow's number of it: that is imported with the pictures


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch are at hand: their places, int64 (m,) on the CPU, and how many the batch has."""

    places: Tensor
    of: int


BatchChange = Callable[[Tensor, torch.Generator, Rows], Tensor]


@dataclass(frozen=True)
class Number:
    """The number that may follow an augmentation's name, as in "mixup:0.8"."""

    meaning: str
    default: float
    lowest: float
    highest: float
    whole: bool = False


@dataclass(frozen=True)
class Augmentation:
    """A random change of training images; its `kind` is one of KINDS.

    apply: of the kind "batch": (images, generator, rows) -> images, both uint8 of shape (n, channels,
        height, width). It draws from the CPU generator only, and for every image of the batch; it may work
        in place.
    """

    name: str
    description: str
    kind: str
    number: Number | None = None
    apply: BatchChange | None = None


KINDS = ("picture", "batch", "mixture")


# torchvision.transforms.v2 takes one random number for a whole batch: it would flip all images or none, and
# crop all at the same place. The next two functions take one for each image instead.
def _flip(images: Tensor, random: torch.Generator, rows: Rows) -> Tensor:
    mirrored = (torch.rand(rows.of, generator=random) < 0.5)[rows.places].nonzero()[:, 0].to(images.device)
    for some in mirrored.split(max(1, CHANGED_AT_ONCE // max(1, images[:1].nbytes))):
        images[some] = images[some].flip(-1)
    return images


def _crop(images: Tensor, random: torch.Generator, rows: Rows) -> Tensor:
    n, _, height, width = images.shape
    every = torch.randint(0, 2 * CROP_PADDING + 1, (2, rows.of), generator=random)
    offsets = every[:, rows.places].to(images.device)
    padded = nn.functional.pad(images, [CROP_PADDING] * 4)
    # A view of shape (n, channels, 9, 9, height, width): every window of every image.
    windows: Tensor = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=images.device), :, offsets[0], offsets[1]]


def _flip_crop(images: Tensor, random: torch.Generator, rows: Rows) -> Tensor:
    return _crop(_flip(images, random, rows), random, rows)


NONE = "none"

AUGMENTATIONS: dict[str, Augmentation] = {
    augmentation.name: augmentation
    for augmentation in (
        Augmentation(
            "resized-crop",
            "a random window of the whole picture, of that share of its area or more, stretched to the size "
            "of the image (torchvision's RandomResizedCrop)",
            "picture",
            Number("the lowest share of the area", 0.08, 0.001, 1.0),
        ),
        Augmentation(
            "randaugment",
            f"{RANDAUGMENT_OPERATIONS} random operations of that magnitude on each image (torchvision's "
            "RandAugment)",
            "picture",
            Number("the magnitude", 9, 0, 30, whole=True),
        ),
        Augmentation(
            "flip", "each image is mirrored left to right with probability 0.5", "batch", apply=_flip
        ),
        Augmentation(
            "flip-crop",
            f"flip, then a random window of the image padded with {CROP_PADDING} black pixels a side",
            "batch",
            apply=_flip_crop,
        ),
        Augmentation(
            "mixup",
            "each image and its label are mixed with another of the batch, in a proportion drawn from "
            "Beta(a, a) (torchvision's MixUp)",
            "mixture",
            Number("a", 0.2, 0.001, 100.0),
        ),
    )
}


@dataclass(frozen=True)
class Augment:
    """What a text such as "flip+mixup" names: (name, number) of each kind, in order."""

    pictures: tuple[tuple[str, float], ...] = ()
    batches: tuple[tuple[str, float], ...] = ()
    mixtures: tuple[tuple[str, float], ...] = ()

    @property
    def takes_whole_pictures(self) -> bool:
        """Whether pictures must come as they are stored, not stretched to the size of an image."""
        return takes_whole_pictures(self.pictures)

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become shares of classes."""
        return bool(self.mixtures)


def takes_whole_pictures(changes: tuple[tuple[str, float], ...]) -> bool:
    """Whether one of these changes of pictures chooses a part of them."""
    return any(name == "resized-crop" for name, _ in changes)


def parse(text: str) -> Augment:
    """Read "none", or names with + between them.

    Raises SlotkitError for a name that is not there, a number that is not accepted, or another order.
    """
    if text == NONE:
        return Augment()
    words = text.split("+")
    named = [_named(word) for word in words]
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or {"flip", "flip-crop"} <= set(names):
        what = f"{twice[0]} twice" if twice else "flip and flip-crop, which has a flip"
        raise SlotkitError(f"the augmentation {text!r} has {what}. Name each change once.")
    order = sorted(range(len(named)), key=lambda at: KINDS.index(AUGMENTATIONS[names[at]].kind))
    if order != list(range(len(named))):
        raise SlotkitError(
            f"the augmentation {text!r} is in an order that is not possible: whole pictures are changed "
            f"first, then batches, then images are mixed. Write {'+'.join(words[at] for at in order)}."
        )
    of_kind = {kind: tuple(pair for pair in named if AUGMENTATIONS[pair[0]].kind == kind) for kind in KINDS}
    return Augment(of_kind["picture"], of_kind["batch"], of_kind["mixture"])


def _named(word: str) -> tuple[str, float]:
    name, colon, text = word.partition(":")
    known = AUGMENTATIONS.get(name)
    if known is None:
        near = difflib.get_close_matches(name.lower(), AUGMENTATIONS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise SlotkitError(
            f"there is no augmentation {name!r}.{hint} Accepted are {', '.join((NONE, *AUGMENTATIONS))}, "
            "several with + between them; use none to train on the images as they are."
        )
    number = known.number
    if number is None:
        if colon:
            raise SlotkitError(f"the augmentation {name} takes no number, and came as {word!r}.")
        return name, 0.0
    if not colon:
        return name, number.default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not number.lowest <= value <= number.highest or (number.whole and value != int(value)):
        kind = "whole number" if number.whole else "number"
        raise SlotkitError(
            f"the augmentation {word!r}: {number.meaning} is a {kind} from {number.lowest:g} to "
            f"{number.highest:g}, such as {name}:{number.default:g}."
        )
    return name, value


@contextmanager
def _seeded(number: int) -> Iterator[None]:
    """torchvision's transforms draw from torch's own generator: within the block it starts at `number`, and
    afterwards it is as it was."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(number % 2**63)
    try:
        yield
    finally:
        generator.set_state(before)


@dataclass(frozen=True)
class PictureChange:
    """Changes pictures one at a time, each in its own way: picture `index` of an epoch always alike.

    size: (height, width) of what comes out.
    """

    changes: tuple[tuple[str, float], ...]
    size: tuple[int, int]
    seed: int
    epoch: int

    @property
    def takes_whole_pictures(self) -> bool:
        """Whether a picture comes as it is stored, not stretched to the size of an image."""
        return takes_whole_pictures(self.changes)

    def prepare(self) -> None:
        """Import what it needs."""
        for name, number in self.changes:
            _transform(name, number, self.size)

    def __call__(self, picture: Image.Image, index: int) -> Image.Image:
        with _seeded(subseed("picture", self.seed, self.epoch, index)):
            for name, number in self.changes:
                picture = _transform(name, number, self.size)(picture)
        return picture


@cache
def _transform(name: str, number: float, size: tuple[int, int]) -> Callable[[Any], Any]:
    if name == "resized-crop":
        return partial(_resized_crop, lowest=number, size=size)
    from torchvision.transforms import v2

    return v2.RandAugment(RANDAUGMENT_OPERATIONS, int(number))  # type: ignore[no-any-return]


def _resized_crop(picture: Image.Image, lowest: float, size: tuple[int, int]) -> Image.Image:
    """torchvision's RandomResizedCrop, from the same draws of torch's generator.

    The import of torchvision.transforms takes 170 MB, as much as what else there is of slotkit, and seconds.
    """
    left, top, width, height = _window(*picture.size, lowest)
    part = picture.crop((left, top, left + width, top + height))
    return part.resize((size[1], size[0]), BILINEAR)


def _window(width: int, height: int, lowest: float) -> tuple[int, int, int, int]:
    """A random window of a share of the area, from `lowest` to all, and of a form from 3:4 to 4:3."""
    narrowest, widest = torch.log(torch.tensor(FORMS)).tolist()
    for _ in range(WINDOWS):
        area = width * height * torch.empty(1).uniform_(lowest, 1.0).item()
        form = torch.exp(torch.empty(1).uniform_(narrowest, widest)).item()
        w, h = round(math.sqrt(area * form)), round(math.sqrt(area / form))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,)))
            left = int(torch.randint(0, width - w + 1, (1,)))
            return left, top, w, h
    # In the middle, as large as it can be.
    w, h = width, height
    if width / height < min(FORMS):
        h = round(w / min(FORMS))
    elif width / height > max(FORMS):
        w = round(h * max(FORMS))
    return (width - w) // 2, (height - h) // 2, w, h


def change_batch(augment: Augment, pixels: Tensor, random: torch.Generator, rows: Rows) -> Tensor:
    """The changes of the kind "batch", one after the other. `pixels` are its own: they may be changed."""
    for name, _ in augment.batches:
        apply = AUGMENTATIONS[name].apply
        assert apply is not None
        pixels = apply(pixels, random, rows)
    return pixels


def mix(augment: Augment, inputs: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """The changes of the kind "mixture": labels int64 (b,) become float32 (b, classes), shares of classes.

    Each row is mixed with the one before it, and the first with the last. `inputs` are changed in place.
    """
    shares = nn.functional.one_hot(labels, classes).float()
    for _, number in augment.mixtures:
        with _seeded(seed):
            share = float(torch.distributions.Beta(*torch.tensor([[number], [number]])).sample())
        for tensor in (inputs, shares):
            _mix_with_the_row_before(tensor, share)
    return inputs, shares


def _mix_with_the_row_before(rows: Tensor, share: float) -> None:
    """rows[i] = (1 - share) * rows[i - 1] + share * rows[i], in place.

    torchvision's MixUp does the same with two more copies of a batch, 150 MB of 128 images of 224 x 224.
    """
    last, some = rows[-1:].clone(), max(1, CHANGED_AT_ONCE // max(1, rows[0].nbytes))
    for end in range(len(rows), 0, -some):
        own = slice(max(0, end - some), end)
        before = rows[own.start - 1 : end - 1] if own.start else torch.cat([last, rows[: end - 1]])
        rows[own] = before.mul(1.0 - share).add_(rows[own].mul(share))
