"""Several processes train one network, and one of them ends: all end, and one of them says why."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from forks import COMMAND, Forks  # type: ignore[import-not-found]
from together import SMALL, run_together, start_together, told  # type: ignore[import-not-found]

from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread", "with_networks")

LONG = ("--model-factory", "net:plain", "--epochs", "3000", *SMALL)


def test_sigterm_to_one_ends_all_with_the_state_saved(tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path)
    ends[0].until_it_says("epoch 1/")
    ends[1].send_signal(signal.SIGTERM)
    assert [one.wait() for one in ends] == [143, 143]
    folder = RunFolder(tmp_path / "runs" / "run")
    summary = folder.summary()
    assert (summary["status"], folder.status()) == ("stopped", "stopped")
    step = checkpoint.load(folder.checkpoint("last"))[0]["training"]["step"]
    assert summary["reason"] == f"SIGTERM after step {step}"
    assert told(ends) == [
        f"Stopped: SIGTERM after step {step}. `slotkit train --resume runs/run --model-factory net:plain` "
        "goes on from there."
    ]


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_process_ends_the_other(killed: int, tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path)
    ends[0].until_it_says("epoch 1/")
    ends[killed].kill()
    assert ends[1 - killed].wait() == 2
    sentence = (
        "Of the 2 processes that train together another one has ended without a word (it was killed, or the "
        "memory was full), or doesn't answer. `slotkit train --resume RUN` goes on from the last checkpoint."
    )
    assert told(ends) == [f"Error: {sentence}"]
    folder = RunFolder(tmp_path / "runs" / "run")
    assert folder.status() == ("killed" if killed == 0 else "failed")
    if killed == 1:
        assert folder.summary()["reason"] == sentence


FAILING = f"""
import os
from slotkit.errors import SlotkitError
from slotkit.training.gradients import Gradients

of = Gradients.of

def fail(self, images, labels, step, total):
    if step == 12 and os.environ["RANK"] == "1":
        raise KIND("The disk of rank 1 is full.")
    return of(self, images, labels, step, total)

Gradients.of = fail
{COMMAND}
"""


@pytest.mark.parametrize("kind", ["SlotkitError", pytest.param("ValueError", marks=pytest.mark.long)])
def test_a_process_that_fails_ends_the_other_with_its_error(kind: str, tmp_path: Path, forks: Forks) -> None:
    """Told once: as a sentence if it is one, and by its traceback otherwise."""
    code = FAILING.replace("KIND", kind)
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path, code=code)
    assert [one.wait() for one in ends] == [2, 2 if kind == "SlotkitError" else 1]
    error = "The disk of rank 1 is full."
    assert told(ends) == (
        [f"Error: {error}"] if kind == "SlotkitError" else ["Traceback (most recent call last):"]
    )
    summary = RunFolder(tmp_path / "runs" / "run").summary()
    words = error if kind == "SlotkitError" else f"{kind}: {error}"
    assert summary["status"] == "failed"
    assert summary["reason"] == (
        f"The process of rank 1 has ended with an error: {words} `slotkit train --resume RUN` goes on from "
        "the last checkpoint."
    )


def test_what_all_processes_refuse_is_told_once(tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", "--model", "lenat", cwd=tmp_path)
    assert [one.wait() for one in ends] == [2, 2]
    (line,) = told(ends)
    assert line.startswith("Error: There is no model 'lenat'.")


def test_folders_whose_names_are_no_utf_8_can_be_told_of(tmp_path: Path, forks: Forks) -> None:
    """As one process can: the folder of the run to the others, and in an error."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    few = ("--epochs", "1", "--set", "training.limit_batches=2", *SMALL)
    run_together(forks, "train", *few, "--name", "run", cwd=place)
    assert RunFolder(place / "runs" / "run").status() == "finished"
    ends = start_together(forks, "train", *few, "--dataset", "imagefolder:pets", cwd=place)
    assert [one.wait() for one in ends] == [2, 2]
    (sentence,) = told(ends)
    assert "\\udce9/pets/train is not a folder; an imagefolder needs" in sentence
