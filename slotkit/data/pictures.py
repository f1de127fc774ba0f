"""From encoded pictures (PNG, JPEG, ...) to uint8 tensors, and to another size. Pillow does the work."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
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

# What undoes each EXIF orientation, as in PIL.ImageOps.exif_transpose; that one also writes the tags anew,
# and fails if others of them are damaged.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Picture = NDArray[np.uint8]  # (height, width) if grey, (height, width, 3) if colour


def decode_halves(
    train: Iterable[tuple[str, bytes]],
    test: Iterable[tuple[str, bytes]],
    size: int | None,
    turn: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decode the training and the test pictures, each given as (where it lies, encoded bytes).

    With `turn`, each picture is turned as its EXIF orientation says. With a `size` in pixels, each is
    stretched to size x size. Returns two uint8 tensors of shape (n, channels, height, width): 3 channels
    (RGB) if any picture has colour, else 1. Transparency is dropped. Of an animation or a file of several
    pages the first picture counts; of 16 bits a colour channel the upper 8. Both halves need at least one
    picture.

    Raises SlotkitError for the first picture that does not decode, is grey with more than 8 bits, or
    differs in size from the first picture when no `size` is given.
    """
    halves: tuple[list[Picture], list[Picture]] = ([], [])
    first: tuple[str, Picture] | None = None
    for pictures, named in zip(halves, (train, test), strict=True):
        for where, encoded in named:
            picture = decode(encoded, where, size, turn)
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


def decode(encoded: bytes, where: str, size: int | None, turn: bool = False) -> Picture:
    """Decode one picture, grey or RGB as it is stored; turned as its EXIF orientation says with `turn`, and
    stretched to size x size pixels if `size` is given.

    Raises SlotkitError, naming `where`, for bytes that do not decode or grey pixels of more than 8 bits.
    """
    try:
        with _opened(encoded) as picture:
            stored = picture.mode
            if stored in GREY_MODES | COLOUR_MODES:
                pixels = picture.convert("L" if stored in GREY_MODES else "RGB")
                if turn and (way := TURNS.get(orientation(picture))) is not None:
                    pixels = pixels.transpose(way)
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


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of an open picture: 1 is upright; 1 too without the tag, or if it is damaged."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever Pillow's parsers raise on damaged tags: the picture itself is whole
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def is_turned(encoded: bytes) -> bool:
    """Whether a picture has an EXIF orientation other than upright; False if it can't be read."""
    if not any(mark in encoded for mark in (b"Exif", b"eXIf", b"tiff:Orientation")):
        return False
    try:
        with _opened(encoded) as picture:
            return orientation(picture) != 1
    except DECODING_ERRORS:
        return False


@contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """The picture, without Pillow's warnings of tags that are damaged; that of a decompression bomb stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(BytesIO(encoded)) as picture:
            yield picture


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
