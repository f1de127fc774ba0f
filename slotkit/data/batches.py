"""Batches for training and evaluation, on the device of the images.

The order of a training batch is a function of (seed, epoch) and its augmentation one of (seed, epoch, step),
or of (seed, epoch, picture): a run that stops and resumes sees the same bits as one that never stopped, on
every device, and so does one whose images are read while it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from slotkit.data.augmentations import PictureChange, Rows, change_batch, mix, parse
from slotkit.data.images import Images
from slotkit.data.seeds import generator, subseed
from slotkit.errors import SlotkitError


def check_normalisation(name: str, values: Sequence[float] | None, channels: int) -> None:
    """Raise SlotkitError if `mean` or `std` has not one number a channel."""
    if values is not None and len(values) != channels:
        raise SlotkitError(
            f"{name} came with {len(values)} numbers for images of {channels} channels; "
            "give one number a channel."
        )


def batches(
    images: Images,
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
    classes: int | None = None,
    order: Tensor | None = None,
    rows: Callable[[int], slice] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, shuffled: (dtype (b, channels, height, width), int64 (b,)) pairs.

    `order`, int64 (n,), has the numbers of other images instead, in their order. `rows` tells which rows of a
    batch of n images are wanted: the same bits, and no other images are read, except that `mixup` needs one
    more, because it mixes each row with the one before it.

    b is `batch_size`, and what is left over in the last batch. `augment` has names of
    slotkit.data.augmentations; those that mix images need the number of `classes`, and make labels shares of
    classes, float32 (b, classes). For `mean`, `std`, `dtype` and `channels_last` see `ordered_batches`. The
    first `skip` batches are left out, at no cost.

    Raises SlotkitError, at the call, for a value that is not accepted, and on the way for a picture that
    can't be read.
    """
    _check(images, batch_size, mean, std, dtype)
    augment_by = parse(augment)
    if augment_by.mixes_labels and classes is None:
        raise SlotkitError(
            f"the augmentation {augment!r} mixes labels, and the number of classes is not given; give "
            "classes."
        )
    chosen = order
    if chosen is None:
        chosen = torch.randperm(len(images), generator=generator("order", seed, epoch))
    chosen = chosen.to(images.labels.device)  # one transfer an epoch, not one a step
    parts = list(torch.split(chosen, batch_size)) if len(chosen) else []

    def at_hand(part: Tensor) -> Rows:
        return _wanted(len(part), rows, augment_by.mixes_labels)

    own = parts if rows is None else [part[at_hand(part).places.to(part.device)] for part in parts]
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def pair(pixels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        labels, random = images.labels[own[step]], generator("augment", seed, epoch, step)
        changed = change_batch(augment_by, pixels, random, at_hand(parts[step]))
        inputs = _network_input(changed, mean, std, dtype, channels_last)
        if augment_by.mixes_labels:
            assert classes is not None
            inputs, labels = mix(augment_by, inputs, labels, classes, subseed("mix", seed, epoch, step))
            if rows is not None:  # the first one is there to be mixed with the second
                inputs, labels = inputs[1:], labels[1:]
            inputs = inputs.contiguous(memory_format=layout)
        return inputs, labels

    change = (
        PictureChange(augment_by.pictures, images.shape[1:], seed, epoch) if augment_by.pictures else None
    )
    # A generator keeps its variables while the training works: these would be batches.
    return map(pair, images.read(own[skip:], change), count(skip))


def _wanted(images: int, rows: Callable[[int], slice] | None, mixes: bool) -> Rows:
    """What has to be read of a batch of so many images for some of its rows."""
    places = torch.arange(images)
    if rows is None:
        return Rows(places, images)
    own = places[rows(images)]
    return Rows(torch.cat([own[:1] - 1, own]) % images if mixes else own, images)


def ordered_batches(
    images: Images,
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
    everything = torch.arange(len(images), device=images.labels.device)
    parts = list(torch.split(everything, batch_size))[first::every] if len(images) else []

    def pair(pixels: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        return _network_input(pixels, mean, std, dtype, channels_last), images.labels[part]

    return map(pair, images.read(parts), parts)


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
    images: Images,
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
    channels = images.shape[0]
    for name, values in (("mean", mean), ("std", std)):
        check_normalisation(name, values, channels)
    if std is not None and min(std) <= 0:
        raise SlotkitError(f"std came as {tuple(std)}; accepted are numbers above 0.")
