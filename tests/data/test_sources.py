from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from slotkit.data.source import Source
from slotkit.data.sources import SOURCES, absolute, fetch, find, is_present, load, resolve_data_dir
from slotkit.errors import SlotkitError


def torch_lacks_memory() -> RuntimeError:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    return error.value


def test_listing_datasets_imports_no_torch() -> None:
    code = (
        "import sys; from slotkit.data import sources; "
        "[sources.is_present(n, None) for n in sources.SOURCES if ':' not in n]; "
        "print({'torch', 'torchvision', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "set()"


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_is_complete(source: Source) -> None:
    assert source.description
    assert 0 < source.validation_share < 1
    assert (source.download_size is None) == (not source.files)
    if source.classes is None:
        assert source.mean is None
        assert source.std is None
    else:
        channels, _, _ = source.image_shape.split(" x ")
        assert source.mean is not None
        assert source.std is not None
        assert len(source.mean) == len(source.std) == int(channels)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_reader_is_there_and_fetches_what_can_be_fetched(source: Source) -> None:
    reader = import_module(source.reader)
    assert callable(reader.load)
    assert hasattr(reader, "fetch") == (source.download_size is not None)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("digits", "digits"),
        ("CIFAR10", "cifar10"),
        ("imagefolder:Some/Folder", "imagefolder:DIR"),
        ("Parquet:C:/x", "parquet:DIR"),
    ],
)
def test_names_are_found_in_any_case(name: str, found: str) -> None:
    assert find(name).name == found


def test_one_dataset_has_one_name_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyses tell runs apart by it, and repetitions have the same."""
    monkeypatch.chdir(tmp_path)
    assert [absolute(name) for name in ("CIFAR10", "cifar10", "Digits")] == ["cifar10", "cifar10", "digits"]
    assert absolute("Parquet:Some/Folder") == f"parquet:{tmp_path}/Some/Folder"


ACCEPTED = (
    "Accepted are digits, mnist, fashionmnist, kmnist, cifar10, cifar100, svhn, imagefolder:DIR, parquet:DIR."
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mnsit", f"there is no dataset 'mnsit'. Did you mean mnist or kmnist? {ACCEPTED}"),
        ("imagefolder", f"there is no dataset 'imagefolder'. Did you mean imagefolder:DIR? {ACCEPTED}"),
        ("zip:some", f"there is no dataset 'zip:some'. {ACCEPTED}"),
        ("parquet:", "'parquet:' names no folder; write it after the colon, as in parquet:my/pictures."),
    ],
)
def test_unknown_names_are_answered_with_the_accepted_ones(name: str, text: str) -> None:
    with pytest.raises(SlotkitError) as error:
        find(name)
    assert str(error.value) == text


def test_the_data_folder_is_argument_then_variable_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_data_dir(None) == tmp_path / "data"
    monkeypatch.setenv("SLOTKIT_DATA", "")
    assert resolve_data_dir(None) == tmp_path / "data"
    monkeypatch.setenv("SLOTKIT_DATA", "~/sets")
    assert resolve_data_dir(None) == Path("~/sets").expanduser()
    assert resolve_data_dir(Path("mine")) == tmp_path / "mine"


def test_the_variable_reaches_every_function(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mnist)
    assert not is_present("mnist", None)
    monkeypatch.setenv("SLOTKIT_DATA", str(mnist))
    assert is_present("mnist", None)
    assert len(load("mnist", None).train) == 20
    assert fetch("mnist", None) == mnist


def test_digits_are_always_present() -> None:
    assert is_present("digits", None)
    assert len(load("digits", None, download=True).train) == 1437


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(SlotkitError) as error:
        load("digits", None, size=size)
    assert str(error.value) == (f"size came as {size}; accepted is a number of pixels from 1 up, such as 32.")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "digits",
            "digits is not downloaded: 1,797 handwritten digits that come with scikit-learn; "
            "needs no download",
        ),
        (
            "parquet:some",
            "parquet:DIR is not downloaded: DIR/train-*.parquet and DIR/test-*.parquet from the "
            "Hugging Face hub",
        ),
    ],
)
def test_only_datasets_with_files_are_fetched(name: str, reason: str) -> None:
    with pytest.raises(SlotkitError) as error:
        fetch(name, None)
    assert str(error.value) == (
        f"{reason}. Datasets to fetch are mnist, fashionmnist, kmnist, cifar10, cifar100, svhn."
    )


@pytest.mark.parametrize("fault", [MemoryError(), torch_lacks_memory()], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("digits", None, "Memory ran out while digits was loaded. End other programs."),
        (
            "digits",
            2000,
            "Memory ran out while digits was loaded at 2000 x 2000 pixels. Take a smaller data.size, or end "
            "other programs.",
        ),
        (
            "imagefolder:some",
            224,
            "Memory ran out while imagefolder:some was loaded at 224 x 224 pixels. Let pictures stay in "
            "their files with a smaller data.memory (0 keeps none), or take a smaller data.size, or end "
            "other programs.",
        ),
    ],
)
def test_a_lack_of_memory_is_no_damaged_file(
    name: str, size: int | None, text: str, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(f"{find(name).reader}.load", fail)
    with pytest.raises(SlotkitError) as error:
        load(name, None, size)
    assert str(error.value) == text


def test_a_fault_where_nothing_of_the_users_is_read_is_no_damaged_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slotkit.data.digits.load", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        load("digits", None)
