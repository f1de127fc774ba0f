"""The run folder."""

from __future__ import annotations

import contextlib
import json
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.runs import checkpoint
from slotkit.runs.environment import environment, typed
from slotkit.runs.folder import RunFolder, default_name, list_runs
from slotkit.training.experiment import evaluate, run
from slotkit.training.loop import Event


def settings(**values: Any) -> Resolved:
    given = {"training.epochs": 2, "slots.k": 2, "training.device": "cpu"}
    return resolve(
        [Overrides("test", given | {path.replace("__", "."): value for path, value in values.items()})]
    )


def test_a_run_leaves_everything_that_is_promised(tmp_path: Path) -> None:
    folder = run(settings(training__log_every=5), tmp_path, "first")
    written = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    assert written == {
        "config.toml",
        "data.json",
        "metrics.jsonl",
        "summary.json",
        "log.txt",
        "split.safetensors",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "earlier/best-00001.safetensors",
        "earlier/last-00000010-00001-00001.safetensors",
        "times.jsonl",
        "trace/about.json",
        "trace/steps-00000001.npz",
        "lock",
    }
    summary = folder.summary()
    assert summary["status"] == "finished"
    assert summary["epochs"] == 2
    assert summary["weights"] == 64 * 300 + 300 * 100 + 100 * 10
    assert set(summary["test"]) == {"best", "last", "start"}
    epochs = [entry for entry in folder.metrics() if entry["kind"] == "epoch"]
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    assert summary["validation"]["last"]["accuracy"] == epochs[-1]["validation"]["accuracy"]
    tables = tomllib.loads((folder.path / "config.toml").read_text())
    assert tables["origins"]["slots.k"] == "test"
    assert tables["origins"]["data.validation"] == "dataset digits"
    assert {"command", "device", "threads", "torch", "git_commit", "started"} <= set(tables["environment"])
    assert tables["environment"]["device"] == "cpu"


def test_the_configuration_on_disk_makes_the_same_run_again(tmp_path: Path) -> None:
    first = run(settings(), tmp_path, "first")
    own = {path: value for path, value, _ in Resolved(first.config(), {}).explain() if value is not None}
    again = run(resolve([Overrides("again", own)]), tmp_path, "again")
    state, _ = checkpoint.load(first.checkpoint("last"))
    other, _ = checkpoint.load(again.checkpoint("last"))
    assert len(state["latent"]) == 3
    assert all((state["latent"][name] == other["latent"][name]).all() for name in state["latent"])
    assert first.summary()["test"] == again.summary()["test"]


def test_the_summary_of_a_run_under_ps_gives_both_readings(tmp_path: Path) -> None:
    folder = run(settings(slots__selection="PS", evaluation__draws=3, training__epochs=1), tmp_path)
    for readings in folder.summary()["test"].values():
        assert set(readings) == {"greedy", "sample"}
        assert readings["sample"]["n"] == 3
        assert readings["greedy"]["spread"] is None


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_evaluating_a_checkpoint_gives_what_the_summary_says(tmp_path: Path, selection: str) -> None:
    folder = run(settings(slots__selection=selection, evaluation__draws=2), tmp_path, "one")
    for which in ("best", "last"):
        readings = evaluate(folder, which, "test")
        assert {kind: reading.as_dict() for kind, reading in readings.items()} == folder.summary()["test"][
            which
        ]
    best = evaluate(folder, "best", "validation")["greedy"].accuracy
    assert best == folder.summary()["validation"]["best"]["accuracy"]


@pytest.mark.parametrize(
    ("fault", "status"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError("x"), "failed")]
)
def test_a_run_that_stops_leaves_a_whole_folder(tmp_path: Path, fault: BaseException, status: str) -> None:
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if len(seen) == 20:
            raise fault

    with pytest.raises(type(fault)):
        run(settings(training__epochs=9), tmp_path, "stopped", stop)
    folder = RunFolder.open("stopped", tmp_path)
    assert folder.summary()["status"] == status
    assert folder.summary()["epochs"] == 1
    assert checkpoint.load(folder.checkpoint("last"))[1]["epoch"] == 1
    assert [entry["kind"] for entry in folder.metrics()].count("epoch") == 1
    assert folder.config().training.epochs == 9


