"""Checks an init object when it is given, before it can produce wrong weights.

A reel recomputes options and initial scores a few at a time: those of the connections that flip, or one
option of each when a network is read. An init that makes other bits then than for a whole tensor is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.inits import Fans, Init, init_name
from slotkit.philox import WORD, symmetric_uniform, unit_uniform

# Large enough for vector instructions, which may round a number differently from scalar ones.
SHAPE = (8, 5)

KIND = "Return a float32 tensor with one value for each uniform number, in the same shape."
EXACT = (
    "A value may depend on its own uniform number and the fans only, to the last bit, because options are "
    "recomputed a few at a time."
)


def check_init(init: Init, fans: Fans) -> None:
    """Raise SlotkitError if options or scores are of a wrong kind, or depend on more than they may.

    The state of torch's generators stays as it is, whatever the init draws.
    """
    # Words from the whole range, and both of its ends, which are rare.
    words = torch.arange(SHAPE[0] * SHAPE[1], device="cpu") * 0x9E3779B1 & WORD
    words[0], words[1] = 0, WORD
    with torch.no_grad(), _generators_kept():
        _Trial(init, "options", fans).check(symmetric_uniform(words))
        _Trial(init, "scores", fans).check(unit_uniform(words))


@dataclass(frozen=True)
class _Trial:
    init: Init
    what: str  # the method
    fans: Fans

    def check(self, uniform: Tensor) -> None:
        """Check the values for uniform numbers (n,)."""
        indices = torch.arange(len(uniform), device="cpu").reshape(SHAPE)
        whole = self.values(uniform, [indices])
        for how, parts in _ways(indices):
            again = self.values(uniform, parts)
            wrong = (whole.view(torch.int32) != again.view(torch.int32)).nonzero().flatten()
            if len(wrong) and how == "the second time":
                raise self.refusal(
                    f"come out otherwise {how}. {EXACT} Draw no numbers in it, and keep nothing from call to "
                    "call."
                )
            if len(wrong):
                number, before, after = (_text(values[wrong[0]]) for values in (uniform, whole, again))
                raise self.refusal(
                    f"come out otherwise {how}: {after} instead of {before} for the uniform number {number}. "
                    f"{EXACT} Take constants instead of sums, norms, places or sizes of the tensor, and "
                    "functions that round one number as they round many: products, sums and roots do, "
                    "torch.pow and torch.sigmoid do not."
                )

    def values(self, uniform: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """The value of each uniform number (n,), handed over in parts: tensors of their indices."""
        found = torch.empty_like(uniform)
        for part in parts:
            found[part] = self.values_of(uniform[part])
        wrong = torch.isfinite(found).logical_not().nonzero().flatten()
        if len(wrong):
            raise self.refusal(
                f"are {_text(found[wrong[0]])} for the uniform number {_text(uniform[wrong[0]])}. Return "
                "finite values for all numbers between the ends: -1 and 1 for options, 0 and 1 for scores."
            )
        return found

    def values_of(self, uniform: Tensor) -> Tensor:
        shape = tuple(uniform.shape)
        try:
            found: object = getattr(self.init, self.what)(uniform, self.fans)
        except Exception as fault:
            raise self.refusal(
                f"raise {type(fault).__name__} for uniform numbers of shape {shape} ({fault}). They get "
                f"tensors of any shape. {KIND}"
            ) from fault
        if not isinstance(found, Tensor):
            raise self.refusal(f"are of type {type(found).__name__}. {KIND}")
        if found.dtype != torch.float32:
            raise self.refusal(f"are {found.dtype}. {KIND}")
        if found.shape != shape:
            raise self.refusal(
                f"have shape {tuple(found.shape)} for uniform numbers of shape {shape}. {KIND}"
            )
        return found

    def refusal(self, text: str) -> SlotkitError:
        return SlotkitError(f"The init {init_name(self.init)} can't be used: its {self.what} {text}")


def _ways(indices: Tensor) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """The same numbers, handed over in other ways."""
    flat = indices.flatten()
    yield "the second time", [indices]
    yield "in another shape", [flat]
    yield "one by one", torch.split(flat, 1)
    yield "with fewer rows", torch.split(indices, 3)
    yield "with other numbers beside them", torch.split(flat, 3)
    yield "in another order", [indices.flip(0, 1)]


def _text(number: Tensor) -> str:
    return f"{number.item():.9g}"


@contextmanager
def _generators_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        yield
