"""A run folder and a flight recorder while a loop of one's own goes on; `own_loop.record` makes it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer

from slotkit.errors import SlotkitError, typed
from slotkit.loggers.contract import Logger, Training
from slotkit.loggers.loggers import Loggers
from slotkit.loop_state import LoopState, Stateful
from slotkit.machine import SlotMachine
from slotkit.recording.recorder import Recorder
from slotkit.recording.trace import Trace
from slotkit.runs import checkpoint
from slotkit.runs.commits import Commit, Commits, find
from slotkit.runs.environment import environment
from slotkit.runs.fingerprint import fingerprint
from slotkit.runs.folder import RunFolder, is_run, is_taken, said_taken
from slotkit.runs.recorded import KIND, describe
from slotkit.runs.residuals import with_reels
from slotkit.runs.schema import naming
from slotkit.settings import RecordingSettings
from slotkit.training.resume import check_rest, summary_of

# Bytes of a file's name, less than the 255 of usual disks: it is written under a longer, temporary one first.
LONGEST = 200

_open: WeakKeyDictionary[SlotMachine, Recording] = WeakKeyDictionary()


def recording_of(machine: SlotMachine) -> Recording | None:
    """The recording that a machine is in, or was in last."""
    return _open.get(machine)


class Recording:
    """A run while it is recorded; made by `record`.

    Attributes:
        machine: what is recorded.
        folder: the run's folder.
        step: optimizer steps so far, those before a resume included.
        values: what the checkpoint that was resumed from was given; empty in a new run.
    """

    def __init__(
        self,
        machine: SlotMachine,
        optimizers: Sequence[Optimizer],
        path: Path,
        settings: RecordingSettings,
        config: Mapping[str, Any],
        also: Mapping[str, Stateful],
        loggers: Sequence[str | Logger],
        resume: bool,
    ) -> None:
        self.machine, self.folder, self.step = machine, RunFolder(path), 0
        self.values: dict[str, Any] = {}
        self._state, self._resume = LoopState(machine, optimizers, also), resume
        self._settings, self._config = settings, config
        self._wanted_loggers, self._loggers = loggers, Loggers((), Training(path, path.name), self._say)
        self._logged: dict[str, float] = {}
        self._saved: int | None = None
        self._given: dict[str, Any] = {}
        self._seconds = 0.0
        self._failed = True
        self._stack: ExitStack | None = None

    @property
    def is_open(self) -> bool:
        """Whether the `with` block is going on."""
        return self._stack is not None

    def __enter__(self) -> Self:
        other = _open.get(self.machine)
        if other is not None and other.is_open:
            raise SlotkitError(
                f"This machine is being recorded into {other.folder.path} already. One recording has all: "
                "end its `with` block first."
            )
        with ExitStack() as stack:
            self._begin(stack)
            self._stack = stack.pop_all()
        _open[self.machine] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        with stack:
            try:
                if fault is None:
                    self._save_end()
            except BaseException as late:
                self._finish(late)
                raise
            self._finish(fault)

    def log(self, **values: float | torch.Tensor) -> None:
        """Write numbers into metrics.jsonl, at the step that was done last.

        A tensor of one element counts as a number; if it lies on a GPU, that is waited for.

        Raises SlotkitError for what is no number.
        """
        self._check_open()
        told = {name: _number(name, value) for name, value in values.items()}
        self.folder.append("metrics.jsonl", {"kind": "log", "step": self.step, "values": told})
        self._logged |= told
        self._loggers.log(self.step, told)
        self._write_summary("running")

    def checkpoint(self, name: str | None = None, /, **values: Any) -> None:
        """Save everything that resuming needs. Call it between two steps.

        Args:
            name: keep the machine as it is now under this name too, such as "best" or "epoch-10". Where a
                loop keeps no "best", its end is that.
            values: plain values that `values` has after a resume, such as epoch=3.

        Raises SlotkitError for a name that is no file's, or values and states that can't be written.
        """
        self._check_open()
        if name is not None:
            self._keep(name, chosen=True)
        before, saved = self._given, self._saved
        if values:
            self._given, self._saved = values, None
        try:
            self._save()
        except SlotkitError:
            self._given, self._saved = before, saved
            raise

    def flush(self) -> None:
        """Put the trace, as far as it goes, where analyses find it. Checkpoints are the loop's own business:
        what it resumes from has to fit its values.
        """
        if self.is_open and self._recorder:
            self._recorder.flush()

    def _begin(self, stack: ExitStack) -> None:
        there = is_taken(self.folder.path)
        own = is_run(self.folder.path)
        if there and not (self._resume and own):
            to_do = "resume=True goes on with it; for another run choose" if own else "Choose"
            raise SlotkitError(f"{said_taken(self.folder.path)} {to_do} another path.")
        if not there:
            self.folder = self._create()
        self._description = self.folder.config()
        if there:
            self._check_same_loop()
        stack.enter_context(self.folder.locked())
        commit = find(self.folder, lambda commit: check_rest(self.folder, commit)) if there else None
        self._recorder = self._make_recorder(there)
        self._commits = Commits(self.folder, self._settings.keep_last)
        self._started = time.perf_counter()
        if self._resume:
            wait_for_all()  # those that follow have read the checkpoint
        if there:
            self._take_up(commit)
        training = Training(self.folder.path, self.folder.name, self.folder.settings(), self.step)
        self._loggers = Loggers(self._wanted_loggers, training, self._say)
        stack.callback(lambda: self._loggers.close(self._failed))
        for entry in self.folder.metrics():
            if entry["step"] == self.step:  # which the loggers are to be told once more
                self._loggers.log(self.step, entry["values"])
        handle = self._state.optimizers[0].register_step_post_hook(self._stepped)
        stack.callback(handle.remove)
        self._write_summary("running")

    def _create(self) -> RunFolder:
        path = self.folder.path
        device = str(next(self.machine.model.parameters()).device)
        resolved, told = describe(self.machine, self._state.optimizers, self._settings, self._config)
        place = environment(device, torch.get_num_threads())

        return RunFolder.create(path.parent, path.name, resolved, place, fill=self._keep_start, recorded=told)

    def _keep_start(self, folder: RunFolder) -> None:
        """What the run begins with, where the seed of the reels does not give it: biases, norms and their
        statistics, or the scores of a machine that was trained before.
        """
        others = self.machine.state_dict()["others"].keys() - self.machine.reels.keys()
        if others or not self.machine.form.has_initial_scores():
            held = fingerprint(folder, folder.config())
            checkpoint.save(folder.checkpoint("start"), self._network(), step=0, epoch=0, **held)

    def _make_recorder(self, resumes: bool) -> Recorder | None:
        trace, level = Trace(self.folder.path / "trace"), self._settings.trace
        if level == "off":
            return None
        return Recorder(self.machine, trace, level, self._settings.every, resumes=resumes)

    def _take_up(self, commit: Commit | None) -> None:
        """Go on from a commit. Raises SlotkitError, before a file is changed, if it can't be used."""
        self._seconds = float(summary_of(self.folder).get("seconds", 0.0))
        if commit is None:
            self._keep_start(self.folder)
            if self._recorder:
                self._recorder.begin_anew()
            self._commits.begin_anew()
            self.folder.cut_metrics(0)
            return
        with naming(commit.path, "Use another one, or train again."):
            self.step, self.values = self._state.load(commit.state)
            if self._recorder:
                self._recorder.load(commit.state["trace"])
        self._commits.settle(commit)
        self.folder.cut_metrics(commit.about["metrics_bytes"])
        self._saved, self._given = self.step, self.values
        for entry in self.folder.metrics():
            self._logged |= entry["values"]
        before = (self.folder.recorded() or {}).get("config", {})
        if before != self._config:
            self.folder.log(f"config was {before} and is {self._config}")
        for fault in commit.faults:
            self.folder.log(f"{fault} An older checkpoint takes its place.")
        self.folder.log(f"resumed after step {self.step}")

    def _check_same_loop(self) -> None:
        """Raise SlotkitError if the folder is not that of such a recording."""
        told = self.folder.tables().get(KIND)
        if told is None:
            raise SlotkitError(
                f"{self.folder.path} was trained by slotkit itself: `slotkit train --resume "
                f"{typed(self.folder.path)}` goes on with it. For a loop of your own choose another path."
            )
        was = self._description.recording
        if (was.trace, was.every) != (self._settings.trace, self._settings.every):
            raise SlotkitError(
                f"{self.folder.path} is recorded with trace={was.trace!r} and every={was.every}, and this "
                f"loop asks for {self._settings.trace!r} and {self._settings.every}. A trace is of one "
                "piece: give the same, or record into another folder."
            )

    def _say(self, sentence: str) -> None:
        self.folder.log(sentence)

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and bool(overflow):  # a GradScaler has skipped the step
            return
        self.step += 1
        if self._recorder:
            self._recorder.record(self.step, float(optimizer.param_groups[0]["lr"]))

    def _save(self) -> None:
        if self._saved == self.step:
            return
        trace = self._recorder.state() if self._recorder else None
        state = self._state.to_save(self.step, self._given) | {"trace": trace}
        self._writing(lambda: self._commits.commit(state, epoch=0, **self._told()))
        self._saved = self.step
        self._write_summary("running")

    @property
    def _kept_best(self) -> bool:
        path = self.folder.checkpoint("best")
        return path.exists() and bool(checkpoint.told(path)[0].get("chosen"))

    def _keep(self, name: str, chosen: bool) -> None:
        file = self.folder.checkpoint(name).name
        fits = name and not name.startswith(".") and "\0" not in name and len(os.fsencode(file)) <= LONGEST
        if not fits or name == "last" or Path(name).name != name:
            raise SlotkitError(f"{name!r:.80} can't name a checkpoint. Give one such as best or epoch-10.")
        if chosen and name == "start":
            raise SlotkitError(
                "The checkpoint start is the network before the first step, which replays and evaluations go "
                "back to. Give this one another name, such as best or epoch-10."
            )
        kept = name.removeprefix("epoch-")
        epoch = int(kept) if kept.isdecimal() else 0
        path = self.folder.checkpoint(name)
        about = self._told() | {"epoch": epoch, "chosen": chosen}
        checkpoint.save(path, self._network(), **about)

    def _network(self) -> dict[str, Any]:
        return with_reels(self.machine.state_dict(), self.machine)

    def _told(self) -> dict[str, Any]:
        """What every checkpoint says of itself."""
        return {"step": self.step, **fingerprint(self.folder, self._description)}

    def _writing(self, write: Callable[[], None]) -> None:
        try:
            write()
        except TypeError as fault:
            raise SlotkitError(
                f"A checkpoint holds tensors, numbers, texts, lists and tables, and this one was given "
                f"something else: {fault}. Look at the values of checkpoint(...) and the states of also=."
            ) from fault

    def _save_end(self) -> None:
        self._save()
        if not self._kept_best:
            # Commands take "best" where no other checkpoint is named.
            self._keep("best", chosen=False)
        if self._recorder:
            self._recorder.flush()

    def _finish(self, fault: BaseException | None) -> None:
        if self._recorder:
            self._recorder.close()
        self._failed = fault is not None
        if fault is None:
            self._write_summary("finished")
        else:
            status = "interrupted" if isinstance(fault, KeyboardInterrupt) else "failed"
            self._write_summary(status, str(fault) or type(fault).__name__)

    def _write_summary(self, status: str, reason: str = "") -> None:
        told: dict[str, Any] = {
            "status": status,
            "kind": KIND,
            "name": self.folder.name,
            "weights": sum(math.prod(reel.shape) for reel in self.machine.reels.values()),
            "steps": self.step,
            "logged": self._logged,
            "seconds": round(self._seconds + time.perf_counter() - self._started, 3),
        }
        self.folder.write_summary(told | ({"reason": reason} if reason else {}))

    def _check_open(self) -> None:
        if not self.is_open:
            raise SlotkitError(
                f"Nothing records into {self.folder.path} now. Call log and checkpoint inside of "
                "`with slotkit.record(...) as run:`."
            )


def wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SlotkitError(f"log({name}=...) takes a number, and {value!r:.60} came.") from None
