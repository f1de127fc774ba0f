"""Tensors of K numbers a connection, as checkpoints hold them: what can't be remade from the seed.

SGD leaves scores and momentum near c * S + A * W (S initial scores, W options; c one number a tensor, A one
a connection), and Adam's moments and steps are near A * W, A * W^2 or A * sign(W). `encode` keeps c, A and
the residual, losslessly: how many floats lie between each number and its prediction. Most are few.

* prediction: c * S + A * B in float64, each operation rounded by itself; 0 where that is no normal, finite
  number of the tensor's dtype; then rounded to float32, and from there to a dtype of 16 bits. B is W, W * W,
  sign(W), or nothing. A is float32, or float64 in a float64 tensor. S and W are rounded to the tensor's
  dtype first, as the dense form does.
* residual: difference of the floats' bits as integers in the order of the floats (a negative float's bits
  but the sign are inverted), modulo 2^bits; 0, -1, 1, -2, ... are then stored as 0, 1, 2, 3, ...
* stream: connections in row-major order, in parts of max(1, 2^18 // K) connections. Of each part all lowest
  bytes, then all second ones, and so on, are one zlib stream; `lengths` are the streams' bytes.

Nothing read here takes more memory than deflate can compress, 1032 times what is stored: that is checked
before the first stream is opened.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from slotkit.machine import SlotMachine
from slotkit.reel import Reel, ReelSettings
from slotkit.runs import residuals_cpu as cpu
from slotkit.runs.schema import Count, Finite, Positive, Told

PART = 1 << 18  # numbers
SAMPLE = 1 << 13  # numbers that choose the prediction
LARGEST_RATIO = 1032  # of deflate: 258 bytes in 2 bits
OWN_BYTES = 1024  # of a coded tensor in the header, at most

# The integers that have a float's bits.
INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in INTEGERS}
# B, and its number in the compiled loops.
BASES = {None: cpu.NOTHING, "options": cpu.OPTIONS, "squares": cpu.SQUARES, "signs": cpu.SIGNS}


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
    """What stands for a tensor in a checkpoint: `slopes` (A), `lengths` and `data` name entries of it."""

    reel: CodedReel
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    c: Finite
    basis: Literal["options", "squares", "signs"] | None
    slopes: str | None
    lengths: str
    data: str


class Rows(NamedTuple):
    """Options and initial scores, float32 (n, K), with the values that they have in the dtype of a tensor."""

    options: Tensor
    scores: Tensor

    @classmethod
    def of(cls, reel: Reel, connections: Tensor, dtype: torch.dtype) -> Rows:
        return cls(
            *(row if dtype == torch.float64 else row.to(dtype).float() for row in reel.rows(connections))
        )


@dataclass(frozen=True)
class Prediction:
    """c and B."""

    c: float
    basis: str | None

    def slopes(self, rows: Rows, values: Tensor) -> Tensor | None:
        """A (n,), by least squares; None if there is no B."""
        if self.basis is None:
            return None
        exact = _exact(values.dtype)
        given = values.to(exact).numpy()
        fitted = cpu.fit(given, rows.options.numpy(), rows.scores.numpy(), self.c, BASES[self.basis])
        return _usable(torch.from_numpy(fitted), exact).to(exact)

    def of(self, rows: Rows, slopes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The predicted numbers (n, K)."""
        limits, out = torch.finfo(dtype), torch.empty_like(rows.scores, dtype=_exact(dtype))
        given = np.empty(0) if slopes is None else slopes.double().numpy()
        loop = rows.options.numpy(), rows.scores.numpy(), self.c, given, BASES[self.basis]
        cpu.predict(*loop, limits.tiny, limits.max, out.numpy())
        return out.to(dtype)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def with_reels(state: Mapping[str, Any], machine: SlotMachine | None) -> dict[str, Any]:
    """A `SlotMachine.state_dict` whose K-sized tensors say their reels: a checkpoint can code them then."""
    if machine is None or "scores" not in state:
        return dict(state)
    return {**state, "scores": {name: _near(x, machine.reels[name]) for name, x in state["scores"].items()}}


