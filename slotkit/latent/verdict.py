"""Whether steps may go on, kept on the device: the host need not wait to know it.

A gradient that is not finite stops the steps: that step and those after it move nothing. The host is told
when it asks for a state, and without asking in one of the next steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slotkit.errors import DivergedError


class Verdict:
    """The verdict on the steps of an optimizer on one device.

    Attributes:
        skip: float32 (1,), of the present step: where it is not 0, nothing moves.
    """

    def __init__(self, steps: int, device: torch.device, names: Sequence[str]) -> None:
        """`steps` were fine before. `names`: words like "The gradient of NAME is" for all that may be looked
        at; a step may look at some of it.
        """
        self._names = list(names)
        self._nothing = torch.zeros((), dtype=torch.float64, device=device)
        # Kernels read float32, whatever torch.set_default_dtype says.
        self.skip = torch.zeros(1, dtype=torch.float32, device=device)
        self._stopped = torch.zeros_like(self.skip)
        self._fine = torch.full((1,), float(steps), dtype=torch.float64, device=device)
        self._bad = torch.zeros(len(names), dtype=torch.bool, device=device)
        self._told: Tensor | None = None
        self._event: torch.cuda.Event | None = None

    def look(self, tensors: Mapping[int, Tensor], overflow: Tensor | None) -> None:
        """At the tensors of a step, by the place of their names: they have to be finite.

        With `overflow` a GradScaler has looked at the gradients: where that is not 0 this step alone is
        skipped.
        """
        if tensors:
            largest = torch._foreach_norm(list(tensors.values()), math.inf)
            found = dict(zip(tensors, (each.double() for each in largest), strict=True))
            every = torch.stack([found.get(place, self._nothing) for place in range(len(self._names))])
            bad = every.isfinite().logical_not()
            self._bad.copy_(torch.where(self._stopped != 0, self._bad, bad))
            self._stopped.copy_(torch.maximum(self._stopped, bad.any()))
        self._fine.add_(1 - self._stopped)
        skip = self._stopped if overflow is None else torch.maximum(self._stopped, overflow.reshape(1))
        self.skip.copy_(skip)

    def forget(self) -> None:
        """The steps go on from another state: what was wrong before it is past."""
        self._stopped.zero_()
        self._event = None

    def hear(self) -> None:
        """Raise DivergedError if the device has said so by now. Doesn't wait for it."""
        if self.skip.device.type != "cuda":
            self._raise(self._stopped)
            return
        if torch.cuda.is_current_stream_capturing():
            return
        if self._event is None or self._told is None:
            told = torch.zeros(1, dtype=torch.float32, device="cpu")
            self._told, self._event = told.pin_memory(), torch.cuda.Event()  # type: ignore[no-untyped-call]
        elif self._event.query():  # type: ignore[no-untyped-call]
            self._raise(self._told)
        else:
            return
        self._told.copy_(self._stopped, non_blocking=True)
        self._event.record(torch.cuda.current_stream(self.skip.device))

    def ask(self) -> None:
        """The same, and wait for the device."""
        self._raise(self._stopped.cpu())

    def _raise(self, stopped: Tensor) -> None:
        """`stopped` is in the memory of the host."""
        if not stopped.numpy()[0]:
            return
        which, step = self._bad.tolist().index(True), int(self._fine) + 1
        self._stopped.zero_()
        self._event = None
        raise DivergedError(not_finite(self._names[which], step))


def not_finite(what: str, step: int) -> str:
    """The words for it: `what` is as in `Verdict.look`."""
    return (
        f"{what} not finite in step {step} of this optimizer. Nothing was changed. Lower the "
        "learning rate, clip gradients, or use a GradScaler with half precision."
    )
