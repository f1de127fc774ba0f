"""Pictures that are read while they are used: the same batches as from memory, to the last bit."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from forks import Forks
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from slotkit.data import streams
from slotkit.data.batches import batches, ordered_batches
from slotkit.data.identity import identity_of
from slotkit.data.images import Dataset, Images, ImageSet
from slotkit.data.source import Loading
from slotkit.data.sources import load
from slotkit.data.streams import AHEAD, LONGEST_FOLDER, StreamedImages
from slotkit.errors import SlotkitError, UnreadableError

TRAIN, TEST = 150, 5


def pictures() -> list[NDArray[np.uint8]]:
    """In colour and grey, of several sizes."""
    random = np.random.default_rng(3)
    sizes = [(9, 12), (12, 9), (10, 10)]
    shapes = [(*sizes[i % 3], 3) if i % 4 else sizes[i % 3] for i in range(TRAIN + TEST)]
    return [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., bytes]) -> str:
    for at, picture in enumerate(pictures()):
        place = tmp_path / ("train" if at < TRAIN else "test") / "ab"[at % 2]
        place.mkdir(parents=True, exist_ok=True)
        suffix, format = ("jpg", "JPEG") if at % 3 else ("png", "PNG")
        (place / f"{at}.{suffix}").write_bytes(encode(picture, format))
    return f"imagefolder:{tmp_path}"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, as sockets need it: that of `tmp_path` may be too long."""
    made = Path(tempfile.mkdtemp(prefix="s"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def table(
    tmp_path: Path,
    encode: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    short: Path,
) -> str:
    """In three files, one picture on its side by its EXIF orientation."""
    (tmp_path / "temporary").symlink_to(short)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    turned = Image.Exif()
    turned[0x0112] = 6
    encoded = [encode(picture, "JPEG") for picture in pictures()]
    encoded[1] = encode(pictures()[1], "JPEG", exif=turned)
    rows = [{"image": {"bytes": one}, "label": at % 2} for at, one in enumerate(encoded)]
    for name, some in {
        "train-0.parquet": rows[:100],
        "train-1.parquet": rows[100:TRAIN],
        "test-0.parquet": rows[TRAIN:],
    }.items():
        parquet.write_table(pyarrow.Table.from_pylist(some), tmp_path / name, row_group_size=7)
    return f"parquet:{tmp_path}"


@pytest.fixture(params=["folder", "table"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def both(name: str, workers: int, **options: Any) -> tuple[Dataset, Dataset]:
    """In memory, and read while it is used."""
    memory = load(name, None, 8, loading=Loading(**options))
    streamed = load(name, None, 8, loading=Loading(memory=0, workers=workers, **options))
    assert isinstance(memory.train, ImageSet)
    assert isinstance(streamed.train, StreamedImages)
    return memory, streamed


def epoch(images: Images, **options: Any) -> list[tuple[Tensor, Tensor]]:
    return list(batches(images, 70, seed=1, epoch=2, **options))


def check_equal(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    assert all(
        torch.equal(a, b) for pairs in zip(one, other, strict=True) for a, b in zip(*pairs, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_images_in_memory(name: str, workers: int) -> None:
    memory, streamed = both(name, workers)
    assert identity_of(memory) == identity_of(streamed)
    some = torch.arange(0, TRAIN, 2)
    before = torch.get_rng_state()
    for augment in ("none", "randaugment+flip-crop+mixup"):
        options = {"augment": augment, "mean": (0.5,) * 3, "std": (0.2,) * 3, "classes": 2}
        check_equal(
            epoch(memory.train.subset(some), **options), epoch(streamed.train.subset(some), **options)
        )
    check_equal(list(ordered_batches(memory.test, 3)), list(ordered_batches(streamed.test, 3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_that_comes_in_parts_is_the_same(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is joined outside of the heap, which would keep its memory: at the beginning of a page."""
    memory, streamed = both(folder, 0)
    monkeypatch.setattr("slotkit.data.streams.WAITING_BYTES", AHEAD * 9 * 3 * 8 * 8)  # nine images
    check_equal(epoch(memory.train), epoch(streamed.train))
    for joined in streamed.train.read(list(torch.arange(TRAIN).split(70))):
        assert joined.data_ptr() % mmap.PAGESIZE == 0


def test_the_middle_of_pictures_is_the_same_too(name: str) -> None:
    memory, streamed = both(name, 0, crop=True)
    check_equal(epoch(memory.train), epoch(streamed.train))
    stretched, _ = both(name, 0)
    assert not torch.equal(stretched.train.images, memory.train.images)  # type: ignore[attr-defined]


def test_changes_of_whole_pictures_depend_on_no_worker_and_no_resume(folder: str) -> None:
    loaded = [load(folder, None, 8, loading=Loading(True, whole_pictures=True, workers=n)) for n in (0, 2)]
    options = {"augment": "resized-crop:0.3+randaugment:5+flip+mixup", "classes": 2}
    alone, ahead = (epoch(dataset.train, **options) for dataset in loaded)
    check_equal(alone, ahead)
    check_equal(alone[1:], epoch(loaded[1].train, **options, skip=1))
    other = list(batches(loaded[0].train, 70, seed=1, epoch=3, **options))  # type: ignore[arg-type]
    assert not torch.equal(other[0][0], alone[0][0])


def test_what_fits_stays_in_memory(folder: str) -> None:
    size = (TRAIN + TEST) * 3 * 8 * 8
    # The first picture is grey, and what is said of all comes from it.
    first = load(folder, None, 8, loading=Loading(memory=size // 3))
    assert isinstance(first.train, ImageSet)
    streamed = load(folder, None, 8, loading=Loading(memory=size // 3 - 1, workers=2))
    assert isinstance(streamed.train, StreamedImages)
    assert streamed.notes[0] == (
        "155 pictures are read from their files by 2 workers while they are used: decoded they would take "
        "2.77e-05 GiB, and data.memory is 9.24e-06. Whether some are there twice is not looked at."
    )


def test_pictures_of_two_sizes_need_a_size(folder: str) -> None:
    told = []
    for loading in (Loading(), Loading(memory=0, workers=0)):
        with pytest.raises(SlotkitError) as error:
            load(folder, None, loading=loading)
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "all images of a dataset need one size" in told[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named_when_it_is_read(folder: str, workers: int) -> None:
    place = Path(folder.partition(":")[2]) / "train" / "b" / "1.jpg"
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) - 100])
    images = load(folder, None, 8, loading=Loading(memory=0, workers=workers)).train
    with pytest.raises(UnreadableError) as error:
        epoch(images)
    assert str(error.value).startswith(f"{place} does not decode as an image: image file is truncated")
    assert str(error.value).endswith(". Replace or remove it.")
    assert "worker" not in str(error.value)
    place.unlink()
    with pytest.raises(UnreadableError, match=r"b/1\.jpg cannot be read: No such file or directory\."):
        epoch(images)
    place.write_bytes(whole)
    with pytest.raises(UnreadableError) as error:
        epoch(images)
    assert str(error.value) == (
        f"{place} has changed: it has {len(whole)} bytes, and had {len(whole) - 100} when the run began. Put "
        "it back as it was."
    )


def test_what_is_no_picture_by_its_beginning_is_named_at_once(folder: str) -> None:
    place = Path(folder.partition(":")[2]) / "test" / "a"
    (place / "200.png").write_bytes(b"no picture")
    with pytest.raises(SlotkitError) as error:
        load(folder, None, 8, loading=Loading(memory=0, workers=0))
    assert str(error.value) == (
        f"{place / '200.png'} does not decode as an image: no known image format. Replace or remove it."
    )


def test_a_damaged_row_is_named_by_its_file(table: str) -> None:
    place = Path(table.partition(":")[2]) / "train-1.parquet"
    rows = parquet.read_table(place).to_pylist()
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:-100]
    parquet.write_table(pyarrow.Table.from_pylist(rows), place)
    images = load(table, None, 8, loading=Loading(memory=0, workers=0)).train
    with pytest.raises(UnreadableError, match=r"train-1\.parquet row 3 does not decode as an image"):
        epoch(images)


@pytest.mark.parametrize(("system", "files"), [("linux", 0), ("darwin", 1)])
def test_what_parquet_is_unpacked_into_is_removed(
    system: str, files: int, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux at once: nothing is left by a process that is killed."""
    monkeypatch.setattr("slotkit.data.unpacked.sys", SimpleNamespace(platform=system))
    images = load(table, None, 8, loading=Loading(memory=0, workers=2)).train
    assert len(list((tmp_path / "temporary").iterdir())) == files
    assert len(epoch(images)) == 3
    assert len(list((tmp_path / "temporary").iterdir())) == files  # workers have ended
    descriptor = images.pictures.place.file.fileno()
    del images
    assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_several_processes_need_the_space_several_times(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Path(table.partition(":")[2]).rglob("*.parquet")
    size = sum(path.stat().st_size for path in files)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * size - 1))
    load(table, None, 8, loading=Loading(memory=0, workers=0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SlotkitError, match="is unpacked into"):
        load(table, None, 8, loading=Loading(memory=0, workers=0))


def test_no_space_to_unpack_is_said(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(SlotkitError, match="Let TMPDIR name a folder with more space, or allow more memory"):
        load(table, None, 8, loading=Loading(memory=0))
    # Where an augmentation needs whole pictures, no memory is enough.
    with pytest.raises(SlotkitError, match=r"with more space, or leave resized-crop out\."):
        load(table, None, 8, loading=Loading(whole_pictures=True))


def test_a_worker_that_is_killed_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    images = load(folder, None, 8, loading=Loading(memory=0, workers=1)).train
    monkeypatch.setattr("slotkit.data.streams._Decoder._image", die)
    with pytest.raises(UnreadableError, match=r"A process that reads pictures ended: .* lower data\.workers"):
        epoch(images)


def test_a_folder_whose_sockets_would_have_too_long_names_is_refused_instead_of_waited_for(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(SlotkitError, match="Let TMPDIR name another one, or read without such"):
        next(iter(batches(both(folder, 1)[1].train, 70, seed=1, epoch=2)))
    assert next(iter(batches(both(folder, 0)[1].train, 70, seed=1, epoch=2)))[0].shape[0] == 70


def test_the_longest_folder_that_is_accepted_can_be_used(
    folder: str, forks: Forks, short: Path, tmp_path: Path
) -> None:
    longest = short / ("x" * (LONGEST_FOLDER - len(str(short)) - 1))
    longest.mkdir()
    program = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[2]\n"
        "from slotkit.data.batches import batches\nfrom slotkit.data.source import Loading\n"
        "from slotkit.data.sources import load\n"
        "images = load(sys.argv[1], None, 8, loading=Loading(memory=0, workers=1)).train\n"
        "print(next(iter(batches(images, 70, seed=1, epoch=2)))[0].shape[0])"
    )
    assert forks.start(program, folder, str(longest), cwd=tmp_path).checked() == "70\n"


def test_batches_for_a_gpu_are_pinned_and_copied_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins: no GPU is asked for."""
    asked: list[Any] = []

    class Pixels:
        def to(self, device: torch.device, non_blocking: bool) -> torch.Tensor:
            asked.append((device, non_blocking))
            return torch.zeros(2, 1, 1, 1)

    def ahead(decoder: Any, units: Any, workers: int, pin: bool) -> Any:
        asked.append(pin)
        return iter([Pixels()])

    monkeypatch.setattr(streams, "_Decoder", lambda *_: None)
    monkeypatch.setattr(streams, "_read_ahead", ahead)
    labels: Any = SimpleNamespace(device=torch.device("cuda:1"))
    nothing: Any = SimpleNamespace(shape=(1, 1, 1))
    images = StreamedImages(nothing, nothing, labels, torch.arange(2), nothing, 0)
    assert len(list(images.read([torch.arange(2)]))) == 1
    assert asked == [True, (torch.device("cuda:1"), True)]
