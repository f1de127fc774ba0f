from __future__ import annotations

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from slotkit.data.augmentations import Augment, _transform, mix, parse
from slotkit.data.batches import batches
from slotkit.data.images import ImageSet
from slotkit.errors import SlotkitError


def test_names_with_numbers_are_read() -> None:
    assert parse("none") == Augment()
    assert parse("resized-crop:0.3+randaugment+flip+mixup:1") == Augment(
        (("resized-crop", 0.3), ("randaugment", 9.0)), (("flip", 0.0),), (("mixup", 1.0),)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flip:2", "the augmentation flip takes no number, and came as 'flip:2'."),
        ("mixup:0", "the augmentation 'mixup:0': a is a number from 0.001 to 100, such as mixup:0.2."),
        (
            "randaugment:x",
            "the augmentation 'randaugment:x': the magnitude is a whole number from 0 to 30, such as "
            "randaugment:9.",
        ),
        (
            "resized-crop:2",
            "the augmentation 'resized-crop:2': the lowest share of the area is a number from 0.001 to 1, "
            "such as resized-crop:0.08.",
        ),
        (
            "flip+mixup:0.5+randaugment",
            "the augmentation 'flip+mixup:0.5+randaugment' is in an order that is not possible: whole "
            "pictures are changed first, then batches, then images are mixed. Write "
            "randaugment+flip+mixup:0.5.",
        ),
        ("mixup+mixup", "the augmentation 'mixup+mixup' has mixup twice. Name each change once."),
        (
            "flip+flip-crop",
            "the augmentation 'flip+flip-crop' has flip and flip-crop, which has a flip. Name each change "
            "once.",
        ),
        (
            "none+flip",
            "there is no augmentation 'none'. Accepted are none, resized-crop, randaugment, flip, flip-crop, "
            "mixup, several with + between them; use none to train on the images as they are.",
        ),
    ],
)
def test_others_are_refused(text: str, told: str) -> None:
    with pytest.raises(SlotkitError) as error:
        parse(text)
    assert str(error.value) == told


def test_mixup_mixes_labels_as_it_mixes_images() -> None:
    """Each image has one value, its label: the value that comes out says what the labels must be."""
    values = torch.arange(0, 250, 25)
    images = ImageSet(values.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2), torch.arange(10))
    seen = set()
    for epoch in range(3):
        inputs, labels = next(batches(images, 10, seed=0, epoch=epoch, augment="mixup:1", classes=10))
        assert labels.shape == (10, 10)
        torch.testing.assert_close(labels.sum(1), torch.ones(10))
        torch.testing.assert_close(labels @ values.float(), inputs[:, 0, 0, 0] * 255)
        seen.add(round(float(labels.max()), 3))
    assert len(seen) == 3  # a proportion for each step


@pytest.mark.parametrize(
    ("width", "height", "lowest"), [(40, 30, 0.08), (7, 90, 0.9), (90, 7, 0.9), (3, 4, 1.0)]
)
def test_a_resized_crop_is_torchvisions(width: int, height: int, lowest: float) -> None:
    """Also where no window is found."""
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (height, width, 3), generator=random).to(torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    theirs = v2.RandomResizedCrop((12, 10), scale=(lowest, 1.0))
    for seed in range(20):
        torch.manual_seed(seed)
        one = theirs(picture)
        torch.manual_seed(seed)
        other = _transform("resized-crop", lowest, (12, 10))(picture)
        assert one.size == (10, 12)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_mixup_has_the_bits_of_torchvisions(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotkit.data.augmentations.CHANGED_AT_ONCE", 3 * 12 * 4)  # three of these images
    images, labels = torch.rand(n, 3, 2, 2), torch.arange(n) % 3
    torch.manual_seed(5)
    theirs = v2.MixUp(alpha=0.3, num_classes=3)(images, labels)
    ours = mix(parse("mixup:0.3"), images.clone(), labels, 3, seed=5)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_mixup_needs_the_number_of_classes() -> None:
    images = ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.arange(2))
    with pytest.raises(
        SlotkitError, match="mixes labels, and the number of classes is not given; give classes"
    ):
        batches(images, 2, seed=0, epoch=0, augment="mixup")


def test_a_resized_crop_is_a_window_of_the_image() -> None:
    """Of an image whose pixels rise from left to right the pixels of a window do, over a smaller range."""
    ramp = torch.arange(0, 240, 10).to(torch.uint8).expand(1, 24, 24)
    images = ImageSet(ramp.expand(20, 1, 24, 24), torch.zeros(20, dtype=torch.int64))
    inputs, _ = next(batches(images, 20, seed=0, epoch=0, augment="resized-crop:0.1"))
    ranges = (inputs[:, 0, 0, -1] - inputs[:, 0, 0, 0]) * 255
    assert (inputs.diff(dim=-1) >= 0).all()
    assert inputs.diff(dim=-2).abs().max() == 0
    assert len(ranges.round().unique()) > 5
    assert ranges.min() < 120
