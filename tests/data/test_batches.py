from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from slotkit.data.augmentations import AUGMENTATIONS, CROP_PADDING, PictureChange
from slotkit.data.batches import batches, ordered_batches
from slotkit.data.images import ImageSet
from slotkit.errors import SlotkitError

# Those that leave labels what they are.
PLAIN = ["none", *(name for name, one in AUGMENTATIONS.items() if one.kind != "mixture")]
QUICK = ["none", *(name for name, one in AUGMENTATIONS.items() if one.kind == "batch")]


def random_images(n: int, channels: int = 3, height: int = 6, width: int = 5) -> ImageSet:
    """Random pixels; the label of each image is its position."""
    shape = (n, channels, height, width)
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    return ImageSet(drawn.to(torch.uint8), torch.arange(n))


def together(batched: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*batched, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def augmented(images: ImageSet, augment: str, **options: Any) -> tuple[Tensor, Tensor]:
    """The uint8 pixels after augmentation, and where they come from."""
    inputs, labels = together(batches(images, 64, augment=augment, **{"seed": 0, "epoch": 0, **options}))
    return (inputs * 255).round().to(torch.uint8), labels


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 1000),
    augment=st.sampled_from(QUICK),
)
def test_an_epoch_has_each_image_once(n: int, batch_size: int, seed: int, epoch: int, augment: str) -> None:
    drawn = list(batches(random_images(n), batch_size, seed=seed, epoch=epoch, augment=augment))
    assert sorted(torch.cat([labels for _, labels in drawn]).tolist()) == list(range(n))
    assert [len(labels) for _, labels in drawn[:-1]] == [batch_size] * (len(drawn) - 1)
    assert 1 <= len(drawn[-1][1]) <= batch_size
    assert all(len(inputs) == len(labels) for inputs, labels in drawn)


@pytest.mark.parametrize("augment", QUICK)
@given(epoch=st.integers(0, 5), before=st.lists(st.integers(0, 5), max_size=3))
def test_an_epoch_does_not_depend_on_what_was_drawn_before(
    augment: str, epoch: int, before: list[int]
) -> None:
    images = random_images(20)
    first = together(batches(images, 8, seed=7, epoch=epoch, augment=augment))
    for other in before:
        torch.manual_seed(other)
        next(batches(images, 8, seed=7, epoch=other, augment=augment))
    again = together(batches(images, 8, seed=7, epoch=epoch, augment=augment))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_differ_in_order_and_in_augmentation(change: dict[str, int]) -> None:
    images = random_images(64)
    same, other = augmented(images, "flip"), augmented(images, "flip", **change)
    assert not torch.equal(same[1], other[1])
    assert not torch.equal(same[0][same[1].argsort()], other[0][other[1].argsort()])


def test_steps_differ_in_augmentation() -> None:
    images = random_images(128)
    pixels, origin = augmented(images, "flip")
    mirrored = (pixels != images.images[origin]).flatten(1).any(1)
    assert not torch.equal(mirrored[:64], mirrored[64:])


@pytest.mark.parametrize("augment", PLAIN)
def test_every_device_sees_the_same_bits(augment: str, device: torch.device) -> None:
    images = random_images(20)
    here = together(batches(images, 8, seed=7, epoch=1, augment=augment))
    there = together(batches(images.to(device), 8, seed=7, epoch=1, augment=augment))
    assert there[0].device.type == there[1].device.type == device.type
    assert torch.equal(here[0], there[0].cpu())
    assert torch.equal(here[1], there[1].cpu())


def test_without_augmentation_inputs_are_the_images() -> None:
    images = random_images(70)
    pixels, origin = augmented(images, "none")
    assert torch.equal(pixels, images.images[origin])


def test_flips_are_mirror_images_drawn_for_each_image() -> None:
    images = random_images(1024)
    pixels, origin = augmented(images, "flip")
    source = images.images[origin]
    kept = (pixels == source).flatten(1).all(1)
    mirrored = (pixels == source.flip(-1)).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    # Binomial(1024, 1/2): mean 512, standard deviation 16; 4 of them leave one false alarm in 16,000 seeds.
    assert abs(int(mirrored.sum()) - 512) < 4 * 16
    assert all(0 < int(batch.sum()) < 64 for batch in torch.split(mirrored, 64))


