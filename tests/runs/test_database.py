"""A run folder is a database: what a checkpoint names is checked before a run goes on, or is read."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from commands import invoke
from forks import Forks
from runs.test_every_failure import quick, settings  # type: ignore[import-not-found]  # noqa: F401
from runs.test_resume import assert_same_run, damage  # type: ignore[import-not-found]
from slotkit.analyses.common.recorded import read_any

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.export import export
from slotkit.recording.trace import Trace
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, resume, run
from slotkit.training.finetune import finetune, go_on
from slotkit.training.loop import Event, Note, Step

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks", "quick")


def stop_after(steps: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, Step) and event.step == steps:
            raise KeyboardInterrupt

    return report


def started(place: Path, steps: int = 4, **values: Any) -> RunFolder:
    """A run of two steps an epoch that was interrupted in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        run(settings(training__epochs=3, **values), place, "run", stop_after(steps))
    return RunFolder(place / "run")


def refused(folder: RunFolder, *changes: Overrides) -> str:
    """The sentence of a resume that trains no step and changes no file of the run."""
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    events: list[Event] = []
    with pytest.raises(SlotkitError) as caught:
        resume(folder, changes, events.append)
    assert events == []
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    return str(caught.value)


def edit(folder: RunFolder, path: str, value: Any) -> None:
    """As with a text editor."""
    tables = folder.tables()
    table, _, key = path.rpartition(".")
    tables[table][key] = value
    (folder.path / "config.toml").write_text(tomli_w.dumps(tables))


def test_what_decides_the_masks_of_a_dropout_that_is_kept_is_held(tmp_path: Path) -> None:
    """The images of one batch share a mask's draw. Without such a dropout the batch of evaluation is free."""
    batch = "evaluation.batch_size"
    folder = started(tmp_path, evaluation__keep_dropout=True)
    assert f"differ: {batch} was None and is 100. Leave" in refused(folder, Overrides("-", {batch: 100}))
    edit(folder, batch, 100)
    assert f"{batch} was None and is 100. Put the old values back" in refused(folder)
    free = started(tmp_path / "free")
    edit(free, batch, 100)
    assert resume(free, [Overrides("-", {batch: 50})]).config().evaluation.batch_size == 50


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_metrics_that_were_cut_are_noticed(tmp_path: Path, share: float) -> None:
    folder = started(tmp_path, recording__keep_last=1)
    path = folder.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    size = checkpoint.load(folder.checkpoint("last"))[1]["metrics_bytes"]
    assert refused(folder) == (
        f"{path} has {int(share * len(whole)):,} bytes, and had {size:,} when {folder.checkpoint('last')} "
        "was written. Put the whole file back, or train again."
    )


@pytest.mark.parametrize(
    "tail", [b"\x00\x00\x00\n", b"\xff\xff", b'{"kind": "st\xff\n{}\n'], ids=["0", "255", "cut"]
)
def test_what_comes_after_a_commit_may_be_anything(tmp_path: Path, tail: bytes) -> None:
    """A machine that loses its power may leave bytes that nobody has written; they are taken away."""
    whole = run(settings(training__epochs=3), tmp_path, "whole")
    folder = started(tmp_path)
    size = checkpoint.told(folder.checkpoint("last"))[0]["metrics_bytes"]
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:size] + tail)
    assert_same_run(resume(folder, []).path, whole.path)


def test_metrics_that_were_changed_are_noticed(tmp_path: Path) -> None:
    folder = started(tmp_path)
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"best": true', b'"best":false', 1))
    assert refused(folder).startswith(f"{path} was changed: its first ")


