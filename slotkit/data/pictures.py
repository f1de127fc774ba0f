"""From encoded pictures (PNG, JPEG, ...) to uint8 tensors, and to another size. Pillow does the work."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from slotkit.data.augmentations import PictureChange
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

# Of a picture whose shorter side is stretched to 256 pixels, the middle 224 x 224: torchvision's usual way.
CROP_SHARE = 224 / 256


class Head(NamedTuple):
    """What a picture says of itself before its pixels: (height, width) as it is read, whether it is grey, and
    whether it has an EXIF orientation."""

    size: tuple[int, int]
    grey: bool
    turned: bool


def decode_halves(
    train: Iterable[tuple[str, bytes]],
    test: Iterable[tuple[str, bytes]],
    size: int | None,
    turn: bool = False,
    crop: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decode the training and the test pictures, each given as (where it lies, encoded bytes).

    With `turn`, each picture is turned as its EXIF orientation says. With a `size` in pixels, each is made
    size x size by `fit`. Returns two uint8 tensors of shape (n, channels, height, width): 3 channels
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
            picture = decode(encoded, where, size, turn, crop)
            first = first or (where, picture)
            if picture.shape[:2] != first[1].shape[:2]:
                raise two_sizes((where, picture.shape[:2]), (first[0], first[1].shape[:2]))
            pictures.append(picture)
    # Not the first picture's mode: a photograph set that happens to begin with a grey one stays in colour.
    colour = any(picture.ndim == 3 for pictures in halves for picture in pictures)
    return _stack(halves[0], colour), _stack(halves[1], colour)


def decode(encoded: bytes, where: str, size: int | None, turn: bool = False, crop: bool = False) -> Picture:
    """Decode one picture, grey or RGB as it is stored; turned as its EXIF orientation says with `turn`, and
    made size x size pixels if `size` is given, as by `fit`.

    Raises SlotkitError, naming `where`, for bytes that do not decode or grey pixels of more than 8 bits.
    """
    return decode_changed(encoded, where, lambda picture: fit(picture, size, crop), turn)


def decode_changed(
    encoded: bytes, where: str, change: Callable[[Image.Image], Image.Image], turn: bool = False
) -> Picture:
    """The same, and what `change` makes of the picture (Pillow's modes L and RGB)."""
    try:
        with _opened(BytesIO(encoded)) as picture:
            grey = _is_grey(picture, where)
            pixels = picture.convert("L" if grey else "RGB")
            if turn and (way := TURNS.get(orientation(picture))) is not None:
                pixels = pixels.transpose(way)
    except SlotkitError:
        raise
    except DECODING_ERRORS as error:
        raise _undecodable(where, error) from error
    return np.asarray(change(pixels))


def head(file: BinaryIO, where: str, turn: bool = False) -> Head:
    """Look at the beginning of a picture only. Raises SlotkitError, naming `where`, as `decode` does."""
    try:
        with _opened(file) as picture:
            grey = _is_grey(picture, where)
            # Pillow would decode a whole PNG to look for an orientation behind its pixels.
            tagged = picture.format in ("JPEG", "MPO", "TIFF", "WEBP") or "exif" in picture.info
            way = _way_left(picture) if tagged or turn else 1
            width, height = picture.size
    except SlotkitError:
        raise
    except DECODING_ERRORS as error:
        raise _undecodable(where, error) from error
    on_its_side = turn and way >= 5
    return Head((width, height) if on_its_side else (height, width), grey, way != 1)


def two_sizes(one: tuple[str, tuple[int, ...]], first: tuple[str, tuple[int, ...]]) -> SlotkitError:
    """The error for two pictures, each given as (where it lies, (height, width))."""
    return SlotkitError(
        f"{one[0]} is {_pixels(one[1])}, but {first[0]} is {_pixels(first[1])}; all images of a "
        "dataset need one size. Give one to resize every image while loading: --set data.size=32."
    )


def fit(picture: Image.Image, size: int | None, crop: bool) -> Image.Image:
    """Make a picture size x size pixels: stretched, or with `crop` the middle of it, in its proportions. As
    it is without a `size`."""
    if size is None:
        return picture
    if not crop:
        return _resize(picture, size)
    shorter = min(picture.size)
    edge = round(size / CROP_SHARE)
    width, height = (max(size, round(side * edge / shorter)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    stretched = picture.resize((width, height), Image.Resampling.BILINEAR)
    return stretched.crop((left, top, left + size, top + size))


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of an open picture: 1 is upright; 1 too without the tag, or if it is damaged."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever Pillow's parsers raise on damaged tags: the picture itself is whole
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def is_turned(encoded: bytes) -> bool:
    """Whether a picture has an EXIF orientation other than upright; False if it can't be read."""
    # WEBP has the third.
    if not any(mark in encoded for mark in (b"Exif", b"eXIf", b"EXIF", b"tiff:Orientation")):
        return False
    try:
        with _opened(BytesIO(encoded)) as picture:
            return _way_left(picture) != 1
    except DECODING_ERRORS:
        return False


def _way_left(picture: Image.Image) -> int:
    """The EXIF orientation that an open picture has once it is read: Pillow itself turns a TIFF then."""
    way = orientation(picture)
    if way != 1 and picture.format == "TIFF":
        picture.load()
        way = orientation(picture)
    return way


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """The picture, without Pillow's warnings of tags that are damaged; that of a decompression bomb stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(file) as picture:
            yield picture


def _is_grey(picture: Image.Image, where: str) -> bool:
    if picture.mode not in GREY_MODES | COLOUR_MODES:
        # convert() would clip 16-bit pixels to 255 without a word.
        raise SlotkitError(
            f"{where} has pixels of Pillow's mode {picture.mode!r}; accepted are 8-bit grey and colour "
            "images. Convert it first."
        )
    return picture.mode in GREY_MODES


def resize(images: Tensor, size: int) -> Tensor:
    """Stretch images, uint8 (n, channels, height, width) with 1 or 3 channels, to size x size pixels.

    The same antialiased bilinear filter as for pictures from files, so the bits do not depend on the CPU's
    vector units, as those of torchvision's uint8 kernel may.
    """
    pictures = images.squeeze(1).numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    resized = [np.asarray(_resize(Image.fromarray(np.ascontiguousarray(p)), size)) for p in pictures]
    return _stack(resized, colour=images.shape[1] == 3)


def changed(images: Tensor, indices: Sequence[int], change: PictureChange) -> Tensor:
    """Images, uint8 (n, channels, height, width) on the CPU with 1 or 3 channels, each changed as the picture
    of its index."""
    pictures = images.squeeze(1).numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    made = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(picture)), index))
        for picture, index in zip(pictures, indices, strict=True)
    ]
    return _stack(made, colour=images.shape[1] == 3)


def _resize(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def _stack(pictures: list[Picture], colour: bool) -> Tensor:
    """One tensor, filled picture by picture. The list is empty then: each is given up when it is copied."""
    images = np.empty((len(pictures), 3 if colour else 1, *pictures[0].shape[:2]), np.uint8)
    pictures.reverse()
    for image in images:
        picture = pictures.pop()
        image[:] = picture.transpose(2, 0, 1) if picture.ndim == 3 else picture
    return torch.from_numpy(images)


def _undecodable(where: str, error: Exception) -> SlotkitError:
    # The text of Pillow's UnidentifiedImageError shows the address of a buffer.
    fault = "no known image format" if isinstance(error, UnidentifiedImageError) else str(error)
    return SlotkitError(f"{where} does not decode as an image: {fault}. Replace or remove it.")


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} pixels"
