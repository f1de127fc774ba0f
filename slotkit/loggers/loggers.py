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
        self.open: dict[str, Logger] = {}
        for one in loggers:
            name = one if isinstance(one, str) else type(one).__name__
            self._try(name, lambda name=name, one=one: self._add(name, one, training))

    def _add(self, name: str, one: str | Logger, training: Training) -> None:
        self.open[name] = make(one, training) if isinstance(one, str) else one

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell all of them."""
        for name, logger in list(self.open.items()):
            self._try(name, lambda logger=logger: logger.log(step, values))

    def close(self) -> None:
        """Nothing more comes."""
        for name, logger in list(self.open.items()):
            self._try(name, logger.close)
        self.open.clear()

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as fault:
            self.open.pop(name, None)
            reason = " ".join(str(fault).split()) or "it says no reason"
            self.tell(
                f"The logger {name} failed and gets nothing more: {type(fault).__name__}: {reason}. The "
                "training goes on without it."
            )
