"""The registry of datasets: find one by name, load it, fetch it. Importing it does not import torch.

A new dataset is one file that reads it (`Source.reader`) and one entry in `_ALL`.
"""

from __future__ import annotations

import difflib
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from slotkit.data.files import holds_class_folders, is_lack_of_memory
from slotkit.data.shards import holds_both_halves
from slotkit.data.source import IN_MEMORY, Loading, Source
from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.data.images import Dataset


def _idx_files(folder: str) -> tuple[str, ...]:
    """Training images, training labels, test images, test labels: an order that `vision` relies on."""
    names = (f"{half}-{what}-ubyte" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    return tuple(f"{folder}/raw/{name}" for name in names)


# The means and standard deviations are those of the training images, as commonly published; digits were
# computed here. For CIFAR-10 they are the numbers of the Slot Machines authors' code.
_ALL = (
    Source(
        "digits",
        "1,797 handwritten digits that come with scikit-learn; needs no download",
        "slotkit.data.digits",
        classes=10,
        image_shape="1 x 8 x 8",
        validation_share=0.15,
        mean=(0.3054,),
        std=(0.3760,),
    ),
    Source(
        "mnist",
        "60,000 + 10,000 handwritten digits",
        "slotkit.data.vision",
        classes=10,
        image_shape="1 x 28 x 28",
        validation_share=0.15,
        mean=(0.1307,),
        std=(0.3081,),
        download_size="12 MB",
        torchvision_class="MNIST",
        layout="idx",
        files=_idx_files("MNIST"),
    ),
    Source(
        "fashionmnist",
        "60,000 + 10,000 pieces of clothing",
        "slotkit.data.vision",
        classes=10,
        image_shape="1 x 28 x 28",
        validation_share=0.15,
        mean=(0.2860,),
        std=(0.3530,),
        download_size="31 MB",
        torchvision_class="FashionMNIST",
        layout="idx",
        files=_idx_files("FashionMNIST"),
    ),
    Source(
        "kmnist",
        "60,000 + 10,000 cursive Japanese characters (Kuzushiji-MNIST)",
        "slotkit.data.vision",
        classes=10,
        image_shape="1 x 28 x 28",
        validation_share=0.15,
        mean=(0.1918,),
        std=(0.3483,),
        download_size="21 MB",
        torchvision_class="KMNIST",
        layout="idx",
        files=_idx_files("KMNIST"),
    ),
    Source(
        "cifar10",
        "50,000 + 10,000 photographs of animals and vehicles",
        "slotkit.data.vision",
        classes=10,
        image_shape="3 x 32 x 32",
        validation_share=0.10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.243, 0.261),
        download_size="170 MB",
        torchvision_class="CIFAR10",
        layout="cifar",
        files=tuple(
            f"cifar-10-batches-py/{name}"
            for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        ),
    ),
    Source(
        "cifar100",
        "50,000 + 10,000 photographs in 100 fine classes",
        "slotkit.data.vision",
        classes=100,
        image_shape="3 x 32 x 32",
        validation_share=0.10,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        download_size="169 MB",
        torchvision_class="CIFAR100",
        layout="cifar",
        files=tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
    ),
    Source(
        "svhn",
        "73,257 + 26,032 house numbers from street views",
        "slotkit.data.vision",
        classes=10,
        image_shape="3 x 32 x 32",
        validation_share=0.10,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        download_size="246 MB",
        torchvision_class="SVHN",
        layout="svhn",
        files=("train_32x32.mat", "test_32x32.mat"),
    ),
    Source(
        "imagefolder:DIR",
        "pictures in DIR/train/CLASS/* and DIR/test/CLASS/*",
        "slotkit.data.folders",
        classes=None,
        image_shape="that of the pictures",
        validation_share=0.10,
        is_there=holds_class_folders,
    ),
    Source(
        "parquet:DIR",
        "DIR/train-*.parquet and DIR/test-*.parquet from the Hugging Face hub",
        "slotkit.data.parquet",
        classes=None,
        image_shape="that of the pictures",
        validation_share=0.10,
        is_there=holds_both_halves,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def find(name: str) -> Source:
    """The source called `name`, in any case; a name such as `parquet:some/folder` gives `parquet:DIR`.

    Raises SlotkitError, with the nearest and all accepted names, if there is none.
    """
    return _resolve(name)[0]


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The folder that holds the datasets: `data_dir`, else the variable SLOTKIT_DATA, else ./data."""
    return Path(data_dir or os.environ.get("SLOTKIT_DATA") or "data").expanduser().absolute()


def absolute(name: str) -> str:
    """The name as runs write it down, so that one dataset has one name: with the folder after its colon as a
    whole path, and else in small letters.
    """
    source, folder = _resolve(name)
    return f"{source.name.partition(':')[0]}:{folder}" if source.is_there else source.name


def is_present(name: str, data_dir: Path | None) -> bool:
    """Whether the files of `name` are in place. Their content is not looked at; torch is not imported."""
    source, folder = _resolve(name)
    return source.is_in(_place(source, folder, data_dir))


def load(
    dataset: str,
    data_dir: Path | None,
    size: int | None = None,
    download: bool = False,
    loading: Loading = IN_MEMORY,
) -> Dataset:
    """Read a dataset into memory, on the CPU.

    dataset: a name that `find` accepts. DIR of `imagefolder:DIR` and `parquet:DIR` counts from the current
        folder, not from `data_dir`.
    data_dir: see `resolve_data_dir`.
    size: stretch every image to size x size pixels.
    download: fetch a dataset that is missing, if there is something to fetch; without it, the network is
        never touched.
    loading: how pictures of one's own become images; they may also stay in their files. It says nothing for
        other datasets.

    Raises SlotkitError, naming the file, for a dataset that is missing, unreadable or damaged; and if memory
    runs out.
    """
    source, folder = _resolve(dataset)
    if size is not None and size < 1:
        raise SlotkitError(f"size came as {size}; accepted is a number of pixels from 1 up, such as 32.")
    reader, place = _reader(source), _place(source, folder, data_dir)
    if download and source.download_size is not None and not source.is_in(place):
        reader.fetch(source, place)
    try:
        if source.is_there:
            return cast(_ReaderOfPictures, reader).load(source, place, size, loading)
        return reader.load(source, place, size)
    except SlotkitError:
        raise
    except Exception as fault:
        if is_lack_of_memory(fault):
            raise _no_memory(dataset, source, size) from fault
        if not (source.files or source.is_there):
            raise  # no file in that place was read
        # Readers of pictures and tables raise whatever they like on damaged bytes.
        raise SlotkitError(f"{place} has a damaged file: {fault}. Put a whole copy in its place.") from fault


def fetch(name: str, data_dir: Path | None) -> Path:
    """Download a dataset, unless it is in place, and check its files. Returns the folder it is in.

    Raises SlotkitError if there is nothing to download, if the download fails, or for a damaged file.
    """
    source = find(name)
    if source.download_size is None:
        fetchable = ", ".join(known.name for known in _ALL if known.download_size)
        raise SlotkitError(
            f"{source.name} is not downloaded: {source.description}. Datasets to fetch are {fetchable}."
        )
    root = resolve_data_dir(data_dir)
    _reader(source).fetch(source, root)
    return root


def _no_memory(dataset: str, source: Source, size: int | None) -> SlotkitError:
    at, ways = "", ["end other programs"]
    if size is not None:
        at = f" at {size} x {size} pixels"
        ways.insert(0, "take a smaller data.size")
    if source.is_there:
        ways.insert(0, "let pictures stay in their files with a smaller data.memory (0 keeps none)")
    way_on = ", or ".join(ways)
    return SlotkitError(f"Memory ran out while {dataset} was loaded{at}. {way_on[0].upper()}{way_on[1:]}.")


class _Reader(Protocol):
    """A module that `Source.reader` names."""

    def load(self, source: Source, place: Path, size: int | None) -> Dataset: ...

    def fetch(self, source: Source, place: Path) -> None: ...


class _ReaderOfPictures(Protocol):
    """One that reads a folder of the user's."""

    def load(self, source: Source, place: Path, size: int | None, loading: Loading) -> Dataset: ...


def _reader(source: Source) -> _Reader:
    return cast(_Reader, import_module(source.reader))


def _place(source: Source, folder: Path, data_dir: Path | None) -> Path:
    """Where the source lies: the user's own folder, or the data folder."""
    return folder if source.is_there else resolve_data_dir(data_dir)


def _resolve(name: str) -> tuple[Source, Path]:
    """The source and the folder after its colon (the empty path for sources without one)."""
    key, colon, folder = name.partition(":")
    if not colon and (source := SOURCES.get(key.lower())):
        return source, Path()
    if colon and (source := SOURCES.get(f"{key.lower()}:DIR")):
        if not folder:
            raise SlotkitError(
                f"{name!r} names no folder; write it after the colon, as in {key}:my/pictures."
            )
        return source, Path(folder).expanduser().absolute()
    if name == "own":
        raise SlotkitError(
            "the dataset 'own' is that of a loop of one's own, which slotkit doesn't have. Name one with "
            "--dataset, and what makes the network with --model-factory package.module:function."
        )
    near = difflib.get_close_matches(name.lower(), SOURCES)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise SlotkitError(f"there is no dataset {name!r}.{hint} Accepted are {', '.join(SOURCES)}.")
