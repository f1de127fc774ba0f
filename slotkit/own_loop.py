"""record: a run folder and a flight recorder around any training loop.

    with slotkit.record(machine, optimizer, "runs/mine", trace="full", resume=True) as run:
        for epoch in range(run.values.get("epoch", 0), 30):
            ...                                     # the loop as it was
            run.log(loss=loss, accuracy=accuracy)
            run.checkpoint(epoch=epoch + 1)

Steps are counted by a hook on the optimizer, so the loop itself gains no line. What is left is a run folder
like that of `slotkit train`: analyses, `runs`, `report` and `export` read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from slotkit.errors import SlotkitError
from slotkit.loggers import registry
from slotkit.loggers.contract import Logger
from slotkit.loop_recording import Recording, wait_for_all
from slotkit.loop_state import Stateful
from slotkit.machine import SlotMachine
from slotkit.recording.recorder import check_traceable
from slotkit.runs.commits import find
from slotkit.runs.folder import is_taken
from slotkit.runs.recorded import optimizers_of, plain
from slotkit.settings import RecordingSettings
from slotkit.training.resume import check_rest

LEVELS = ("summary", "full", "off")


def record(
    machine: SlotMachine,
    optimizer: Optimizer | Sequence[Optimizer],
    path: str | Path,
    *,
    trace: str = "summary",
    every: int = 100,
    config: Mapping[str, Any] | None = None,
    also: Mapping[str, Stateful] | None = None,
    loggers: Sequence[str | Logger] = (),
    resume: bool = False,
    keep_last: int = 2,
) -> Recording:
    """Record a training loop of one's own into the run folder `path`. Use it in a `with` statement.

    Of several processes (torch.distributed) each calls it; the first one writes, and the others nothing.

    Args:
        machine: in either form. Its state when the block begins is step 0 of the run.
        optimizer: that steps on the machine; or several, the machine's first. Wrappers of accelerate and
            Lightning are looked through.
        path: the run's folder, such as "runs/mine". It is made, or is there with nothing in it.
        trace: "summary" (counts and statistics), "full" (every flip too) or "off".
        every: steps between two measurements, from 2 up.
        config: what else tells this run from others (numbers, texts, lists, tables), for lists and labels.
        also: name -> what else has a state: schedulers, a GradScaler. Checkpoints hold it.
        loggers: who gets what is logged, too: "tensorboard", "wandb", "mlflow", or an object with `log` and
            `close` (`slotkit.loggers.contract.Logger`). One that fails is told in log.txt and left out.
        resume: go on from the last checkpoint of `path`, to the same bits: machine, optimizers, `also`, the
            random numbers of torch, numpy and Python, trace and logged values. Without a folder there, or
            before its first checkpoint, the run begins at the start.
        keep_last: checkpoints to resume from that are kept.

    Raises SlotkitError for an argument that is not accepted; the rest is refused when the block begins.
    """
    if trace not in LEVELS:
        raise SlotkitError(f"There is no trace {trace!r}. Choose one of {', '.join(LEVELS)}.")
    if type(every) is not int or every < 2:
        raise SlotkitError(f"every is {every!r}. Give the steps between two measurements, an integer from 2.")
    if type(keep_last) is not int or not 1 <= keep_last <= 100:
        raise SlotkitError(
            f"keep_last is {keep_last!r}. Give how many checkpoints to resume from are kept, an integer from "
            "1 to 100."
        )
    if isinstance(loggers, str):
        raise SlotkitError(f"loggers is {loggers!r}. Give a list, such as [{loggers!r}].")
    if also is not None and not isinstance(also, Mapping):
        raise SlotkitError(
            f"also is {also!r:.80}. Give a table of what else has a state, such as "
            '{"scheduler": scheduler}.'
        )
    optimizers = optimizers_of(optimizer)
    own = {id(parameter) for parameter in machine.form.parameters()}
    own_ones = [one for one in optimizers if own & _trained(one)]
    if optimizers[0] not in own_ones:
        raise SlotkitError(
            f"The {type(optimizers[0]).__name__} given trains no weight of this machine, so its steps are "
            "not the machine's. Give the one that machine.optimizer(...) made, and of several that one first."
        )
    if len(own_ones) > 1 and trace != "off":
        raise SlotkitError(
            f"{len(own_ones)} of the optimizers given train weights of this machine, and a trace is one of "
            "the steps of the first: it would have what the others do a step late. Give one optimizer with a "
            'param group for each, or record with trace="off".'
        )
    if trace != "off":
        check_traceable(machine)  # before a folder is made
    settings = RecordingSettings.model_validate({"trace": trace, "every": every, "keep_last": keep_last})
    registry.check([one for one in loggers if isinstance(one, str)])
    given = plain(config or {})
    kind = Recording if _leads() else _Follower
    return kind(machine, optimizers, Path(path), settings, given, dict(also or {}), loggers, resume)


def _trained(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


class _Follower(Recording):
    """What a process has that another one leads, under DistributedDataParallel: it resumes from what the
    first one (rank 0) has written, counts steps, and writes nothing.
    """

    def log(self, **values: float | torch.Tensor) -> None:
        self._check_open()

    def checkpoint(self, name: str | None = None, /, **values: Any) -> None:
        self._check_open()

    def _begin(self, stack: ExitStack) -> None:
        self._recorder = None
        if self._resume and is_taken(self.folder.path):
            commit = find(self.folder, lambda commit: check_rest(self.folder, commit))
            if commit is not None:
                self.step, self.values = self._state.load(commit.state)
        if self._resume:
            wait_for_all()
        stack.callback(self._state.optimizers[0].register_step_post_hook(self._stepped).remove)

    def _save_end(self) -> None:
        pass

    def _finish(self, fault: BaseException | None) -> None:
        pass


def _leads() -> bool:
    """Whether this process alone trains, or is the first of several that train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not together or torch.distributed.get_rank() == 0
