"""What a run writes goes through slotkit.files, and looking at runs writes nothing."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from commands import invoke
from runs.harness import FailingDisk, Killed  # type: ignore[import-not-found]
from runs.test_folder import settings  # type: ignore[import-not-found]

from slotkit import files
from slotkit.errors import SlotkitError
from slotkit.runs import lock
from slotkit.runs.folder import BESIDE, RunFolder, list_runs
from slotkit.training.experiment import run

PACKAGES = ("runs", "training", "recording")

# Calls that change a disk, by the name of the function.
CHANGING = {
    *(
        "write_text",
        "write_bytes",
        "mkdir",
        "makedirs",
        "unlink",
        "rmdir",
        "rmtree",
        "touch",
        "rename",
        "renames",
    ),
    *(
        "truncate",
        "fsync",
        "remove",
        "removedirs",
        "symlink_to",
        "hardlink_to",
        "link",
        "symlink",
        "copy",
        "copy2",
    ),
    *("copyfile", "copytree", "move", "savez", "savez_compressed", "tofile", "chmod", "mkdtemp", "mkstemp"),
    *("save_file", "NamedTemporaryFile"),
}
# Those of slotkit.files, and what goes to memory: `np.savez_compressed(buffer)`.
OURS = {"write_text", "write_bytes", "remove", "move", "make_folder"}


def writers(source: str) -> list[str]:
    """Calls that change a disk beside slotkit.files; what `write_whole` is given to call is not one."""
    tree = ast.parse(source)
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "slotkit.files"
        for alias in node.names
    }
    given = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "write_whole"
        for argument in node.args
        for inner in ast.walk(argument)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in given:
            continue
        bare = isinstance(node.func, ast.Name)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if (name in CHANGING and not (bare and name in OURS & taken)) or _opens_to_write(node, name):
            found.append(ast.unparse(node))
    return found


def _opens_to_write(node: ast.Call, name: str) -> bool:
    texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    texts += [keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)]
    return name == "open" and any(isinstance(text, str) and set(text) & set("wax+") for text in texts)


def test_runs_write_through_one_file() -> None:
    found = {
        str(path): calls
        for package in PACKAGES
        for path in sorted((Path(files.__file__).parent / package).glob("*.py"))
        if (calls := [call for call in writers(path.read_text(encoding="utf-8")) if "buffer" not in call])
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "path.open('w')",
        "open(path, mode='ab')",
        "path.write_text('x')",
        "save_file(tensors, path)",
        "os.replace; os.truncate(path, 3)",
        "shutil.rmtree(path)",
        "from slotkit.files import write_text\npath.write_text('x')",
        "def write_text(path): pass\nwrite_text(path)",
    ],
)
def test_another_writer_is_found(source: str) -> None:
    assert len(writers(source)) == 1


def test_what_goes_through_it_is_not_one() -> None:
    source = "write_whole(path, lambda file: save_file(tensors, file))\npath.open('rb')"
    assert writers(source) == []


def everything(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in place.rglob("*")
    }


def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is read-only, even for the root user."""

    def refused(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    opened = os.open

    def open_to_read(path: object, flags: int, *rest: object, **options: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "disk", FailingDisk(1, "error"))
    monkeypatch.setattr(os, "open", open_to_read)
    for name in ("mkdir", "rename", "replace", "unlink", "truncate"):
        monkeypatch.setattr(os, name, refused)


def test_looking_at_runs_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(settings(training__epochs=1), tmp_path, "whole")
    RunFolder.create(tmp_path, "killed", settings(), {})
    for name, text in (("no-summary", ""), ("no-config", ""), ("half", '{"status": "fin')):
        RunFolder.create(tmp_path, name, settings(), {})
        lost = tmp_path / name / ("config.toml" if name == "no-config" else "summary.json")
        lost.unlink()
        if text:
            lost.write_text(text)
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        refuse_to_write(patch)
        done = invoke("runs", "list", "--runs-dir", str(tmp_path), "--json")
        assert invoke("runs", "show", "whole", "--runs-dir", str(tmp_path)).exit_code == 0
        assert RunFolder(tmp_path / "killed").status() == "killed"
    assert everything(tmp_path) == before
    rows = {row["run"]: row for row in json.loads(done.stdout)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "whole": "finished",
        "killed": "killed",
        "no-summary": "damaged",
        "no-config": "damaged",
        "half": "damaged",
    }
    assert len({tuple(row) for row in rows.values()}) == 1
    for name in ("no-summary", "no-config", "half"):
        assert f"{tmp_path / name}{os.sep}" in done.stderr


def test_a_run_that_trains_is_seen_from_outside(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", settings(), {})
    with folder.locked():
        assert folder.status() == "running"
        with (
            pytest.raises(SlotkitError, match="The run a is being trained by another process"),
            folder.locked(),
        ):
            pass
    assert folder.status() == "killed"
    assert not lock.is_locked(tmp_path)


def test_a_lock_that_can_not_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path, "a", settings(), {})
    refuse_to_write(monkeypatch)
    with (
        pytest.raises(SlotkitError, match=r"lock could not be written: Read-only file system"),
        folder.locked(),
    ):
        pass


def test_a_run_that_is_being_made_is_no_run_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between config.toml and summary.json, it leaves its name free; what is left is swept later."""
    disk = FailingDisk()
    monkeypatch.setattr(files, "disk", disk)
    RunFolder.create(tmp_path, "counted", settings(), {})
    names = [operation for operation in disk.operations if "summary" in operation]
    place = disk.operations.index(names[0]) + 1
    monkeypatch.setattr(files, "disk", FailingDisk(place, "kill"))
    with pytest.raises(Killed):
        RunFolder.create(tmp_path, "a", settings(), {})
    monkeypatch.undo()
    (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".a.")]
    assert [path.name for path in left.iterdir() if path.is_file()] == ["config.toml"]
    assert [folder.name for folder in list_runs(tmp_path)] == ["counted"]
    os.utime(left, (0, 0))
    assert RunFolder.create(tmp_path, "a", settings(), {}).summary() == {"status": "running"}
    assert not left.exists()


def test_what_another_process_makes_gets_its_name_while_it_is_looked_at(tmp_path: Path) -> None:
    """A sweep makes many runs at the same time in one folder."""
    (tmp_path / f".b.12345678{BESIDE}").symlink_to(
        tmp_path / "gone"
    )  # seen in the folder, and then not there
    assert RunFolder.create(tmp_path, "a", settings(), {}).name == "a"


def test_two_processes_that_make_one_name(tmp_path: Path) -> None:
    """The second comes while the first fills its folder."""
    with pytest.raises(SlotkitError, match=r"There is a run .*a already"):
        RunFolder.create(
            tmp_path,
            "a",
            settings(),
            {},
            fill=lambda _: RunFolder.create(tmp_path, "a", settings(), {}) and None,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_a_run_if_the_umask_lets_them(
    umask: int, mode: int, tmp_path: Path, one_thread: None
) -> None:
    """safetensors gives its files to their owner alone: checkpoints, splits, exports."""
    before = os.umask(umask)
    try:
        folder = run(settings(training__epochs=1, training__limit_batches=2), tmp_path, "a")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.path.rglob("*") if path.is_file()}
    assert {"split.safetensors", "best.safetensors", "last.safetensors", "config.toml"} <= set(modes)
    assert set(modes.values()) == {mode}
