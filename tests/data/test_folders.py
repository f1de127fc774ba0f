from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from slotkit.data import folders
from slotkit.data.identity import identity_of
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


def test_what_counts_as_a_picture_is_torchvisions_list() -> None:
    assert folders.IMG_EXTENSIONS == IMG_EXTENSIONS


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
        "dataset need one size. Give one to resize every image while loading: --set data.size=32."
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


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", ".thumbnails"])
@pytest.mark.parametrize("inside", ["train", "test", "train/cat", "test/dog", "."])
def test_what_tools_leave_is_left_out(pets: Path, name: str, inside: str) -> None:
    before = identity_of(load(f"imagefolder:{pets}", None))
    hidden = pets / inside / name
    hidden.mkdir()
    (hidden / "0.png").write_bytes((pets / "train" / "cat" / "0.png").read_bytes())
    (pets / "train" / "cat" / "._0.png").write_bytes(b"AppleDouble")
    dataset = load(f"imagefolder:{pets}", None)
    assert dataset.classes == ("cat", "dog")
    assert identity_of(dataset) == before
    assert dataset.notes == ()


def test_pictures_come_in_the_order_of_torchvision(
    pets: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]
) -> None:
    for i, name in enumerate(["b/1.png", "b/0.JPG", "a b/2.png", "a/c/3.png", "a/x.png", "Z.png", "a.png"]):
        (pets / "train" / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / "train" / "cat" / name).write_bytes(encode(pixels(9, 4, 5, 3)[i]))
    found = [(str(path), label) for half in ("train", "test") for path, label in listed(pets / half)]
    torchvisions = [sample for half in ("train", "test") for sample in ImageFolder(str(pets / half)).samples]
    assert found == torchvisions


def listed(half: Path) -> list[tuple[Path, int]]:
    found = folders._listed(half, {})
    return list(zip(found.paths, found.labels, strict=True))


def test_links_that_lead_back_are_refused(pets: Path) -> None:
    cat = pets / "train" / "cat"
    (cat / "again").symlink_to(cat)
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value) == (
        f"{cat / 'again'} and {cat} are one and the same folder, so its pictures would count twice. "
        "Remove the link."
    )


def test_test_images_that_are_the_training_images_are_refused(pets: Path) -> None:
    shutil.rmtree(pets / "test")
    (pets / "test").symlink_to(pets / "train")
    with pytest.raises(SlotkitError, match="are one and the same folder"):
        load(f"imagefolder:{pets}", None)


def test_a_dataset_behind_a_link_is_read(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "pets"
    link.symlink_to(pets)
    assert len(load(f"imagefolder:{link}", None).train) == 5


def test_files_that_are_left_out_are_told(pets: Path) -> None:
    picture = (pets / "train" / "cat" / "0.png").read_bytes()
    for name in ("cat/a.jfif", "cat/b.JFIF", "cat/notes.txt", "loose.png"):
        (pets / "train" / name).write_bytes(picture)
    dataset = load(f"imagefolder:{pets}", None)
    assert len(dataset.train) == 5
    assert dataset.notes == (
        "Left out are files that are not pictures in a class folder by their names: 2 .jfif, 1 .png, 1 .txt, "
        f"such as {pets / 'train' / 'loose.png'}. Pictures end in .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, "
        ".tiff, .webp.",
    )


def test_exif_orientation_is_not_applied_as_in_torchvision_and_that_is_told(
    pets: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = pets / "train" / "cat" / "1.png"
    path.write_bytes(encode(pixels(4, 5, 3), exif=exif.tobytes()))
    dataset = load(f"imagefolder:{pets}", None)
    assert torch.equal(dataset.train.images[1], torch.from_numpy(pixels(4, 5, 3)).permute(2, 0, 1))
    assert dataset.notes == (
        f"Pictures with an EXIF orientation (1, such as {path}) are not turned: torchvision's ImageFolder "
        "doesn't either. Turn the pixels themselves if they should be upright.",
    )


def test_a_half_without_a_class_folder(pets: Path) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(pets / "test" / name)
    with pytest.raises(SlotkitError) as error:
        load(f"imagefolder:{pets}", None)
    assert str(error.value).startswith(
        f"{pets / 'test'} has no class folder, or one without images: Found no class folder. An imagefolder"
    )
