"""The norms that networks can be built with."""

from __future__ import annotations

from torch import nn

from slotkit.errors import SlotkitError

NORMS = ("affine", "plain", "none")


def check_norm(name: str) -> None:
    """Raise SlotkitError for a name that is none of NORMS."""
    if name not in NORMS:
        raise SlotkitError(f"There is no batch_norm {name!r}. Choose {', '.join(NORMS)}.")


def norm(name: str, channels: int, images: bool = True) -> nn.Module:
    """ "affine" (with weight and bias), "plain" (statistics only) or "none" of it.

    `images`: for (n, channels, height, width), else for (n, channels).
    """
    if name == "none":
        return nn.Identity()
    layer = nn.BatchNorm2d if images else nn.BatchNorm1d
    return layer(channels, affine=name == "affine")
