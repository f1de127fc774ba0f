"""From a configuration to a finished run: training, checkpoints, the one reading of the test set."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from slotkit.config import Config, Overrides, Resolved, flatten, resolve
from slotkit.data.identity import Identity
from slotkit.errors import DivergedError, SlotkitError, UnreadableError, is_text, many, typed
from slotkit.files import write_bytes, write_whole
from slotkit.loggers import registry
from slotkit.loggers.contract import Training
from slotkit.loggers.loggers import Loggers
from slotkit.recording.recorder import Recorder, estimated_bytes
from slotkit.recording.trace import Trace
from slotkit.runs import checkpoint
from slotkit.runs.commits import Commit, Commits, find
from slotkit.runs.environment import environment
from slotkit.runs.fingerprint import FREE, fingerprint, load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.training.checks import check_pieces, check_settings
from slotkit.training.evaluation import Reading
from slotkit.training.following import first_one_fetches, follow, shared, stop_if_asked
from slotkit.training.gradients import with_pieces
from slotkit.training.journal import Journal
from slotkit.training.kept_masks import KeptMasks
from slotkit.training.loop import Epoch, Event, Note, Step, fit, steps_in
from slotkit.training.measures import flips_of, measures_of, tests_of
from slotkit.training.prepare import MASK, Prepared, own_settings, prepare, reopen
from slotkit.training.processes import ALONE, Processes
from slotkit.training.readings import read_tests, readings
from slotkit.training.resume import (
    ONLY_ITS_OWN,
    check_rest,
    continued,
    finished,
    other_pieces,
    record_data,
    summary_of,
    write_continued,
)
from slotkit.training.signals import Signals, StoppedError, heard
from slotkit.training.state import TrainingState
from slotkit.training.trainee import of_type

Report = Callable[[Event], None]


def run(
    resolved: Resolved,
    runs_dir: Path,
    name: str | None = None,
    report: Report = lambda event: None,
    parent: Mapping[str, Any] | None = None,
    start: Mapping[str, Any] | None = None,
    data: Identity | None = None,
    begun: Callable[[RunFolder], None] = lambda folder: None,
    processes: Processes = ALONE,
) -> RunFolder:
    """Train, evaluate and leave a run folder.

    The best checkpoint is the one with the highest validation accuracy (the earliest of equals).
    The test set is read once, at the end: by the last and the best network, and by the one before the first
    step, which is a random combination of options.

    Args:
        report: called with every `Event` of the training loop.
        parent: the run that this one goes back to, for config.toml.
        start: a `Trainee.state` to begin with; kept as the checkpoint "start".
        data: what the data have to be, if that is known: those of the runs that it is compared with.
        begun: called with the folder when it is made.
        processes: that train it together. Each calls this with the same settings; the first one writes.

    Raises:
        SlotkitError: for bad input; KeyboardInterrupt passes through; StoppedError on SIGTERM. The
            folder is valid then and its summary says "failed", "diverged", "interrupted" or "stopped".
    """
    with _deterministic(resolved.config.training.deterministic):
        check_settings(resolved.config)
        check_pieces(resolved.config.training, processes.count)
        with first_one_fetches(resolved.config.data, processes):
            prepared = shared(prepare(with_pieces(resolved, processes.count), data), processes)
        if not processes.leads:
            place = processes.text("")
            # safetensors opens paths of UTF-8 only: that from here may be one where the whole path is none.
            folder = RunFolder(Path(place if is_text(place) else os.path.relpath(place)))
            begun(folder)
            follow(prepared, folder, start, resumes=False)
            return folder
        told = environment(str(prepared.trainee.device), torch.get_num_threads())
        if processes.count > 1:
            told["processes"] = processes.count

        def fill(folder: RunFolder) -> None:
            folder.write_data(prepared.identity)
            indices = {"train": prepared.split.train, "validation": prepared.split.validation}
            write_whole(folder.path / "split.safetensors", lambda path: save_file(indices, path))
            if prepared.config.mask is not None:
                write_bytes(folder.path / MASK, Path(prepared.config.mask).read_bytes())
            if start is not None:
                held = fingerprint(folder, prepared.config)
                checkpoint.save(folder.checkpoint("start"), start, step=0, epoch=0, **held)

        folder = RunFolder.create(runs_dir, name, prepared.resolved, told, parent, fill)
        begun(folder)
        processes.text(str(folder.path.absolute()))
        with folder.locked():
            if start is not None:
                prepared.trainee.load(dict(start))
            _Training(prepared, folder, report).complete()
    return folder


def resume(
    folder: RunFolder,
    changes: Sequence[Overrides],
    report: Report = lambda event: None,
    processes: Processes = ALONE,
) -> RunFolder:
    """Go on with a run that was stopped or killed, from its last checkpoint, to the same bits.

    `changes` are settings that may differ, such as more epochs; see `slotkit.training.resume`. A finished
    run is left as it is, and that is reported. `processes` as in `run`; they may be more or fewer than
    before.

    Raises SlotkitError if the run is being trained or is damaged, or another setting differs.
    """
    if folder.recorded() is not None:
        raise SlotkitError(
            f"{folder.name} was recorded in a loop of one's own. Run that loop again with resume=True: it "
            "goes on from the last checkpoint."
        )
    wanted = continued(folder, changes)
    done = finished(folder, wanted)
    if done:
        report(done)
        return folder
    registry.check(wanted.config.recording.loggers)
    check_pieces(wanted.config.training, processes.count)
    with folder.locked() if processes.leads else nullcontext():
        before = folder.config().training.accumulate
        resolved = with_pieces(continued(folder, changes), processes.count)
        commit = find(folder, lambda commit: check_rest(folder, commit))
        with _deterministic(resolved.config.training.deterministic):
            with first_one_fetches(resolved.config.data, processes):
                prepared = shared(reopen(folder, resolved, ONLY_ITS_OWN), processes)
            if not processes.leads:
                follow(prepared, folder, commit.state if commit else _start_of(folder), resumes=True)
                return folder
            folder.remove_temporary_files()
            training = _Training(prepared, folder, report)
            notes = [*training.take_up(commit), *other_pieces(before, resolved.config.training.accumulate)]
            write_continued(folder, resolved)
            record_data(folder, training.prepared.identity)
            training.complete(notes)
    return folder


def evaluate(
    folder: RunFolder,
    which: str,
    part: str,
    changes: Sequence[Overrides] = (),
    other_data: bool = False,
    tell: Callable[[str], None] = lambda difference: None,
) -> dict[str, Reading]:
    """Every reading of a checkpoint ("best", "last", "epoch-N", "step-N") of a run on "validation" or "test".

    "start" is the network before the first step, made anew from the seeds if it began with them.
    "step-N" has the greedy reading.

    Args:
        changes: settings laid over the run's own, such as another data folder or device.
        other_data: read test images that are not those of the run, too; see `reopen`.
        tell: called with each difference then.

    Raises SlotkitError if the data are not those of the run, or other data don't fit its network.
    """
    if other_data and part != "test":
        raise SlotkitError(
            "Which of the training images are validation images is known of a run's own data only. With "
            "--other-data, leave --split at test."
        )
    if folder.recorded() is not None and part != "test":
        raise SlotkitError(
            f"{folder.name} was recorded in a loop of one's own, and which images that held out is not "
            "known. Evaluate on --split test."
        )
    way_on = f"`slotkit evaluate {typed(folder.path)} --other-data` reads the test images as they are now."
    if which == "start" and not folder.begins_with_weights():
        prepared = reopen(folder, resolve([own_settings(folder), *changes]), way_on, other_data, tell)
        return readings(prepared, part, at_start=True)
    state, _ = load(folder, which)
    # Weights without scores, as `slotkit.recording.replay` writes them: an ordinary network.
    replayed = "weights" in state and folder.config().method == "slot"
    ordinary = [Overrides(f"checkpoint {which}", {"method": "learned"})] if replayed else []
    resolved = resolve([own_settings(folder), *ordinary, *changes])
    prepared = reopen(folder, resolved, way_on, other_data, tell)
    with naming(folder.checkpoint(which), "Use another one, or train again."):
        if replayed:
            state = {"weights": of_type(state["weights"], prepared.trainee.dtype)}
        prepared.trainee.load(state)
    found = readings(prepared, part)
    return {"greedy": replace(found["learned"], kind="greedy")} if replayed else found


def evaluate_untrained(folder: RunFolder) -> Reading:
    """The network of a run before its first step, on the test images: options that chance has chosen.

    Raises SlotkitError if the data are not those of the run.
    """
    return next(iter(evaluate(folder, "start", "test").values()))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1 in the denominator; None for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


class _Training:
    """A run while it trains: the state, and where it is written."""

    def __init__(self, prepared: Prepared, folder: RunFolder, report: Report) -> None:
        self.prepared, self.folder, self.report = prepared, folder, report
        self.config, trainee = prepared.config, prepared.trainee
        self.processes = trainee.processes
        self.train = prepared.images("train")
        per_epoch = steps_in(self.train, self.config.training)
        self.state = TrainingState(trainee, self.config.training, per_epoch)
        self.journal = Journal(folder, trainee)
        self.recorder = _recorder(prepared, folder)
        self.masks = KeptMasks(prepared, folder)
        self.commits = Commits(folder, self.config.recording.keep_last)
        self.held = fingerprint(folder, self.config)
        self.saved_at, self.saved = time.monotonic(), (-1, -1)
        self.signals = Signals()
        self.loggers: Loggers | None = None

    def complete(self, notes: Sequence[Note] = ()) -> None:
        """Train to the end and read the test set. `notes` are told first."""
        failed = True
        with heard() as self.signals:
            try:
                self._open_loggers()
                self._train(notes)
                self._save()
                self.processes.wait()  # until the best checkpoint is there, which all read
                if self.recorder:
                    self.recorder.flush()
                test = read_tests(self.prepared, self.state, self.folder, self._stop_if_asked, self._tell)
                self.journal.finish(test)
                self._log(tests_of(test))
                failed = False
            except StoppedError as fault:
                self.journal.stop("stopped", str(fault))
                raise
            except BaseException as fault:
                statuses = {KeyboardInterrupt: "interrupted", DivergedError: "diverged"}
                status = statuses.get(type(fault), "failed")
                self.journal.stop(status, str(fault) or type(fault).__name__)
                raise
            finally:
                if self.loggers:
                    self.loggers.close(failed)

    def _train(self, notes: Sequence[Note]) -> None:
        try:
            for note in self._beginning(notes):
                self._tell(note)
            validation = self.prepared.images("validation")
            if self.state.step == 0:
                self.masks.keep(0)
            for event in fit(
                *(self.prepared.trainee, self.train, validation, self.config, self.state, self.recorder),
                self._stop_if_asked,
            ):
                self._tell(event)
                self._save_if_due(event)
                self._stop_if_asked()
        except (StoppedError, UnreadableError) as fault:
            self._save()
            if self.signals.terminated and self.processes.count == 1:  # it has ended what reads pictures, too
                raise StoppedError(f"SIGTERM after step {self.state.step}") from fault
            raise

    def _stop_if_asked(self) -> None:
        stop_if_asked(self.signals, self.state)

    def _tell(self, event: Event) -> None:
        """The one place from which an event goes to the run's files, to who watches, and to the loggers."""
        if isinstance(event, Step) and event.change:
            self.masks.keep(event.step)
        for entry in self.journal.write(event):
            flips = flips_of(self.prepared.trainee) if isinstance(event, Step) else {}
            self._log(measures_of(entry) | flips)
        self.report(event)

    def _log(self, values: Mapping[str, float]) -> None:
        if self.loggers:
            self.loggers.log(self.state.step, values)

    def _open_loggers(self) -> None:
        names = self.config.recording.loggers
        if not names:
            return
        settings = dict(flatten(self.config.model_dump(mode="json")))
        training = Training(self.folder.path, self.folder.name, settings, self.state.step)
        self.loggers = Loggers(names, training, lambda text: self._tell(Note(text)))
        for entry in self.folder.metrics():
            if entry["step"] == self.state.step:  # which the loggers are to be told once more
                self._log(measures_of(entry))

    def _beginning(self, notes: Sequence[Note]) -> Iterator[Note]:
        machine = self.prepared.trainee.machine
        about = Note(str(machine) if machine else f"{self.config.model.name} with learned weights")
        yield from notes or [about, *(Note(sentence) for sentence in self.prepared.dataset.notes)]
        if self.recorder and self.recorder.full:
            steps = (self.config.training.epochs - self.state.validated) * self.state.steps_per_epoch
            size = estimated_bytes(self.recorder.machine, steps)
            yield Note(f"The trace of every flip will take about {size / 1e6:.0f} MB.")

    def take_up(self, commit: Commit | None) -> list[Note]:
        """Go on from a commit. Raises SlotkitError, before a file is changed, if it can't be used."""
        seconds = float(summary_of(self.folder).get("seconds", 0.0))
        if commit is None:
            start = _start_of(self.folder)
            if start is not None:
                with naming(self.folder.checkpoint("start"), "Train again."):
                    self.prepared.trainee.load(start)
            self.processes.wait()
            if self.recorder:
                self.recorder.begin_anew()
            self.commits.begin_anew()
            self.journal.go_on(0, seconds)
            return [Note("Resumed before the first checkpoint: from the start.")]
        with naming(commit.path, "Use another one, or train again."):
            there = self.state.load(commit.state)
            if self.recorder:
                self.recorder.load(commit.state["trace"])
        self.processes.wait()  # until the others have read it
        self.commits.settle(commit)
        self.journal.go_on(commit.about["metrics_bytes"], seconds)
        self.saved = self.state.step, self.state.validated
        notes = [Note(f"{fault} An older checkpoint takes its place.") for fault in commit.faults]
        notes.append(Note(f"Resumed after step {self.state.step}, epoch {self.state.validated} done."))
        if there != self.state.lr:
            notes.append(
                Note(
                    f"The schedule now spans {many(self.config.training.epochs, 'epoch')}: the next learning "
                    f"rate is {self.state.lr:.4g}, and would have been {there:.4g} in the run as it was."
                )
            )
        return notes

    def _save_if_due(self, event: Event) -> None:
        recording = self.config.recording
        if isinstance(event, Epoch):
            if event.best:
                self.commits.stage_best(self.prepared.trainee.to_save(), **self._told())
            if event.epoch in recording.keep_epochs:
                path = self.folder.checkpoint(f"epoch-{event.epoch}")
                checkpoint.save(path, self.prepared.trainee.to_save(), **self._told())
            if event.best or event.epoch % recording.checkpoint_epochs == 0:
                self._save()
        elif time.monotonic() - self.saved_at > 60 * recording.checkpoint_minutes:
            self._save()

    def _told(self) -> dict[str, Any]:
        """What every checkpoint says of itself."""
        return {"step": self.state.step, "epoch": self.state.validated, **self.held}

    def _save(self) -> None:
        """The checkpoint to resume from."""
        if self.saved == (self.state.step, self.state.validated):
            return
        state = self.state.to_save() | {"trace": self.recorder.state() if self.recorder else None}
        self.commits.commit(state, epochs=self.config.training.epochs, **self._told())
        self.saved_at = time.monotonic()
        self.saved = self.state.step, self.state.validated


def _start_of(folder: RunFolder) -> dict[str, Any] | None:
    """What a run begins with that goes back to another one's checkpoint."""
    return load(folder, "start")[0] if folder.begins_with_weights() else None


def _recorder(prepared: Prepared, folder: RunFolder) -> Recorder | None:
    machine, recording = prepared.trainee.machine, prepared.config.recording
    if recording.trace == "off" or machine is None:
        return None
    run = _trace_run(prepared.config)
    return Recorder(machine, Trace(folder.path / "trace"), recording.trace, recording.every, run)


def _trace_run(config: Config) -> str:
    """A digest of the settings that decide a trace: without those that may change when a run is resumed."""
    told = {path: str(value) for path, value in flatten(config.model_dump(mode="json"))}
    deciding = {path: value for path, value in told.items() if path not in (*FREE, "training.epochs")}
    text = json.dumps(deciding, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    if not wanted or torch.are_deterministic_algorithms_enabled():
        # Setting it would import torch's compiler, which takes a second.
        yield
        return
    # cuBLAS is deterministic only with this set before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
