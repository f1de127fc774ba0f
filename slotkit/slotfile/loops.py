"""Symbols of a slot file <-> weights, compiled for the CPU: one connection after the other, whatever K is.

`slotkit.slotfile.symbols` says what a symbol is and calls these loops. They hold no lock of Python's, so
that threads run several parts of a tensor at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slotkit.latent.engines.cpu_choose import (
    Singles,
    fill_options,
    fill_scores,
    symmetric_uniform,
    words_of,
)
from slotkit.latent.engines.cpu_compiling import compiled, tell_of
from slotkit.reel import OPTIONS, ReelSpec

Numbers = npt.NDArray[np.int32]

tell_of(__name__, "the loops of slot files")


@compiled
def option_at(owner: int, option: int, spec: ReelSpec) -> np.float32:
    """One option of an owner, made alone."""
    number = option // 2 if spec.symmetric else option
    x = words_of(owner, number // 4, OPTIONS, spec)
    word = (x[0], x[1], x[2], x[3])[number % 4]
    value = np.float32(symmetric_uniform(word) * spec.bound)
    return np.float32(-value) if spec.symmetric and option % 2 == 1 else value


@compiled
def first_pick(i: int, spec: ReelSpec, s: Singles) -> int:
    """The option that the initial scores of connection i pick, the lowest of equals. s (K + 7,) is
    overwritten.
    """
    fill_scores(i, spec, s)
    # No score is negative, so their bits are ordered as they are; integers compile to vector instructions.
    bits = s.view(np.int32)[: spec.k]
    top = bits[0]
    for j in range(len(bits)):
        top = max(top, bits[j])
    best = 0
    while bits[best] != top:
        best += 1
    return best


@compiled
def code(values: Singles, first: int, spec: ReelSpec, symbols: Numbers, indices: Numbers) -> int:
    """Weights of the connections from `first` on -> the number of the option that each is, the lowest of
    equal ones, and its symbol. No symbols are made if `symbols` is (0,).

    Returns how many of the weights are none of their options.
    """
    w, s = np.empty(spec.k + 7, np.float32), np.empty(spec.k + 7, np.float32)
    options = w[: spec.k]
    filled, strangers = -1, 0
    for i in range(len(values)):
        owner, value = ((first + i) // spec.stride) % spec.owners, values[i]
        if len(symbols):
            pick = first_pick(first + i, spec, s)
            if option_at(owner, pick, spec) == value:
                symbols[i], indices[i] = spec.k, pick
                continue
        if owner != filled:
            fill_options(owner, spec, w)
            filled = owner
        smaller = 0
        for j in range(len(options)):
            smaller += options[j] < value
        index = 0
        while index < len(options) and options[index] != value:
            index += 1
        if index == len(options):
            strangers += 1
        if len(symbols):
            symbols[i] = smaller
        indices[i] = index
    return strangers


@compiled
def of_rank(rank: int, options: Singles, bound: float, counts: Numbers, few: Singles) -> float:
    """The value with that rank among options in (-bound, bound), 0 for the smallest.

    They are spread evenly, so one of K equal bins has a few of them, and only these are sorted. `counts` and
    `few` (K,) are overwritten.
    """
    k = len(options)
    scale, middle = np.float32(0.5 * k) / bound, np.float32(0.5 * k)
    counts[:] = 0
    for j in range(k):
        counts[min(k - 1, int(options[j] * scale + middle))] += 1
    place, below = 0, 0
    while below + counts[place] <= rank:
        below += counts[place]
        place += 1
    found = 0
    for j in range(k):
        value = options[j]
        if min(k - 1, int(value * scale + middle)) == place:
            at = found
            while at > 0 and few[at - 1] > value:
                few[at] = few[at - 1]
                at -= 1
            few[at] = value
            found += 1
    return float(few[rank - below])


@compiled
def decode(symbols: Numbers, first: int, spec: ReelSpec, values: Singles) -> None:
    """Symbols of the connections from `first` on -> their weights."""
    w, s = np.empty(spec.k + 7, np.float32), np.empty(spec.k + 7, np.float32)
    options, few, counts = w[: spec.k], np.empty(spec.k, np.float32), np.empty(spec.k, np.int32)
    filled = -1
    for i in range(len(symbols)):
        owner = ((first + i) // spec.stride) % spec.owners
        if symbols[i] == spec.k:
            values[i] = option_at(owner, first_pick(first + i, spec, s), spec)
            continue
        if owner != filled:
            fill_options(owner, spec, w)
            filled = owner
        values[i] = of_rank(symbols[i], options, spec.bound, counts, few)
