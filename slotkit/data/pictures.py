"""From encoded pictures (PNG, JPEG, ...) to uint8 tensors, and to another size. Pillow does the work."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from slotkit.errors import SlotkitError

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "RGB", "RGBA", "CMYK", "YCbCr"})

# What Pillow's decoders raise on damaged bytes; it has no common base class for them.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

Picture = NDArray[np.uint8]  # (height, width) if grey, (height, width, 3) if colour


def decode_halves(
    train: Iterable[tuple[str, bytes]], test: Iterable[tuple[str, bytes]], size: int | None
) -> tuple[Tensor, Tensor]:
    """Decode the training and the test pictures, each given as (where it lies, encoded bytes).

    With a `size` in pixels, each picture is stretched to size x size. Returns two uint8 tensors of shape
    (n, channels, height, width): 3 channels (RGB) if any picture has colour, else 1. Transparency is
    dropped. Both halves need at least one picture.

    Raises SlotkitError for the first picture that does not decode, has more than 8 bits a channel, or
    differs in size from the first picture when no `size` is given.
    """
    halves: tuple[list[Picture], list[Picture]] = ([], [])
    first: tuple[str, Picture] | None = None
    for pictures, named in zip(halves, (train, test), strict=True):
        for where, encoded in named:
            picture = decode(encoded, where, size)
            first = first or (where, picture)
            if picture.shape[:2] != first[1].shape[:2]:
                raise SlotkitError(
                    f"{where} is {_pixels(picture)}, but {first[0]} is {_pixels(first[1])}; all images of a "
                    "dataset need one size. Give a size to resize every image while loading."
                )
            pictures.append(picture)
    # Not the first picture's mode: a photograph set that happens to begin with a grey one stays in colour.
    colour = any(picture.ndim == 3 for pictures in halves for picture in pictures)
    return _stack(halves[0], colour), _stack(halves[1], colour)


def decode(encoded: bytes, where: str, size: int | None) -> Picture:
    """Decode one picture, grey or RGB as it is stored, stretched to size x size pixels if `size` is given.

    Raises SlotkitError, naming `where`, for bytes that do not decode or pixels of more than 8 bits.
    """
    try:
        with Image.open(BytesIO(encoded)) as picture:
            stored = picture.mode
            if stored in GREY_MODES | COLOUR_MODES:
                pixels = picture.convert("L" if stored in GREY_MODES else "RGB")
                return np.asarray(pixels if size is None else _resize(pixels, size))
    except UnidentifiedImageError as error:
        # Its own text shows the address of a buffer.
        raise _undecodable(where, "no known image format") from error
    except DECODING_ERRORS as error:
        raise _undecodable(where, str(error)) from error
    # convert() would clip 16-bit pixels to 255 without a word.
    raise SlotkitError(
        f"{where} has pixels of Pillow's mode {stored!r}; accepted are 8-bit grey and colour images. "
        "Convert it first."
    )


def resize(images: Tensor, size: int) -> Tensor:
    """Stretch images, uint8 (n, channels, height, width) with 1 or 3 channels, to size x size pixels.

    The same antialiased bilinear filter as for pictures from files, so the bits do not depend on the CPU's
    vector units, as those of torchvision's uint8 kernel may.
    """
    pictures = images.squeeze(1).numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    resized = [np.asarray(_resize(Image.fromarray(np.ascontiguousarray(p)), size)) for p in pictures]
    return _stack(resized, colour=images.shape[1] == 3)


def _resize(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def _stack(pictures: list[Picture], colour: bool) -> Tensor:
    if not colour:
        return torch.from_numpy(np.stack(pictures)).unsqueeze(1)
    coloured = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]
    return torch.from_numpy(np.stack(coloured)).permute(0, 3, 1, 2).contiguous()


def _undecodable(where: str, fault: str) -> SlotkitError:
    return SlotkitError(f"{where} does not decode as an image: {fault}. Replace or remove it.")


def _pixels(picture: Picture) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]} pixels"
