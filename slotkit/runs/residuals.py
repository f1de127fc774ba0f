"""Tensors of K numbers a connection, as checkpoints hold them: what can't be remade from the seed.

SGD leaves scores and momentum near c * S + A * W (S initial scores, W options; c one number a tensor, A one a
connection), and Adam's moments and steps are near A * W, A * W^2 or A * sign(W). `encode` keeps c, A and the
residual, losslessly: how many floats lie between each number and its prediction, most of which are few.

* prediction: c * S + A * B in float64, each operation rounded by itself, then rounded to float32 and from there
  to a 16-bit tensor's dtype; 0 where that is no normal, finite number. B is W, W * W, sign(W), or nothing. A is float32, or float64 in a
  float64 tensor. S and W are rounded to the tensor's dtype first, as the dense form does.
* residual: difference of the floats' bits as integers in the order of the floats (a negative float's bits but
  the sign are inverted), modulo 2^bits; 0, -1, 1, -2, ... are then stored as 0, 1, 2, 3, ...
* stream: connections in row-major order, in parts of max(1, 2^18 // K) connections. Of each part all
  lowest bytes, then all second ones, and so on, are one zlib stream; `lengths` are the streams' bytes.

Nothing stored here grows the memory of the reader by more than deflate can compress, 1032 times: that is
checked before the first stream is opened.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from slotkit.machine import SlotMachine
from slotkit.reel import Reel, ReelSettings
from slotkit.runs.schema import Count, Finite, Positive, Told

PART = 1 << 18  # numbers
SAMPLE = 1 << 15  # numbers that choose the prediction
LARGEST_RATIO = 1032  # of deflate: 258 bytes in 2 bits

# The integers that have a float's bits, and those that numpy reads from a file.
INTEGERS = {
    torch.float16: (torch.int16, "<i2"),
    torch.bfloat16: (torch.int16, "<i2"),
    torch.float32: (torch.int32, "<i4"),
    torch.float64: (torch.int64, "<i8"),
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in INTEGERS}
BASES = {
    "options": lambda options: options,
    "squares": lambda options: options * options,
    "signs": lambda options: options.sign(),
}


@dataclass(frozen=True)
class Near:
    """A tensor (*reel.shape, K) of a state that a checkpoint may hold by its residual."""

    tensor: Tensor
    reel: Reel


class CodedReel(Told):
    """A reel, with the settings of `ReelSettings.to_dict`."""

    name: str
    shape: list[Positive] = Field(min_length=2, max_length=8)
    channel_dim: Count
    settings: dict[str, Any]

    def reel(self) -> Reel:
        return ReelSettings.from_dict(self.settings).reel(self.name, self.shape, self.channel_dim)


class Coded(Told):
    """What stands for a tensor in a checkpoint; `slopes` (A), `lengths` and `data` name entries of the file."""

    reel: CodedReel
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    c: Finite
    basis: Literal["options", "squares", "signs"] | None
    slopes: str | None
    lengths: str
    data: str


@dataclass(frozen=True)
class Prediction:
    """c and B of `encode`."""

    c: float
    basis: str | None

    def of(self, rows: tuple[Tensor, Tensor] | None, slopes: Tensor | None, like: Tensor) -> Tensor:
        """The predicted numbers (n, K), in the dtype of `like` (n, K); rows as of `remade`."""
        if rows is None:
            return torch.zeros_like(like)
        options, scores = rows
        values = scores * self.c
        if self.basis is not None and slopes is not None:
            values += BASES[self.basis](options) * slopes.double()
        values = _usable(values, like.dtype)
        return (values if like.dtype == torch.float64 else values.float()).to(like.dtype)

    def slopes(self, rows: tuple[Tensor, Tensor] | None, values: Tensor) -> Tensor | None:
        """A (n, 1), by least squares."""
        if rows is None or self.basis is None:
            return None
        basis = BASES[self.basis](rows[0])
        rest = values.double() - rows[1] * self.c
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        fitted = (rest * basis).sum(-1, keepdim=True) / (basis * basis).sum(-1, keepdim=True)
        return _usable(fitted, dtype).to(dtype)

    @property
    def is_zero(self) -> bool:
        return self.c == 0 and self.basis is None


def with_reels(state: Mapping[str, Any], machine: SlotMachine | None) -> dict[str, Any]:
    """A `SlotMachine.state_dict` whose K-sized tensors say their reels, so that a checkpoint can code them."""
    if machine is None or "scores" not in state:
        return dict(state)
    return {**state, "scores": {name: _near(x, machine.reels[name]) for name, x in state["scores"].items()}}


def moments_with_reels(
    moments: Mapping[int, Any], machine: SlotMachine | None, optimizer: Optimizer
) -> dict[int, Any]:
    """The same of the "state" in the state_dict of an optimizer of the machine."""
    if machine is None or machine.form.name != "dense":
        return dict(moments)
    reels = {
        id(scores): reel
        for scores, reel in zip(machine.form.parameters(), machine.reels.values(), strict=True)
    }
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        number: {name: _near(value, reels.get(id(stepped[number]))) for name, value in kept.items()}
        for number, kept in moments.items()
    }


def _near(value: Any, reel: Reel | None) -> Any:
    # An init of one's own has no name that would make it again.
    if not isinstance(value, Tensor) or reel is None or not isinstance(reel.init, str):
        return value
    is_large = value.shape == (*reel.shape, reel.k) and value.dtype in INTEGERS and value.numel()
    return Near(value, reel) if is_large else value


def encode(near: Near, entry: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """(what stands for the tensor, the entries of the file); None if that is not smaller than the tensor."""
    reel, values = near.reel, near.tensor.detach()
    rows = values.reshape(-1, reel.k)
    best = _best_prediction(reel, rows)
    if best is None:
        return None
    data, lengths, fitted = bytearray(), [], []
    for part in _parts(reel):
        given = rows[part].cpu()
        made = None if best.is_zero else remade(reel, torch.arange(part.start, part.stop), given.dtype)
        slopes = best.slopes(made, given)
        stream = _pack(_residual(given, best.of(made, slopes, given)))
        data += stream
        lengths.append(len(stream))
        fitted += [] if slopes is None else [slopes.reshape(-1)]
    tensors = {
        f"{entry}:lengths": torch.tensor(lengths, dtype=torch.int64),
        f"{entry}:data": torch.frombuffer(data, dtype=torch.uint8),
    }
    if fitted:
        tensors[f"{entry}:slopes"] = torch.cat(fitted)
    if sum(tensor.nbytes for tensor in tensors.values()) >= values.nbytes:
        return None
    told = CodedReel(
        name=reel.name,
        shape=list(reel.shape),
        channel_dim=reel.channel_dim,
        settings=reel.settings.to_dict(),
    )
    coded = Coded(
        reel=told,
        dtype=str(values.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        c=best.c,
        basis=best.basis,  # type: ignore[arg-type]
        slopes=f"{entry}:slopes" if fitted else None,
        lengths=f"{entry}:lengths",
        data=f"{entry}:data",
    )
    return coded.model_dump(), tensors


def decode(told: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor, bit for bit. Raises an error of any type for something that `encode` has not made."""
    coded = Coded.model_validate(told)
    reel, dtype = coded.reel.reel(), DTYPES[coded.dtype]
    lengths, data = tensors[coded.lengths], tensors[coded.data]
    _check_sizes(reel, dtype, lengths, data)
    best, slopes = Prediction(coded.c, coded.basis), None
    if coded.basis is not None:
        slopes = tensors[coded.slopes or ""].reshape(-1, 1)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        if slopes.dtype != exact or len(slopes) != math.prod(reel.shape):
            raise ValueError(f"{coded.data} has not one slope a connection")
    values = torch.empty(math.prod(reel.shape), reel.k, dtype=dtype)
    octets, end = memoryview(data.numpy()), 0  # type: ignore[arg-type]
    for part, length in zip(_parts(reel), lengths.tolist(), strict=True):
        stream, end = octets[end : end + length], end + length
        made = None if best.is_zero else remade(reel, torch.arange(part.start, part.stop), dtype)
        here = values[part]
        predicted = best.of(made, None if slopes is None else slopes[part], here)
        here.copy_(_restored(_unpack(stream, here, coded.data), predicted))
    return values.reshape(*reel.shape, reel.k)


