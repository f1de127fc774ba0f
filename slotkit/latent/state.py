"""What training keeps beside one weight tensor: A, B, the intervals, and the line of its scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.line import Line, LineColumn, fit_line, interval, is_line, line_scores
from slotkit.reel import ROWS, Reel
from slotkit.selection import greedy, take

STATE = ("latent", "velocity", "lower", "upper")

# How far rounding in training may take scores from the line, as a share of the largest score.
ON_THE_LINE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class LatentState:
    """16 bytes a connection in float32: latent A, velocity B, lower and upper.

    All four are flat tensors in the row-major order of the weight's indices, whatever the memory layout of
    the weight: a reel belongs to a connection by its index. They are slices of a buffer that the tensors of
    a machine share (`pack`).

    Attributes:
        line_on_device: the numbers of the line (`slotkit.latent.line.LineColumn`) where an engine keeps them.
        tables: options (owners, K) and initial scores (n, K) if they are stored, else None.
        loads: how often other latents took the place of these: what flips then, no step names.
    """

    loads = 0  # of the class, for pickles of before

    latent: Tensor
    velocity: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, reel: Reel, device: torch.device, dtype: torch.dtype, stored: bool) -> None:
        self.reel = reel
        self.line_on_device: Tensor | None = None
        self.line = Line()
        self.tables = _all_rows(reel, device) if stored else None
        self.use_buffer(_zeros(math.prod(reel.shape), device, dtype))

    @property
    def line(self) -> Line:
        """c, e and the number of steps. Waits for the device if they are kept there; to change it, set it."""
        return self._line if self.line_on_device is None else Line.of_kept(self.line_on_device.tolist())

    @line.setter
    def line(self, line: Line) -> None:
        self._line = line
        if self.line_on_device is not None:
            self.line_on_device[: LineColumn.T] = torch.tensor(line.kept(), dtype=torch.float64)

    def keep_line(self, on_device: bool) -> None:
        """Let the device have the numbers of the line, or have them back."""
        if on_device == (
            self.line_on_device is not None and self.line_on_device.device == self.latent.device
        ):
            return
        line, before = self.line, self.line_on_device
        with torch.inference_mode(False):
            self.line_on_device = torch.zeros(LineColumn.SIZE, dtype=torch.float64, device=self.latent.device)
        if before is not None:
            self.line_on_device.copy_(before)
        if not on_device:
            self.line_on_device = None
        self.line = line

    def use_buffer(self, buffer: Tensor) -> None:
        """Take the four rows of a buffer (4, n) as the memory of this state, with their values."""
        # What is made in inference mode can't be changed outside of it.
        with torch.inference_mode(False):
            self.latent, self.velocity, self.lower, self.upper = buffer.unbind()

    def rows(self, connections: Tensor) -> tuple[Tensor, Tensor]:
        """Options and initial scores (m, K), float32, of connections (m,), stored or recomputed: the same
        bits.
        """
        if self.tables is None:
            return self.reel.rows(connections)
        options, scores = self.tables
        stride, count = self.reel.owner_rule
        return options[connections // stride % count], scores[connections]

    def parts(self) -> Iterator[Tensor]:
        """All connections, in parts whose options fit in memory together."""
        everything = torch.arange(len(self.latent), device=self.latent.device)
        yield from torch.split(everything, max(1, ROWS // self.reel.k))

    def scores_of(self, connections: Tensor) -> Tensor:
        """The scores (m, K), float64, of some connections (m,)."""
        return line_scores(*self.rows(connections), self.latent[connections], self.line.c)

    def scores(self) -> Tensor:
        """c * S_k + A * W_k, in the state's dtype, of shape (*shape, K)."""
        found = torch.cat([self.scores_of(part) for part in self.parts()])
        return found.to(self.latent.dtype).reshape(*self.reel.shape, self.reel.k)

    def selected_in(self, weight: Tensor, by: torch.dtype | None = None) -> Tensor:
        """Which options a weight (n,) holds: int64 (n,); among options of its value the best score. `by` is
        a dtype that its numbers had before its own one.
        """
        return torch.cat([self._holding(part, weight, *self.rows(part), by) for part in self.parts()])

    def _holding(
        self, part: Tensor, weight: Tensor, options: Tensor, initial: Tensor, by: torch.dtype | None = None
    ) -> Tensor:
        """`selected_in` for some connections (m,), whose options and initial scores are (m, K)."""
        scores = line_scores(options, initial, self.latent[part], self.line.c)
        inside = options.to(by or weight.dtype).to(weight.dtype) == weight[part].unsqueeze(-1)
        return greedy(torch.where(inside, scores, -math.inf))

    def options_at(self, selected: Tensor) -> Tensor:
        """The options (n,), float32, of indices (n,)."""
        return torch.cat([take(self.rows(part)[0], selected[part]) for part in self.parts()])

    def is_of(self, weight: Tensor, greedily: bool) -> bool:
        """Whether every number of a weight (n,) is one of its options.

        If the weight was chosen `greedily`, `lower` and `upper` must also be the interval of that option. A
        sampled weight has no interval.
        """
        for part in self.parts():
            options, initial = self.rows(part)
            selected = self._holding(part, weight, options, initial)
            if not torch.equal(take(options, selected).to(weight.dtype), weight[part]):
                return False
            if greedily:
                lower, upper = interval(options, initial, selected, self.line.sign)
                same_lower = torch.equal(lower.to(self.lower.dtype), self.lower[part])
                if not (same_lower and torch.equal(upper.to(self.upper.dtype), self.upper[part])):
                    return False
        return True

    def empty_intervals(self) -> None:
        """Make every interval empty: the next choice then looks at the options of every connection."""
        self.lower.fill_(math.inf)
        self.upper.fill_(-math.inf)

    def as_dict(self) -> dict[str, Any]:
        """The four tensors and the numbers of the line, by name."""
        return {name: getattr(self, name) for name in STATE} | self.line.state()

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise SlotkitError unless this is an `as_dict` of a weight of this size."""
        absent = [name for name in (*STATE, *self.line.state()) if name not in state]
        if absent:
            raise SlotkitError(
                f"The state of {self.reel.name} lacks {', '.join(absent)}. It is damaged, or that of another "
                "kind of optimizer. Load one that SlotSGD or SlotAdam has saved."
            )
        numbers = {name: state[name] for name in self.line.state()}
        parts = [state[name] for name in STATE]
        if not is_line(numbers) or not all(
            isinstance(part, Tensor) and part.is_floating_point() for part in parts
        ):
            kinds = [str(getattr(part, "dtype", type(part).__name__)) for part in parts]
            raise SlotkitError(
                f"The state of {self.reel.name} has {numbers!r:.120} and tensors of {kinds}: not what "
                "SlotSGD or SlotAdam has saved. It is damaged, or was put together by hand."
            )
        for name in STATE:
            if state[name].shape != self.latent.shape:
                raise SlotkitError(
                    f"The state of {self.reel.name} has {state[name].numel()} connections, and the "
                    "weight has "
                    f"{self.latent.numel()}. Build the network that the state was saved with."
                )

        for name in ("latent", "velocity"):
            if not bool(torch.isfinite(state[name]).all()):
                raise SlotkitError(
                    f"The state of {self.reel.name} has a {name} with numbers that are not finite. It is "
                    "damaged, or was put together by hand."
                )

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over an `as_dict`, in this device and dtype. Raises SlotkitError, before, if it is none."""
        self.check(state)
        self.loads += 1
        for name in STATE:
            getattr(self, name).copy_(state[name])
        self.line = Line.of(state)

    def line_of(self, scores: Tensor) -> tuple[float, Tensor]:
        """The c and A (n,) of scores (*shape, K). Raises SlotkitError if they are not on a line."""
        everything = torch.arange(len(self.latent), device=self.latent.device)
        rows = scores.to(self.latent.device).reshape(-1, self.reel.k)
        c, latent, error = fit_line(*self.rows(everything), rows)
        allowed = ON_THE_LINE[scores.dtype]
        if not error <= allowed:
            raise SlotkitError(
                f"The scores of {self.reel.name} are not c * S + A * W of initial scores S and options W: "
                f"they are up to {error:.1g} of the largest score away, and rounding explains "
                f"{allowed:.0e}. SGD on all K scores keeps them there; Adam, update='selected' and scores "
                "set by hand do not. Keep the dense form for them."
            )
        return c, latent

    def restart(self, c: float, latent: Tensor) -> None:
        """Go on from c and A (n,), without velocity."""
        self.loads += 1
        self.line = Line(c=c)
        self.latent.copy_(latent)
        self.velocity.zero_()


