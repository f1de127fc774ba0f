from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slotkit.data.images import Dataset, ImageSet, split
from slotkit.errors import SlotkitError


def image_set(n: int = 4, shape: tuple[int, int, int] = (1, 2, 3), label: int = 0) -> ImageSet:
    images = torch.arange(n * shape[0] * shape[1] * shape[2], dtype=torch.uint8)
    return ImageSet(images.reshape(n, *shape), torch.full((n,), label))


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (
            torch.zeros(4, 1, 2, 3),
            torch.zeros(4, dtype=torch.int64),
            "images came as torch.float32 of shape (4, 1, 2, 3); accepted is torch.uint8 of shape "
            "(n, channels, height, width). Convert them before building an ImageSet.",
        ),
        (
            torch.zeros(4, 2, 3, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64),
            "images came as torch.uint8 of shape (4, 2, 3); accepted is torch.uint8 of shape "
            "(n, channels, height, width). Convert them before building an ImageSet.",
        ),
        (
            torch.zeros(4, 1, 2, 3, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int32),
            "labels came as torch.int32 of shape (4,); accepted is torch.int64 of shape (n,). "
            "Convert them before building an ImageSet.",
        ),
        (
            torch.zeros(4, 1, 2, 3, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "there are 4 images and 3 labels; give one label for every image.",
        ),
        (
            torch.zeros(4, 1, 2, 3, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64, device="meta"),
            "images are on cpu and labels on meta; move both to one device.",
        ),
    ],
    ids=["float images", "three dimensions", "int32 labels", "too few labels", "two devices"],
)
def test_an_image_set_refuses(images: torch.Tensor, labels: torch.Tensor, text: str) -> None:
    with pytest.raises(SlotkitError) as error:
        ImageSet(images, labels)
    assert str(error.value) == text


def test_a_subset_follows_its_indices_and_is_a_copy() -> None:
    whole = ImageSet(image_set().images, torch.tensor([5, 6, 7, 8]))
    part = whole.subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part.labels.tolist() == [7, 5]
    assert torch.equal(part.images, whole.images[[2, 0]])
    part.images.zero_()
    assert whole.images.count_nonzero() == whole.images.numel() - 1


def test_a_dataset_knows_its_shape_and_moves() -> None:
    dataset = Dataset("some", image_set(4, (3, 5, 7)), image_set(2, (3, 5, 7)), ("a", "b"))
    assert (dataset.channels, dataset.size, dataset.num_classes) == (3, (5, 7), 2)
    moved = image_set().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert dataset.to("cpu").name == "some"


def test_a_dataset_refuses_halves_of_different_shapes() -> None:
    with pytest.raises(SlotkitError) as error:
        Dataset("some", image_set(), image_set(shape=(1, 3, 3)), ("a",))
    assert str(error.value) == (
        "some: training images have shape (1, 2, 3), test images (1, 3, 3); the two must agree. "
        "Load the dataset with a size."
    )


@pytest.mark.parametrize("label", [-1, 2])
def test_a_dataset_refuses_a_label_without_a_class(label: int) -> None:
    with pytest.raises(SlotkitError) as error:
        Dataset("some", image_set(), image_set(label=label), ("a", "b"))
    assert str(error.value) == (
        f"some: test image 0 has label {label}; accepted are 0 to 1, one for each of the 2 classes. "
        "Correct the labels."
    )


shares = st.floats(0, 1, exclude_max=True)


@given(n=st.integers(2, 200), share=shares, seed=st.integers())
def test_a_split_is_disjoint_sorted_and_covers(n: int, share: float, seed: int) -> None:
    drawn = split(n, share, seed)
    assert sorted([*drawn.train.tolist(), *drawn.validation.tolist()]) == list(range(n))
    for half in (drawn.train, drawn.validation):
        assert half.dtype == torch.int64
        assert half.tolist() == sorted(half.tolist())
    assert len(drawn.train) >= 1
    assert (len(drawn.validation) >= 1) == (share > 0)
    assert abs(len(drawn.validation) - n * share) <= 1


@given(n=st.integers(2, 200), share=shares, seed=st.integers(), between=st.integers(0, 9))
def test_a_split_is_a_function_of_its_arguments(n: int, share: float, seed: int, between: int) -> None:
    first = split(n, share, seed)
    torch.manual_seed(between)
    split(n, share, seed + 1)
    assert torch.equal(first.validation, split(n, share, seed).validation)


def test_seeds_give_different_splits_of_the_size_asked_for() -> None:
    first, second = split(60_000, 0.15, 0), split(60_000, 0.15, 1)
    assert len(first.validation) == len(second.validation) == 9_000
    assert not torch.equal(first.validation, second.validation)


@pytest.mark.parametrize("share", [-0.1, 1.0, 15, float("nan")])
def test_a_split_refuses_a_share_that_is_no_fraction(share: float) -> None:
    with pytest.raises(SlotkitError) as error:
        split(10, share, 0)
    assert str(error.value) == (
        f"the validation share came as {share}; accepted is a fraction from 0 up to but not including 1, "
        "such as 0.1 for one image in ten."
    )


@pytest.mark.parametrize(("n", "share", "needed"), [(0, 0.0, 1), (1, 0.5, 2)])
def test_a_split_refuses_too_few_images(n: int, share: float, needed: int) -> None:
    with pytest.raises(SlotkitError) as error:
        split(n, share, 0)
    assert str(error.value) == (
        f"there are {n} images to split; a validation share of {share} needs at least {needed}. "
        "Use a larger dataset or a share of 0."
    )


@pytest.mark.parametrize("half", ["training", "test"])
def test_a_dataset_refuses_an_empty_half(half: str) -> None:
    full = ImageSet(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))
    empty = full.subset(torch.tensor([], dtype=torch.int64))
    halves = (empty, full) if half == "training" else (full, empty)
    with pytest.raises(SlotkitError) as error:
        Dataset("made", *halves, ("a", "b"))
    assert str(error.value) == f"made has no {half} images. Add some, or give another dataset."
