"""Small folders of pictures that a network can learn in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(
    place: Path, train: int, test: int, classes: int = 2, shape: tuple[int, ...] = (8, 8, 3)
) -> Path:
    """`place` for imagefolder:, with so many pictures of each class: dark but for the row of the class."""
    random = np.random.default_rng(0)
    for half, n in (("train", train), ("test", test)):
        for name in map(str, range(classes)):
            folder = place / half / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 128, shape, dtype=np.uint8)
                pixels[2 * int(name)] = 255
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return place
