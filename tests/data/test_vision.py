"""The datasets of torchvision: read from tiny files, damaged, unpacked, and not downloaded."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import datasets

from slotkit.data.files import fetch_command
from slotkit.data.sources import SOURCES, fetch, is_present, load
from slotkit.errors import SlotkitError

Pixels = Callable[..., NDArray[np.uint8]]


def refusal(name: str, data_dir: Path) -> str:
    with pytest.raises(SlotkitError) as error:
        load(name, data_dir)
    return str(error.value)


def remedy(name: str, data_dir: Path) -> str:
    return f"Delete it and run `slotkit data fetch {name} --data-dir {data_dir}`."


def test_mnist(mnist: Path, pixels: Pixels) -> None:
    dataset = load("MNIST", mnist)
    assert dataset.name == "mnist"
    assert dataset.classes == tuple(datasets.MNIST.classes)
    assert torch.equal(dataset.train.images[:, 0], torch.from_numpy(pixels(20, 28, 28)))
    assert torch.equal(dataset.test.images[:, 0], torch.from_numpy(pixels(10, 28, 28)))
    assert dataset.train.labels.tolist() == [*range(10), *range(10)]
    assert load("mnist", mnist, size=32).train.images.shape == (20, 1, 32, 32)


def test_mnist_is_read_from_raw_whatever_an_old_torchvision_left(mnist: Path) -> None:
    processed = mnist / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3)), processed / name)
    assert len(load("mnist", mnist).train) == 20


def test_a_missing_file_of_mnist(mnist: Path) -> None:
    (mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").unlink()
    assert not is_present("mnist", mnist)
    assert refusal("mnist", mnist) == (
        f"mnist is not in {mnist}: there is no MNIST/raw/t10k-images-idx3-ubyte. "
        f"Run `slotkit data fetch mnist --data-dir {mnist}`, train with --download, "
        "or set --data-dir or SLOTKIT_DATA to the folder that holds it."
    )


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        (IMAGES, lambda b: b[:-1], "its header announces 15696 bytes, but it has 15695"),
        (IMAGES, lambda b: b + b"\0", "its header announces 15696 bytes, but it has 15697"),
        (IMAGES, lambda b: b[:9], "it has 9 bytes, fewer than its header of 16"),
        (LABELS, lambda b: b"", "it has 0 bytes, fewer than its header of 8"),
        (IMAGES, lambda b: b"\x1f\x8b" + b[2:], "it starts with the number 0x1f8b0803 instead of 0x00000803"),
        (LABELS, lambda b: b[:-1] + b"\x0c", "label 12 at position 19 is not in 0 to 9"),
        (LABELS, lambda b: struct.pack(">2I", 0x801, 19) + b[8:-1], "it has 19 labels for 20 images"),
    ],
)
def test_a_damaged_file_of_mnist_is_named(
    mnist: Path, file: str, change: Callable[[bytes], bytes], fault: str
) -> None:
    path = mnist / "MNIST" / "raw" / file
    path.write_bytes(change(path.read_bytes()))
    assert is_present("mnist", mnist)
    assert refusal("mnist", mnist) == f"{path} is damaged: {fault}. {remedy('mnist', mnist)}"


def test_training_images_that_are_the_test_images_are_refused(mnist: Path) -> None:
    raw = mnist / "MNIST" / "raw"
    for what in ("images-idx3", "labels-idx1"):
        (raw / f"train-{what}-ubyte").write_bytes((raw / f"t10k-{what}-ubyte").read_bytes())
    with pytest.raises(SlotkitError) as error:
        load("mnist", mnist)
    assert str(error.value) == (
        f"{raw / 'train-images-idx3-ubyte'} is damaged: it is a copy of t10k-images-idx3-ubyte, byte for "
        f"byte. Delete it and run `slotkit data fetch mnist --data-dir {mnist}`."
    )


def test_an_unreadable_file_is_named(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(self))

    # chmod would not stop a test suite that runs as root.
    monkeypatch.setattr(Path, "open", refuse)
    assert refusal("mnist", mnist) == (
        f"{mnist / 'MNIST' / 'raw' / IMAGES} cannot be read: Permission denied. "
        "Check that it exists and that its permissions let you read it."
    )


def test_cifar10(cifar10: Path, pixels: Pixels) -> None:
    dataset = load("cifar10", cifar10)
    written = torch.from_numpy(pixels(24, 3072)).reshape(24, 3, 32, 32)
    assert torch.equal(dataset.train.images, written[:20])
    assert torch.equal(dataset.test.images, written[20:])
    assert dataset.train.images.is_contiguous()
    assert dataset.train.labels.tolist() == [*range(10), *range(10)]
    assert dataset.classes == tuple(f"class {i}" for i in range(10))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_changed_pickle_is_never_opened(cifar10: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cifar10 / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    text = refusal("cifar10", cifar10)
    assert text.startswith(f"{path} is damaged: its md5 is not ")
    assert text.endswith(f", which torchvision expects. {remedy('cifar10', cifar10)}")


def test_svhn(svhn: Path, pixels: Pixels) -> None:
    dataset = load("svhn", svhn)
    written = torch.from_numpy(pixels(32, 32, 3, 10)).permute(3, 2, 0, 1)
    assert torch.equal(dataset.train.images, written)
    assert dataset.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert dataset.classes == tuple("0123456789")


def test_a_damaged_file_of_svhn_is_named(svhn: Path) -> None:
    path = svhn / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal("svhn", svhn).startswith(f"{path} is damaged: its md5 is not ")


@pytest.mark.parametrize("source", [s for s in SOURCES.values() if s.torchvision_class], ids=lambda s: s.name)
def test_the_registry_lists_the_files_that_torchvision_reads(source: Any) -> None:
    known = getattr(datasets, source.torchvision_class)
    if source.layout == "svhn":
        expected = [known.split_list[half][1] for half in ("train", "test")]
    elif source.layout == "cifar":
        names = [name for name, _ in [*known.train_list, *known.test_list]]
        expected = [f"{known.base_folder}/{name}" for name in [*names, known.meta["filename"]]]
    else:
        names = [name.removesuffix(".gz") for name, _ in known.resources]
        expected = [f"{known.__name__}/raw/{name}" for name in names]
    assert list(source.files) == expected
    assert source.classes == len(getattr(known, "classes", range(source.classes)))


def test_fetching_unpacks_files_that_were_brought_by_hand(zipped_mnist: Path) -> None:
    assert not is_present("mnist", zipped_mnist)
    assert fetch("mnist", zipped_mnist) == zipped_mnist
    assert is_present("mnist", zipped_mnist)
    assert len(load("mnist", zipped_mnist).train) == 20


def test_loading_with_download_fetches_what_is_missing(zipped_mnist: Path) -> None:
    refusal("mnist", zipped_mnist)
    assert len(load("mnist", zipped_mnist, download=True).train) == 20


def test_fetching_what_is_there_checks_it(cifar10: Path) -> None:
    assert fetch("cifar10", cifar10) == cifar10
    path = cifar10 / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(b"")
    with pytest.raises(SlotkitError, match="test_batch is damaged"):
        fetch("cifar10", cifar10)


def test_a_failed_download_says_what_to_bring_and_where(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError) as error:
        fetch("cifar10", tmp_path)
    assert str(error.value) == (
        "cifar10 could not be downloaded: <urlopen error the network is off in tests>. Check the network and "
        f"that {tmp_path} can be written, or bring these files by hand:\n"
        "  https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz\n"
        f"    as {tmp_path / 'cifar-10-python.tar.gz'}\n"
        f"and run `slotkit data fetch cifar10 --data-dir {tmp_path}` again; it checks and unpacks them."
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "MNIST/raw/t10k-labels-idx1-ubyte.gz"), ("svhn", "test_32x32.mat")],
)
def test_a_failed_download_lists_the_files_of_each_kind(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(SlotkitError) as error:
        fetch(name, tmp_path)
    assert "the network is off in tests" in str(error.value)
    assert f"    as {tmp_path / file}\n" in str(error.value)


def test_loading_without_download_never_asks_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", lambda _: pytest.fail("a download was tried"))
    assert "mnist is not in" in refusal("mnist", tmp_path)


def test_a_command_can_be_pasted_whatever_the_folder_is_called() -> None:
    assert fetch_command("mnist", Path("/my data")) == "slotkit data fetch mnist --data-dir '/my data'"
