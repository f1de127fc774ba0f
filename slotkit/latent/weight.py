"""One weight tensor of a latent machine: the model's own parameter, its state, its guard and its engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slotkit.latent.engines.contract import Arrays, Engine, Flips, Kept, Move, OnDevice
from slotkit.latent.engines.registry import find_engine
from slotkit.latent.guard import Guard
from slotkit.latent.line import AT_REST, AdamRule, AdamStep, Hyperparameters, Line
from slotkit.latent.state import LatentState, pack
from slotkit.reel import Reel, ReelSpec

# Of a step whose line is on the device.
NO_LINE = Line()


class NotFiniteError(Exception):
    """The gradient of `weight` has a number that is not finite."""

    def __init__(self, weight: LatentWeight) -> None:
        super().__init__(weight.reel.name)
        self.weight = weight


class WeightStep(NamedTuple):
    """One weight's part of a step: its gradient, of the weight's shape in any layout and dtype, and the rest
    as in `Move`.
    """

    weight: LatentWeight
    gradient: Tensor
    rule: Hyperparameters | AdamStep | AdamRule
    moments: tuple[Tensor, Tensor] | None = None
    on_device: OnDevice | None = None


class LatentWeight(LatentState):
    """See `LatentState` for A, B and intervals.

    Attributes:
        parameter: the model's own parameter; it holds the options in use.
        guard: notices who else writes to it.
        follows: whether the weight is chosen anew, greedily, after every step.
        recorded: whether greedy steps name their flips.
        flips: of the last step (greedy) or draw (sampled), None if there were none to count.
    """

    def __init__(
        self,
        reel: Reel,
        parameter: nn.Parameter,
        holders: list[tuple[nn.Module, str]],
        engine: str,
        stored: bool,
        follows: bool = True,
    ) -> None:
        self.parameter = parameter
        self._arrays: Arrays | None = None
        self._kept: Kept = {}
        super().__init__(reel, parameter.device, self.state_dtype, stored)
        self.guard = Guard(reel.name, parameter, holders)
        self.engine_name = engine
        self.engine: Engine = find_engine(engine, parameter, reel, stored)
        self.follows = follows
        self.recorded = False
        self.flips: Flips | None = None
        self._arrays_of = 0
        self._spec: tuple[ReelSpec, tuple[float, float]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has memory of its own.
        return self.__dict__ | {"_arrays": None, "_kept": {}}

    @property
    def state_dtype(self) -> torch.dtype:
        """float64 beside a float64 weight, else float32."""
        return torch.float64 if self.parameter.dtype == torch.float64 else torch.float32

    @property
    def changed(self) -> int:
        """How many connections took another option in the last step (greedy) or draw (sampled)."""
        return 0 if self.flips is None else self.flips.number()

    @property
    def events(self) -> tuple[Tensor, Tensor]:
        """Of the last step: the connections that flipped, rising, and their new options, int32 (changed,)."""
        if self.flips is None or self.flips.connections is None:
            return torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        return self.flips.listed()

    def use_buffer(self, buffer: Tensor) -> None:
        super().use_buffer(buffer)
        self._arrays = None

    def arrays(self) -> Arrays:
        """What engines see. It is made again only if the weight or the state has other memory."""
        memory, in_place = self.parameter.data_ptr(), self.parameter.is_contiguous()
        if self._arrays is None or self._arrays_of != memory or not in_place:
            # Of a column of a larger tensor a flat view has gaps: engines get a copy, and `written` puts it
            # back.
            flat = self.parameter.detach().reshape(-1).contiguous()
            state = self.latent, self.velocity, self.lower, self.upper
            if self._spec is None:
                self._spec = self._spec_and_bounds()
            spec, bounds = self._spec
            self._arrays = Arrays(
                flat, *state, spec, self.tables, self.rows, self._uniform, *bounds, self._kept
            )
            self._arrays_of = memory
        return self._arrays

    def line_of_draws(self) -> float | Tensor:
        """c, or the numbers that the engine keeps of the line."""
        kept = self.line_on_device
        if kept is None or not self.engine.keeps_lines or kept.device != self.latent.device:
            return self.line.c
        return kept

    def kept_bytes(self) -> int:
        """What engines keep for this weight from draw to draw."""
        return sum(array.nbytes for arrays in self._kept.values() for array in arrays)

    def written(self, flips: Flips | None) -> None:
        """An engine has written these arrays: put them where the weight is, and remember the flips."""
        if flips is None:
            return
        arrays, self.flips = self._arrays, flips
        assert arrays is not None
        if arrays.weight.data_ptr() == self.parameter.data_ptr():
            torch.autograd.graph.increment_version(self.parameter)
        else:
            self.put(arrays.weight)
        self.guard.mark()

    def put(self, values: Tensor) -> None:
        """Write the whole weight: values (n,) or of its shape."""
        with torch.no_grad():
            self.parameter.copy_(values.view(self.parameter.shape))
        self.guard.mark()

    def are_options(self, values: Tensor) -> bool:
        """Whether all are options in the dtype of the values, which may be another one than the weight's."""
        flat = values.to(self.latent.device).reshape(-1)
        return torch.equal(self.options_at(self.selected_in(flat)).to(flat.dtype), flat)

    def put_options(self, values: Tensor) -> None:
        """Write the options that these are, as `are_options` has it, as the weight's dtype has them."""
        self.put(self.options_at(self.selected_in(values.to(self.latent.device).reshape(-1))))

    def restart(self, c: float, latent: Tensor) -> None:
        super().restart(c, latent)
        if self.follows:
            self.choose_all()

    def rest(self) -> None:
        """There was no step for this weight."""
        self.flips = None

    def choose_all(self) -> None:
        """Choose every connection's option anew, greedily. The flips stay those of the last step."""
        before = self.flips
        self.empty_intervals()
        choose([self], anyway=True)
        self.flips = before

    def options(self) -> Tensor:
        """The K options of every connection, in the weight's dtype, of shape (*shape, K)."""
        return self.reel.options(self.parameter.device).to(self.parameter.dtype)

    def selected(self) -> Tensor:
        """The option in use: int64, of the weight's shape; among options of its value the best score."""
        return self.selected_in(self.parameter.detach().reshape(-1)).reshape(self.reel.shape)

    def is_consistent(self) -> bool:
        """Whether every weight is one of its options, and under greedy selection the right one."""
        return self.is_of(self.parameter.detach().reshape(-1), self.follows)

    def check_untouched(self) -> None:
        """Raise SlotkitError if anything but slotkit has changed the weight since it was last written."""
        if self.guard.is_touched() and not self.is_consistent():
            raise self.guard.changed()

    def round_anew(self, before: torch.dtype) -> None:
        """After a cast from `before`: write the options rounded to the new dtype.

        The cast itself has rounded options that the old dtype had rounded already.
        """
        found, touched = self.parameter.detach().clone().reshape(-1), self.guard.is_touched()
        if self.follows:
            self.choose_all()
        selected = self.selected_in(*((self._values(),) if self.follows else (found, before)))
        options = self.options_at(selected)
        if not self.follows:
            self.put(options)
        if touched and not torch.equal(options.to(before).to(found.dtype), found):
            with torch.no_grad():
                self.parameter.copy_(found.view(self.parameter.shape))
            raise self.guard.changed()

    def undo_casts(self) -> None:
        """A cast to a narrower type and back leaves roundings of options: take the options themselves."""
        for narrow in (torch.float16, torch.bfloat16):
            if self.is_consistent():
                return
            found = self.parameter.detach().clone()
            if self.follows:
                self.choose_all()
            else:
                self.put(self.options_at(self.selected_in(found.reshape(-1).to(narrow))))
            if not torch.equal(self.parameter.detach().to(narrow).to(found.dtype), found):
                with torch.no_grad():
                    self.parameter.copy_(found)

    def _values(self) -> Tensor:
        return self.parameter.detach().reshape(-1)

    def _uniform(self, stream: int, number: int) -> Tensor:
        return self.reel.draw(stream, number, self.latent.device).reshape(-1)

    def _spec_and_bounds(self) -> tuple[ReelSpec, tuple[float, float]]:
        """The reel in numbers, and bounds that no |option| and no |initial score| exceeds.

        If the distribution has bounds, these are taken, also for stored tables: the bits of a sample depend
        on them.
        """
        spec = self.reel.compiled_spec()
        if spec is not None:
            bound, scale = np.float32(spec.bound), np.float32(spec.score_scale)
            return spec, (float(bound), float(bound * scale))
        reel = self.reel
        spec = ReelSpec(reel.k, reel.symmetric, *reel.owner_rule, *reel.key, 0.0, 0.0, *reel.option_key)
        if self.tables is None:
            return spec, (math.inf, math.inf)
        options, scores = (float(torch.linalg.vector_norm(table, math.inf)) for table in self.tables)
        return spec, (options, scores)


