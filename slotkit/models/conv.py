"""CONV-2, CONV-4 and CONV-6: VGG-like networks for CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from slotkit.errors import SlotkitError

WIDTHS = (64, 128, 256)
HIDDEN = 256

# Padding of the six convolutions in the authors' code: none, but for the last block.
AUTHORS_PADDING = (0, 0, 0, 0, 1, 1)


def conv(
    image: tuple[int, int, int],
    classes: int,
    blocks: int,
    padding: str = "same",
    dropout: float = 0.5,
    dropout_at: str = "before",
    bias: bool = False,
) -> nn.Sequential:
    """`blocks` times (two 3x3 convolutions, max-pool 2), then dense layers 256, 256, classes; ReLU.

    Args:
        image: channels, height and width of the input.
        padding: "same" (1 everywhere: VGG and CENG501) or "authors" (0 in the first four
            convolutions, 1 in the last two: flattened sizes 12544, 3200, 1024 on 32 x 32).
        dropout: probability, in the first two dense layers.
        dropout_at: "before" those layers (authors) or "after" them (CENG501).
    """
    if padding not in ("same", "authors"):
        raise SlotkitError(f"There is no padding {padding!r}. Choose same or authors.")
    if dropout_at not in ("before", "after"):
        raise SlotkitError(f"There is no dropout_at {dropout_at!r}. Choose before or after.")
    paddings = AUTHORS_PADDING if padding == "authors" else (1,) * 6
    channels, height, width = image
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(2 * blocks):
        out, pad = WIDTHS[index // 2], paddings[index]
        layers[f"conv{index + 1}"] = nn.Conv2d(channels, out, 3, padding=pad, bias=bias)
        layers[f"relu{index + 1}"] = nn.ReLU()
        channels, height, width = out, height + 2 * pad - 2, width + 2 * pad - 2
        if index % 2:
            layers[f"pool{index // 2 + 1}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
    if height < 1 or width < 1:
        raise SlotkitError(
            f"Images of {image[1]} x {image[2]} pixels are too small for conv{2 * blocks} with "
            f"padding={padding!r}. "
            f"Use larger images (data.size=32 resizes them){' or padding=same' if padding != 'same' else ''}."
        )
    layers["flatten"] = nn.Flatten()
    width_in = channels * height * width
    for index, out in enumerate((HIDDEN, HIDDEN, classes), start=1):
        hidden = index < 3
        if hidden and dropout_at == "before":
            layers[f"dropout{index}"] = nn.Dropout(dropout)
        layers[f"fc{index}"] = nn.Linear(width_in, out, bias=bias)
        if hidden:
            layers[f"fc_relu{index}"] = nn.ReLU()
        if hidden and dropout_at == "after":
            layers[f"dropout{index}"] = nn.Dropout(dropout)
        width_in = out
    return nn.Sequential(layers)
