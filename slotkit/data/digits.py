"""The 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from slotkit.data.images import Dataset, ImageSet
from slotkit.data.pictures import resize
from slotkit.data.source import Source


def load(source: Source, place: Path, size: int | None) -> Dataset:
    """1,437 training and 360 test images of shape (1, 8, 8), or (1, size, size); `place` is not read.

    scikit-learn's values 0 to 16 become round(v * 255 / 16). The set has no official test half: a fifth of
    it, stratified by class, is picked with a fixed seed, so every run and every seed has the same test set.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test half.
    """
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8)).unsqueeze(1)
    images = images if size is None else resize(images, size)
    everything = ImageSet(images, torch.from_numpy(digits.target.astype(np.int64)))
    train, test = train_test_split(
        torch.arange(len(everything)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return Dataset(source.name, everything.subset(train), everything.subset(test), tuple("0123456789"))
