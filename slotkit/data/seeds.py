"""From a run's seed and a place in the run to a random generator, whatever was random before."""

from __future__ import annotations

import operator

import torch

from slotkit.philox import key_of


def subseed(purpose: str, *numbers: int) -> int:
    """Hash `(purpose, *numbers)` to an integer in [0, 2**64).

    The same arguments give the same integer on every machine and in every process. `purpose` keeps the
    streams of different uses apart, such as `"order"` and `"augment"` of one epoch. The hash is that of
    `slotkit.philox.key_of`.
    """
    low, high = key_of(purpose, *(operator.index(number) for number in numbers))
    return low | high << 32


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A fresh CPU generator for `(purpose, *numbers)`.

    It lives on the CPU whatever the device of the data, so that every device sees the same numbers.
    """
    # torch's CPU engine (mt19937) looks at the low 32 bits of its seed only: two of 65,536 streams are
    # equal with probability 0.4. For shuffles and flips that is harmless.
    return torch.Generator().manual_seed(subseed(purpose, *numbers))