def remade(reel: Reel, connections: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Options and initial scores, float64 (n, K), with the values that the dense form has in that dtype."""
    options, scores = reel.rows(connections)
    return options.to(dtype).double(), scores.to(dtype).double()


def _best_prediction(reel: Reel, rows: Tensor) -> Prediction | None:
    """What packs a sample of evenly spread connections smallest; None if nothing is worth it."""
    n = len(rows)
    connections = torch.linspace(0, n - 1, min(n, max(1, SAMPLE // reel.k))).long().unique()
    given = rows[connections.to(rows.device)].cpu()
    made = remade(reel, connections, given.dtype)
    number = 8 if given.dtype == torch.float64 else 4

    def size(candidate: Prediction) -> int:
        slopes = candidate.slopes(made, given)
        packed = len(_pack(_residual(given, candidate.of(made, slopes, given))))
        return packed + (0 if slopes is None else number * len(slopes))

    best = min(_candidates(*made, given.double()), key=size)
    return best if size(best) < given.nbytes else None


def _candidates(options: Tensor, scores: Tensor, values: Tensor) -> Iterator[Prediction]:
    values = _usable(values, torch.float32)
    yield Prediction(0.0, None)
    # Scores that never moved, with weight decay or without: most, where only selected options move.
    ratios = (values / scores)[scores != 0]
    if len(ratios):
        yield Prediction(ratios.median().item(), None)
    for name, basis in BASES.items():
        yield Prediction(0.0, name)
        # Least squares for c and all A at once: what is left of S when A takes its share.
        along = basis(options)
        aside = scores - along * (
            (scores * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)
        )
        c = (values * aside).sum() / aside.square().sum()
        if math.isfinite(c):
            yield Prediction(c.item(), name)


def _usable(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 with 0 for all that is no normal number of a dtype: processors differ in NaNs and denormals."""
    limits, size = torch.finfo(dtype), values.abs()
    return torch.where((size >= limits.tiny) & (size <= limits.max), values, 0.0)


def _ordered(bits: Tensor) -> Tensor:
    """Bits of floats to integers in the order of the floats, and back."""
    return bits ^ ((bits >> _top(bits)) & torch.iinfo(bits.dtype).max)


def _top(bits: Tensor) -> int:
    return 8 * bits.element_size() - 1


def _residual(values: Tensor, predicted: Tensor) -> Tensor:
    kind = INTEGERS[values.dtype][0]
    apart = _ordered(values.contiguous().view(kind)) - _ordered(predicted.view(kind))
    return (apart << 1) ^ (apart >> _top(apart))


def _restored(residual: Tensor, predicted: Tensor) -> Tensor:
    kind = INTEGERS[predicted.dtype][0]
    apart = ((residual >> 1) & torch.iinfo(kind).max) ^ -(residual & 1)
    return _ordered(apart + _ordered(predicted.view(kind))).view(predicted.dtype)


def _pack(residual: Tensor) -> bytes:
    size = residual.element_size()
    octets = residual.numpy().astype(f"<i{size}", copy=False).reshape(-1).view(np.uint8)
    # Runs of zeros and skewed bytes are all there is: a search for other repetitions finds nothing.
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(octets.reshape(-1, size).T.tobytes()) + packer.flush()


def _unpack(stream: memoryview, like: Tensor, name: str) -> Tensor:
    """The residual of a part, in the shape of `like`."""
    kind, plain = INTEGERS[like.dtype]
    opened = zlib.decompressobj()
    octets = opened.decompress(stream, like.nbytes)
    if len(octets) != like.nbytes or not opened.eof or opened.unused_data:
        raise ValueError(f"{name} has a part of another size than it says")
    planes = np.frombuffer(octets, np.uint8).reshape(like.element_size(), -1)
    integers = np.ascontiguousarray(planes.T).view(plain).reshape(like.shape)
    return torch.from_numpy(integers.astype(plain[1:], copy=False)).to(kind)


def _rows_a_part(k: int) -> int:
    return max(1, PART // k)


def _parts(reel: Reel) -> Iterator[slice]:
    n, step = math.prod(reel.shape), _rows_a_part(reel.k)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _check_sizes(reel: Reel, dtype: torch.dtype, lengths: Tensor, data: Tensor) -> None:
    n, step = math.prod(reel.shape), _rows_a_part(reel.k)
    if lengths.dtype != torch.int64 or lengths.dim() != 1 or len(lengths) != -(-n // step):
        raise ValueError(f"{reel.name} has not the lengths of {n:,} connections' parts")
    if data.dtype != torch.uint8 or data.dim() != 1 or sum(lengths.tolist()) != len(data):
        raise ValueError(f"{reel.name} has other bytes than its parts' lengths")
    for part, length in zip(_parts(reel), lengths.tolist(), strict=True):
        if (part.stop - part.start) * reel.k * dtype.itemsize > LARGEST_RATIO * length:
            raise ValueError(f"{reel.name} has a part of {length} bytes, too few for its {reel.k} options")
