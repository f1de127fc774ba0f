"""The 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from slotkit.data.images import Dataset, ImageSet
from slotkit.data.source import Source
from slotkit.errors import SlotkitError

TRAINING_IMAGES = 1437


def load(source: Source, place: Path, size: int | None) -> Dataset:
    """1,437 training and 360 test images of shape (1, 8, 8), or (1, size, size); `place` is not read.

    scikit-learn's values 0 to 16 become round(v * 255 / 16). The set has no official test half: a fifth of
    it, stratified by class, is picked with a fixed seed, so every run and every seed has the same test set.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test half.

    Raises SlotkitError if the file is not where scikit-learn has it.
    """
    # Only the file is read: importing scikit-learn takes longer than the training that most begin with.
    path = _file()
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except (OSError, EOFError, ValueError, zlib.error) as fault:
        raise SlotkitError(
            f"{path} is damaged: {fault}. Install scikit-learn anew: pip install --force-reinstall "
            "scikit-learn."
        ) from fault
    pixels, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1]
    images = torch.from_numpy(np.rint(pixels * 255 / 16).astype(np.uint8))
    if size is not None:
        from slotkit.data.pictures import resize  # late, because it imports Pillow

        images = resize(images, size)
    everything = ImageSet(images, torch.from_numpy(labels.copy()))
    # train_test_split(range(1797), test_size=0.2, random_state=0, stratify=labels), training images first.
    order = torch.from_numpy(np.load(Path(__file__).with_name("digits_split.npy")).astype(np.int64))
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    return Dataset(source.name, everything.subset(train), everything.subset(test), tuple("0123456789"))


def _file() -> Path:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise SlotkitError("The digits come with scikit-learn, and it isn't there: pip install scikit-learn.")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise SlotkitError(
            f"This scikit-learn has no digits at {path}. Install another one: pip install scikit-learn."
        )
    return path