def relocate(weights: Sequence[LatentWeight]) -> None:
    """Move the state of weights that have gone to another device or dtype there, and round their options
    anew.

    Raises SlotkitError if a weight was replaced or changed.
    """
    for weight in weights:
        weight.guard.check_in_place()
    for weight in weights:
        if weight.guard.is_elsewhere() and not weight.guard.has_relocated():
            weight.undo_casts()
    for weight, before in move_states(weights):
        if before != weight.parameter.dtype:
            weight.round_anew(before)


def move_states(weights: Sequence[LatentWeight]) -> list[tuple[LatentWeight, torch.dtype]]:
    """Move the state of weights that have gone to another device or dtype there, and nothing else.

    Returns these weights, with the dtype that each had before.
    """
    relocated = [weight for weight in weights if weight.guard.has_relocated()]
    engines = [
        find_engine(weight.engine_name, weight.parameter, weight.reel, weight.tables is not None)
        for weight in relocated
    ]
    if relocated:
        pack(weights, [(weight.parameter.device, weight.state_dtype) for weight in weights])
    found = []
    for weight, engine in zip(relocated, engines, strict=True):
        weight.engine, (_, before) = engine, weight.guard.placement
        weight.guard.placement = weight.parameter.device, weight.parameter.dtype
        found.append((weight, before))
    return found


