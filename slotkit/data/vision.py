"""The datasets that torchvision knows how to download and read."""

from __future__ import annotations

import filecmp
import http.client
import tarfile
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from slotkit.data import idx
from slotkit.data.files import damaged, fetch_command, naming
from slotkit.data.images import Dataset, ImageSet
from slotkit.data.pictures import resize
from slotkit.data.source import Source, require
from slotkit.errors import SlotkitError


def load(source: Source, data_dir: Path, size: int | None) -> Dataset:
    """Read `source` from `data_dir`, in torchvision's layout, without touching the network.

    Raises SlotkitError that names a missing, unreadable or damaged file.
    """
    require(source, data_dir)
    verify(source, data_dir)
    train, test, classes = _READERS[source.layout](source, data_dir)
    if size is not None:
        train = ImageSet(resize(train.images, size), train.labels)
        test = ImageSet(resize(test.images, size), test.labels)
    return Dataset(source.name, train, test, classes)


def fetch(source: Source, data_dir: Path) -> None:
    """Download `source` into `data_dir` unless it is there, then check every file.

    torchvision compares each download with its md5, and takes a downloaded file that is already in place.

    Raises SlotkitError if the download fails, with the files to bring by hand, or if a file is damaged.
    """
    if not source.is_in(data_dir):
        constructor = _torchvision_class(source)
        try:
            if source.layout == "svhn":
                for half in ("train", "test"):
                    constructor(data_dir, split=half, download=True)
            else:
                constructor(data_dir, download=True)
        # OSError covers urllib's errors; RuntimeError is what torchvision raises on a wrong md5.
        except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
            raise SlotkitError(_failed_download(source, data_dir, error)) from error
        require(source, data_dir)
    verify(source, data_dir)


def verify(source: Source, data_dir: Path) -> None:
    """Raise SlotkitError, naming the file, if one of `source` is unreadable or not what it should be."""
    remedy = _remedy(source, data_dir)
    if source.layout == "idx":
        for file in source.files:
            idx.check(data_dir / file, 3 if "images" in file else 1, remedy)
        return
    for file, md5 in _checksums(source).items():
        with naming(data_dir / file):
            intact = check_integrity(data_dir / file, md5)
        if not intact:
            raise damaged(data_dir / file, f"its md5 is not {md5}, which torchvision expects", remedy)


def _read_idx(source: Source, data_dir: Path) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    # Not through torchvision's class: if it finds a folder `processed` of an old version, it reads that.
    classes = tuple(_torchvision_class(source).classes)
    paths = [data_dir / file for file in source.files]
    remedy = _remedy(source, data_dir)
    if filecmp.cmp(paths[0], paths[2], shallow=False):
        raise damaged(paths[0], f"it is a copy of {paths[2].name}, byte for byte", remedy)
    train = idx.read(paths[0], paths[1], len(classes), remedy)
    return train, idx.read(paths[2], paths[3], len(classes), remedy), classes


def _read_cifar(source: Source, data_dir: Path) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    # These archives are pickles, which can run code: only files whose md5 `verify` has compared, and
    # torchvision compares again, get here.
    halves = [_torchvision_class(source)(data_dir, train=train) for train in (True, False)]
    train, test = (
        ImageSet(
            torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(half.targets, dtype=torch.int64),
        )
        for half in halves
    )
    return train, test, tuple(halves[0].classes)


def _read_svhn(source: Source, data_dir: Path) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    halves = [_torchvision_class(source)(data_dir, split=half) for half in ("train", "test")]
    train, test = (
        ImageSet(torch.from_numpy(half.data).contiguous(), torch.from_numpy(half.labels)) for half in halves
    )
    return train, test, tuple("0123456789")


_READERS = {"idx": _read_idx, "cifar": _read_cifar, "svhn": _read_svhn}


def _torchvision_class(source: Source) -> Any:
    return getattr(datasets, source.torchvision_class)


def _checksums(source: Source) -> dict[str, str]:
    """Path below the data folder -> md5, from torchvision's own lists."""
    known = _torchvision_class(source)
    if source.layout == "svhn":
        return {name: md5 for _, name, md5 in (known.split_list["train"], known.split_list["test"])}
    listed = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    return {f"{known.base_folder}/{name}": md5 for name, md5 in listed}


def _downloads(source: Source, data_dir: Path) -> list[tuple[str, Path]]:
    """What torchvision downloads: (address, the path where it looks for it first)."""
    known = _torchvision_class(source)
    if source.layout == "svhn":
        return [(url, data_dir / name) for url, name, _ in map(known.split_list.get, ("train", "test"))]
    if source.layout == "cifar":
        return [(known.url, data_dir / known.filename)]
    folder = data_dir / source.torchvision_class / "raw"
    return [(known.mirrors[0] + name, folder / name) for name, _ in known.resources]


def _remedy(source: Source, data_dir: Path) -> str:
    return f"run `{fetch_command(source.name, data_dir)}`"


def _failed_download(source: Source, data_dir: Path, error: BaseException) -> str:
    wanted = "\n".join(f"  {url}\n    as {path}" for url, path in _downloads(source, data_dir))
    return (
        f"{source.name} could not be downloaded: {str(error).strip() or type(error).__name__}. "
        f"Check the network and that {data_dir} can be written, or bring these files by hand:\n{wanted}\n"
        f"and {_remedy(source, data_dir)} again; it checks and unpacks them."
    )
