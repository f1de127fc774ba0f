"""The manifest of a sweep: what is in it, what becomes of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweeps.made import planned, trained  # type: ignore[import-not-found]

from slotkit.config import Overrides
from slotkit.data.identity import Identity
from slotkit.errors import SlotkitError
from slotkit.files import remove
from slotkit.sweeps.contract import Ended
from slotkit.sweeps.manifest import KEPT_FAILURES, MANIFEST, data_key
from slotkit.sweeps.plan import Planned, key_of
from slotkit.sweeps.sweep import Sweep, find, start

pytestmark = pytest.mark.usefixtures("one_thread")


def unnamed(k: int, **values: Any) -> Planned:
    return Planned((Overrides("test", {"slots.k": k, **values}),), {"k": k})


def names(sweep: Sweep) -> list[str]:
    return [run.entry.name for run in sweep.runs()]


def test_it_is_keyed_by_the_resolved_configuration(tmp_path: Path) -> None:
    these = [unnamed(2), unnamed(8)]
    sweep, notes = start(tmp_path / "s", these, "lenet.toml")
    assert notes == []
    told = json.loads((tmp_path / "s" / MANIFEST).read_text())
    assert list(told["runs"]) == [key_of({"slots.k": 2}), key_of({})]
    assert told["runs"][key_of({})] == {
        "name": f"k8-{key_of({})[:6]}",
        "settings": {},
        "varied": {"k": 8},
        "seed": None,
        "wanted": True,
        "failures": [],
        "peak": None,
    }
    again, _ = start(tmp_path / "s", these, "lenet.toml")
    assert again.manifest == sweep.manifest == Sweep.open(tmp_path / "s").manifest


def test_one_new_run_is_one_run(tmp_path: Path) -> None:
    start(tmp_path / "s", [unnamed(2)], "lenet.toml")
    _, notes = start(tmp_path / "s", [unnamed(2), unnamed(4)], "lenet.toml")
    assert notes == [f"lenet.toml asks for 1 more run than {tmp_path / 's'} had."]


def test_runs_that_are_new_are_added_and_told(tmp_path: Path) -> None:
    first, _ = start(tmp_path / "s", [unnamed(2)], "lenet.toml")
    more, notes = start(tmp_path / "s", [unnamed(2), unnamed(4), unnamed(8)], "lenet.toml")
    assert notes == [f"lenet.toml asks for 2 more runs than {tmp_path / 's'} had."]
    assert names(more)[0] == names(first)[0]
    assert len(names(more)) == 3
    assert more.manifest.id == first.manifest.id


def test_runs_that_are_not_asked_for_any_more_are_refused_or_left_out(tmp_path: Path) -> None:
    def asked(lr: float) -> list[Planned]:
        return [unnamed(k, **{"training.lr": lr}) for k in (2, 4)]

    start(tmp_path / "s", asked(0.2), "lenet.toml")
    with pytest.raises(SlotkitError) as error:
        start(tmp_path / "s", asked(0.3), "lenet.toml")
    assert str(error.value) == (
        f"lenet.toml does not ask for 2 of the 2 runs of {tmp_path / 's'} any more (training.lr was 0.2 and "
        "is 0.3). Choose another --name, put it back as it was, or say --changed: then they are left out of "
        "the sweep, and stay on the disk."
    )
    with pytest.raises(
        SlotkitError, match=r"lenet.toml does not ask for 1 of the 2 runs of .* any more. Choose"
    ):
        start(tmp_path / "s", asked(0.2)[:1], "lenet.toml")
    sweep, notes = start(tmp_path / "s", asked(0.3), "lenet.toml", changed=True)
    assert notes == [
        f"lenet.toml asks for 2 more runs than {tmp_path / 's'} had.",
        f"Left out of the sweep, and kept in {tmp_path / 's'}: 2 of the runs of before, for which lenet.toml "
        "does not ask any more.",
    ]
    assert len(names(sweep)) == 2
    assert [entry.wanted for entry in sweep.manifest.runs.values()] == [True, True, False, False]
    # They come back as what they were.
    back, _ = start(tmp_path / "s", asked(0.2) + asked(0.3), "lenet.toml")
    assert set(names(sweep)) < set(names(back))
    assert len(back.manifest.runs) == 4


def test_a_manifest_that_was_deleted_finds_the_runs(tmp_path: Path) -> None:
    these = [
        Planned(run.layers, varied, run.seed)
        for run, varied in zip(planned(), ({"a": 1}, {"b": 2}), strict=True)
    ]
    trained(tmp_path / "s", these)
    before = names(Sweep.open(tmp_path / "s"))
    remove(tmp_path / "s" / MANIFEST)
    others = [Planned(run.layers, {"renamed": 3}, run.seed) for run in these]
    assert trained(tmp_path / "s", others) == ["2 of 2 done, 0 of 2 epochs left"]
    assert names(Sweep.open(tmp_path / "s")) == before


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"slots.k": 2', '"slots.k": 3', "the settings of k2-[0-9a-f]{6} are not those of its key"),
        (
            '"slots.k": 2',
            '"training.epochs": [2]',
            r"training.epochs of a run is \[2\], and no number of epochs",
        ),
        ('"format": 1', '"format": 2', "format is 2: input should be 1"),
        ('"wanted": true', '"wanted": "yes"', "input should be a valid boolean"),
        ('"k8-', '"../k8-', "string should match pattern"),
        ('"k8-', '"a/k8-', "string should match pattern"),
        ('"k8-', f'"{"x" * 200}k8-', "a folder's name has 200 bytes at most"),
        (
            '"varied": {',
            '"varied": {"a": [[[[[[[[0]]]]]]]], ',
            "more than 8 lists and tables lie in each other",
        ),
        ('"source": "', '"source": "\\ud800', "it has an escaped letter that is none"),
        ('"failures"', '"errors"', "extra inputs are not permitted"),
        ("}", "", "Expecting"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, old: str, new: str, reason: str) -> None:
    start(tmp_path / "s", [unnamed(2), unnamed(8)], "lenet.toml")
    path = tmp_path / "s" / MANIFEST
    whole = path.read_text()
    assert old in whole
    path.write_text(whole.replace(old, new))
    advice = "Delete it: the same command writes it anew, and finds the runs that are there."
    with pytest.raises(SlotkitError, match=rf"sweep.json can't be read: .*{reason}.*\. {advice}"):
        Sweep.open(tmp_path / "s")


@pytest.mark.parametrize("name", [MANIFEST, "lock"])
def test_a_run_has_no_folder_by_the_name_of_a_file_of_the_sweep(tmp_path: Path, name: str) -> None:
    start(tmp_path / "s", planned()[:1], "lenet.toml")
    path = tmp_path / "s" / MANIFEST
    path.write_text(path.read_text().replace('"seed-3"', f'"{name}"'))
    with pytest.raises(SlotkitError, match=f"{name} is a file of the sweep itself"):
        Sweep.open(tmp_path / "s")


def test_two_runs_have_two_folders(tmp_path: Path) -> None:
    these = [Planned(run.layers, {}, None, "same") for run in planned()]
    with pytest.raises(
        SlotkitError, match=r"json can't be written: .* two of its runs have the same folder\."
    ):
        start(tmp_path / "s", these, "lenet.toml")


def test_other_folders_are_no_sweeps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "text.txt").touch()
    trained(tmp_path / "s", planned()[:1])
    for path in (tmp_path / "file", tmp_path / "full", tmp_path / "s" / "seed-3"):
        with pytest.raises(SlotkitError, match=f"{path.name} is there already and no sweep. Choose another"):
            start(path, planned(), "lenet.toml")
    with pytest.raises(SlotkitError, match="There is no sweep 'full', neither as a path nor in "):
        find("full", tmp_path)
    assert find("s", tmp_path) == find(tmp_path / "s") == tmp_path / "s"


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "s", planned())
    (tmp_path / "s" / "seed-3").rename(tmp_path / "s" / "away")
    (tmp_path / "s" / "seed-4").rename(tmp_path / "s" / "seed-3")
    told = trained(tmp_path / "s", planned())
    assert told[1].startswith(
        f"seed-3 failed: {tmp_path / 's' / 'seed-3'} is not the run that {tmp_path / 's' / MANIFEST} says: "
        "seeds.reels is 4 there and 3 here. Move it elsewhere"
    )
    assert told[-1] == "seed-4 finished"


def test_the_newest_errors_are_kept(tmp_path: Path) -> None:
    sweep, _ = start(tmp_path / "s", [unnamed(2)], "lenet.toml")
    (key,) = sweep.manifest.runs
    for number in range(KEPT_FAILURES + 2):
        sweep.keep_failure(key, Ended(key, "failed", f"error {number}", "here"))
    kept = Sweep.open(tmp_path / "s").manifest.runs[key].failures
    assert [failure.error for failure in kept] == [f"error {n}" for n in range(2, KEPT_FAILURES + 2)]


def test_an_error_may_name_what_is_not_utf8(tmp_path: Path) -> None:
    sweep, _ = start(tmp_path / "s", [unnamed(2)], "lenet.toml")
    (key,) = sweep.manifest.runs
    sweep.keep_failure(
        key, Ended(key, "failed", "There is no file bad\udcffdir.", "here", "trace of bad\udcffdir")
    )
    (kept,) = Sweep.open(tmp_path / "s").manifest.runs[key].failures
    assert (kept.error, kept.trace) == ("There is no file bad\\udcffdir.", "trace of bad\\udcffdir")


def test_data_are_known_by_dataset_and_size(tmp_path: Path) -> None:
    assert data_key({}) == "digits"
    assert data_key({"data.dataset": "mnist", "data.size": 32}) == "mnist 32"
    assert data_key({"data.size": 32, "data.fit": "crop"}) == "digits 32 crop"
    assert data_key({"data.size": 32, "data.augment": "resized-crop+flip"}) == "digits 32 crop"
    assert data_key({"data.augment": "flip"}) == "digits"
    trained(tmp_path / "s", planned())
    sweep = Sweep.open(tmp_path / "s")
    (key, *_), (run, *_) = sweep.manifest.runs, sweep.runs()
    assert sweep.data_of(key) == run.folder.data()
    other = Identity.model_validate(run.folder.data().model_dump() | {"image": [3, 8, 8]})  # type: ignore[union-attr]
    sweep.manifest = sweep.manifest.model_copy(update={"data": {"digits": other}})
    with pytest.raises(SlotkitError, match="seed-3 has other data than the runs of the sweep before it: "):
        sweep.keep_data(run)
