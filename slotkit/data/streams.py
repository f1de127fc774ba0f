"""Images that stay in their files and are read while they are used, by processes that read ahead.

A batch is the same as that of the same pictures in memory, to the last bit, whatever the number of workers:
which pictures it has is decided before they are read, and what changes a picture is a function of its index.
"""

from __future__ import annotations

import gc
import math
import mmap
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from slotkit.data.augmentations import PictureChange
from slotkit.data.files import naming
from slotkit.data.pictures import Head, decode_changed, fit, head, two_sizes
from slotkit.data.source import Loading
from slotkit.errors import SlotkitError, UnreadableError, many

# Decoded pictures that wait for the training, of all workers together: each reads AHEAD units, and a unit is
# so small that they stay below this. Units are in shared memory from the start. In blocks of the heap, which
# the GNU C library keeps up to 32 MiB and does not fill again, memory grew with every picture.
WAITING_BYTES = 2**26
AHEAD = 2
HEADS = 512

MOST_WORKERS = 8

# Python's processes send each other tensors through sockets of this many letters, in the folder for temporary
# files, and a socket's name may have 107 (Linux). A longer one is an error in the worker, which then sends
# nothing, and the training would wait for ever.
SOCKET_NAME = len("/pymp-12345678/listener-12345678")
LONGEST_FOLDER = 107 - SOCKET_NAME


class Pictures(Protocol):
    """Encoded pictures, each found by its number. Is sent to the workers."""

    def __len__(self) -> int: ...

    def opened(self, number: int) -> tuple[str, BinaryIO]:
        """Where the picture lies, and its bytes as a file. Raises SlotkitError if it can't be opened."""
        ...


