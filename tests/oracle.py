"""The slow loop: what slotkit must compute, written so that it is obviously right.

Nothing here imports slotkit. The first half is docs/reel-spec-1.md in Python integers and floats, one
connection at a time. The second half is a layer as a list of wires (connection, input, output) and a
slot machine trained with one plain float for each score.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
Index = tuple[int, ...]

# ---------------------------------------------------------------------------------------------------
# Reel spec 1, from its text.

TWO_32 = 2**32


def philox_block(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox-4x32-10 in Python integers, as in Figure 2 of Salmon et al. (2011)."""
    left0, right0, left1, right1 = counter
    key0, key1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * left0, TWO_32)
        high1, low1 = divmod(0xCD9E8D57 * left1, TWO_32)
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) % TWO_32, (key1 + 0xBB67AE85) % TWO_32
    return left0, right0, left1, right1


def key_words(*parts: str | int) -> tuple[int, int]:
    """The two key words of a tuple of names and integers."""
    message = b"".join(struct.pack("<I", len(str(part).encode())) + str(part).encode() for part in parts)
    first, second = struct.unpack("<II", hashlib.blake2b(message, digest_size=8).digest())
    return first, second


def float32(number: float) -> float:
    """The nearest float32, ties to even."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return float(rounded)


def float32_hex(number: float) -> str:
    """The bits of a float32 as eight hexadecimal digits, the most significant first."""
    return struct.pack(">f", number).hex()


@dataclass(frozen=True)
class SpecReel:
    """One weight tensor's reels, each number computed alone."""

    name: str
    shape: tuple[int, ...]
    k: int
    seed: int = 0
    init: str = "glorot-uniform"
    sharing: str = "none"
    symmetric: bool = False
    channel_dim: int = 0

    def options(self, connection: Index) -> list[float]:
        bound = self._bound()
        if not self.symmetric:
            return [float32(self._signed(connection, number) * bound) for number in range(self.k)]
        pairs = [float32(self._signed(connection, number) * bound) for number in range(self.k // 2)]
        return [value for pair in pairs for value in (pair, -pair)]

    def scores(self, connection: Index) -> list[float]:
        linear = len(self.shape) == 2
        factor = float32(0.1) if self.init == "glorot-deviation" and linear else 1.0
        owner = self._place(connection)
        uniforms = [self._unit(self._word(owner, number, stream=1)) for number in range(self.k)]
        return [float32(float32(uniform * self._bound()) * factor) for uniform in uniforms]

    def draw(self, stream: int, number: int, connection: Index) -> float:
        block, word = divmod(self._place(connection), 4)
        return self._unit(self._words(block, number, stream)[word])

    def connections(self) -> Iterator[Index]:
        return itertools.product(*(range(size) for size in self.shape))

    def _place(self, connection: Index) -> int:
        place = 0
        for index, size in zip(connection, self.shape, strict=True):
            place = place * size + index
        return place

    def _bound(self) -> float:
        kernel = math.prod(self.shape[2:])
        numerator = {"glorot-deviation": 2, "glorot-uniform": 6}[self.init]
        return float32(math.sqrt(numerator / (self.shape[0] * kernel + self.shape[1] * kernel)))

    def _signed(self, connection: Index, number: int) -> float:
        owner = {"none": self._place(connection), "channel": connection[self.channel_dim]}
        bits = self._word(owner.get(self.sharing, 0), number, stream=0)
        return (2 * (bits // 2**8) + 1 - 2**24) / 2**24

    def _unit(self, bits: int) -> float:
        return (2 * (bits // 2**9) + 1) / 2**24

    def _word(self, owner: int, number: int, stream: int) -> int:
        return self._words(owner, number // 4, stream)[number % 4]

    def _words(self, owner: int, third: int, stream: int) -> tuple[int, int, int, int]:
        shared = self.sharing == "network" and stream == 0
        key = key_words("slotkit reel spec", 1, self.seed, "" if shared else self.name)
        return philox_block((owner % TWO_32, owner // TWO_32, third, stream), key)


# ---------------------------------------------------------------------------------------------------
# Choosing one of K, in plain floats.


def argmax(scores: Sequence[float]) -> int:
    """The first index of the highest score."""
    best = 0
    for k in range(len(scores)):
        if scores[k] > scores[best]:
            best = k
    return best


def softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def score_gradients(options: Array, selected: npt.NDArray[np.int64], gradient: Array, update: str) -> Array:
    """ds_k = g W_k (Eq. 9) for every connection and k; update="selected" leaves all but k* at zero."""
    result = np.zeros_like(options)
    for connection in np.ndindex(*gradient.shape):
        for k in range(options.shape[-1]):
            if update == "all" or k == selected[connection]:
                result[(*connection, k)] = gradient[connection] * options[(*connection, k)]
    return result


# ---------------------------------------------------------------------------------------------------
# A layer as wires: output[o] = sum over wires (c, i, o) of weight[c] * input[i], plus a bias.


@dataclass(frozen=True)
class Geometry:
    """Linear (no kernel), convolution or transposed convolution in any number of dimensions."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        first, second = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        return (first, second // self.groups, *self.kernel)

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        reach = [self.dilation * (kernel - 1) + 1 for kernel in self.kernel]
        if self.transposed:
            return tuple(
                (n - 1) * self.stride + r - 2 * self.padding for n, r in zip(size, reach, strict=True)
            )
        return tuple((n + 2 * self.padding - r) // self.stride + 1 for n, r in zip(size, reach, strict=True))

    def wires(self, size: tuple[int, ...]) -> Iterator[tuple[Index, Index, Index]]:
        """(connection, input unit, output unit) for an input of (inputs, *size)."""
        sizes_out = self.output_size(size)
        # A convolution slides over its output; a transposed one slides over its input.
        slides, reached = (size, sizes_out) if self.transposed else (sizes_out, size)
        for group in range(self.groups):
            per_in, per_out = self.inputs // self.groups, self.outputs // self.groups
            for i, o in itertools.product(range(per_in), range(per_out)):
                channel_in, channel_out = group * per_in + i, group * per_out + o
                for tap in itertools.product(*(range(kernel) for kernel in self.kernel)):
                    pair = (channel_in, o) if self.transposed else (channel_out, i)
                    for here in itertools.product(*(range(n) for n in slides)):
                        there = tuple(
                            h * self.stride + t * self.dilation - self.padding
                            for h, t in zip(here, tap, strict=True)
                        )
                        if all(0 <= t < n for t, n in zip(there, reached, strict=True)):
                            at_input, at_output = (here, there) if self.transposed else (there, here)
                            yield (*pair, *tap), (channel_in, *at_input), (channel_out, *at_output)

    def forward(self, weight: Array, x: Array, bias: Array | None = None) -> Array:
        """x (n, inputs, *size) -> (n, outputs, *output size)."""
        size = x.shape[2:]
        y = np.zeros((len(x), self.outputs, *self.output_size(size)))
        for connection, source, target in self.wires(size):
            for sample in range(len(x)):
                y[(sample, *target)] += weight[connection] * x[(sample, *source)]
        if bias is not None:
            for channel in range(self.outputs):
                y[:, channel] += bias[channel]
        return y

    def backward(self, weight: Array, x: Array, dy: Array) -> tuple[Array, Array]:
        """The gradients of weight and input, for the gradient dy of the output."""
        dw, dx = np.zeros_like(weight), np.zeros_like(x)
        for connection, source, target in self.wires(x.shape[2:]):
            for sample in range(len(x)):
                dw[connection] += dy[(sample, *target)] * x[(sample, *source)]
                dx[(sample, *source)] += dy[(sample, *target)] * weight[connection]
        return dw, dx


# ---------------------------------------------------------------------------------------------------
# A slot machine of several layers under SGD, one plain float a score.


@dataclass
class LiteralReels:
    """The K options, K scores and K velocities of every connection of one tensor."""

    options: Array  # (*shape, K)
    scores: Array  # (*shape, K)
    velocity: Array | None = field(default=None)  # None before the first step, as in torch.optim.SGD

    def selected(self) -> npt.NDArray[np.int64]:
        shape = self.scores.shape[:-1]
        chosen = np.zeros(shape, dtype=np.int64)
        for connection in np.ndindex(*shape):
            chosen[connection] = argmax([float(score) for score in self.scores[connection]])
        return chosen

    def weight(self) -> Array:
        chosen = self.selected()
        weight = np.zeros(chosen.shape)
        for connection in np.ndindex(*chosen.shape):
            weight[connection] = self.options[connection][chosen[connection]]
        return weight

    def sgd_step(
        self,
        gradient: Array,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        update: str = "all",
    ) -> None:
        """One step of every score: the formulas of torch.optim.SGD around ds_k = g W_k."""
        chosen = self.selected()
        first = self.velocity is None
        if self.velocity is None:
            self.velocity = np.zeros_like(self.scores)
        for connection in np.ndindex(*gradient.shape):
            for k in range(self.options.shape[-1]):
                place = (*connection, k)
                moved = update == "all" or k == chosen[connection]
                d = float(gradient[connection] * self.options[place]) if moved else 0.0
                d += weight_decay * float(self.scores[place])
                if momentum:
                    v = d if first else momentum * float(self.velocity[place]) + (1 - dampening) * d
                    self.velocity[place] = v
                    d = d + momentum * v if nesterov else v
                self.scores[place] -= lr * d


@dataclass
class LiteralNetwork:
    """Layers with ReLU between them; the units are flattened where a dense layer follows a convolution."""

    layers: list[tuple[Geometry, LiteralReels]]

    def gradients(self, x: Array, loss_gradient: Callable[[Array], Array]) -> list[Array]:
        """dL/dw of every layer, for loss_gradient(output) = dL/d(output)."""
        inputs, outputs = [], []
        for geometry, reels in self.layers:
            if not geometry.kernel:
                x = x.reshape(len(x), -1)
            inputs.append(x)
            outputs.append(geometry.forward(reels.weight(), x))
            x = np.maximum(outputs[-1], 0.0)
        dy = loss_gradient(outputs[-1])
        result: list[Array] = []
        for depth in reversed(range(len(self.layers))):
            geometry, reels = self.layers[depth]
            dw, dx = geometry.backward(reels.weight(), inputs[depth], dy)
            result.insert(0, dw)
            if depth:
                dy = dx.reshape(outputs[depth - 1].shape) * (outputs[depth - 1] > 0)
        return result


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))


def distinct_sets(options: Tensor) -> int:
    """How many different sets of K options there are."""
    return len(options.reshape(-1, options.shape[-1]).unique(dim=0))  # type: ignore[no-untyped-call]
