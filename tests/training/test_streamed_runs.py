"""Runs on pictures that are read while they are used: the bits of those on images in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_pictures import write_folder

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError, UnreadableError
from slotkit.runs.folder import RunFolder
from slotkit.training.evaluation import batch_of
from slotkit.training.experiment import resume, run
from slotkit.training.finetune import finetune
from slotkit.training.loop import Event, Step

MIXED = "randaugment+flip+mixup"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classes 0 and 1 of 22 training and 4 test pictures, 8 x 8 pixels in colour."""
    monkeypatch.chdir(tmp_path)
    return write_folder(tmp_path / "imgs", 22, 4)


def settings(**values: Any) -> Resolved:
    given = {
        "data.dataset": "imagefolder:imgs",
        "training.epochs": 2,
        "training.device": "cpu",
        "training.batch_size": 8,
        "training.log_every": 1,
        "slots.k": 2,
    }
    return resolve([Overrides("test", given | {k.replace("__", "."): v for k, v in values.items()})])


def made(folder: RunFolder) -> tuple[str, dict[str, Any], str]:
    """What a run has measured and trained, and what its data are."""
    tests = {which: readings["greedy"] for which, readings in folder.summary()["test"].items()}
    return (folder.path / "metrics.jsonl").read_text(), tests, (folder.path / "data.json").read_text()


@pytest.mark.parametrize(("augment", "workers"), [("none", 0), (MIXED, 2)])
def test_a_streamed_run_is_the_run_in_memory(pictures: Path, augment: str, workers: int) -> None:
    memory = run(settings(data__augment=augment), Path("runs"), "memory")
    streamed = run(
        settings(data__augment=augment, data__memory=0, data__workers=workers), Path("runs"), "streamed"
    )
    assert made(memory) == made(streamed)
    assert "are read from their files" in (streamed.path / "log.txt").read_text()
    assert "are read from their files" not in (memory.path / "log.txt").read_text()
    assert memory.checkpoint("last").read_bytes() == streamed.checkpoint("last").read_bytes()


def test_a_run_goes_on_in_the_midst_of_an_epoch_with_more_memory(pictures: Path) -> None:
    whole = run(settings(data__augment=MIXED, data__memory=0, data__workers=0), Path("runs"), "whole")

    def interrupt(event: Event) -> None:
        if isinstance(event, Step) and event.step == 7:  # of 5 in an epoch
            raise KeyboardInterrupt

    each_step = {"recording__checkpoint_minutes": 1e-9}
    ahead = settings(data__augment=MIXED, data__memory=0, data__workers=2, **each_step)
    with pytest.raises(KeyboardInterrupt):
        run(ahead, Path("runs"), "part", interrupt)
    part = RunFolder.open("part", Path("runs"))
    resume(part, [Overrides("test", {"data.memory": 1.0})])
    assert made(part) == made(whole)


def test_a_picture_that_breaks_on_the_way_costs_no_step(pictures: Path) -> None:
    options = {"data__memory": 0, "data__workers": 0, "data__augment": "resized-crop"}
    whole = run(settings(**options), Path("runs"), "whole")
    place, told = pictures / "train" / "1" / "05.png", []
    encoded = place.read_bytes()

    def damage(event: Event) -> None:
        told.append(event)
        if isinstance(event, Step) and event.step == 5:
            place.write_bytes(encoded[:-60] + bytes(60))  # as long as before: its sizes are compared

    with pytest.raises(UnreadableError, match=r"train/1/05\.png does not decode as an image: "):
        run(settings(**options), Path("runs"), "part", damage)
    part = RunFolder.open("part", Path("runs"))
    assert part.summary()["status"] == "failed"
    done = max(event.step for event in told if isinstance(event, Step))
    place.write_bytes(encoded)
    again: list[Event] = []
    resume(part, [], again.append)
    steps = [event.step for event in again if isinstance(event, Step)]
    assert steps == list(range(done + 1, 11))
    assert made(part) == made(whole)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"data__fit": "crop"},
            "data.fit is crop, which needs a size. Give data.size, such as 224.",
        ),
        (
            {"data__fit": "crop", "data__size": 8, "data__dataset": "digits"},
            "data.fit is crop, which is for pictures of one's own, and digits has images of one size. Leave "
            "it out.",
        ),
        (
            {"data__augment": "flip+rand-augment"},
            "there is no augmentation 'rand-augment'. Did you mean randaugment? Accepted are none, "
            "resized-crop, randaugment, flip, flip-crop, mixup, several with + between them; use none to "
            "train on the images as they are.",
        ),
    ],
)
def test_settings_that_pictures_cannot_be_read_with(
    pictures: Path, values: dict[str, Any], text: str
) -> None:
    with pytest.raises(SlotkitError) as error:
        run(settings(**values), Path("runs"))
    assert str(error.value) == text


def test_names_of_augmentations_may_be_a_list() -> None:
    assert settings(data__augment=["flip", "mixup:0.8"]).config.data.augment == "flip+mixup:0.8"


def test_finetuning_with_another_augmentation_keeps_the_images(pictures: Path) -> None:
    """Of a run whose pictures are stretched: resized-crop alone would take their middle."""
    size = {"data__size": 6, "training__epochs": 1, "data__workers": 0}
    one = run(settings(**size), Path("runs"), "one")
    changes = {"data.augment": "resized-crop", "training.epochs": 1}
    tuned = finetune(one, Path("runs"), overrides=[Overrides("test", changes)])
    (branch,) = (RunFolder(tuned.path / entry["branch"]) for entry in tuned.summary()["branches"])
    assert branch.config().data.fit == "stretch"
    assert (branch.path / "data.json").read_text() == (one.path / "data.json").read_text()


def test_images_are_evaluated_so_many_at_once_and_the_reading_is_the_same(pictures: Path) -> None:
    losses, tests = [], []
    for size in (1, 3, None):
        told: list[Event] = []
        options = settings(evaluation__batch_size=size, training__epochs=1)
        tests.append(
            run(options, Path("runs"), f"of-{size}", told.append).summary()["test"]["last"]["greedy"]
        )
        losses.append([event.loss for event in told if isinstance(event, Step)])
    assert losses[0] == losses[1] == losses[2]
    assert len({test["accuracy"] for test in tests}) == 1
    assert [test["loss"] for test in tests] == pytest.approx([tests[0]["loss"]] * 3, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "shape", "size"),
    [
        ({}, (3, 32, 32), 512),
        ({}, (1, 64, 64), 512),
        ({}, (3, 224, 224), 8),  # the batch of training
        ({"training__accumulate": 3}, (3, 224, 224), 3),  # the largest piece of one
        ({"training__batch_size": 1000}, (3, 224, 224), 512),
        ({"evaluation__batch_size": 100}, (3, 224, 224), 100),
        ({"evaluation__batch_size": 600}, (3, 32, 32), 600),
    ],
)
def test_large_images_are_evaluated_as_many_at_once_as_training_takes(
    values: dict[str, Any], shape: tuple[int, int, int], size: int
) -> None:
    assert batch_of(settings(**values).config, shape) == size
