"""The flight recorder: training a slot machine is a sequence of discrete events, and this keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.weight import LatentWeight
from slotkit.machine import SlotMachine
from slotkit.recording.chunks import Columns, flips_by_step, pack, unpack
from slotkit.recording.reading import GreedyReading
from slotkit.recording.softmax import Softmax, quantiles
from slotkit.recording.trace import CHUNK, LEVELS, SAMPLE, UNKNOWN, Trace, option_type

# For the estimate of a trace "full": bytes a flip, and flips a step and million connections. Measured on
# LeNet and MNIST: 2.6 bytes over 2,000 steps at K = 8, and 630 (K = 8) to 1,720 (K = 64) flips; under PS,
# K = 8, over 600 steps 1.7 bytes, and 9,500 flips at the beginning and 3,600 at the end.
BYTES_A_FLIP = {"greedy": 2.6, "probabilistic": 1.7}
FLIPS_A_MILLION = {"greedy": 1200, "probabilistic": 5000}


class Recorder:
    """Records a machine in latent form, step by step, into a trace.

    Args:
        machine: whose weights; in the latent form.
        trace: where to.
        level: "summary" or "full" (every flip too; under PS those of the greedy reading).
        every: steps between two measurements of the latents.
        run: a text that names the run, so that two traces are never mixed. Runs that write the same trace may
            have the same text. None makes a new one.
    """

    def __init__(
        self, machine: SlotMachine, trace: Trace, level: str, every: int, run: str | None = None
    ) -> None:
        self.machine = machine
        self.weights = list(machine.form.latents.values())
        self.trace, self.every = trace, every
        self.full = level == "full"
        greedy = machine.selection == "greedy"
        for weight in self.weights:
            weight.recorded = self.full and greedy
        self._samples = [_sample(weight) for weight in self.weights]
        pairs = list(zip(self.weights, self._samples, strict=True))
        # A full trace has every flip; a summary counts those of the sample, which costs next to nothing.
        self._readings = [
            GreedyReading(weight, None if self.full else sample, self.full)
            for weight, sample in ([] if greedy else pairs)
        ]
        self._softmaxes = [] if greedy else [Softmax(weight, sample) for weight, sample in pairs]
        # Whose flips and intervals are recorded; nobody's in a PS trace that an older slotkit began.
        self._followed: Sequence[LatentWeight | GreedyReading] = self.weights if greedy else self._readings
        self._before: list[Tensor] = []
        self._rows: dict[str, list[Any]] = {}
        self._first = 1
        self._written: list[list[Any]] = []
        reel = self.weights[0].reel
        self._about = {
            "run": uuid4().hex if run is None else run,
            "level": level,
            "selection": machine.selection,
            "every": every,
            "k": reel.k,
            "reels": reel.settings.to_dict(),
            "tensors": {
                weight.reel.name: {"shape": weight.reel.shape, "channel_dim": weight.reel.channel_dim}
                for weight in self.weights
            },
        }
        if self._readings:
            self._about["reading"] = "greedy"
            self._about["sample"] = None if self.full else SAMPLE
        # Whose chunks the folder holds, until this recorder goes on with them or begins anew.
        self._others = trace.run()
        self._had_readings = self._has_readings()
        if self._others is None:
            trace.write_about(self._about)

    def begin_anew(self) -> None:
        """Delete what the folder holds: the same run starts again from its first step."""
        self.trace.forget_after(0)
        self._others = None
        self.trace.write_about(self._about)
        self._start()

    def _start(self) -> None:
        """What is recorded next are changes from the scores as they are now."""
        for reading in self._readings:
            reading.follow()
        for softmax in self._softmaxes:
            softmax.measure()

    def record(self, step: int, lr: float) -> None:
        """After step number `step`, counted from 1.

        Raises SlotkitError if the folder holds the trace of another run.
        """
        if self._others is not None:
            raise self._another_run()
        rows = self._rows
        rows.setdefault("lr", []).append(lr)
        rows.setdefault("changed", []).append([weight.changed for weight in self.weights])
        for reading in self._readings:
            reading.follow()
        if self._readings:
            rows.setdefault("greedy_changed", []).append([reading.changed for reading in self._readings])
        if self.full:
            self._record_flips()
        if self._followed and step % self.every == self.every - 1:
            self._before = self._positions()
        elif step % self.every == 0:
            self._measure(step)
        if step % CHUNK == 0:
            self._written.append([self._first, *self.flush()])
            self._rows, self._first = {}, step + 1

    def flush(self) -> tuple[int, str]:
        """Write the chunk that is going on, whole or not. Returns its length and digest."""
        return self.trace.write_chunk(self._first, self._chunk()) if self._rows else (0, "")

    def _chunk(self) -> Columns:
        columns = self._columns()
        if "connection" in columns:
            columns["connection"] = _differences(columns["connection"], flips_by_step(columns))
        return columns

    def state(self) -> dict[str, Any]:
        """What is not in the trace yet, as tensors."""
        columns = {name: _as_tensor(column) for name, column in self._columns().items()} if self._rows else {}
        return {
            "run": self._about["run"],
            "first": self._first,
            "written": list(self._written),
            "columns": columns,
            "before": self._before,
            "readings": [reading.state() for reading in self._readings],
            "expected": [softmax.expected for softmax in self._softmaxes],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`: what the trace has of later steps is forgotten.

        Raises SlotkitError, before anything is written, if the folder holds the trace of another run or the
        state is none.
        """
        # Old states and traces do not name their run: they count as of the same run.
        run = state.get("run", "")
        if self._others not in (None, UNKNOWN, run) or not self._continues(state):
            raise self._another_run()
        self._first, self._before = state["first"], list(state["before"])
        self._written = list(state.get("written") or [])
        self._rows = {name: _as_rows(name, column.numpy()) for name, column in state["columns"].items()}
        self._load_readings(state)
        self._check_loaded()
        self._others = None
        self._about["run"] = run or self._about["run"]
        self.trace.write_about(self._about)
        self.trace.forget_after(self._first)

    def _load_readings(self, state: Mapping[str, Any]) -> None:
        """Raise SlotkitError, the part of a sentence, if the state has not the readings of the trace."""
        if self._readings and "readings" not in state and not self._had_readings:
            # An older slotkit began this trace, and it has to be of one piece.
            self._readings, self._followed = [], []
            del self._about["reading"], self._about["sample"]
            return
        readings, expected = state.get("readings", []), state.get("expected", [])
        if len(readings) != len(self._readings) or len(expected) != len(self._softmaxes):
            raise SlotkitError("it lacks the greedy reading of a tensor")
        for reading, told in zip(self._readings, readings, strict=True):
            reading.load(told)
        for softmax, means in zip(self._softmaxes, expected, strict=True):
            softmax.load(means)

    def _has_readings(self) -> bool:
        """Whether the trace in the folder says so."""
        try:
            return self.trace.about().get("reading") is not None
        except SlotkitError:
            return False

    def _check_loaded(self) -> None:
        """Raise SlotkitError, the part of a sentence, if what was loaded makes no chunk of a trace."""
        if self._rows:
            unpack(BytesIO(pack(self._chunk())), self._first, {"levels": LEVELS, **self._about})
        expected = [(torch.float64, sample.shape) for sample in self._samples]
        if self._before and [(before.dtype, before.shape) for before in self._before] != expected:
            raise SlotkitError("its positions are not those of the sampled connections")

    def _continues(self, state: Mapping[str, Any]) -> bool:
        """Whether trace and `state` agree on the steps that both have.

        Two runs of equal settings may differ on a device whose rounding varies. A damaged chunk counts as
        agreeing, because it is written anew.
        """
        try:
            chunk = self.trace.read_chunk(state["first"])
        except SlotkitError:
            return True
        for name in ("lr", "changed", "greedy_changed"):
            if name in chunk and name in state["columns"]:
                ours = state["columns"][name].numpy()
                both = min(len(ours), len(chunk[name]))
                if not np.array_equal(ours[:both], chunk[name][:both]):
                    return False
        return True

    def _another_run(self) -> SlotkitError:
        return SlotkitError(
            f"{self.trace.folder} holds the trace of another run, of {self.trace.last_step()} steps. Record "
            "into another folder, resume that run, or delete its trace."
        )

    def _columns(self) -> Columns:
        kinds: dict[str, Any] = {
            "lr": np.float64,
            "changed": np.int32,
            "greedy_changed": np.int32,
            "measured": np.int64,
            "c": np.float64,
            "connection": np.uint32,
            "option": option_type(self.weights[0].reel.k),
        }
        columns: Columns = {}
        for name, rows in self._rows.items():
            kind = kinds.get(name, np.float32)
            joined = np.concatenate(rows) if name in ("connection", "option") else np.array(rows)
            columns[name] = joined.astype(kind)
        return columns

    def _record_flips(self) -> None:
        for one in self._followed:
            connections, options = one.events
            self._rows.setdefault("connection", []).append(connections.numpy())
            self._rows.setdefault("option", []).append(options.numpy())

    def _positions(self) -> list[Tensor]:
        """u = A / |c| of the sampled connections, float64."""
        return [
            weight.latent[sample].double().cpu() * weight.line.scale
            for weight, sample in zip(self.weights, self._samples, strict=True)
        ]

    def _measure(self, step: int) -> None:
        rows = self._rows
        rows.setdefault("measured", []).append(step)
        rows.setdefault("c", []).append([weight.line.c for weight in self.weights])
        for name, values in (self._staircase() | self._probabilities()).items():
            rows.setdefault(name, []).append(values)

    def _staircase(self) -> dict[str, list[Any]]:
        if not self._followed:
            return {}
        found: dict[str, list[Any]] = {"margin": [], "speed": [], "steps_to_flip": []}
        after = self._positions()
        befores = self._before if len(self._before) == len(after) else after
        for one, sample, u, before in zip(self._followed, self._samples, after, befores, strict=True):
            lower, upper = _intervals(one, sample)
            below, above = u - lower, upper - u
            change = u - before
            ahead = torch.where(change > 0, above, below)
            found["margin"].append(quantiles(torch.minimum(below, above)))
            found["speed"].append(quantiles(change.abs()))
            found["steps_to_flip"].append(quantiles(ahead / change.abs()))
        return found

    def _probabilities(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for softmax in self._softmaxes:
            for name, value in softmax.measure().items():
                if self._readings or name in ("entropy", "top"):
                    found.setdefault(name, []).append(value)
        return found


def estimated_bytes(machine: SlotMachine, steps: int) -> int:
    """Roughly the size of a trace "full"."""
    connections = sum(weight.numel() for weight in machine.form.parameters())
    rate = BYTES_A_FLIP[machine.selection] * FLIPS_A_MILLION[machine.selection]
    return int(rate * connections / 1e6 * steps)


def _sample(weight: LatentWeight) -> Tensor:
    """Up to SAMPLE connections, evenly spread."""
    count = len(weight.latent)
    return (
        torch.linspace(0, count - 1, min(SAMPLE, count), dtype=torch.float64).long().to(weight.latent.device)
    )


def _intervals(one: LatentWeight | GreedyReading, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the sampled connections, float64 on the CPU."""
    if isinstance(one, GreedyReading) and one.sample is not None:
        return one.lower.double().cpu(), one.upper.double().cpu()
    return one.lower[sample].double().cpu(), one.upper[sample].double().cpu()


def _differences(connections: Any, changed: Any) -> Any:
    """Connections (flips,) as differences within a step and tensor; `changed` (n, t) counts them."""
    counts = changed.reshape(-1).astype(np.int64)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    rises = np.diff(connections, prepend=connections[:1])
    rises[starts] = connections[starts]
    return rises


def _as_tensor(column: Any) -> Tensor:
    # safetensors has no unsigned types that all versions read: 64-bit integers hold them.
    return torch.from_numpy(column.astype(np.int64) if column.dtype.kind == "u" else column)


def _as_rows(name: str, column: Any) -> list[Any]:
    return [column] if name in ("connection", "option") else list(column)
