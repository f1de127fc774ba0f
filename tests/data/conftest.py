"""Tiny datasets in the layouts of the real ones, and no network."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torchvision import datasets


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("the network is off in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("SLOTKIT_DATA", raising=False)


@pytest.fixture
def pixels() -> Callable[..., NDArray[np.uint8]]:
    """Random uint8 values of a shape, the same on every call."""
    return lambda *shape: np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """An array of shape (height, width) or (height, width, 3) as a PNG, which loses nothing."""

    def encoded(array: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
        buffer = BytesIO()
        Image.fromarray(array).save(buffer, format, **options)
        return buffer.getvalue()

    return encoded


def _idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]]) -> Path:
    """A data folder with MNIST of 20 training and 10 test images of 28 x 28 pixels; labels 0 to 9 in turn."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for half, n in (("train", 20), ("t10k", 10)):
        (raw / f"{half}-images-idx3-ubyte").write_bytes(_idx(pixels(n, 28, 28)))
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(_idx(np.arange(n, dtype=np.uint8) % 10))
    return tmp_path


@pytest.fixture
def zipped_mnist(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the four .gz files that torchvision downloads, with their md5s."""
    resources = []
    for path in sorted((mnist / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(path.read_bytes())
        path.with_suffix(".gz").write_bytes(packed)
        path.unlink()
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return mnist


@pytest.fixture
def cifar10(
    tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A data folder with CIFAR-10 of five training files of 4 images and one test file of 4 images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def written(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5(pickle.dumps(content)).hexdigest()]

    def batch(at: int) -> dict[str, Any]:
        return {"data": pixels(24, 3072)[at : at + 4], "labels": [i % 10 for i in range(at, at + 4)]}

    train = [written(f"data_batch_{i + 1}", batch(4 * i)) for i in range(5)]
    test = [written("test_batch", batch(20))]
    name, md5 = written("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path


@pytest.fixture
def svhn(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with SVHN of 10 training and 10 test images; the files label the digit 0 with 10."""
    listed = {}
    for half in ("train", "test"):
        path = tmp_path / f"{half}_32x32.mat"
        savemat(path, {"X": pixels(32, 32, 3, 10), "y": np.arange(1, 11, dtype=np.uint8)[:, None]})
        listed[half] = [f"http://svhn/{path.name}", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return tmp_path