def optimizer_state(optimizer: Optimizer, machine: SlotMachine | None) -> dict[str, Any]:
    """The state_dict of an optimizer of the machine, whose K-sized tensors say their reels, too."""
    told = optimizer.state_dict()
    if machine is None or machine.form.name != "dense":
        return told
    pairs = zip(machine.form.parameters(), machine.reels.values(), strict=True)
    reels = {id(scores): reel for scores, reel in pairs}
    stepped = [reels.get(id(p)) for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {name: _near(value, reel) for name, value in told["state"].get(number, {}).items()}
        for number, reel in enumerate(stepped)
        if reel is not None and number in told["state"]
    }
    return told | {"state": {**told["state"], **moments}}


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
        made = Rows.of(reel, torch.arange(part.start, part.stop), given.dtype)
        slopes = best.slopes(made, given)
        stream = _pack(given, best.of(made, slopes, given.dtype))
        data += stream
        lengths.append(len(stream))
        fitted += [] if slopes is None else [slopes]
    tensors = {
        f"{entry}:lengths": torch.tensor(lengths, dtype=torch.int64),
        f"{entry}:data": torch.frombuffer(data, dtype=torch.uint8),
    }
    if fitted:
        tensors[f"{entry}:slopes"] = torch.cat(fitted)
    if sum(tensor.nbytes for tensor in tensors.values()) + OWN_BYTES > values.nbytes:
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
        slopes = tensors[coded.slopes or ""]
        if slopes.dtype != _exact(dtype) or slopes.shape != (math.prod(reel.shape),):
            raise ValueError(f"{coded.data} has not one slope a connection")
    values = torch.empty(math.prod(reel.shape), reel.k, dtype=dtype)
    octets, end = memoryview(data.numpy()), 0  # type: ignore[arg-type]
    for part, length in zip(_parts(reel), lengths.tolist(), strict=True):
        stream, end = octets[end : end + length], end + length
        made = Rows.of(reel, torch.arange(part.start, part.stop), dtype)
        predicted = best.of(made, None if slopes is None else slopes[part], dtype)
        _unpack(stream, predicted, values[part], coded.data)
    return values.reshape(*reel.shape, reel.k)


def _best_prediction(reel: Reel, rows: Tensor) -> Prediction | None:
    """What packs a sample of evenly spread connections smallest; None if nothing is worth it."""
    n = len(rows)
    count = min(n, max(1, SAMPLE // reel.k))
    connections = torch.arange(count) * n // count
    given = rows[connections.to(rows.device)].cpu()
    made = Rows.of(reel, connections, given.dtype)

    def size(candidate: Prediction) -> int:
        slopes = candidate.slopes(made, given)
        packed = len(_pack(given, candidate.of(made, slopes, given.dtype)))
        return packed + (0 if slopes is None else slopes.nbytes)

    best = min(_candidates(made.options.double(), made.scores.double(), given.double()), key=size)
    return best if size(best) < given.nbytes else None


def _candidates(options: Tensor, scores: Tensor, values: Tensor) -> Iterator[Prediction]:
    values = _usable(values, torch.float32)
    yield Prediction(0.0, None)
    # Scores that never moved, with weight decay or without: most, where only selected options move.
    ratios = (values / scores)[scores != 0]
    if len(ratios):
        yield Prediction(ratios.median().item(), None)
    for name, along in (
        ("options", options),
        ("squares", options.square()),
        ("signs", options.sign()),
    ):
        yield Prediction(0.0, name)
        # Least squares for c and all A at once: what is left of S when A takes its share.
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


def _pack(values: Tensor, predicted: Tensor) -> bytes:
    planes = np.empty((values.element_size(), values.numel()), np.uint8)
    cpu.to_planes(_bits(values), _bits(predicted), planes)
    # Runs of zeros and skewed bytes are all there is: a search for other repetitions finds nothing.
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(planes.data) + packer.flush()


def _unpack(stream: memoryview, predicted: Tensor, values: Tensor, name: str) -> None:
    """Into `values` (n, K)."""
    opened = zlib.decompressobj()
    octets = opened.decompress(stream, values.nbytes)
    if len(octets) != values.nbytes or not opened.eof or opened.unused_data:
        raise ValueError(f"{name} has a part of another size than it says")
    planes = np.frombuffer(octets, np.uint8).reshape(values.element_size(), -1)
    cpu.from_planes(planes, _bits(predicted), _bits(values))


def _bits(values: Tensor) -> npt.NDArray[np.signedinteger[Any]]:
    bits: npt.NDArray[np.signedinteger[Any]] = values.view(INTEGERS[values.dtype]).numpy().reshape(-1)
    return bits


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
