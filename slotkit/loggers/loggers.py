"""Several loggers as one, which never ends a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from slotkit.loggers.contract import Logger, Training
from slotkit.loggers.registry import check, make


class Loggers:
    """The loggers of a training, given by name or as objects.

    A logger that fails (no network, a full disk) is told once and left out from then on.

    Args:
        tell: called with a sentence for each that fails.

    Raises SlotkitError for a name that is none, or whose package is not installed.
    """

    def __init__(
        self, loggers: Sequence[str | Logger], training: Training, tell: Callable[[str], None]
    ) -> None:
        check([one for one in loggers if isinstance(one, str)])
        self.tell = tell
        self.open: list[tuple[str, Logger]] = []
        for one in loggers:
            if not isinstance(one, str):
                self.open.append((type(one).__name__, one))
                continue
            try:
                self.open.append((one, make(one, training)))
            except Exception as fault:
                self._tell(one, fault)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell all of them."""
        self._each(lambda logger: logger.log(step, values))

    def close(self, failed: bool = False) -> None:
        """Nothing more comes. `failed`: the training has not come to its end."""
        self._each(lambda logger: _end(logger, failed))
        self.open = []

    def _each(self, action: Callable[[Logger], None]) -> None:
        for one in list(self.open):
            name, logger = one
            try:
                action(logger)
            except Exception as fault:
                self.open.remove(one)
                self._tell(name, fault)

    def _tell(self, name: str, fault: Exception) -> None:
        reason = " ".join(str(fault).split()).rstrip(".") or "it says no reason"
        self.tell(
            f"The logger {name} failed and gets nothing more: {type(fault).__name__}: {reason}. The training "
            "goes on without it."
        )


def _end(logger: Logger, failed: bool) -> None:
    """Only services that keep a status of a run have a `fail`."""
    if failed and hasattr(logger, "fail"):
        logger.fail()
    else:
        logger.close()
