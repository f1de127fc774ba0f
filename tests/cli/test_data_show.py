from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slotkit.cli.output import Speed

from slotkit.config import Overrides, resolve
from slotkit.data.batches import batches
from slotkit.data.contact_sheet import contact_sheet
from slotkit.data.images import split
from slotkit.data.sources import load
from slotkit.training.showing import shown
from tests.commands import invoke, refuse


def draw_pictures() -> None:
    random = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            folder = Path("pets") / half / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")


def test_a_sheet_of_augmented_pictures() -> None:
    draw_pictures()
    augment = "resized-crop+randaugment+flip+mixup:1"
    arguments = ("--dataset", "imagefolder:pets", "--size", "16", "--augment", augment, "--images", "5")
    done = invoke("data", "show", *arguments, "--set", "data.workers=0")
    title, place = done.stdout.splitlines()
    assert title == f"imagefolder:pets: 5 of 11 training images, epoch 1, augmentation {augment}"
    assert place == "contact sheet: pets-train.png"
    with Image.open("pets-train.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 5 * 96


def test_what_is_shown_is_what_the_network_gets() -> None:
    settings = {"data.augment": "flip", "training.batch_size": 8, "data.mean": [0.3], "data.std": [0.4]}
    found = shown(resolve([Overrides("test", settings)]), 20, epoch=3)
    dataset = load("digits", None)
    train = dataset.train.subset(split(len(dataset.train), 0.15, 0).train)
    pairs = list(batches(train, 8, seed=0, epoch=3, augment="flip"))[:3]
    expected = torch.cat([(255 * inputs).round() for inputs, _ in pairs])[:20]
    assert torch.equal(found.images, expected.to(torch.uint8))
    assert found.captions == tuple(str(int(label)) for _, labels in pairs for label in labels)[:20]
    assert found.title == "digits: 20 of 1221 training images, epoch 3, augmentation flip"


def test_labels_that_are_mixed_are_shown_as_shares() -> None:
    found = shown(resolve([Overrides("test", {"data.augment": "mixup:1"})]), 30)
    mixed = [caption.split("\n") for caption in found.captions if "\n" in caption]
    assert len(mixed) > 15
    shares = {sum(int(line.split(": ")[1].removesuffix(" %")) for line in lines) for lines in mixed}
    assert shares == {100}


def test_a_run_is_shown_by_its_settings() -> None:
    arguments = ("--epochs", "1", "--set", "training.limit_batches=1", "--set", "data.augment=flip-crop")
    invoke("train", "--name", "one", *arguments, "--trace", "off")
    done = invoke("data", "show", "--run", "one", "--images", "3", "--out", "sheet.png")
    assert done.stdout.splitlines() == [
        "digits: 3 of 1221 training images, epoch 1, augmentation flip-crop",
        "contact sheet: sheet.png",
    ]
    done = invoke("data", "show", "--run", "one", "--split", "test", "--images", "400")
    assert done.stdout.splitlines()[0] == "digits: 360 of 360 test images"
    assert Path("digits-test.png").is_file()


def test_a_folder_of_ones_own_is_the_one_that_is_named() -> None:
    """The data folder says nothing then, as in training; of a run it says where that folder lies now."""
    draw_pictures()
    own = ("--dataset", "imagefolder:pets")
    few = ("--epochs", "1", "--set", "training.limit_batches=1", "--set", "data.size=8", "--trace", "off")
    assert invoke("train", *own, "--name", "one", *few).exit_code == 0
    done = invoke("data", "show", *own, "--data-dir", "elsewhere", "--size", "8", "--out", "sheet.png")
    assert done.exit_code == 0, done.stderr
    Path("pets").rename("moved")
    done = invoke("data", "show", "--run", "one", "--data-dir", "moved", "--out", "sheet.png")
    assert done.exit_code == 0, done.stderr


def test_every_pixel_and_caption_is_on_the_sheet() -> None:
    images = torch.arange(0, 240, 10).to(torch.uint8).reshape(3, 1, 4, 2)
    sheet = np.asarray(
        contact_sheet(images, ["one", "two\nand", "a name that is too long for its tile"], "Title")
    )
    left = 16 + 0 * (96 + 10)
    rows = np.flatnonzero((sheet[:, left + 60] == images[0, 0, 0, 1].item()).all(-1))
    assert len(rows) == 48  # each pixel 48 times as large
    assert all((sheet == value.item()).all(-1).any() for value in images.flatten())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--augment", "flipp"], "there is no augmentation 'flipp'. Did you mean flip"),
        (["--split", "tests"], "there are no images 'tests'. Choose one of train, validation, test."),
        (["--run", "one", "--recipe", "x"], "--run can't go with --recipe or --config"),
        (["--dataset", "mnist"], "mnist is not in "),
        (
            ["--out", "."],
            ". is a folder, and a file is to be written there. Give the file a name, such as NAME.",
        ),
    ],
)
def test_what_cannot_be_shown(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refuse(monkeypatch, capsys, "data", "show", *arguments)
    assert not list(Path().glob("*.png"))


def test_the_bar_tells_images_a_second() -> None:
    clock = iter([0.0, 1.0, 2.5, 2.5, 3.0, 5.0, 5.0])
    speed = Speed(lambda: next(clock))
    assert [speed.after(100) for _ in range(4)] == ["", "80 images/s", "80 images/s", "80 images/s"]
