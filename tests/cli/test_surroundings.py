"""Commands where people run them: notebooks' leftovers, terminals of few letters, folders of odd names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import invoke
from forks import COMMAND, Forks
from PIL import Image

import slotkit
from slotkit.config import resolve
from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder

SLOTKIT = [sys.executable, "-c", "from slotkit.cli.main import main; main()"]
SHORT = ["train", "--set", "training.epochs=1", "--set", "training.limit_batches=3", "--trace", "full"]
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
ODD = os.fsdecode(b"bad\xffdir")


def command(place: Path, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SLOTKIT, *arguments], cwd=place, env=os.environ | environment, capture_output=True, check=False
    )


# Several commands in one process, whose start takes longer than most commands do.
SEVERAL = """
import json, sys
from slotkit.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["slotkit", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"{arguments} ended with {stop.code}")
    print("done:", *arguments)
"""


def commands(place: Path, *several: Sequence[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(several)],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds runs/a."""
    place = tmp_path_factory.mktemp("place")
    assert invoke(*SHORT, "--name", "a", "--runs-dir", str(place / "runs")).exit_code == 0
    return place


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no such backend"])
def test_a_backend_that_a_notebook_left_behind(backend: str, trained: Path, forks: Forks) -> None:
    forks.start(COMMAND, "analyze", "flips", "a", cwd=trained, env={"MPLBACKEND": backend}).checked()
    assert (trained / "runs" / "a" / "analyses" / "flips.png").is_file()


def test_a_terminal_of_ascii(trained: Path) -> None:
    several = ("runs", "show", "a"), ("recipes", "list"), ("data", "list"), ("analyze", "flips", "a")
    done = commands(trained, *several, PYTHONIOENCODING="ascii", **ASCII)
    assert done.returncode == 0, done.stderr.decode()
    rest = done.stdout.decode("ascii")
    for arguments in several:
        told, _, rest = rest.partition(f"done: {' '.join(arguments)}\n")
        assert told


def test_a_folder_that_is_not_utf8(trained: Path) -> None:
    name = os.fsencode(ODD)
    for done in (
        command(trained, *SHORT, "--runs-dir", name),
        command(trained, "evaluate", name),
        command(trained, "runs", "show", name),
        command(trained, "analyze", "flips", name),
    ):
        assert done.returncode == 2
        assert done.stdout == b""
        assert done.stderr.decode() == (
            "Error: The argument 'bad\\udcffdir' is not UTF-8. Rename that file or folder, in letters of "
            "UTF-8.\n"
        )
    done = command(trained, "runs", "list", SLOTKIT_RUNS=ODD)
    assert done.stderr.decode() == (
        "Error: SLOTKIT_RUNS='bad\\udcffdir' is not UTF-8. Rename that file or folder, in letters of UTF-8.\n"
    )


def test_inside_a_folder_that_is_not_utf8(tmp_path: Path, forks: Forks) -> None:
    """Nothing of it is named, so everything works."""
    place = tmp_path / ODD
    place.mkdir()
    several = [*SHORT, "--name", "a"], ["evaluate", "a"], ["analyze", "flips", "a"], ["export", "a"]
    told = forks.start(SEVERAL, json.dumps(several), cwd=place).checked()
    assert told.count("done: ") == len(several)


def test_pictures_in_a_folder_that_is_not_utf8(tmp_path: Path, forks: Forks) -> None:
    """A run names the whole path of its pictures, and does not begin where that can't be written down."""
    place = tmp_path / ODD
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (place / "imgs" / folder).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), number).save(place / "imgs" / folder / f"{number}.png")
    done = forks.start(COMMAND, *SHORT, "--name", "a", "--dataset", "imagefolder:imgs", cwd=place)
    assert done.wait() == 2
    assert done.err.read_text().splitlines()[-1].endswith("Rename that file or folder, in letters of UTF-8.")
    assert not list((place / "runs").glob("*")) + list((place / "runs").glob(".*"))


def test_a_run_can_not_be_made_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=r"The run's folder is not UTF-8: .*Rename that file or folder"):
        RunFolder.create(tmp_path / ODD, "a", resolve([]), {})
    assert not (tmp_path / ODD).exists()


def test_letters_that_the_locale_does_not_know(trained: Path) -> None:
    done = command(trained, *SHORT, "--runs-dir", "Größe", **ASCII)
    assert done.returncode == 2
    assert "can't be read: this terminal's locale knows ascii only. Set PYTHONUTF8=1" in done.stderr.decode()
    assert command(trained, *SHORT, "--runs-dir", "Größe", **ASCII | {"PYTHONUTF8": "1"}).returncode == 0


def test_the_version(tmp_path: Path) -> None:
    assert command(tmp_path, "--version").stdout.decode() == f"slotkit {slotkit.__version__}\n"


def test_tab_completion_shows_the_public_names() -> None:
    code = "import slotkit, sys; print(*dir(slotkit)); print('torch' in sys.modules)"
    shown, torch = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert set(shown.split()) == {*slotkit.__all__, "__version__"}
    assert torch == "False"
