"""A run knows its data: whatever reads them again notices that they have changed, and says what has."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_pictures import write_folder
from PIL import Image
from runs.test_database import make_old  # type: ignore[import-not-found]
from safetensors.torch import load_file
from slotkit.analyses import ps_variance, weights

from slotkit.config import Overrides, Resolved, resolve
from slotkit.data.identity import differences
from slotkit.errors import SlotkitError
from slotkit.export import export
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, resume, run
from slotkit.training.finetune import finetune
from tests.commands import invoke, refuse

ROOT = Path(__file__).parents[2]
PLACE = Overrides("test", {"training.device": "cpu"})


def draw_pictures(folder: Path) -> None:
    """Classes 0, 1 and 2 of 12 training and 4 test pictures, 6 x 6 pixels in grey."""
    write_folder(folder, 12, 4, classes=3, shape=(6, 6))


def settings(**values: Any) -> Resolved:
    given = {
        "data.dataset": "imagefolder:imgs",
        "training.epochs": 2,
        "training.device": "cpu",
        "training.batch_size": 8,
        "slots.k": 2,
        "recording.trace": "full",
        "recording.every": 2,
    }
    return resolve([Overrides("test", given | {k.replace("__", "."): v for k, v in values.items()})])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with imgs/ and runs/one, runs/ps, which were trained on it from there."""
    place = tmp_path_factory.mktemp("made")
    draw_pictures(place / "imgs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(settings(), Path("runs"), "one")
        run(settings(slots__selection="probabilistic", recording__trace="summary"), Path("runs"), "ps")
    return place


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, to be changed; runs know it by its new place."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for config in tmp_path.glob("runs/*/config.toml"):
        config.write_text(config.read_text().replace(str(made), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one(here: Path) -> RunFolder:
    return RunFolder(here / "runs" / "one")


def rename(imgs: Path) -> None:
    for half in ("train", "test"):
        (imgs / half / "1").rename(imgs / half / "zz")


def swap(imgs: Path) -> None:
    first, second = imgs / "train" / "0" / "00.png", imgs / "train" / "0" / "01.png"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def move(imgs: Path) -> None:
    (imgs / "test" / "0" / "00.png").rename(imgs / "test" / "1" / "99.png")


def remove_class(imgs: Path) -> None:
    for half in ("train", "test"):
        shutil.rmtree(imgs / half / "2")


def colour(imgs: Path) -> None:
    Image.new("RGB", (6, 6), "red").save(imgs / "test" / "0" / "00.png")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "renamed": (rename, "class '1' is gone; class 'zz' is new"),
    "class removed": (
        remove_class,
        "class '2' is gone; it has 24 training images, and had 36; it has 8 test images, and had 12",
    ),
    "picture removed": (
        lambda imgs: (imgs / "test" / "0" / "00.png").unlink(),
        "it has 11 test images, and had 12",
    ),
    "picture in another class": (move, "the labels of its test images have changed"),
    "pictures swapped": (swap, "the pixels of its training images have changed"),
    "colour": (colour, "its images are 6 x 6 pixels in 3 channels, and were 6 x 6 pixels in 1 channel"),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_told(here: Path, change: Callable[[Path], None], told: str) -> None:
    change(here / "imgs")
    with pytest.raises(SlotkitError) as error:
        evaluate(one(here), "best", "test", [PLACE])
    assert str(error.value) == (
        f"imagefolder:{here / 'imgs'} is not what it was for the run one: {told}. Put it back as it was, or "
        f"say with --data-dir where the data lie. `slotkit evaluate {here / 'runs' / 'one'} --other-data` "
        "reads the test images as they are now."
    )


READERS: dict[str, Callable[[Path], Any]] = {
    "evaluate": lambda here: evaluate(one(here), "best", "test"),
    "validation": lambda here: evaluate(one(here), "last", "validation"),
    "resume": lambda here: resume(one(here), [Overrides("--epochs", {"training.epochs": 3})]),
    "finetune": lambda here: finetune(one(here), here / "runs"),
    "weights": lambda here: weights.analyze(one(here)),
    "ps-variance": lambda here: ps_variance.analyze(here / "runs" / "ps", draws=2),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_whatever_reads_the_data_again_compares_them(here: Path, reader: Callable[[Path], Any]) -> None:
    rename(here / "imgs")
    files = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.name != "lock"}
    with pytest.raises(SlotkitError, match="class '1' is gone; class 'zz' is new"):
        reader(here)
    after = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.name != "lock"}
    assert {path for path in after if path.is_file()} == {path for path in files if path.is_file()}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_same_data_in_another_place_are_the_same(here: Path, reader: Callable[[Path], Any]) -> None:
    reader(here)


def test_only_two_doors_lead_to_the_data_of_a_run() -> None:
    """A new reader of runs can't forget to compare: loading is done in prepare.py alone, and of its two
    functions the one that doesn't compare is for new runs, in `run`."""
    loading, new = set(), set()
    for folder in ("slotkit", "analyses", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                imported = {
                    alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)
                }
                module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
                of_sources = module == "slotkit.data.sources" and "load" in imported
                as_module = module == "slotkit.data" and "sources" in imported
                if of_sources or (as_module and "sources.load" in path.read_text(encoding="utf-8")):
                    loading.add(path.relative_to(ROOT).as_posix())
                if module == "slotkit.training.prepare" and "prepare" in imported:
                    new.add(path.relative_to(ROOT).as_posix())
    # `slotkit bench` reads no run.
    assert loading == {"slotkit/training/prepare.py", "slotkit/benchmark.py"}
    # A mask is made before any run, of data that nothing is compared with.
    assert new == {"slotkit/training/experiment.py", "slotkit/masks/making.py"}
    source = (ROOT / "slotkit/training/experiment.py").read_text(encoding="utf-8")
    calls = [
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "prepare"
    ]
    assert calls == ["run"]


def test_other_data_are_read_when_asked_for(here: Path) -> None:
    learned = settings(method="learned", training__epochs=10, recording__trace="off")
    run(learned, Path("runs"), "good")
    before = json.loads(invoke("evaluate", "good", "--json").stdout)
    for name in "02":
        for path in sorted((here / "imgs" / "test" / name).iterdir())[2:]:
            path.unlink()
    shutil.rmtree(here / "imgs" / "train" / "1"), shutil.rmtree(here / "imgs" / "test" / "1")
    told = json.loads(invoke("evaluate", "good", "--json", "--other-data").stdout)
    assert told["other_data"] == [
        "class '1' is gone",
        "it has 24 training images, and had 36",
        "it has 4 test images, and had 12",
    ]
    # Of three classes, 0 and 2 are left: labels 0 and 1 of the folder are 0 and 2 of the network.
    assert before["readings"]["learned"]["accuracy"] > 0.9
    assert told["readings"]["learned"]["accuracy"] > 0.9
    shown = invoke("evaluate", "good", "--other-data").stdout
    assert "on other data than the run's: class '1' is gone; " in shown


def test_other_data_have_to_fit_the_network(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename(here / "imgs")
    place = f"imagefolder:{here / 'imgs'}"
    told = refuse(monkeypatch, capsys, "evaluate", "one", "--other-data")
    assert told == (
        f"Error: {place} has the class 'zz', which the network doesn't know; it knows '0', '1', '2'. Rename "
        "or leave out.\n"
    )
    colour(here / "imgs")
    told = refuse(monkeypatch, capsys, "evaluate", "one", "--other-data")
    assert told == (
        f"Error: {place} has images of 3 x 6 x 6 (channels x height x width); the network takes 1 x 6 x 6. "
        "Convert them; pictures of two sizes are stretched with data.size.\n"
    )
    told = refuse(monkeypatch, capsys, "evaluate", "one", "--other-data", "--split", "validation")
    assert told.startswith("Error: Which of the training images are validation images is known of a run's")


def test_a_relative_folder_is_found_from_another_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(here).config().data.dataset == f"imagefolder:{here / 'imgs'}"
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert invoke("evaluate", str(one(here).path)).exit_code == 0


def test_a_relative_data_dir_is_found_from_another_folder(here: Path) -> None:
    folder = run(settings(data__dataset="digits", data__dir="sets", training__epochs=1), Path("runs"), "two")
    assert folder.config().data.dir == str(here / "sets")


def test_a_data_dir_means_nothing_to_a_new_run_on_a_folder(here: Path) -> None:
    folder = run(settings(data__dir="elsewhere", training__epochs=1), Path("runs"), "two")
    assert folder.config().data.dir is None


def test_numbers_for_other_channels_are_refused_before_a_run_begins(here: Path) -> None:
    with pytest.raises(SlotkitError) as refused:
        run(settings(data__mean=[0.1, 0.2], data__std=[0.3, 0.4]), Path("runs"), "other")
    assert str(refused.value) == (
        "data.mean came with 2 numbers for images of 1 channels; give one number a channel."
    )
    assert not Path("runs/other").exists()


def test_a_run_on_a_folder_that_moved_is_made_again_from_its_config(here: Path) -> None:
    """data.dir has the new place since the run went on there; another folder may be at the old one."""
    shutil.move("imgs", "moved")
    moved = [Overrides("--data-dir", {"data.dir": "moved"}), Overrides("--epochs", {"training.epochs": 3})]
    resume(RunFolder(Path("runs/one")), moved)
    write_folder(Path("imgs"), 12, 4, classes=2, shape=(8, 8))
    again = invoke("train", "--config", "runs/one/config.toml", "--epochs", "1", "--name", "again")
    assert again.exit_code == 0, again.stderr
    config = RunFolder(Path("runs/again")).config()
    assert (config.data.dataset, config.data.dir) == (f"imagefolder:{here / 'moved'}", None)
    shown = invoke("data", "show", "--config", "runs/one/config.toml", "--out", "sheet.png")
    assert shown.stdout.startswith(f"imagefolder:{here / 'moved'}: ")


def test_an_export_needs_no_data(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the network takes and gives is in the record of the run's data."""
    there = export(one(here), out=here / "there")
    rename(here / "imgs")
    changed = export(one(here), out=here / "changed")
    shutil.rmtree(here / "imgs")
    gone = export(one(here), out=here / "gone")
    assert there.network == changed.network == gone.network
    assert gone.network is not None
    assert (gone.network["image"], gone.network["classes"]) == ([1, 6, 6], 3)
    assert gone.network["class_names"] == ["0", "1", "2"]
    for file in there.files:
        assert (
            tensors(here / "gone" / file)
            == tensors(here / "changed" / file)
            == tensors(here / "there" / file)
        )
    assert refuse(monkeypatch, capsys, "export", "one", "--data-dir", "imgs") == (
        "Error: The run one has a data.json, so its export needs no data. Leave --data-dir out.\n"
    )


def test_the_export_of_a_run_without_a_record_reads_the_data(here: Path) -> None:
    told = export(one(here)).network
    make_old(one(here))
    (one(here).path / "data.json").unlink()
    assert export(one(here)).network == told
    (here / "imgs").rename(here / "moved")
    with pytest.raises(SlotkitError, match="imgs"):
        export(one(here))
    assert export(one(here), data_dir=str(here / "moved")).network == told


def tensors(path: Path) -> dict[str, bytes]:
    """safetensors writes metadata in any order."""
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def test_a_folder_that_moved_is_named_with_data_dir(here: Path) -> None:
    (here / "imgs").rename(here / "moved")
    moved = ["--data-dir", "moved"]
    assert invoke("evaluate", "one", *moved).exit_code == 0
    assert invoke("analyze", "weights", "one", *moved).exit_code == 0
    assert invoke("analyze", "ps-variance", "ps", "--draws", "2", *moved).exit_code == 0
    assert invoke("finetune", "one", "--epochs", "1", "--name", "tuned", *moved).exit_code == 0
    branch = RunFolder(here / "runs" / "tuned" / "from-best")
    assert branch.config().data.dataset == f"imagefolder:{here / 'moved'}"
    assert invoke("train", "--resume", "one", "--epochs", "3", *moved).exit_code == 0
    assert one(here).config().data.dir == str(here / "moved")
    assert invoke("train", "--resume", "one", "--epochs", "4").exit_code == 0  # remembered


def test_a_branch_trains_on_what_the_slot_run_had(here: Path) -> None:
    data = one(here).data()
    rename(here / "imgs")
    with pytest.raises(SlotkitError) as error:
        run(settings(), here / "runs", "two", data=data)
    assert "for the runs that this one is compared with: class '1' is gone; class 'zz' is new." in str(
        error.value
    )
    assert not (here / "runs" / "two").exists()


def test_a_run_from_before_records_its_data_when_it_goes_on(here: Path) -> None:
    data = one(here).data()
    make_old(one(here))
    (one(here).path / "data.json").unlink()
    evaluate(one(here), "best", "test")
    assert one(here).data() is None
    resume(one(here), [Overrides("--epochs", {"training.epochs": 3})])
    assert data is not None
    assert one(here).data() == data.model_copy(update={"dataset": f"imagefolder:{here / 'imgs'}"})
    assert "whether the data were the same before is unknown" in (one(here).path / "log.txt").read_text()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 2}', "\xff", '{"format": 1, "dataset": "digits", "extra": 1}']
)
def test_a_damaged_record_is_named(here: Path, text: str) -> None:
    path = one(here).path / "data.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SlotkitError) as error:
        evaluate(one(here), "best", "test")
    assert str(error.value).startswith(f"{path} can't be read: ")
    assert str(error.value).endswith("It says what the run's data were; restore it from a copy.")


def test_another_split_is_noticed(here: Path) -> None:
    """As another version of torch would draw it."""
    folder = run(settings(seeds__data=1, training__epochs=1), here / "runs", "two")
    shutil.copy(folder.path / "split.safetensors", one(here).path / "split.safetensors")
    with pytest.raises(SlotkitError) as error:
        evaluate(one(here), "best", "validation")
    path = one(here).path / "split.safetensors"
    assert str(error.value) == (
        f"The split of one is not the one in {path}: other images would be held out than were. Go on with "
        "the versions of torch and slotkit that the run was made with."
    )


def test_augmentation_and_normalisation_are_no_part_of_the_record(here: Path) -> None:
    changes = {"data.augment": "flip", "data.mean": (0.5,), "data.std": (0.5,), "training.epochs": 1}
    folder = run(resolve([Overrides("test", {"data.dataset": "imagefolder:imgs", **changes})]), here / "runs")
    data, other = folder.data(), one(here).data()
    assert data is not None
    assert other is not None
    assert differences(data, other) == []


def test_runs_show_says_what_the_data_were(here: Path) -> None:
    shown = invoke("runs", "show", "one").stdout
    assert "36 training, 12 test, 6 x 6 pixels in 1 channel" in shown
    assert "3: '0', '1', '2'" in shown
    assert json.loads(invoke("runs", "show", "one", "--json").stdout)["data"]["class_count"] == 3


def test_what_is_odd_about_the_data_is_told_and_logged(here: Path) -> None:
    (here / "imgs" / "train" / "0" / "13.gif").touch()
    for half in ("train", "test"):
        shutil.copytree(here / "imgs" / half / "1", here / "imgs" / half / "1 ")
    done = invoke("train", "--dataset", "imagefolder:imgs", "--epochs", "1", "--k", "2", "--name", "odd")
    log = (here / "runs" / "odd" / "log.txt").read_text()
    for sentence in (
        "Left out are files that are not pictures in a class folder by their names: 1 .gif, such as",
        "Classes differ by case or spaces alone: '1', '1 '.",
        "12 training images are there more than once, with different labels.",
    ):
        assert sentence in done.stderr
        assert sentence in log
    assert "Left out" not in (one(here).path / "log.txt").read_text()
