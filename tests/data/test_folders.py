from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slotkit.data.sources import is_present, load
from slotkit.errors import SlotkitError


@pytest.fixture
def pets(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]) -> Path:
    """3 cats and 2 dogs to train, 1 of each to test, 4 x 5 pixels in colour."""
    at = 0
    for half, classes in (("train", {"dog": 2, "cat": 3}), ("test", {"dog": 1, "cat": 1})):
        for name, n in classes.items():
            (tmp_path / half / name).mkdir(parents=True)
            for i in range(n):
                (tmp_path / half / name / f"{i}.png").write_bytes(encode(pixels(7, 4, 5, 3)[at]))
                at += 1
    return tmp_path


def test_a_folder_becomes_a_dataset(pets: Path, pixels: Callable[..., NDArray[np.uint8]]) -> None:
    (pets / "train" / "cat" / "notes.txt").write_text("not a picture")
    dataset = load(f"ImageFolder:{pets}", None)
    assert dataset.name == f"imagefolder:{pets}"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1]
    written = torch.from_numpy(pixels(7, 4, 5, 3)).permute(0, 3, 1, 2)
    assert torch.equal(dataset.train.images, written[[2, 3, 4, 0, 1]])
    assert torch.equal(dataset.test.images, written[[6, 5]])


def test_a_folder_counts_from_the_current_one(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets.parent)
    assert is_present(f"imagefolder:{pets.name}", None)
    assert len(load(f"imagefolder:{pets.name}", Path("elsewhere")).train) == 5


def test_mixed_sizes_need_a_size(
    pets: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]
) -> None:
    odd = pets / "train" / "dog" / "1.png"
    odd.write_bytes(encode(pixels(9, 9, 3)))
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value) == (
        f"{odd} is 9 x 9 pixels, but {pets / 'train' / 'cat' / '0.png'} is 4 x 5 pixels; all images of a "
        "dataset need one size. Give a size to resize every image while loading."
    )
    assert load(f"imagefolder:{pets}", None, size=6).train.images.shape == (5, 3, 6, 6)


def test_a_missing_half(pets: Path) -> None:
    (pets / "test").rename(pets / "val")
    assert not is_present(f"imagefolder:{pets}", None)
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value) == (
        f"{pets / 'test'} is not a folder; an imagefolder needs DIR/train/CLASS/* and DIR/test/CLASS/*. "
        "Create it or give another DIR."
    )


@pytest.mark.parametrize(("half", "other"), [("train", "test"), ("test", "train")])
def test_a_class_in_one_half_only(pets: Path, half: str, other: str) -> None:
    (pets / half / "cat").rename(pets / half / "bird")
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value) == (
        f"class 'bird' is in {pets / half} but not in {pets / other}; both need the same classes. "
        "Add the folder there or remove it here."
    )


def test_a_class_without_images(pets: Path) -> None:
    (pets / "test" / "cat" / "0.png").unlink()
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value).startswith(
        f"{pets / 'test'} has no class folder, or one without images: "
        "Found no valid file for the classes cat."
    )


def test_a_damaged_picture_is_named(pets: Path) -> None:
    path = pets / "test" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value).startswith(f"{path} does not decode as an image: ")


def test_an_unreadable_picture_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(self))

    # chmod would not stop a test suite that runs as root.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value) == (
        f"{pets / 'train' / 'cat' / '0.png'} cannot be read: Permission denied. "
        "Check that it exists and that its permissions let you read it."
    )