def pack(states: Sequence[LatentState], placements: Sequence[tuple[torch.device, torch.dtype]]) -> None:
    """Put the states into shared buffers, one for each device and dtype, and keep their values.

    `placements` says the device and dtype of each state. Its tables go to the device too.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[LatentState]] = {}
    for state, placement in zip(states, placements, strict=True):
        groups.setdefault(placement, []).append(state)
    for (device, dtype), members in groups.items():
        sizes = [len(state.latent) for state in members]
        buffer = _zeros(sum(sizes), device, dtype)
        with torch.inference_mode(False):
            parts = torch.split(buffer, sizes, dim=1)
        for state, part in zip(members, parts, strict=True):
            part.copy_(torch.stack([getattr(state, name) for name in STATE]))
            state.use_buffer(part)
            if state.line_on_device is not None:
                state.line_on_device = state.line_on_device.to(device)
            if state.tables is not None:
                state.tables = state.tables[0].to(device), state.tables[1].to(device)


def _zeros(connections: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(len(STATE), connections, dtype=dtype, device=device)


def _all_rows(reel: Reel, device: torch.device) -> tuple[Tensor, Tensor]:
    options = reel.distinct_options(device).reshape(-1, reel.k)
    return options, reel.scores(device).reshape(-1, reel.k)
