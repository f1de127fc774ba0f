"""The flight recorder: training a slot machine is a sequence of discrete events, and this keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.recording.chunks import Columns, flips_by_step, pack, unpack
from slotkit.recording.softmax import quantiles
from slotkit.recording.trace import CHUNK, LEVELS, SAMPLE, UNKNOWN, Trace, option_type
from slotkit.recording.watching import watch

# For the estimate of a trace "full": bytes a flip, and flips a step and million connections. Measured on
# LeNet and MNIST: 2.6 bytes over 2,000 steps at K = 8, and 630 (K = 8) to 1,720 (K = 64) flips; under PS,
# K = 8, over 600 steps 1.7 bytes, and 9,500 flips at the beginning and 3,600 at the end.
BYTES_A_FLIP = {"greedy": 2.6, "probabilistic": 1.7}
FLIPS_A_MILLION = {"greedy": 1200, "probabilistic": 5000}


def check_traceable(machine: SlotMachine) -> None:
    """Raise SlotkitError for a machine that no trace can follow."""
    if machine.form.share is not None:
        raise SlotkitError(
            "A trace follows each connection alone, and this machine ranks those of a tensor (share). Record "
            'with trace="off".'
        )


class Recorder:
    """Records a machine, in either form, step by step into a trace.

    Args:
        machine: whose weights.
        trace: where to.
        level: "summary" or "full" (every flip too; under PS those of the greedy reading).
        every: steps between two measurements.
        run: a text that names the run, so that two traces are never mixed. Runs that write the same trace may
            have the same text. None makes a new one.
        resumes: `load` or `begin_anew` follows, and nothing is written before.
    """

    def __init__(
        self,
        machine: SlotMachine,
        trace: Trace,
        level: str,
        every: int,
        run: str | None = None,
        resumes: bool = False,
    ) -> None:
        check_traceable(machine)
        self.machine = machine
        self.trace, self.every = trace, every
        self.full = level == "full"
        self.watched = watch(machine, self.full, SAMPLE)
        # Whether flips and thresholds are recorded; they are not in a PS trace that an older slotkit began.
        self._follows = True
        self._before: list[Tensor] = []
        self._rows: dict[str, list[Any]] = {}
        self._first = 1
        self._written: list[list[Any]] = []
        self._about = self._describe(level, every, uuid4().hex if run is None else run)
        # Whose chunks the folder holds, until this recorder goes on with them or begins anew.
        self._others = trace.run()
        self._had_readings = self._has_readings()
        if self._others is None and not resumes:
            self._write_beginning()

    def _write_beginning(self) -> None:
        """about.json, and the options of now if they are not those that the seed gives."""
        self._about.pop("start", None)
        if not self.machine.form.has_initial_scores():
            now = {one.reel.name: one.selection() for one in self.watched}
            self._about["start"] = self.trace.write_start(now)
        self.trace.write_about(self._about)

    def _describe(self, level: str, every: int, run: str) -> dict[str, Any]:
        machine, reels = self.machine, [one.reel for one in self.watched]
        about: dict[str, Any] = {
            "run": run,
            "level": level,
            "selection": machine.selection,
            "every": every,
            "k": reels[0].k,
            "reels": reels[0].settings.to_dict(),
            "tensors": {reel.name: {"shape": reel.shape, "channel_dim": reel.channel_dim} for reel in reels},
        }
        if machine.form.name == "dense":
            about |= {"form": "dense", "update": machine.form.update}
        if self._reads_beside:
            about |= {"reading": "greedy", "sample": None if self.full else SAMPLE}
        return about

    @property
    def _reads_beside(self) -> bool:
        return any(one.reads_beside for one in self.watched)

    def begin_anew(self) -> None:
        """Delete what the folder holds: the same run starts again from its first step."""
        self.trace.forget_after(0)
        self._others = None
        self._start()
        self._write_beginning()

    def _start(self) -> None:
        """What is recorded next are changes from the scores as they are now."""
        for one in self.watched:
            one.follow()
            one.softmax()

    def record(self, step: int, lr: float) -> None:
        """After step number `step`, counted from 1.

        Raises SlotkitError if the folder holds the trace of another run.
        """
        if self._others is not None:
            raise self._another_run()
        rows = self._rows
        for one in self.watched:
            one.follow()
        rows.setdefault("lr", []).append(lr)
        rows.setdefault("changed", []).append([one.changed for one in self.watched])
        if self._reads_beside:
            rows.setdefault("greedy_changed", []).append([one.flipped for one in self.watched])
        if self.full and self._follows:
            self._record_flips()
        if self._follows and step % self.every == self.every - 1:
            self._before = [one.positions() for one in self.watched]
        elif step % self.every == 0:
            self._measure(step)
        if step % CHUNK == 0:
            self._written.append([self._first, *self.flush()])
            self._rows, self._first = {}, step + 1

    def close(self) -> None:
        """Nothing is recorded any more: engines need not name flips."""
        for one in self.watched:
            one.close()

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
        states = [state for one in self.watched if (state := one.state()) is not None]
        return {
            "run": self._about["run"],
            "start": self._about.get("start"),
            "first": self._first,
            "written": list(self._written),
            "columns": columns,
            "before": self._before,
            "readings": [reading for reading, _ in states],
            "expected": [expected for _, expected in states],
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
        if state.get("start") is not None:
            self._about["start"] = state["start"]
        self.trace.write_about(self._about)
        self.trace.forget_after(self._first)

    def _load_readings(self, state: Mapping[str, Any]) -> None:
        """Raise SlotkitError, the part of a sentence, if the state has not the readings of the trace."""
        beside = self._reads_beside
        if beside and "readings" not in state and not self._had_readings:
            # An older slotkit began this trace, and it has to be of one piece.
            for one in self.watched:
                one.stop_reading()
            self._follows = False
            del self._about["reading"], self._about["sample"]
            return
        count = len(self.watched) if beside else 0
        readings, expected = state.get("readings", []), state.get("expected", [])
        if len(readings) != count or len(expected) != count:
            raise SlotkitError("it lacks the greedy reading of a tensor")
        nothing = [None] * len(self.watched)
        for one, *told in zip(self.watched, readings or nothing, expected or nothing, strict=True):
            one.load(*told)

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
        expected = [(now.dtype, now.shape) for now in (one.positions() for one in self.watched)]
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
            "option": option_type(self._about["k"]),
        }
        columns: Columns = {}
        for name, rows in self._rows.items():
            kind = kinds.get(name, np.float32)
            joined = np.concatenate(rows) if name in ("connection", "option") else np.array(rows)
            columns[name] = joined.astype(kind)
        return columns

    def _record_flips(self) -> None:
        for one in self.watched:
            connections, options = one.events
            self._rows.setdefault("connection", []).append(connections.numpy())
            self._rows.setdefault("option", []).append(options.numpy())

    def _measure(self, step: int) -> None:
        rows = self._rows
        rows.setdefault("measured", []).append(step)
        rows.setdefault("c", []).append([one.c for one in self.watched])
        for name, values in (self._staircase() | self._probabilities()).items():
            rows.setdefault(name, []).append(values)

    def _staircase(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        if not self._follows:
            return found
        befores = self._before or [one.positions() for one in self.watched]
        for one, before in zip(self.watched, befores, strict=True):
            for name, values in zip(("margin", "speed", "steps_to_flip"), one.staircase(before), strict=True):
                found.setdefault(name, []).append(quantiles(values, LEVELS))
        return found

    def _probabilities(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for one in self.watched:
            for name, value in one.softmax().items():
                if self._follows or name in ("entropy", "top"):
                    found.setdefault(name, []).append(value)
        return found


def estimated_bytes(machine: SlotMachine, steps: int) -> int:
    """Roughly the size of a trace "full"."""
    connections = sum(math.prod(reel.shape) for reel in machine.reels.values())
    rate = BYTES_A_FLIP[machine.selection] * FLIPS_A_MILLION[machine.selection]
    return int(rate * connections / 1e6 * steps)


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
