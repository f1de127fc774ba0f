"""The idx files of MNIST and its relatives, checked before torchvision reads them.

Format (yann.lecun.com/exdb/mnist): a big-endian magic number, whose last byte is the number of dimensions
and whose third is the type (8: unsigned byte); one big-endian uint32 a dimension; then the values.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from slotkit.data.files import damaged, naming
from slotkit.data.images import ImageSet, first_stray_label


def check(path: Path, dimensions: int, remedy: str) -> None:
    """Raise SlotkitError, naming `path`, unless its header is that of `dimensions` dimensions of unsigned
    bytes and announces the length that the file has. `remedy` is the clause that says how to replace it."""
    header_size = 4 + 4 * dimensions
    with naming(path), path.open("rb") as file:
        header = file.read(header_size)
        length = path.stat().st_size
    if len(header) < header_size:
        raise damaged(path, f"it has {length} bytes, fewer than its header of {header_size}", remedy)
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    expected = 0x800 + dimensions
    if magic != expected:
        raise damaged(path, f"it starts with the number {magic:#010x} instead of {expected:#010x}", remedy)
    announced = header_size + math.prod(shape)
    if length != announced:
        raise damaged(path, f"its header announces {announced} bytes, but it has {length}", remedy)


def read(images: Path, labels: Path, classes: int, remedy: str) -> ImageSet:
    """Read one half from files that passed `check`; images get shape (n, 1, height, width).

    Raises SlotkitError if the two files differ in length or a label is not in [0, classes).
    """
    with naming(images):
        pixels: Tensor = read_image_file(str(images))
    with naming(labels):
        targets: Tensor = read_label_file(str(labels))
    if len(pixels) != len(targets):
        raise damaged(labels, f"it has {len(targets)} labels for {len(pixels)} images", remedy)
    row = first_stray_label(targets, classes)
    if row is not None:
        fault = f"label {int(targets[row])} at position {row} is not in 0 to {classes - 1}"
        raise damaged(labels, fault, remedy)
    return ImageSet(pixels.unsqueeze(1), targets)
