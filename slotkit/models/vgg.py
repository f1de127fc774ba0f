"""VGG-19 for CIFAR: the layer configuration of timm's VGG-19 with the head the paper gives it."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.vgg import cfgs
from torch import nn

from slotkit.errors import SlotkitError


def vgg19(
    image: tuple[int, int, int], classes: int, batch_norm: str = "plain", bias: bool = False
) -> nn.Sequential:
    """Sixteen 3x3 convolutions in five blocks, average pool, one dense layer.

    timm's configuration ends every block with a max-pool; the last becomes an average pool over
    what is left of the image (2 x 2 on CIFAR, as in the authors' code), and the three dense layers
    for ImageNet become one.

    Args:
        batch_norm: "plain" (statistics only, no affine parameters, as the authors have it) or "none".
    """
    if batch_norm not in ("plain", "none"):
        raise SlotkitError(f"There is no batch_norm {batch_norm!r}. Choose plain or none.")
    channels, height, width = image
    if min(height, width) < 16:
        raise SlotkitError(
            f"Images of {height} x {width} pixels are too small for vgg19, which halves them four times and "
            f"averages what is left. Use images from 16 x 16 up (data.size=32 resizes them)."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    number = block = 1
    for item in cfgs["vgg19"][:-1]:
        if isinstance(item, str):
            layers[f"pool{block}"] = nn.MaxPool2d(2)
            block += 1
            continue
        layers[f"conv{number}"] = nn.Conv2d(channels, item, 3, padding=1, bias=bias)
        if batch_norm == "plain":
            layers[f"norm{number}"] = nn.BatchNorm2d(item, affine=False)
        layers[f"relu{number}"] = nn.ReLU()
        channels, number = item, number + 1
    layers[f"pool{block}"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes, bias=bias)
    return nn.Sequential(layers)