def test_crops_are_windows_of_the_padded_image_drawn_for_each_image() -> None:
    images = random_images(256)
    pixels, origin = augmented(images, "flip-crop")
    _, _, height, width = images.images.shape
    offsets = []
    for pixel, place in zip(pixels, origin, strict=True):
        padded = F.pad(images.images[place], [CROP_PADDING] * 4)
        offsets += [
            (top, left)
            for top in range(2 * CROP_PADDING + 1)
            for left in range(2 * CROP_PADDING + 1)
            for whole in (padded, padded.flip(-1))
            if torch.equal(pixel, whole[:, top : top + height, left : left + width])
        ][:1]
    assert len(offsets) == len(pixels)
    # Each of the 9 offsets is missed by 256 draws with probability (8/9)^256 = 8e-14.
    for axis in (0, 1):
        assert {offset[axis] for offset in offsets} == set(range(2 * CROP_PADDING + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ordered_batches_normalise_and_keep_the_order(dtype: torch.dtype) -> None:
    images, mean, std = random_images(10), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    drawn = list(ordered_batches(images, 4, mean=mean, std=std, dtype=dtype))
    assert [len(labels) for _, labels in drawn] == [4, 4, 2]
    inputs, labels = together(iter(drawn))
    assert torch.equal(labels, images.labels)
    assert inputs.dtype == dtype
    exact = images.images.double() / 255
    exact = (exact - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    # One rounding of the true value, and a few of float32 before it; tensors of float32 hold mean and std.
    tolerance = torch.finfo(dtype).eps / 2 + 1e-6
    torch.testing.assert_close(inputs.double(), exact, rtol=tolerance, atol=1e-6)


def test_without_mean_and_std_pixels_are_only_scaled() -> None:
    images = ImageSet(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3), torch.tensor([0]))
    inputs, _ = next(ordered_batches(images, 1))
    assert inputs.flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize("augment", PLAIN)
def test_channels_last_changes_the_layout_only(augment: str) -> None:
    images = random_images(8)
    plain, _ = next(batches(images, 8, seed=0, epoch=0, augment=augment))
    last, _ = next(batches(images, 8, seed=0, epoch=0, augment=augment, channels_last=True))
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_augmentation_pads_with_black_also_when_normalised() -> None:
    images = ImageSet(torch.full((64, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64))
    inputs, _ = next(batches(images, 64, seed=0, epoch=0, augment="flip-crop", mean=(0.5,), std=(0.5,)))
    assert set(inputs.flatten().tolist()) == {-1.0, 1.0}


def test_an_empty_set_has_no_batches() -> None:
    nothing = random_images(3).subset(torch.tensor([], dtype=torch.int64))
    assert list(batches(nothing, 4, seed=0, epoch=0, augment="flip-crop")) == []
    assert list(ordered_batches(nothing, 4)) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "the batch size came as 0; accepted is a number of images from 1 up."),
        (
            {"dtype": torch.int64},
            "the images' dtype came as torch.int64; accepted are floating-point types.",
        ),
        (
            {"mean": (0.5, 0.5, 0.5)},
            "one of mean and std came without the other; give both to normalise, "
            "or neither to scale to [0, 1].",
        ),
        (
            {"mean": (0.5,), "std": (0.5, 0.5, 0.5)},
            "mean came with 1 numbers for images of 3 channels; give one number a channel.",
        ),
        (
            {"mean": (0.5, 0.5, 0.5), "std": (0.5,)},
            "std came with 1 numbers for images of 3 channels; give one number a channel.",
        ),
        (
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)},
            "std came as (0.5, 0.0, 0.5); accepted are numbers above 0.",
        ),
    ],
)
def test_batches_refuse_at_the_call(options: dict[str, Any], text: str) -> None:
    options = {"batch_size": 2, **options}
    with pytest.raises(SlotkitError) as error:
        batches(random_images(3), seed=0, epoch=0, **options)
    assert str(error.value) == text
    with pytest.raises(SlotkitError) as error:
        ordered_batches(random_images(3), **options)
    assert str(error.value) == text


def test_an_unknown_augmentation_is_answered_with_the_list() -> None:
    with pytest.raises(SlotkitError) as error:
        batches(random_images(3), 2, seed=0, epoch=0, augment="mix-up")
    assert str(error.value) == (
        "there is no augmentation 'mix-up'. Did you mean mixup? Accepted are none, resized-crop, "
        "randaugment, flip, flip-crop, mixup, several with + between them; use none to train on the images "
        "as they are."
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_bits_are_torchvisions(dtype: torch.dtype) -> None:
    """torchvision is not imported for it, because that takes longer than a short training."""
    images, mean, std = random_images(9), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    scaled = transforms.to_dtype(images.images, torch.promote_types(dtype, torch.float32), scale=True)
    expected = transforms.normalize(scaled, mean, std).to(dtype)
    found, _ = together(ordered_batches(images, 4, mean=mean, std=std, dtype=dtype))
    assert torch.equal(found, expected)


class Watched(ImageSet):
    """Knows what was read of it."""

    def read(self, parts: Sequence[Tensor], change: PictureChange | None = None) -> Iterator[Tensor]:
        object.__setattr__(self, "seen", [len(part) for part in parts])
        return super().read(parts, change)


@pytest.mark.parametrize("augment", ["none", "randaugment+flip", "flip-crop", "flip+mixup"])
def test_some_rows_of_batches_are_those_of_whole_batches(augment: str) -> None:
    """Bit for bit, and no other images are read: beside the partner of the first row that mixup needs."""
    images = random_images(23)
    watched = Watched(images.images, images.labels)
    options: Any = {"seed": 3, "epoch": 1, "augment": augment, "classes": 23, "skip": 1}
    whole = list(batches(images, 10, **options))
    for rows in (slice(0, 1), slice(0, 2), slice(1, 3)):
        some = list(batches(watched, 10, **options, rows=lambda images, rows=rows: rows))
        assert all(
            torch.equal(a, b[rows])
            for one, two in zip(some, whole, strict=True)
            for a, b in zip(one, two, strict=True)
        )
        expected = rows.stop - rows.start + (augment == "flip+mixup")
        assert watched.seen == [expected] * 2  # type: ignore[attr-defined]