def step(steps: Sequence[WeightStep]) -> None:
    """One step of each weight's latents, by gradients that are finite. A weight that follows its scores is
    then chosen anew.
    """
    moves = []
    for weight, gradient, rule, moments, on_device in steps:
        if on_device is None:
            assert not isinstance(rule, AdamRule)
            before, weight.line = weight.line, weight.line.after(rule)
            if weight.line.sign != before.sign:
                # c has changed its sign: every interval belongs to the other sign.
                weight.empty_intervals()
        line = NO_LINE if on_device else weight.line
        flat, how = row_major(weight, gradient), (weight.follows, weight.recorded, moments, on_device)
        moves.append(Move(weight.arrays(), flat, rule, line, *how))
    _call([each.weight for each in steps], moves)


def choose(weights: Sequence[LatentWeight], anyway: bool = False) -> None:
    """Choose the weights that follow their scores, or with `anyway` all weights, by the present latents."""
    chosen = [weight for weight in weights if weight.follows or anyway]
    _call(chosen, [Move(w.arrays(), None, AT_REST, w.line, True, w.recorded) for w in chosen])


def sample(weights: Sequence[LatentWeight], stream: int, number: int | Tensor) -> None:
    """Sample every connection's option: draw `number` of `stream`."""
    for engine, indices in _calls(weights):
        chosen = [weights[i] for i in indices]
        tensors = [(each.arrays(), each.line_of_draws()) for each in chosen]
        for i, flips in zip(indices, engine.sample(tensors, stream, number), strict=True):
            weights[i].written(flips)


def row_major(weight: LatentWeight, gradient: Tensor) -> Tensor:
    """A gradient as engines take it: (n,), in the state's dtype."""
    same = gradient.dtype == weight.latent.dtype
    flat = (gradient if same else gradient.to(weight.latent.dtype)).reshape(-1)
    return flat.contiguous()  # an expanded number, or a column of a larger tensor, is a view with gaps


def check_finite(gradients: Iterable[tuple[LatentWeight, Tensor]]) -> None:
    """Raise NotFiniteError for the first gradient that holds a number that is not finite. A device is waited
    for once, not for every gradient.
    """
    listed = list(gradients)
    devices = {gradient.device for _, gradient in listed if gradient.device.type != "cpu"}
    fine = {each for each in devices if are_finite([g for _, g in listed if g.device == each])}
    for weight, gradient in listed:
        if gradient.device not in fine and not is_finite(gradient):
            raise NotFiniteError(weight)


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers of all these tensors of one device are finite."""
    largest = torch._foreach_norm(list(tensors), math.inf)
    return bool(torch.stack([each.double() for each in largest]).isfinite().all())


def is_finite(numbers: Tensor) -> bool:
    """Whether all are finite."""
    # Quick test first: if the sum is finite, so is every number. A sum may also overflow.
    return math.isfinite(numbers.sum()) or bool(torch.isfinite(numbers).all())


def _call(weights: Sequence[LatentWeight], moves: Sequence[Move]) -> None:
    for engine, indices in _calls(weights):
        for i, flips in zip(indices, engine.step([moves[i] for i in indices]), strict=True):
            weights[i].written(flips)


def _calls(weights: Sequence[LatentWeight]) -> list[tuple[Engine, list[int]]]:
    """Which of the weights an engine can take in one call: those of one device and dtype."""
    groups: dict[tuple[int, torch.device, torch.dtype], list[int]] = {}
    for i, weight in enumerate(weights):
        key = id(weight.engine), weight.latent.device, weight.latent.dtype
        groups.setdefault(key, []).append(i)
    return [(weights[indices[0]].engine, indices) for indices in groups.values()]
