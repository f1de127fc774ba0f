"""A run that is damaged, or is another one, hides no other run, and is left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps.made import Scripted, planned, trained  # type: ignore[import-not-found]

from slotkit.config import Overrides
from slotkit.data.identity import Identity
from slotkit.runs.folder import RunFolder
from slotkit.sweeps import results
from slotkit.sweeps.sweep import Sweep
from slotkit.training.experiment import resume

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ["summary.json", "config.toml", "metrics.jsonl", "data.json"]


def content(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two runs."""
    place = tmp_path_factory.mktemp("whole") / "s"
    trained(place, planned())
    return place


@pytest.fixture
def sweep(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for name, data in content(whole).items():
        path = tmp_path / "s" / Path(name).relative_to(whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "s"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_damaged_run_is_given_up_and_the_others_are_trained(
    sweep: Path, file: str, checkpoints: bool
) -> None:
    (sweep / "seed-3" / file).write_text("nothing\n")
    if not checkpoints:  # which tell a worker whether there is a run at all
        for path in (sweep / "seed-3" / "checkpoints").iterdir():
            path.unlink()
        (sweep / "seed-3" / "checkpoints").rmdir()
    before = content(sweep / "seed-3")
    executor = Scripted({})
    told = trained(sweep, planned(seeds=(3, 4, 5)), executor)
    assert executor.order == ["seed-5"]
    assert told[1] == "1 of 3 done, 1 of 3 epochs left"
    assert told[2].startswith(f"seed-3 failed: {sweep / 'seed-3' / file} can't be read")
    assert told[2].endswith(f" Or move {sweep / 'seed-3'} elsewhere, to train that run anew.")
    assert content(sweep / "seed-3") == before
    assert [run.status() for run in Sweep.open(sweep).runs()] == ["damaged", "finished", "finished"]
    (failure,) = next(Sweep.open(sweep).runs()).entry.failures
    assert failure.error == told[2].removeprefix("seed-3 failed: ")


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_run_is_in_no_mean(sweep: Path, file: str) -> None:
    (sweep / "seed-3" / file).write_text("nothing\n")
    (row,) = results.rows(Sweep.open(sweep))
    assert (row.n, row.wanted, row.left_out, row.runs) == (1, 2, 1, ("seed-4",))
    assert row.mean == RunFolder(sweep / "seed-4").summary()["test"]["best"]["greedy"]["accuracy"]


def test_what_to_do_about_a_damaged_summary_helps(sweep: Path) -> None:
    (sweep / "seed-3" / "summary.json").write_text("nothing\n")
    fault = next(Sweep.open(sweep).runs()).state().fault
    assert "`slotkit train --resume` of a single run writes it anew." in fault
    resume(RunFolder(sweep / "seed-3"), [])
    assert [run.status() for run in Sweep.open(sweep).runs()] == ["finished", "finished"]


def test_a_run_that_was_extended_is_in_no_mean_and_is_not_trained(sweep: Path) -> None:
    resume(RunFolder(sweep / "seed-4"), [Overrides("--epochs", {"training.epochs": 2})])
    before = content(sweep / "seed-4")
    (row,) = results.rows(Sweep.open(sweep))
    assert (row.n, row.left_out, row.runs) == (1, 1, ("seed-3",))
    _, extended = Sweep.open(sweep).states()
    assert (extended.status, extended.summary) == ("other", {})
    assert extended.fault == (
        f"{sweep / 'seed-4'} is not the run that {sweep / 'sweep.json'} says: training.epochs is 2 there and "
        "1 here. Move it elsewhere to train that run anew, or choose another --name for the sweep."
    )
    assert trained(sweep, planned())[-1] == f"seed-4 failed: {extended.fault}"
    assert content(sweep / "seed-4") == before


def test_a_run_with_other_data_is_given_up_alone(sweep: Path) -> None:
    folder = RunFolder(sweep / "seed-4")
    data = folder.data()
    assert isinstance(data, Identity)
    folder.write_data(data.model_copy(update={"image": [1, 2, 2]}))
    executor = Scripted({})
    told = trained(sweep, planned(seeds=(3, 4, 5)), executor)
    assert executor.order == ["seed-5"]
    assert told[2].startswith(
        f"seed-4 failed: {folder.path} has other data than the runs of the sweep before"
    )
