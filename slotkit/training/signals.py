"""SIGTERM and Ctrl-C while a run trains: it ends at a place from which it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(Exception):
    """SIGTERM: the run was saved and can be resumed."""


class Signals:
    """What has come so far."""

    def __init__(self) -> None:
        self.terminated = self.interrupted = False


@contextmanager
def heard() -> Iterator[Signals]:
    """SIGTERM is noted and does not end the process; Ctrl-C is noted and raises.

    It is noted too because KeyboardInterrupt can get lost: Python prints and ignores what is raised while an
    object is deleted, or in a callback from compiled code. (Signals reach the main thread only.)
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signals.terminated = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.interrupted = True
        signal.default_int_handler(number, frame)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