@dataclass(frozen=True)
class Form:
    """How pictures become images of one shape.

    shape: (channels, height, width) of every image.
    size, crop: see `slotkit.data.pictures.fit`.
    turn: whether EXIF orientation counts.
    """

    shape: tuple[int, int, int]
    size: int | None = None
    crop: bool = False
    turn: bool = False

    def image(self, encoded: bytes, where: str, index: int, change: PictureChange | None) -> Tensor:
        """uint8 (channels, height, width). Raises SlotkitError for bytes that do not decode."""

        def fitted(picture: Image.Image) -> Image.Image:
            if change is None:
                return fit(picture, self.size, self.crop)
            if not change.takes_whole_pictures:
                picture = fit(picture, self.size, self.crop)
            return change(picture.convert("RGB") if self.shape[0] == 3 else picture, index)

        pixels = torch.from_numpy(decode_changed(encoded, where, fitted, self.turn).copy())
        image = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(self.shape[0], -1, -1)
        if image.shape != self.shape:
            channels = "" if image.shape[0] == self.shape[0] else f" in {image.shape[0]} channels"
            raise SlotkitError(
                f"{where} is {image.shape[1]} x {image.shape[2]} pixels{channels}, and was not when the run "
                "began. Put it back as it was."
            )
        return image


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Images read from their files while they are used; see `slotkit.data.images.Images`.

    Attributes:
        sizes: int64, of each of `pictures` how many bytes it had when the run began.
        labels: int64 (n,), on the device that images come to.
        numbers: int64 (n,) on the CPU: which of `pictures` they are.
        workers: processes that read ahead; 0 reads in this one.
    """

    pictures: Pictures
    sizes: Tensor
    labels: Tensor
    numbers: Tensor
    form: Form
    workers: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Images`."""
        return self.form.shape

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> StreamedImages:
        """See `Images`."""
        labels = self.labels[indices.to(self.labels.device)]
        return replace(self, labels=labels, numbers=self.numbers[indices.cpu()])

    def to(self, device: torch.device | str) -> StreamedImages:
        """See `Images`."""
        return replace(self, labels=self.labels.to(device))

    def relabelled(self, labels: Tensor) -> StreamedImages:
        """See `Images`."""
        return replace(self, labels=labels)

    def read(self, parts: Sequence[Tensor], change: PictureChange | None = None) -> Iterator[Tensor]:
        """See `Images`. Raises UnreadableError, naming the file."""
        if change is not None:
            change.prepare()  # here, so that workers share what it imports
        device = self.labels.device
        decoder = _Decoder(self.pictures, self.sizes, self.numbers, self.form, change)
        pin = device.type == "cuda"
        most = WAITING_BYTES // (AHEAD * max(1, self.workers)) // math.prod(self.shape)
        counts = [-(-len(part) // max(1, most)) for part in parts]
        units = (
            unit.tolist()
            for part, count in zip(parts, counts, strict=True)
            for unit in part.cpu().tensor_split(count)
        )
        found = _read_ahead(decoder, units, min(self.workers, sum(counts)), pin)

        def joined(count: int) -> Tensor:
            pixels = [unit.to(device, non_blocking=pin) for unit in islice(found, count)]
            assert len(pixels) == count  # a StopIteration in here would end the epoch without a word
            return pixels[0] if count == 1 else _joined(pixels)

        # A generator keeps its variables while the training works: these would be batches.
        yield from map(joined, counts)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts, uint8 (b_i, channels, height, width) on one device, as one tensor.

    On the CPU it lies in memory that the system gets back at once. glibc would keep what torch allocates in
    sizes of up to 32 MB, and not always use it for the next batch: an epoch then takes up to 1 GB more.
    """
    whole = (sum(map(len, parts)), *parts[0].shape[1:])
    if parts[0].device.type != "cpu":
        return torch.cat(parts)  # type: ignore[arg-type]
    memory = torch.frombuffer(mmap.mmap(-1, math.prod(whole)), dtype=torch.uint8)
    return torch.cat(parts, out=memory.view(whole))  # type: ignore[arg-type]


def default_workers() -> int:
    """As many as this process may use cores, shared with the other processes of a distributed training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def exceeds(halves: Sequence[Pictures], size: int | None, loading: Loading) -> bool:
    """Whether pictures are to be read while they are used: because an augmentation needs them whole, or their
    images, if all are as large as the first, would take more memory than is allowed."""
    if loading.whole_pictures or loading.memory == 0:
        return True
    if math.isinf(loading.memory):
        return False
    where, file = halves[0].opened(0)
    with file:
        first = head(file, where)
    height, width = first.size if size is None else (size, size)
    return sum(map(len, halves)) * (1 if first.grey else 3) * height * width > loading.memory


def streamed(
    halves: Sequence[Pictures],
    labels: Sequence[Tensor],
    size: int | None,
    loading: Loading,
    turn: bool = False,
) -> tuple[tuple[StreamedImages, StreamedImages], list[str], str]:
    """The images of the training and the test pictures, where those with an EXIF orientation lie, and a
    sentence for the user. The beginning of every picture is looked at.

    Raises SlotkitError, naming the file, for a picture that is none by its beginning, has grey of more than 8
    bits, or differs in size from the first where there is no `size`.
    """
    workers = default_workers() if loading.workers is None else loading.workers
    form, sizes, turned = _form_of(halves, size, loading.crop, turn, workers)
    train, test = (
        StreamedImages(pictures, had, own, torch.arange(len(pictures)), form, workers)
        for pictures, had, own in zip(halves, sizes, labels, strict=True)
    )
    return (train, test), turned, _note(sum(map(len, halves)), form.shape, loading, workers)


def _form_of(
    halves: Sequence[Pictures], size: int | None, crop: bool, turn: bool, workers: int
) -> tuple[Form, list[Tensor], list[str]]:
    """What holds for all, how many bytes each picture of each half has, and which are turned."""
    first: tuple[str, tuple[int, int]] | None = None
    grey, sizes, turned = True, [], []
    for pictures in halves:
        had: list[int] = []
        numbers = [unit.tolist() for unit in torch.split(torch.arange(len(pictures)), HEADS)]
        few = len(numbers) < 8  # to start processes takes longer
        for heads in _read_ahead(_Heads(pictures, turn), numbers, 0 if few else workers, False):
            for where, found, size_of_file in heads:
                had.append(size_of_file)
                first = first or (where, found.size)
                if size is None and found.size != first[1]:
                    raise two_sizes((where, found.size), first)
                grey &= found.grey
                turned += [where] if found.turned else []
        sizes.append(torch.tensor(had))
    assert first is not None
    height, width = first[1] if size is None else (size, size)
    return Form((1 if grey else 3, height, width), size, crop, turn), sizes, turned


def _note(images: int, shape: tuple[int, int, int], loading: Loading, workers: int) -> str:
    size = images * shape[0] * shape[1] * shape[2] / 2**30
    reason = (
        "resized-crop needs them whole"
        if loading.whole_pictures
        else f"decoded they would take {size:.3g} GiB, and data.memory is {loading.memory / 2**30:.3g}"
    )
    who = many(workers, "worker") if workers else "the training process"
    return (
        f"{images} pictures are read from their files by {who} while they are used: {reason}. Whether some "
        "are there twice is not looked at."
    )


class _Heads:
    """What a worker makes of a list of numbers: (where, Head, bytes) of each."""

    def __init__(self, pictures: Pictures, turn: bool) -> None:
        self.pictures, self.turn = pictures, turn

    def __getitems__(self, numbers: list[int]) -> list[tuple[str, Head, int]] | _Refusal:
        try:
            return [self._head(number) for number in numbers]
        except SlotkitError as fault:
            return _Refusal(str(fault))

    def _head(self, number: int) -> tuple[str, Head, int]:
        where, file = self.pictures.opened(number)
        with file, naming(where):
            found = head(file, where, self.turn)
            return where, found, file.seek(0, os.SEEK_END)


class _Decoder:
    """What a worker makes of a list of indices: uint8 (b, channels, height, width)."""

    def __init__(
        self, pictures: Pictures, sizes: Tensor, numbers: Tensor, form: Form, change: PictureChange | None
    ) -> None:
        self.pictures, self.sizes, self.numbers = pictures, sizes, numbers
        self.form, self.change = form, change

    def __getitems__(self, indices: list[int]) -> Tensor | _Refusal:
        images = _empty(len(indices), *self.form.shape)
        try:
            for image, index in zip(images, indices, strict=True):
                image.copy_(self._image(index))
        except SlotkitError as fault:
            return _Refusal(str(fault))
        return images

    def _image(self, index: int) -> Tensor:
        number = int(self.numbers[index])
        where, file = self.pictures.opened(number)
        with file, naming(where):
            encoded = file.read()
        if len(encoded) != self.sizes[number]:
            raise SlotkitError(
                f"{where} has changed: it has {len(encoded)} bytes, and had {int(self.sizes[number])} when "
                "the run began. Put it back as it was."
            )
        return self.form.image(encoded, where, index, self.change)


@dataclass(frozen=True)
class _Refusal:
    """The text of a SlotkitError: raised in a worker, it would come with the worker's traceback."""

    text: str


def _empty(*shape: int) -> Tensor:
    """uint8 of that shape; in a worker in the memory that it shares with the training, as torch's own
    default_collate has it."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared: Any = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)


def _as_it_is(found: Any) -> Any:
    return found


def _readable(found: Any) -> Any:
    if isinstance(found, _Refusal):
        raise UnreadableError(found.text)
    return found


def _begin(worker: int) -> None:
    """What a worker does first."""
    # A collection of garbage writes into every object that it looks at. What comes from the training process
    # stays shared with it.
    gc.freeze()
    # Ctrl-C reaches all processes, and the training ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_folder(temporary: str) -> None:
    letters = len(os.fsencode(temporary))
    if letters > LONGEST_FOLDER:
        raise SlotkitError(
            f"The folder for temporary files, {temporary}, has a name of {letters} letters, and processes "
            f"that read pictures can use one of {LONGEST_FOLDER} at most. Let TMPDIR name another one, or "
            "read without such processes: --set data.workers=0."
        )


def _read_ahead(dataset: Any, units: Iterable[list[int]], workers: int, pin: bool) -> Iterator[Any]:
    """What `dataset` makes of each unit, in order.

    Raises UnreadableError, and SlotkitError if processes could not send each other anything.
    """
    if workers:
        _check_folder(tempfile.gettempdir())
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=units,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=_begin,
        # A worker that is forked shares torch with this process; one that is not would take 300 MB more.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        prefetch_factor=AHEAD if workers else None,
        generator=torch.Generator(),  # it seeds the workers, and is drawn from: torch's own stays as it is
    )
    try:
        with _deaths_wait():
            found = iter(loader)
        yield from map(_readable, found)
    except (RuntimeError, OSError, EOFError) as fault:
        # An OSError is that of a pipe to a process that is just ending, or of one that could not begin.
        if not workers or (isinstance(fault, RuntimeError) and "DataLoader worker" not in str(fault)):
            raise
        how = str(fault).rstrip(". ") or type(fault).__name__
        raise UnreadableError(
            f"A process that reads pictures ended: {how}. If memory ran out, lower data.workers (0 reads "
            "without such processes) or the batch size."
        ) from fault


@contextmanager
def _deaths_wait() -> Iterator[None]:
    """The death of a worker is told where its pictures are waited for, which takes torch up to 5 seconds.

    torch would also raise it wherever the training is just then, in the midst of a step.
    """
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGCHLD, before)
