"""Batches for training and evaluation, on the device of the images.

The order of a training batch is a function of (seed, epoch) and its augmentation one of (seed, epoch, step):
a run that stops and resumes sees the same bits as one that never stopped, on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slotkit.data.images import ImageSet
from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError

CROP_PADDING = 4  # pixels on each side


@dataclass(frozen=True)
class Augmentation:
    """A random change of a training batch.

    apply: (images, generator) -> images, both uint8 of shape (n, channels, height, width), drawing from the
        CPU generator only.
    """

    name: str
    description: str
    apply: Callable[[Tensor, torch.Generator], Tensor]


def _unchanged(images: Tensor, random: torch.Generator) -> Tensor:
    return images


# torchvision.transforms.v2 takes one random number for a whole batch: it would flip all images or none, and
# crop all at the same place. The next two functions take one for each image instead.
def _flip(images: Tensor, random: torch.Generator) -> Tensor:
    mirrored = (torch.rand(len(images), generator=random) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _crop(images: Tensor, random: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    offsets = torch.randint(0, 2 * CROP_PADDING + 1, (2, n), generator=random).to(images.device)
    padded = nn.functional.pad(images, [CROP_PADDING] * 4)
    # A view of shape (n, channels, 9, 9, height, width): every window of every image.
    windows: Tensor = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=images.device), :, offsets[0], offsets[1]]


def _flip_crop(images: Tensor, random: torch.Generator) -> Tensor:
    return _crop(_flip(images, random), random)


AUGMENTATIONS: dict[str, Augmentation] = {
    augmentation.name: augmentation
    for augmentation in (
        Augmentation("none", "the images as they are", _unchanged),
        Augmentation("flip", "each image is mirrored left to right with probability 0.5", _flip),
        Augmentation(
            "flip-crop",
            f"flip, then a random window of the image padded with {CROP_PADDING} black pixels a side",
            _flip_crop,
        ),
    )
}


def check_augmentation(name: str) -> None:
    """Raise SlotkitError if there is none of that name."""
    if name not in AUGMENTATIONS:
        raise SlotkitError(
            f"there is no augmentation {name!r}. Accepted are {', '.join(AUGMENTATIONS)}; "
            "use none to train on the images as they are."
        )


def check_normalisation(name: str, values: Sequence[float] | None, channels: int) -> None:
    """Raise SlotkitError if `mean` or `std` has not one number a channel."""
    if values is not None and len(values) != channels:
        raise SlotkitError(
            f"{name} came with {len(values)} numbers for images of {channels} channels; "
            "give one number a channel."
        )


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augment: str = "none",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    skip: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, shuffled: (dtype (b, channels, height, width), int64 (b,)) pairs.

    b is `batch_size`, and what is left over in the last batch. `augment` names one of AUGMENTATIONS, applied
    to the uint8 pixels. For `mean`, `std`, `dtype` and `channels_last` see `ordered_batches`. The first
    `skip` batches are left out, at no cost.

    Raises SlotkitError, at the call, for a value that is not accepted.
    """
    _check(images, batch_size, mean, std, dtype)
    check_augmentation(augment)
    change = AUGMENTATIONS[augment].apply

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(images), generator=generator("order", seed, epoch))
        order = order.to(images.labels.device)  # one transfer an epoch, not one a step
        starts = list(enumerate(range(0, len(images), batch_size)))
        for step, start in starts[skip:]:
            indices = order[start : start + batch_size]
            pixels = change(images.images[indices], generator("augment", seed, epoch, step))
            yield _network_input(pixels, mean, std, dtype, channels_last), images.labels[indices]

    return pairs()


def ordered_batches(
    images: ImageSet,
    batch_size: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    first: int = 0,
    every: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order and as it is, for evaluation: pairs as from `batches`.

    `first` and `every` leave batches out: those from number `first` on, one in `every`.

    Pixels are scaled to [0, 1]; with `mean` and `std`, one number a channel, they become (x - mean) / std.
    That is computed in float32 or wider and rounded to `dtype` last. `channels_last` asks for torch's
    memory format of that name; values and shapes stay the same.

    Raises SlotkitError, at the call, for a value that is not accepted.
    """
    _check(images, batch_size, mean, std, dtype)
    starts = range(first * batch_size, len(images), every * batch_size)
    slices = (slice(start, start + batch_size) for start in starts)
    return (
        (_network_input(images.images[some], mean, std, dtype, channels_last), images.labels[some])
        for some in slices
    )


def _network_input(
    pixels: Tensor,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    # Normalising in bfloat16 would round three times.
    scaled = pixels.to(torch.promote_types(dtype, torch.float32)).mul_(1 / 255)
    if mean is not None and std is not None:
        means, stds = (scaled.new_tensor(values)[:, None, None] for values in (mean, std))
        scaled = scaled.sub_(means).div_(stds)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return scaled.to(dtype=dtype, memory_format=layout)


def _check(
    images: ImageSet,
    batch_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
) -> None:
    if batch_size < 1:
        raise SlotkitError(f"the batch size came as {batch_size}; accepted is a number of images from 1 up.")
    if not dtype.is_floating_point:
        raise SlotkitError(f"the images' dtype came as {dtype}; accepted are floating-point types.")
    if (mean is None) != (std is None):
        raise SlotkitError(
            "one of mean and std came without the other; give both to normalise, "
            "or neither to scale to [0, 1]."
        )
    channels = images.images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        check_normalisation(name, values, channels)
    if std is not None and min(std) <= 0:
        raise SlotkitError(f"std came as {tuple(std)}; accepted are numbers above 0.")
