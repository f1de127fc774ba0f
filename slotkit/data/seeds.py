"""From a run's seed and a place in the run to a random generator: no draw depends on earlier draws."""

from __future__ import annotations

import hashlib
import operator

import torch


def subseed(purpose: str, *numbers: int) -> int:
    """Hash `(purpose, *numbers)` to an integer in [0, 2**64).

    The same arguments give the same integer on every machine and in every process. `purpose` keeps the
    streams of different uses apart, such as `"order"` and `"augment"` of one epoch. The hash is BLAKE2b
    (RFC 7693) of the text of the tuple.
    """
    text = repr((purpose, *(operator.index(number) for number in numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A fresh CPU generator for `(purpose, *numbers)`.

    It lives on the CPU whatever the device of the data, so that every device sees the same draws.
    """
    # torch's CPU engine (mt19937) looks at the low 32 bits of its seed only: two of 65,536 streams are
    # equal with probability 0.4. For shuffles and flips that is harmless.
    return torch.Generator().manual_seed(subseed(purpose, *numbers))
