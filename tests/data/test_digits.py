from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from slotkit.data import digits
from slotkit.data.sources import find, load
from slotkit.errors import SlotkitError


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    dataset = load("digits", None)
    original = load_digits()
    ours = torch.cat([dataset.train.images, dataset.test.images]).flatten(1).double().sort(0).values
    theirs = torch.from_numpy(original.data * 255 / 16).round().sort(0).values
    assert torch.equal(ours, theirs)
    assert (dataset.channels, dataset.size, dataset.classes) == (1, (8, 8), tuple("0123456789"))


def test_the_halves_are_scikit_learns() -> None:
    """The order is stored, so that scikit-learn is not imported; it is that of train_test_split."""
    dataset, original = load("digits", None), load_digits()
    split = train_test_split(range(1797), test_size=0.2, random_state=0, stratify=original.target)
    for half, rows in zip((dataset.train, dataset.test), split, strict=True):
        images = np.rint(original.images[rows] * 255 / 16).astype(np.uint8)
        assert torch.equal(half.images, torch.from_numpy(images).unsqueeze(1))
        assert torch.equal(half.labels, torch.from_numpy(original.target[rows]))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(SlotkitError, match=r"and it isn't there: pip install scikit-learn\."):
        load("digits", None)
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    with pytest.raises(SlotkitError, match="This scikit-learn has no digits at "):
        load("digits", None)


def test_the_test_fifth_is_stratified_and_fixed() -> None:
    first, second = load("digits", None), load("digits", None)
    assert (len(first.train), len(first.test)) == (1437, 360)
    share = first.test.labels.bincount() / (first.train.labels.bincount() + first.test.labels.bincount())
    assert (share - 0.2).abs().max() < 0.005  # one image of a class is 1/174 = 0.0057
    assert torch.equal(first.test.images, second.test.images)
    # Pinned: another test set would make old accuracies incomparable.
    assert first.test.labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_the_registry_has_the_mean_and_std_of_the_training_images() -> None:
    images = load("digits", None).train.images / 255
    source = find("digits")
    assert source.mean == (round(float(images.mean()), 4),)
    assert source.std == (round(float(images.std()), 4),)


def test_digits_come_in_another_size() -> None:
    small, large = load("digits", None), load("digits", None, size=16)
    assert large.size == (16, 16)
    assert torch.equal(large.train.labels, small.train.labels)
    # Means over pixels survive stretching, up to rounding and the smear at the border.
    means = [dataset.train.images.double().mean((1, 2, 3)) for dataset in (small, large)]
    assert (means[0] - means[1]).abs().max() < 2


def test_a_damaged_file_of_scikit_learn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(b"no gzip")
    monkeypatch.setattr("slotkit.data.digits._file", lambda: path)
    with pytest.raises(SlotkitError) as error:
        load("digits", None)
    assert str(error.value) == (
        f"{path} is damaged: Not a gzipped file (b'no'). Install scikit-learn anew: pip install "
        "--force-reinstall scikit-learn."
    )
