"""VGG-C and VGG-D for CIFAR, as research on sparse training has them: 13 convolutions, 3 dense layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from slotkit.errors import SlotkitError
from slotkit.models.norms import check_norm, norm

# Channels and kernel of each convolution, block by block; a pool ends every block.
BLOCKS = {
    "d": (
        ((64, 3), (64, 3)),
        ((128, 3), (128, 3)),
        ((256, 3), (256, 3), (256, 3)),
        ((512, 3), (512, 3), (512, 3)),
        ((512, 3), (512, 3), (512, 3)),
    ),
    "c": (
        ((64, 3), (64, 3)),
        ((128, 3), (128, 3)),
        ((256, 3), (256, 3), (256, 1)),
        ((512, 3), (512, 3), (512, 1)),
        ((512, 3), (512, 3), (512, 1)),
    ),
}
HIDDEN = 512


def vgg(
    image: tuple[int, int, int],
    classes: int,
    variant: str,
    width: float = 1.0,
    batch_norm: str = "affine",
    bias: bool = False,
) -> nn.Sequential:
    """Convolution, norm, ReLU in five blocks with a max-pool each; then twice dense, ReLU, norm; then dense.

    Every convolution has padding 1, those of 1 x 1 too: in VGG-C they make the image larger by 2. The output
    is logits; the source's log-softmax belongs to its loss.

    Args:
        variant: "c" or "d".
        width: share of the channels and hidden units, for small experiments; 1 in every source.
        batch_norm: "affine" (as in the source), "plain" (statistics only) or "none".
    """
    check_norm(batch_norm)
    channels, height, wide = image
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    number = 1
    for block, convolutions in enumerate(BLOCKS[variant], start=1):
        for full, kernel in convolutions:
            out = narrowed(full, width)
            layers[f"conv{number}"] = nn.Conv2d(channels, out, kernel, padding=1, bias=bias)
            layers[f"norm{number}"] = norm(batch_norm, out)
            layers[f"relu{number}"] = nn.ReLU()
            channels, number = out, number + 1
            height, wide = height + 3 - kernel, wide + 3 - kernel
        layers[f"pool{block}"] = nn.MaxPool2d(2)
        height, wide = height // 2, wide // 2
    if min(height, wide) < 1:
        raise SlotkitError(
            f"Images of {image[1]} x {image[2]} pixels are too small for vgg-{variant}: nothing is left of "
            "them after five pools. Use larger images (data.size=32 resizes them)."
        )
    layers["flatten"] = nn.Flatten()
    inputs = channels * height * wide
    hidden = narrowed(HIDDEN, width)
    for index in (1, 2):
        layers[f"fc{index}"] = nn.Linear(inputs, hidden, bias=bias)
        layers[f"fc_relu{index}"] = nn.ReLU()
        layers[f"fc_norm{index}"] = norm(batch_norm, hidden, images=False)
        inputs = hidden
    layers["fc3"] = nn.Linear(inputs, classes, bias=bias)
    return nn.Sequential(layers)


def narrowed(channels: int, width: float) -> int:
    """That share of the channels, one at least. Raises SlotkitError for a share that is none."""
    if not 0 < width <= 1:
        raise SlotkitError(f"width is {width}. Give the share of the channels, above 0 and at most 1.")
    return max(1, round(channels * width))
