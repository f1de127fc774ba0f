"""A run folder as bytes: whole, in one stroke, and no more than a folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from slotkit import files
from slotkit.errors import SlotkitError
from slotkit.files import Disk
from slotkit.sweeps.parcel import deliver, pack, settle


def folder(path: Path, text: str = "whole") -> Path:
    for name in ("config.toml", "checkpoints/last.safetensors", "trace/about.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{text} {name}")
    return path


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    before = content(run)
    (run / "lock").touch()
    (run / "config.toml.tmp").write_text("half")
    deliver(pack(run), tmp_path / "other")
    assert content(tmp_path / "other") == before
    folder(tmp_path / "old", "old")
    (tmp_path / "old" / "more.txt").touch()
    deliver(pack(run), tmp_path / "old")
    assert content(tmp_path / "old") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "other", "run"]
    (tmp_path / "empty").mkdir()
    deliver(pack(tmp_path / "empty"), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoints"]


class Dying(Disk):
    """Ends the process before its n-th renaming."""

    def __init__(self, n: int) -> None:
        self.left = n

    def rename(self, path: Path, to: Path) -> None:
        # Those of single files are no matter of whole folders.
        if path.is_dir():
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        super().rename(path, to)


@pytest.mark.parametrize(("n", "text"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_driver_that_dies_leaves_the_old_or_the_new(
    tmp_path: Path, n: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack(folder(tmp_path / "sent", "new"))
    run = folder(tmp_path / "run", "old")
    monkeypatch.setattr(files, "disk", Dying(n))
    try:
        deliver(data, run)
    except KeyboardInterrupt:
        assert n < 3
    monkeypatch.setattr(files, "disk", Disk())
    settle(run)
    assert content(run)["config.toml"] == f"{text} config.toml"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "sent"]


def test_what_is_left_after_the_new_is_in_place_is_removed(tmp_path: Path) -> None:
    folder(tmp_path / "run", "new")
    folder(tmp_path / ".run.before", "old")
    settle(tmp_path / "run")
    assert content(tmp_path / "run")["config.toml"] == "new config.toml"
    assert not (tmp_path / ".run.before").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_parcel_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(SlotkitError, match="which is no file of a run"):
        deliver(buffer.getvalue(), tmp_path / "in" / "run")
    assert not (tmp_path / "in" / "run").exists()
    assert not (tmp_path / "outside").exists()


def test_what_is_no_parcel_is_one_sentence(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    with pytest.raises(SlotkitError, match=r"What came back as the run \.run\..*\.new is no parcel: "):
        deliver(b"no tar", run)
    assert content(run) == content(folder(tmp_path / "same"))
