"""Images and their labels side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# In pixels. An image is drawn `factor` times as large, a whole number, so that its own pixels can be seen.
LEAST_TILE, WIDEST_SHEET = 96, 1400
MARGIN, GAP, LETTERS, TITLE_LETTERS = 16, 10, 13, 16
INK, PAPER, FRAME = (20, 20, 20), (255, 255, 255), (200, 200, 200)


def contact_sheet(images: Tensor, captions: Sequence[str], title: str) -> Image.Image:
    """A sheet of images, uint8 (n, channels, height, width) with 1 or 3 channels, a caption below each, of
    one line or more."""
    small, large = _font(LETTERS), _font(TITLE_LETTERS)
    height, width = images.shape[2:]
    factor = max(1, -(-LEAST_TILE // width))
    tile, tall = factor * width, factor * height
    most = max(1, (WIDEST_SHEET - 2 * MARGIN + GAP) // (tile + GAP))
    rows = -(-len(images) // most)
    columns = -(-len(images) // rows)  # as many in the last row as possible
    across = 2 * MARGIN + max(columns, min(4, len(images))) * (tile + GAP) - GAP
    heading = _wrapped(title, large, across - 2 * MARGIN)
    top = MARGIN + len(heading) * (TITLE_LETTERS + 6) + GAP
    lines = max(caption.count("\n") + 1 for caption in captions)
    row = tall + lines * (LETTERS + 4) + 4 + GAP
    sheet = Image.new("RGB", (across, top + rows * row - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(heading):
        draw.text((MARGIN, MARGIN + line * (TITLE_LETTERS + 6)), text, INK, large)
    for at, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, upper = MARGIN + at % columns * (tile + GAP), top + at // columns * row
        # A white image ends somewhere, too.
        draw.rectangle((left - 1, upper - 1, left + tile, upper + tall), outline=FRAME)
        sheet.paste(_picture(image).resize((tile, tall), Image.Resampling.NEAREST), (left, upper))
        for line, text in enumerate(caption.split("\n")):
            below = upper + tall + 3 + line * (LETTERS + 4)
            draw.text((left, below), _shortened(text, small, tile), INK, small)
    return sheet


def _picture(image: Tensor) -> Image.Image:
    pixels = image.cpu().expand(3, -1, -1).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    # Its letters are those of most languages that are written with an alphabet.
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shortened(line, font, width) for line in lines]