def test_a_keyboard_interrupt_that_got_lost_is_made_up_for(tmp_path: Path) -> None:
    """Raised where Python prints and ignores it, as while an object is deleted."""
    seen: list[Event] = []

    def lose_the_first(event: Event) -> None:
        seen.append(event)
        if len(seen) == 20:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    # Jobs in the background of a shell are started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(settings(training__epochs=9), tmp_path, "stopped", lose_the_first)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 20
    assert RunFolder.open("stopped", tmp_path).summary()["status"] == "interrupted"


def test_a_second_run_of_a_name_is_refused_and_the_first_kept(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "mine", settings(), {"device": "cpu"})
    with pytest.raises(
        SlotkitError, match=r"There is a run .*mine already. Choose another --name, or delete it."
    ):
        RunFolder.create(tmp_path, "mine", settings(), {"device": "cpu"})


def test_a_name_that_something_else_has(tmp_path: Path) -> None:
    """A folder with nothing in it, as of `mkdir` or tempfile.mkdtemp, becomes the run."""
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path, "empty", settings(), {}).summary() == {"status": "running"}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("notes", "file", "gone"):
        with pytest.raises(
            SlotkitError, match=rf"{name} is there already and is not a run. Choose another --"
        ):
            RunFolder.create(tmp_path, name, settings(), {})
        assert RunFolder.create(tmp_path, None, settings(), {}, usual=name).name == f"{name}-2"
    assert (tmp_path / "notes" / "mine.txt").read_text() == "dear"


@pytest.mark.parametrize("name", ["a/b", "..", "../x", "."])
def test_a_name_can_not_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SlotkitError, match="can't name a run: use one folder name, and --runs-dir for the place"
    ):
        RunFolder.create(tmp_path, name, settings(), {})


def test_default_names_tell_runs_apart_and_never_collide(tmp_path: Path) -> None:
    chosen = settings(slots__selection="PS", model__name="timm/resnet18", data__dataset="parquet:a/cifar")
    name = default_name(chosen.config)
    assert name.endswith("-timm-resnet18-cifar-k2-probabilistic-s0")
    assert default_name(settings(method="learned").config).endswith("-lenet-digits-learned-s0")
    folders = {RunFolder.create(tmp_path, None, settings(), {}).path for _ in range(3)}
    assert len(folders) == 3


def test_runs_are_listed_and_missing_ones_named(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere") == []
    RunFolder.create(tmp_path, "b", settings(), {})
    RunFolder.create(tmp_path, "a", settings(), {})
    (tmp_path / "not-a-run").mkdir()
    assert [folder.name for folder in list_runs(tmp_path)] == ["a", "b"]
    with pytest.raises(
        SlotkitError, match=r"There is no run 'c', neither as a path nor in .*slotkit runs list"
    ):
        RunFolder.open("c", tmp_path)


def test_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", settings(), {})
    (folder.path / "summary.json").write_text("{")
    with pytest.raises(SlotkitError, match=r"summary.json can't be read"):
        folder.summary()
    (folder.path / "config.toml").write_text("a = ")
    with pytest.raises(SlotkitError, match=r"config.toml can't be read"):
        folder.config()
    (folder.path / "config.toml").write_text("")  # all settings at their defaults, which no run has
    with pytest.raises(SlotkitError, match=r"config.toml can't be read: it is empty"):
        folder.settings()
    (folder.path / "metrics.jsonl").write_text('{"kind": "step"}\n{"kind": "st')
    assert list(folder.metrics()) == [{"kind": "step"}]


def test_a_folder_that_can_not_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlotkitError, match=r"could not be written: .*folder, .*else with --runs-dir\."):
        RunFolder.create(tmp_path / "file", "a", settings(), {})


def test_the_environment_is_plain_values() -> None:
    told = environment("cpu", 2)
    assert json.loads(json.dumps(told)) == told
    assert told["torch"] != "not installed"


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (("/a b/x.py", "--k", "8"), "'/a b/x.py' --k 8"),
        (("/a b/bin/slotkit", "sweep", "x.toml"), "slotkit sweep x.toml"),
        (("/v/bin/slotkit", "train", "--name", "my run"), "slotkit train --name 'my run'"),
        (("/v/slotkit/__main__.py", "train"), "slotkit train"),
        (("mine/__main__.py", "train"), "mine/__main__.py train"),
        (("slotkit sweep run /a/slotkit",), "slotkit sweep run /a/slotkit"),
    ],
)
def test_a_command_is_told_as_it_can_be_typed_again(argv: tuple[str, ...], command: str) -> None:
    assert typed(argv) == command
