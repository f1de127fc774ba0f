"""The processes that train one network together, as torchrun starts them.

Every process has the whole network and a share of each batch. They are at the same step, have the same
weights, and take the same decisions. The first one (rank 0) alone writes and tells.

torch is imported only where there are several processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from torch import Tensor

# What torchrun tells each process, beside WORLD_SIZE.
TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Of processes that end with an error, the first to write under one of these names tells it.
FAULT, LOST = "fault", "lost"


class LostError(SlotkitError):
    """Another process of this training has ended."""


class ToldElsewhereError(Exception):
    """This process ends for a reason that another one tells."""


class Processes:
    """A process that trains alone, and what one of several asks of the others.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes and tells."""
        return self.rank == 0

    def sum(self, numbers: Tensor) -> None:
        """Add up what the processes have, in place. All get the same bits."""

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return flag

    def text(self, of_the_first: str) -> str:
        """What the first process has given."""
        return of_the_first

    def copy_the_first(self, tensors: Iterable[Tensor]) -> None:
        """Put into these tensors what those of the first process have."""

    def wait(self) -> None:
        """Wait until all processes are here."""

    def check_same(self, tensors: Iterable[Tensor], when: str) -> None:
        """Raise SlotkitError if the processes have other bits in these tensors."""


ALONE = Processes()


class _Together(Processes):
    """One of several processes, which are joined already. `store` is shared by all."""

    def __init__(self, rank: int, count: int, store: Any) -> None:
        super().__init__(rank, count)
        self._store = store

    def sum(self, numbers: Tensor) -> None:
        import torch
        from torch import distributed

        with self._losses_told():
            if self.count & (self.count - 1):
                distributed.all_reduce(numbers)
                return
            # In pairs, then pairs of pairs: a sum of two has the same bits in both orders, so that 2, 4 or 8
            # processes add as one process adds its pieces (`slotkit.training.gradients`).
            other, distance = torch.empty_like(numbers), 1
            while distance < self.count:
                partner = self.rank ^ distance
                exchange = [
                    distributed.P2POp(distributed.isend, numbers, partner),
                    distributed.P2POp(distributed.irecv, other, partner),
                ]
                for work in distributed.batch_isend_irecv(exchange):
                    work.wait()
                numbers += other
                distance *= 2

    def any(self, flag: bool) -> bool:
        import torch
        from torch import distributed

        # On the CPU: no GPU is waited for.
        flags = torch.tensor([int(flag)], dtype=torch.int32)
        with self._losses_told():
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def text(self, of_the_first: str) -> str:
        import torch
        from torch import distributed

        # A folder's name may be no UTF-8.
        letters = torch.tensor(list(of_the_first.encode(errors="surrogateescape")), dtype=torch.uint8)
        length = torch.tensor([len(letters)])
        with self._losses_told():
            distributed.broadcast(length, 0)
            letters = letters if self.leads else torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(letters, 0)
        return bytes(letters.tolist()).decode(errors="surrogateescape")

    def copy_the_first(self, tensors: Iterable[Tensor]) -> None:
        from torch import distributed

        with self._losses_told():
            for tensor in tensors:
                sent = tensor.detach().contiguous()  # nccl takes no tensor with gaps
                distributed.broadcast(sent, 0)
                tensor.copy_(sent)

    def wait(self) -> None:
        self.any(False)

    def check_same(self, tensors: Iterable[Tensor], when: str) -> None:
        import torch
        from torch import distributed

        from slotkit.runs.checkpoint import octets

        digest = hashlib.blake2b(digest_size=7)  # fits int64, with either sign
        for tensor in tensors:
            digest.update(octets(tensor.detach().contiguous().cpu()))
        number = int.from_bytes(digest.digest())
        bounds = torch.tensor([number, -number])
        with self._losses_told():
            distributed.all_reduce(bounds, distributed.ReduceOp.MAX)
        if int(bounds[0]) != -int(bounds[1]):
            raise SlotkitError(
                f"The processes have come apart: {when} their weights are not the same. A network with a "
                "state of its own beside batch norm's, or an operation without a deterministic form, does "
                "that. Train with one process, or with --deterministic."
            )

    def is_mine_to_tell(self, fault: Exception) -> bool:
        """Announce that this process ends with an error. Whether it, and no other, should tell it."""
        if isinstance(fault, LostError):
            return self._announced(FAULT) is None and self._announce(LOST, str(fault))[0] == self.rank
        rank, sentence = self._announce(FAULT, _in_words(fault))
        return rank == self.rank or sentence != _in_words(fault)

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        """torch raises RuntimeError where another process is gone."""
        try:
            yield
        except RuntimeError as fault:
            raise LostError(self._loss()) from fault

    def _loss(self) -> str:
        known = self._announced(FAULT)
        way_on = "`slotkit train --resume RUN` goes on from the last checkpoint."
        if known is None:
            return (
                f"Of the {self.count} processes that train together another one has ended without a word (it "
                f"was killed, or the memory was full), or doesn't answer. {way_on}"
            )
        return f"The process of rank {known[0]} has ended with an error: {known[1]} {way_on}"

    def _announced(self, name: str) -> tuple[int, str] | None:
        try:
            return _parsed(self._store.get(name)) if self._store.check([name]) else None
        except RuntimeError:  # the store has gone with the first process
            return None

    def _announce(self, name: str, sentence: str) -> tuple[int, str]:
        """The first announcement of that name, which may be this one."""
        try:
            return _parsed(self._store.compare_set(name, "", f"{self.rank} {sentence}"))
        except RuntimeError:
            return self.rank, sentence


def _parsed(told: bytes) -> tuple[int, str]:
    rank, _, sentence = told.decode().partition(" ")
    return int(rank), sentence


def _in_words(fault: Exception) -> str:
    """As text that the store takes: a name in it may be no UTF-8."""
    words = str(fault) if isinstance(fault, SlotkitError) else f"{type(fault).__name__}: {fault}"
    return words.encode(errors="backslashreplace").decode()


def count_in(environment: Mapping[str, str]) -> int:
    """How many processes train together, by what torchrun says."""
    told = environment.get("WORLD_SIZE") or "1"
    if not told.isdigit() or int(told) < 1:
        raise SlotkitError(
            f"WORLD_SIZE is {told!r} in the environment, where torchrun puts the number of processes. Unset "
            "it, or start with `torchrun --nproc-per-node N -m slotkit train`."
        )
    return int(told)


def refuse_several(what: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise SlotkitError if this process is one of several."""
    if count_in(environment) > 1:
        raise SlotkitError(
            f"{what} is the work of one process, and torchrun has started {count_in(environment)}. Run it "
            "without torchrun; `slotkit train` is what several processes do together."
        )


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Be one of the processes that torchrun has started, or alone without it.

    Raises SlotkitError if the environment says only half of that, and ToldElsewhereError in the place of an
    error that another process tells.
    """
    count = count_in(environment)
    if count == 1:
        yield ALONE
        return
    from torch import distributed

    together = _join(environment, count)
    try:
        yield together
    except Exception as fault:
        if isinstance(fault, SlotkitError) and not together.is_mine_to_tell(fault):
            raise ToldElsewhereError(str(fault)) from fault
        if not isinstance(fault, SlotkitError):  # its traceback is of this process
            together.is_mine_to_tell(fault)
        raise
    finally:
        distributed.destroy_process_group()


def _join(environment: Mapping[str, str], count: int) -> _Together:
    missing = [name for name in TOLD if not environment.get(name)]
    if missing:
        raise SlotkitError(
            f"WORLD_SIZE is {count} in the environment, and {', '.join(missing)} is missing: torchrun sets "
            "them all. Start with `torchrun --nproc-per-node N -m slotkit train`, or unset WORLD_SIZE."
        )
    import torch
    from torch import distributed

    gpus, place = torch.cuda.device_count(), int(environment["LOCAL_RANK"])
    if gpus:
        torch.cuda.set_device(place % gpus)
    try:
        store, rank, _ = next(iter(distributed.rendezvous("env://")))
        group = distributed.PrefixStore("group", store)
        # gloo carries what lies on the CPU.
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        distributed.init_process_group(backend, store=group, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as fault:
        raise SlotkitError(f"The {count} processes did not find each other: {fault}") from fault
    # A restart by torchrun has announcements of its own.
    prefix = f"slotkit-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return _Together(rank, count, distributed.PrefixStore(prefix, store))


def check_device(name: str, kind: str, processes: Processes) -> None:
    """Raise SlotkitError if the processes can't each train on the device of that name, which is of `kind`."""
    if processes.count == 1 or kind == "cpu":
        return
    import torch

    if ":" in name:
        raise SlotkitError(
            f"training.device is {name}, which is one GPU, and {processes.count} processes train together. "
            "With --device cuda each takes its own."
        )
    if kind == "mps":
        raise SlotkitError("Several processes train on CPUs or CUDA GPUs, not on mps. Use --device cpu.")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))
    gpus = torch.cuda.device_count()
    if gpus < here:
        raise SlotkitError(
            f"There are {gpus} GPUs for {here} processes on this machine. Give torchrun "
            f"--nproc-per-node {gpus}, or train with --device cpu."
        )
