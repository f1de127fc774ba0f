from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from slotkit.data import pictures
from slotkit.data.pictures import decode, decode_halves, head, is_turned, resize
from slotkit.errors import SlotkitError

Encode = Callable[..., bytes]
Pixels = Callable[..., NDArray[np.uint8]]


def test_colour_pictures_become_channels_first(pixels: Pixels, encode: Encode) -> None:
    picture = pixels(4, 5, 3)
    train, test = decode_halves([("a", encode(picture))] * 2, [("b", encode(picture))], None)
    assert (train.shape, test.shape) == ((2, 3, 4, 5), (1, 3, 4, 5))
    assert train.dtype == torch.uint8
    assert torch.equal(test[0], torch.from_numpy(picture).permute(2, 0, 1))


def test_grey_pictures_have_one_channel(pixels: Pixels, encode: Encode) -> None:
    picture = pixels(4, 5)
    train, test = decode_halves([("a", encode(picture))], [("b", encode(picture))], None)
    assert train.shape == test.shape == (1, 1, 4, 5)
    assert torch.equal(train[0, 0], torch.from_numpy(picture))


def test_one_colour_picture_anywhere_keeps_the_colour(pixels: Pixels, encode: Encode) -> None:
    grey, colour = pixels(4, 5), pixels(4, 5, 3)
    train, test = decode_halves([("a", encode(grey))], [("b", encode(grey)), ("c", encode(colour))], None)
    assert train.shape == (1, 3, 4, 5)
    assert torch.equal(train[0], torch.from_numpy(grey).expand(3, 4, 5))
    assert torch.equal(test[1], torch.from_numpy(colour).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_every_accepted_mode(mode: str, channels: int, pixels: Pixels) -> None:
    buffer = BytesIO()
    kind = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF"
    Image.fromarray(pixels(4, 5, 3)).convert("L" if mode == "LA" else "RGB").convert(mode).save(buffer, kind)
    picture = decode(buffer.getvalue(), "a", None)
    assert picture.dtype == np.uint8
    assert picture.shape == ((4, 5) if channels == 1 else (4, 5, 3))


def test_a_16_bit_picture_is_refused_rather_than_clipped(encode: Encode) -> None:
    deep = encode(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000)
    with pytest.raises(SlotkitError) as error:
        decode(deep, "deep.png", None)
    assert str(error.value) == (
        "deep.png has pixels of Pillow's mode 'I;16'; accepted are 8-bit grey and colour images. "
        "Convert it first."
    )


def test_the_first_odd_size_is_named(pixels: Pixels, encode: Encode) -> None:
    train = [("a.png", encode(pixels(4, 5))), ("b.png", encode(pixels(4, 5)))]
    test = [("c.png", encode(pixels(5, 4))), ("d.png", encode(pixels(6, 6)))]
    with pytest.raises(SlotkitError) as error:
        decode_halves(train, test, None)
    assert str(error.value) == (
        "c.png is 5 x 4 pixels, but a.png is 4 x 5 pixels; all images of a dataset need one size. "
        "Give one to resize every image while loading: --set data.size=32."
    )
    assert decode_halves(train, test, 3)[1].shape == (2, 1, 3, 3)


def test_files_and_tensors_are_resized_alike(pixels: Pixels, encode: Encode) -> None:
    for picture in (pixels(9, 7), pixels(9, 7, 3)):
        decoded, _ = decode_halves([("a", encode(picture))], [("b", encode(picture))], None)
        resized, _ = decode_halves([("a", encode(picture))], [("b", encode(picture))], 5)
        assert torch.equal(resize(decoded, 5), resized)


def test_shrinking_averages_every_pixel() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 64, 32)
    shrunk = resize(stripes, 4)  # without antialiasing, each result would be 0 or 255
    assert (shrunk.double() - 127.5).abs().max() < 8


def test_bytes_that_are_no_picture(encode: Encode, pixels: Pixels) -> None:
    with pytest.raises(SlotkitError) as error:
        decode(b"plain text", "a.png", None)
    assert str(error.value) == (
        "a.png does not decode as an image: no known image format. Replace or remove it."
    )
    whole = encode(pixels(32, 32, 3), "JPEG")
    with pytest.raises(SlotkitError, match=r"^a\.jpg does not decode as an image: image file is truncated"):
        decode(whole[: len(whole) // 2], "a.jpg", None)


@pytest.mark.filterwarnings("ignore")  # Pillow also warns of what is damaged
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF"]))
def test_damaged_bytes_decode_or_are_refused_in_a_sentence(data: st.DataObject, kind: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with suppress(SlotkitError):  # any other exception fails the test
        assert decode(bytes(content), "a", 4).shape[:2] == (4, 4)


def test_pictures_are_given_up_as_they_are_stacked() -> None:
    random = np.random.default_rng(0)
    grey, colour = (random.integers(0, 256, shape, np.uint8) for shape in ((3, 5), (3, 5, 3)))
    alive = [grey, colour]
    images = pictures._stack(alive, colour=True)
    assert not alive
    assert images.is_contiguous()
    assert torch.equal(images[0], torch.from_numpy(grey).expand(3, 3, 5))
    assert torch.equal(images[1], torch.from_numpy(colour).permute(2, 0, 1))
    # Never as much memory again as the pictures and their tensor: numpy tells Python what it allocates.
    many = [np.zeros((64, 64, 3), np.uint8) for _ in range(100)]
    tracemalloc.start()
    try:
        stacked = pictures._stack(many, colour=True)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * stacked.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_beginning_of_a_turned_picture_says_how_it_is_read(
    kind: str, turn: bool, pixels: Pixels, encode: Encode
) -> None:
    """Pillow turns a TIFF itself, whether that is wanted or not: nothing is left to be turned, or told."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    encoded = encode(pixels(4, 6, 3), kind, exif=exif)
    upright = turn or kind == "TIFF"
    found = head(BytesIO(encoded), "a", turn)
    assert found.size == decode(encoded, "a", None, turn).shape[:2] == ((6, 4) if upright else (4, 6))
    assert found.turned == is_turned(encoded) == (kind != "TIFF")
