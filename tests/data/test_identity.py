"""The record of what a dataset is, and what is odd about one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slotkit.data import identity
from slotkit.data.fitting import fitted
from slotkit.data.identity import Identity, differences, identity_of
from slotkit.data.images import Dataset, ImageSet
from slotkit.data.oddities import oddities
from slotkit.data.sources import load
from slotkit.errors import SlotkitError


def made(
    labels: tuple[int, ...] = (0, 1, 0, 1, 0, 1),
    classes: tuple[str, ...] = ("cat", "dog"),
    size: int = 3,
    named: bool = True,
) -> Dataset:
    """Six training and four test images, all different."""
    random = torch.Generator().manual_seed(0)
    train, test = (
        torch.randint(0, 256, (n, 1, size, size), generator=random).to(torch.uint8) for n in (6, 4)
    )
    halves = ImageSet(train, torch.tensor(labels)), ImageSet(test, torch.tensor([0, 1, 1, 0]))
    return Dataset("made", *halves, classes, named)


def test_an_identity_comes_back_from_its_text() -> None:
    data = identity_of(made())
    assert Identity.model_validate_json(data.model_dump_json()) == data
    assert differences(data, identity_of(made())) == []


def test_the_bits_of_the_digests_are_pinned() -> None:
    """They are compared with those of runs from years before."""
    data = identity_of(load("digits", None))
    assert data.train.images == 1437
    assert data.train.labels == "22386934c7a2af75cc5d916180e7944a"
    assert data.test.pixels == "c5daca533abfec595ad51426b8432e36"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (made(classes=("cat", "emu")), ["class 'dog' is gone", "class 'emu' is new"]),
        (made(classes=("a", "b")), ["classes 'cat', 'dog' are gone", "classes 'a', 'b' are new"]),
        (made(classes=("dog", "cat")), ["its classes are in another order"]),
        (made(classes=("cat", "dog", "emu")), ["class 'emu' is new"]),
        (made(labels=(1, 0, 0, 1, 0, 1)), ["the labels of its training images have changed"]),
        (made(size=4), ["its images are 4 x 4 pixels in 1 channel, and were 3 x 3 pixels in 1 channel"]),
        (made(named=False), []),
        (made(classes=("0", "1", "2"), named=False), ["it has 3 classes, and had 2"]),
    ],
)
def test_differences(other: Dataset, told: list[str]) -> None:
    assert differences(identity_of(made()), identity_of(other)) == told


def test_of_many_pixels_evenly_spread_images_are_digested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PIXEL_BYTES", 2 * 9)  # of the six training images every third
    data = made()
    before = identity_of(data)
    for at in range(6):
        changed = data.train.images.clone()
        changed[at, 0, 0, 0] ^= 1
        now = identity_of(replace(data, train=ImageSet(changed, data.train.labels)))
        seen = ["the pixels of its training images have changed"] if at % 3 == 0 else []
        assert differences(before, now) == seen


def test_many_class_names_are_cut_short() -> None:
    before = identity_of(made(classes=tuple(f"c{i}" for i in range(9))))
    assert differences(before, identity_of(made(classes=("c0", "c1")))) == [
        "classes 'c2', 'c3', 'c4', 'c5', 'c6' and 2 more are gone"
    ]


def test_other_data_get_the_labels_of_the_network() -> None:
    network = identity_of(made(classes=("ant", "cat", "dog")))
    other = fitted(made(classes=("dog", "ant")), network)
    assert other.train.labels.tolist() == [2, 0, 2, 0, 2, 0]
    assert other.test.labels.tolist() == [2, 0, 0, 2]
    assert other.classes == ("ant", "cat", "dog")


def test_without_names_labels_are_numbers() -> None:
    network = identity_of(made(classes=("0", "1", "2"), named=False))
    assert fitted(made(), network).num_classes == 3
    with pytest.raises(SlotkitError) as error:
        fitted(made(classes=("a", "b", "c", "d")), network)
    assert str(error.value) == ("made has 4 classes, and the network 3. Leave out what it can't know.")


def test_an_ordinary_dataset_has_no_oddities() -> None:
    assert oddities(made()) == []


def test_oddities_are_told() -> None:
    data = made(classes=("cat", "Cat ", "emu"))
    train = data.train.images.clone()
    train[1] = train[0]
    train[2] = data.test.images[3]
    odd = replace(data, train=ImageSet(train, data.train.labels))
    assert oddities(odd) == [
        "No training image is of class 'emu', of 3 classes.",
        "Classes differ by case or spaces alone: 'cat', 'Cat '.",
        "1 of 4 test images are also among the training images, pixel by pixel: the test accuracy is partly "
        "one of training.",
        "1 training images are there more than once, with different labels.",
    ]