def test_metrics_that_contradict_an_old_checkpoint_are_noticed(tmp_path: Path) -> None:
    """It says how long they were, and nothing of what was in them."""
    folder = started(tmp_path, recording__keep_last=1)
    make_old(folder)
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"best": true', b'"best":false', 1))
    assert f"{path} and {folder.checkpoint('last')} contradict each other: 1 epochs, the best 0" in refused(
        folder
    )


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("training.lr", 0.25, "training.lr was 5.0 and is 0.25"),
        ("slots.k", 3, "slots.k was 2 and is 3"),
        ("data.std", [0.5], "data.std was [0.376] and is [0.5]"),
        ("recording.every", 3, "recording.every was 2 and is 3"),
        ("training.epochs", 2, "training.epochs was 3 and is 2"),
        ("training.patience", 7, "training.patience was None and is 7"),
    ],
)
def test_a_setting_edited_in_the_configuration_is_refused(
    path: str, value: Any, told: str, tmp_path: Path
) -> None:
    folder = started(tmp_path)
    edit(folder, path, value)
    sentence = refused(folder)
    assert sentence == (
        f"{folder.path / 'config.toml'} was changed since {folder.checkpoint('last')} was written: {told}. "
        "Put the old values back, or train a new run with the new ones."
    )
    if path == "training.epochs":  # of no matter for what was trained
        return
    readers: list[Callable[[], Any]] = [
        lambda: evaluate(folder, "best", "test"),
        lambda: export(folder, "best"),
        lambda: finetune(folder, tmp_path, ["best"], [Overrides("--epochs", {"training.epochs": 1})]),
    ]
    for reader in readers:
        with pytest.raises(SlotkitError, match=r"config\.toml was changed since .*best\.safetensors was"):
            reader()


def test_settings_that_change_no_bit_may_be_edited(tmp_path: Path) -> None:
    whole = run(settings(training__epochs=3), tmp_path / "whole", "run")
    folder = started(tmp_path)
    edit(folder, "recording.checkpoint_epochs", 2)
    edit(folder, "training.device", "auto")
    edit(folder, "data.dir", str(tmp_path))
    resume(folder, [])
    assert whole.summary()["test"] == folder.summary()["test"]


def test_an_origin_that_is_lost_does_not_change_its_setting(tmp_path: Path) -> None:
    """The settings count, not the table that says where they came from."""
    whole = run(settings(training__epochs=3), tmp_path / "whole", "run")
    folder = started(tmp_path)
    tables = folder.tables()
    tables["origins"] = {}
    (folder.path / "config.toml").write_text(tomli_w.dumps(tables))
    resume(folder, [])
    assert_same_run(whole.path, folder.path)


def test_another_record_of_the_data_is_refused(tmp_path: Path) -> None:
    """Checkpoints are held to the identity of the data that the run had: to every byte of data.json."""
    folder = started(tmp_path)
    path = folder.path / "data.json"
    data = json.loads(path.read_text())
    assert checkpoint.load(folder.checkpoint("last"))[1]["data"] is not None
    data["train"]["labels"] = "0" * 32
    path.write_text(json.dumps(data))
    assert f"{path} was changed since " in refused(folder)
    path.unlink()
    assert f"{path} was changed since " in refused(folder)


@pytest.mark.parametrize("how", ["missing", "damaged", "another"])
def test_a_best_network_that_is_gone_is_noticed_before_training(how: str, tmp_path: Path) -> None:
    folder = started(tmp_path, recording__keep_last=1)
    best = folder.checkpoint("best")
    if how == "missing":
        best.unlink()
    elif how == "damaged":
        damage(best)
    else:
        shutil.copy(folder.checkpoint("last"), best)
    assert refused(folder) == (
        f"{best} is missing, or is not the one of epoch 1 that belongs to {folder.checkpoint('last')}, and "
        "the end of the training needs it. Put it back, or train again."
    )
    make_old(folder)
    if how != "another":  # which an old checkpoint can't tell
        assert str(best) in refused(folder)


