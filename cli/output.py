"""How progress, tables and results are shown: results on stdout, all else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slotkit.errors import SlotkitError, is_text

if TYPE_CHECKING:
    from slotkit.training.experiment import Report
    from slotkit.training.loop import Event


# Environment variables that name folders.
FOLDERS = ("SLOTKIT_RUNS", "SLOTKIT_DATA")


def print_anything() -> None:
    """Let stdout and stderr take every text: what a terminal has no sign for is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_utf8() -> None:
    """Raise SlotkitError if an argument, or a folder in the environment, is not UTF-8.

    Runs write down the paths that they were made with, and checkpoints can only be opened by such.
    """
    named = {f"The argument {text!r}": text for text in sys.argv[1:]}
    named |= {f"{name}={os.environ.get(name)!r}": os.environ.get(name, "") for name in FOLDERS}
    for what, text in named.items():
        if not is_text(text):
            raise SlotkitError(f"{what} {_why_unreadable(text)}")


def _why_unreadable(text: str) -> str:
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8. Rename that file or folder, in letters of UTF-8."
    return (
        f"can't be read: this terminal's locale knows {sys.getfilesystemencoding()} only. Set PYTHONUTF8=1 "
        "in the environment."
    )


def show_log() -> None:
    """Let what slotkit logs (a compilation that takes its time) be seen, on stderr."""
    import logging

    class Shown(logging.Handler):
        # sys.stderr is another one while a progress bar is shown.
        def emit(self, record: logging.LogRecord) -> None:
            print(self.format(record), file=sys.stderr, flush=True)

    logger = logging.getLogger("slotkit")
    if not logger.handlers:
        logger.addHandler(Shown())
        logger.setLevel(logging.INFO)


@contextmanager
def progress() -> Iterator[Report]:
    """A reporter of training events: a bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[speed_told]}"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, speed = bar.add_task("steps", total=None, speed_told=""), Speed()

        def show(event: Event) -> None:
            from slotkit.training.journal import line
            from slotkit.training.loop import Step

            if isinstance(event, Step):
                told = speed.after(event.images)
                bar.update(task, completed=event.step, total=event.total, speed_told=told)
            else:
                bar.console.print(line(event), highlight=False, markup=False)

        yield show


class Speed:
    """Images a second over the last steps that took SECONDS together, as text.

    Args:
        clock: seconds, from any moment.
    """

    SECONDS = 2.0

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.since, self.images, self.told = clock, clock(), 0, ""

    def after(self, images: int) -> str:
        """After a step on so many images: the latest speed; nothing at first."""
        self.images += images
        passed = self.clock() - self.since
        if passed >= self.SECONDS:
            self.told = f"{self.images / passed:,.0f} images/s"
            self.since, self.images = self.clock(), 0
        return self.told


@contextmanager
def share(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal for work that tells which share of it is done, 0 to 1; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done: bar.update(task, completed=done)


def _plain(event: Event) -> None:
    from slotkit.training.journal import line
    from slotkit.training.loop import Step

    if not isinstance(event, Step):
        print(line(event), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "2 h 10 min", "3 days 4 h": an estimate has no more digits."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days" + (f" {hours} h" if hours else "")


def print_json(value: Any) -> None:
    """A result for a script."""
    print(json.dumps(value, indent=2))


def sparse_line(sparse: Mapping[str, Any]) -> str:
    """What a summary says of a mask that changes."""
    return (
        f"mask: density {sparse['density']:.4g}, {sparse['updates']} updates, explored (R_s) "
        f"{100 * sparse['explored']:.2f} % of the connections"
    )


def percent(reading: Mapping[str, Any] | None) -> str:
    """A reading of a summary as "97.65 %" or "96.90 ± 0.12 % (n = 5)"."""
    if not reading:
        return "-"
    if reading.get("spread") is None:
        return f"{100 * reading['accuracy']:.2f} %"
    return f"{100 * reading['accuracy']:.2f} ± {100 * reading['spread']:.2f} % (n = {reading.get('n', '?')})"
