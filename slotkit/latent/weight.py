"""One weight tensor of a latent machine: an ordinary parameter, and what training keeps beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.latent.engines import Engine, Move, find_engine
from slotkit.latent.latent import Line, fit_line, interval, line_scores
from slotkit.reel import Reel
from slotkit.selection import greedy

Item = TypeVar("Item", bound=tuple[Any, ...])

STATE = ("latent", "velocity", "lower", "upper")

# How far from the line rounding takes scores in training, as a share of the largest.
ON_THE_LINE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}

# Connections whose K options are looked at together when a whole tensor is: bounds the memory.
ROWS = 1 << 20


class NotFiniteError(Exception):
    """The gradient of `weight` has a number that is not finite."""

    def __init__(self, weight: LatentWeight) -> None:
        super().__init__(weight.reel.name)
        self.weight = weight


class LatentWeight:
    """State of one tensor, 16 bytes a connection in float32: latent A, velocity B, lower and upper.

    All four are flat tensors in the row-major order of the weight's indices, whatever the memory
    layout of the weight: a reel belongs to a connection by its index.

    Attributes:
        parameter: the model's own parameter; it holds the options in use.
        line: c, e and the number of steps.
        tables: options and initial scores (n, K) if they are stored, else None.
        keeps_slack: whether the engine may keep how far groups of connections are from their next flip.
        keeps_recent: whether the engine may keep the options that some connections had before.
        follows: whether the weight is chosen anew, greedily, after every step.
        changed: how many connections took another option in the last step (greedy) or draw (sampled).
        recorded: whether greedy steps leave their flips in `events`.
        events: of the last step: connections, rising, and their new options, both int32 (changed,).
    """

    def __init__(
        self,
        reel: Reel,
        parameter: nn.Parameter,
        owners: list[tuple[nn.Module, str]],
        engine: str,
        stored: bool,
        follows: bool = True,
        keeps_slack: bool = False,
        keeps_recent: bool = False,
    ) -> None:
        self.reel = reel
        self.parameter = parameter
        self.owners = owners
        self.line = Line()
        self.follows = follows
        self.engine_name = engine
        self.seen = parameter.device, parameter.dtype
        self.engine: Engine = find_engine(engine, parameter, reel, stored)
        self.tables: tuple[Tensor, Tensor] | None = self._all_rows() if stored else None
        self.keeps_slack, self.keeps_recent = keeps_slack, keeps_recent
        self.changed = 0
        self.recorded = False
        self.events = (torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))
        # What the engine works out once, its own business, and how often it has become wrong.
        self.prepared: Any = None
        self.moves = 0
        # Tensors made in inference mode have no version, which tells who changed them.
        with torch.inference_mode(False):
            zeros = torch.zeros(parameter.numel(), dtype=self.state_dtype, device=parameter.device)
            self.latent, self.velocity = zeros, zeros.clone()
            self.lower, self.upper = zeros.clone(), zeros.clone()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        # A copy has memory of its own, and what an engine has prepared may be full of addresses.
        return self.__dict__ | {"prepared": None}

    @property
    def state_dtype(self) -> torch.dtype:
        """float64 beside a float64 weight, else float32."""
        return torch.float64 if self.parameter.dtype == torch.float64 else torch.float32

    def rows(self, connections: Tensor) -> tuple[Tensor, Tensor]:
        """Options and initial scores (n, K), float32, stored or recomputed: the same bits."""
        if self.tables is None:
            return self.reel.rows(connections)
        options, scores = self.tables
        stride, count = self.reel.owner_rule
        return options[connections // stride % count], scores[connections]

    def refresh(self) -> None:
        """Choose every connection's option anew, greedily."""
        self.empty_intervals()
        self.engine.settle([self])
        self.mark()

    def empty_intervals(self) -> None:
        """An empty interval sends a connection to its K options."""
        self.lower.fill_(math.inf)
        self.upper.fill_(-math.inf)

    def state(self) -> dict[str, Any]:
        """The tensors, and c, e and what goes with them as plain numbers."""
        return {name: getattr(self, name) for name in STATE} | self.line.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a `state`, in this weight's device and dtype. Raises SlotkitError if a size differs."""
        for name in STATE:
            if state[name].shape != self.latent.shape:
                raise SlotkitError(
                    f"The state of {self.reel.name} has {state[name].numel()} connections, and the "
                    "weight has "
                    f"{self.latent.numel()}. Build the network that the state was saved with."
                )
        for name in STATE:
            getattr(self, name).copy_(state[name])
        self.line = Line(**{field.name: state[field.name] for field in fields(Line)})

    def write(self, connections: Tensor, values: Tensor) -> None:
        """Put values (n,) into the weight at row-major indices (n,)."""
        with torch.no_grad():
            places = torch.unravel_index(connections, self.parameter.shape)
            self.parameter.index_put_(places, values.to(self.parameter.dtype))

    def values(self, connections: Tensor) -> Tensor:
        """The weight at row-major indices (n,)."""
        return self.parameter.detach()[torch.unravel_index(connections, self.parameter.shape)]

    def mark(self) -> None:
        """Remember that the weight is as slotkit left it."""
        self.version = self.parameter._version

    def scores(self) -> Tensor:
        """c * S_k + A * W_k, in the state's dtype, of shape (*shape, K)."""
        shape = (*self.reel.shape, self.reel.k)
        return torch.cat([part for _, part in self._parts()]).to(self.state_dtype).reshape(shape)

    def scores_of(self, connections: Tensor) -> Tensor:
        """The scores (n, K), float64, of some connections (n,)."""
        return line_scores(*self.rows(connections), self.latent[connections], self.line.c)

    def rest(self) -> None:
        """There was no step for this weight."""
        self.changed = 0
        self.events = (self.events[0][:0], self.events[1][:0])

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
        self.line = Line(c=c)
        self.latent.copy_(latent)
        self.velocity.zero_()
        if self.follows:
            self.refresh()

    def options(self) -> Tensor:
        """The K options of every connection, in the weight's dtype, of shape (*shape, K)."""
        return self.reel.options(self.parameter.device).to(self.parameter.dtype)

    def selected(self) -> Tensor:
        """The option in use: int64, of the weight's shape; among options of its value the best score."""
        weight = self.parameter.detach().reshape(-1)
        found = []
        for (start, end), scores in self._parts():
            options, _ = self.rows(torch.arange(start, end, device=weight.device))
            inside = options.to(weight.dtype) == weight[start:end].unsqueeze(-1)
            found.append(greedy(torch.where(inside, scores, -math.inf)))
        return torch.cat(found).reshape(self.reel.shape)

    def follow(self) -> None:
        """Go where the weight went: another device or dtype. Raises SlotkitError if it was changed."""
        for module, name in self.owners:
            if module._parameters.get(name) is not self.parameter:
                raise SlotkitError(
                    f"{self.reel.name} has been replaced by another parameter since slotify (load_state_dict "
                    f"with assign=True does that). Load with assign=False, or slotify again."
                )
        if self.seen != (self.parameter.device, self.parameter.dtype):
            self.engine = find_engine(self.engine_name, self.parameter, self.reel, self.tables is not None)
            with torch.inference_mode(False):
                for name in STATE:
                    setattr(self, name, getattr(self, name).to(self.parameter.device, self.state_dtype))
            if self.tables is not None:
                options, scores = self.tables
                self.tables = options.to(self.parameter.device), scores.to(self.parameter.device)
            (_, before), self.seen = self.seen, (self.parameter.device, self.parameter.dtype)
            self.moves += 1
            if self.follows and before != self.parameter.dtype:
                self._round_anew(before)

    def _round_anew(self, before: torch.dtype) -> None:
        """After a cast: a weight is one of its options in the new dtype, not what the old one left of it."""
        found, touched = self.parameter.detach().clone(), self.parameter._version != self.version
        self.refresh()
        narrow = min(before, found.dtype, key=lambda dtype: dtype.itemsize)
        if touched and not torch.equal(found.to(narrow), self.parameter.detach().to(narrow)):
            with torch.no_grad():
                self.parameter.copy_(found)
            raise self._changed()

    def check_untouched(self) -> None:
        """Raise SlotkitError if anything but slotkit has changed the weight since it was last written."""
        if self.parameter._version != self.version:
            if not self.is_consistent():
                raise self._changed()
            self.mark()

    def _changed(self) -> SlotkitError:
        return SlotkitError(
            f"{self.reel.name} was changed by something else than slotkit: an ordinary optimizer stepping on "
            f"it, or load_state_dict on the model. Train it with machine.optimizer() alone; to bring a "
            f"trained machine back use machine.load_state_dict(); machine.spin() restores its weights."
        )

    def is_consistent(self) -> bool:
        """Whether every weight is one of its options, and the one whose interval is kept beside it.

        Sampled weights have no interval: being an option is all that can be asked of them.
        """
        selected = self.selected().reshape(-1)
        weight = self.parameter.detach().reshape(-1)
        for start in range(0, len(weight), self._step):
            part = torch.arange(start, min(start + self._step, len(weight)), device=weight.device)
            options, initial = self.rows(part)
            if not torch.equal(options.gather(-1, selected[part, None])[:, 0].to(weight.dtype), weight[part]):
                return False
            if not self.follows:
                continue
            lower, upper = interval(options, initial, selected[part], self.line.sign)
            same_lower = torch.equal(lower.to(self.state_dtype), self.lower[part])
            if not (same_lower and torch.equal(upper.to(self.state_dtype), self.upper[part])):
                return False
        return True

    @property
    def _step(self) -> int:
        return max(1, ROWS // self.reel.k)

    def _parts(self) -> Any:
        """(start, end) and the float64 scores (end - start, K) of consecutive connections."""
        for start in range(0, len(self.latent), self._step):
            end = min(start + self._step, len(self.latent))
            options, initial = self.rows(torch.arange(start, end, device=self.latent.device))
            yield (start, end), line_scores(options, initial, self.latent[start:end], self.line.c)

    def _all_rows(self) -> tuple[Tensor, Tensor]:
        device = self.parameter.device
        options = self.reel.distinct_options(device).reshape(-1, self.reel.k)
        return options, self.reel.scores(device).reshape(-1, self.reel.k)


def step(moves: Sequence[Move]) -> None:
    """One SGD step of the latents of each weight by its gradient, and of the weight if it follows them.

    A gradient has the weight's shape, in any layout and dtype. Raises NotFiniteError, before anything is
    changed, if a number of one is not finite.
    """
    calls = _calls(row_major(moves))
    if len(calls) > 1:
        check_finite(moves)  # an engine looks at its own gradients only
    lines = []
    for weight, _, h in moves:
        lines.append(weight.line)
        weight.line = weight.line.after(h)
        if weight.line.sign != lines[-1].sign:
            # c changed its sign, which turns every staircase around.
            weight.empty_intervals()
    for engine, part in calls:
        flips = engine.step(part)
        if flips is None:
            for (weight, _, _), line in zip(moves, lines, strict=True):
                turned, weight.line = weight.line.sign != line.sign, line
                if turned and weight.follows:
                    weight.refresh()
            check_finite(moves)
            raise AssertionError("the engine found a gradient that is not finite")
        for (weight, _, _), number in zip(part, flips, strict=True):
            # What was drawn is counted when it is drawn.
            weight.changed = number if weight.follows else weight.changed
            weight.mark()


def row_major(moves: Sequence[Move]) -> list[Move]:
    """The moves with gradients as engines take them."""
    return [
        (weight, gradient, h)
        if gradient.dtype == weight.latent.dtype and gradient.is_contiguous()
        else (weight, gradient.to(weight.latent.dtype).contiguous(), h)
        for weight, gradient, h in moves
    ]


def check_finite(moves: Sequence[Move]) -> None:
    """Raise NotFiniteError for the first weight with a gradient that has a number that is not finite."""
    for weight, gradient, _ in moves:
        if not is_finite(gradient):
            raise NotFiniteError(weight)


def is_finite(gradient: Tensor) -> bool:
    # A sum is a quick look: it is finite only if all are; it may also overflow.
    return math.isfinite(gradient.sum()) or bool(torch.isfinite(gradient).all())


def settle(weights: Sequence[LatentWeight]) -> None:
    """After the latents moved: let the weights follow."""
    for engine, part in _calls([(weight,) for weight in weights if weight.follows]):
        listed = [weight for (weight,) in part]
        _take_over(listed, engine.settle(listed))


def draw(weights: Sequence[LatentWeight], stream: int, number: int) -> None:
    """Sample every connection's option: draw `number` of `stream`."""
    for engine, part in _calls([(weight,) for weight in weights]):
        listed = [weight for (weight,) in part]
        _take_over(listed, engine.draw(listed, stream, number))


def _take_over(weights: Sequence[LatentWeight], changed: Sequence[int]) -> None:
    """An engine has written these weights, and so many connections of each have another option."""
    for weight, number in zip(weights, changed, strict=True):
        weight.changed = number
        weight.mark()


def _calls(items: Sequence[Item]) -> list[tuple[Engine, list[Item]]]:
    """Which of the items, tuples of a weight and more, an engine can take in one call: those of one dtype."""
    groups: dict[tuple[Engine, torch.dtype], list[Item]] = {}
    for item in items:
        groups.setdefault((item[0].engine, item[0].latent.dtype), []).append(item)
    return [(engine, part) for (engine, _), part in groups.items()]