def test_a_chunk_of_the_trace_that_is_gone_is_noticed_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slotkit.recording import recorder, trace

    for module in (trace, recorder):
        monkeypatch.setattr(module, "CHUNK", 2)
    folder = started(tmp_path, steps=6)
    chunk = folder.path / "trace" / "steps-00000003.npz"
    whole = chunk.read_bytes()
    for data in (None, whole[:-1], (folder.path / "trace" / "steps-00000001.npz").read_bytes()):
        chunk.unlink(missing_ok=True)
        if data is not None:
            chunk.write_bytes(data)
        assert refused(folder) == (
            f"{chunk} is missing or is not the file that was written, and the trace would lack it. Put it "
            "back, or train again."
        )
    chunk.write_bytes(whole)
    resume(folder, [])
    assert Trace(folder.path / "trace").last_step() == 6


@pytest.mark.parametrize("lost", ["checkpoints/last.safetensors", "checkpoints/best.safetensors"])
def test_the_older_checkpoint_takes_the_place_of_a_damaged_one(lost: str, tmp_path: Path) -> None:
    """To the same bits, and it is said. In the last epoch a new best network goes with the newer one."""
    whole = run(settings(training__epochs=3), tmp_path / "whole", "run")
    with pytest.raises(KeyboardInterrupt):
        run(settings(training__epochs=3), tmp_path, "run", stop_after(4))
    folder = RunFolder(tmp_path / "run")
    resume(folder, [Overrides("--set", {"recording.checkpoint_minutes": 60.0})])
    assert folder.summary()["best_epoch"] == whole.summary()["best_epoch"]
    with pytest.raises(KeyboardInterrupt):
        run(
            settings(training__epochs=3, recording__checkpoint_minutes=60.0),
            tmp_path / "again",
            "run",
            stop_after(5),
        )
    again = RunFolder(tmp_path / "again" / "run")
    damage(again.path / lost)
    events: list[Event] = []
    resume(again, [], events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0].startswith(str(again.path / lost))
    assert notes[0].endswith(" An older checkpoint takes its place.")
    assert notes[1] == "Resumed after step 2, epoch 1 done."
    assert_same_run(folder.path, again.path)


@pytest.mark.parametrize("summary", ["", "{", '{"status": "finished"}'])
def test_a_lost_summary_is_written_anew(summary: str, tmp_path: Path) -> None:
    whole = run(settings(), tmp_path / "whole", "run")
    folder = run(settings(), tmp_path, "run")
    path = folder.path / "summary.json"
    path.unlink()
    if summary:
        path.write_text(summary)
    resume(folder, [])
    assert_same_run(whole.path, folder.path)


def test_resuming_a_finished_run_is_no_error(tmp_path: Path) -> None:
    folder = run(settings(), tmp_path, "run")
    done = invoke("train", "--resume", "run", "--runs-dir", str(tmp_path))
    assert done.exit_code == 0
    assert "The run run is finished. A larger --epochs than its 2 extends it.\n" in done.stderr
    assert f"run folder: {folder.path}" in done.stdout
    # And so is a comparison.
    finetune(folder, tmp_path, ["last"], [Overrides("--epochs", {"training.epochs": 1})], name="f")
    done = invoke("train", "--resume", "f", "--runs-dir", str(tmp_path))
    assert done.exit_code == 0
    assert "The comparison f is finished." in done.stderr
    assert "finetuned from epoch 2 (last)" in done.stdout


def test_a_comparison_is_held_to_the_checkpoint_that_it_was_started_with(tmp_path: Path) -> None:
    """A slot run that trains on meanwhile does not slip another network into it."""
    slot = run(settings(recording__keep_epochs=[1]), tmp_path, "slot")
    shorter = [Overrides("--epochs", {"training.epochs": 1})]
    with pytest.raises(KeyboardInterrupt):
        finetune(slot, tmp_path, ["epoch-1", "last"], shorter, name="f", report=stop_after(2))
    resume(slot, [Overrides("--epochs", {"training.epochs": 3})])
    folder = RunFolder(tmp_path / "f")
    with pytest.raises(SlotkitError) as refused:
        go_on(folder, [Overrides("--set", {"training.lr": 1.0, "data.memory": 0})])
    assert str(refused.value) == (
        "The comparison f goes on with its own settings, and training.lr came. Leave them out: only "
        "data.dir, data.download, data.memory, data.workers may change."
    )
    with pytest.raises(SlotkitError, match="is not the checkpoint any more that f was started with"):
        go_on(folder)
    assert folder.summary()["status"] == "failed"
    assert RunFolder(folder.path / "from-epoch-1").summary()["status"] == "finished"


def make_old(folder: RunFolder, **about: Any) -> None:
    """Checkpoints and trace as slotkit wrote them before they named what belongs to them."""
    for path in folder.path.glob("*/*.safetensors"):
        try:
            state, told = checkpoint.load(path)
        except SlotkitError:  # damaged on purpose
            continue
        old = {name: told[name] for name in ("step", "epoch", "metrics_bytes") if name in told}
        if state.get("trace"):
            state["trace"].pop("written", None)
        checkpoint.save(path, state, **(old if not about else told | about))


def test_a_run_of_an_older_slotkit_goes_on(tmp_path: Path) -> None:
    whole = run(settings(training__epochs=3), tmp_path / "whole", "run")
    folder = started(tmp_path, recording__keep_last=1)
    make_old(folder)
    tables = folder.tables()
    del tables["recording"]["keep_last"]
    (folder.path / "config.toml").write_text(tomli_w.dumps(tables))
    assert evaluate(folder, "last", "test")
    resume(folder, [])
    assert_same_run(whole.path, folder.path)


def test_a_chunk_that_unpacks_to_more_than_it_may_is_refused_unread(tmp_path: Path) -> None:
    """Forty million steps of zeros are 300 kB packed."""
    import numpy as np

    folder = run(settings(), tmp_path, "run")
    path = folder.path / "trace" / "steps-00000001.npz"
    path.write_bytes(b"")
    np.savez_compressed(path, lr=np.zeros(40_000_000), changed=np.zeros((40_000_000, 1), np.int8))
    with pytest.raises(SlotkitError, match=r"steps-00000001\.npz is not a whole chunk .*: changed is of"):
        read_any(folder, events=True)
    folder.write_summary({"status": "running"})
    (folder.path / "summary.json").write_bytes(b" " * (65 << 20))
    with pytest.raises(SlotkitError, match=r"summary\.json can't be read: it has 68,157,440 bytes"):
        folder.summary()


# Processes that are killed for good, each at one change of the disk, with what was imported once.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from slotkit import files
from slotkit.files import Disk
from slotkit.models import conv
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run
from runs.test_every_failure import settings
conv.WIDTHS, conv.HIDDEN = (4, 6, 8), 16
place = Path(sys.argv[1])

class Deadly(Disk):
    count = 0
    def __getattribute__(self, name):
        if name in ("fill", "append", "sync", "rename", "truncate", "remove", "make_folder"):
            Deadly.count += 1
            if Deadly.count == self.n:
                os.kill(os.getpid(), signal.SIGKILL)
        return object.__getattribute__(self, name)

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed(n):
    files.disk = Deadly(); files.disk.n = n
    run(settings(), place / str(n), "run")

def go_on(n):
    folder = RunFolder(place / str(n) / "run")
    resume(folder, []) if folder.path.exists() else run(settings(), place / str(n), "run")

assert child(lambda: run(settings(), place / "whole", "run")) == 0  # this process itself starts no thread
print(json.dumps([[child(lambda: killed(n)), child(lambda: go_on(n))] for n in map(int, sys.argv[2:])]))
"""


def test_processes_that_are_killed_at_a_change_of_the_disk(tmp_path: Path, forks: Forks) -> None:
    """SIGKILL itself: while the run is made, at its name, between two renames of a commit, at its end."""
    points = [3, 19, 38, 77, 103]
    told = forks.start(KILLED, str(tmp_path), *map(str, points), cwd=tmp_path).checked()
    assert json.loads(told.splitlines()[-1]) == [[-signal.SIGKILL, 0]] * len(points)
    for point in points:
        assert_same_run(tmp_path / "whole" / "run", tmp_path / str(point) / "run")
