"""How the threads of OpenMP wait for each other where other processes use the cores too.

PyTorch and numba divide a step among threads, and after each piece of work the threads wait for the last one.
GNU OpenMP, which both use on Linux, lets them wait busily, in a loop, for milliseconds. That costs nothing on
an idle machine; where others use the cores, a thread that waits takes time that the one it waits for needs.
`bound_waiting` ends that; docs/shared-machine.md has the figures. Nothing here imports torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, MutableMapping

# How often GNU OpenMP's loop runs before a thread that waits goes to sleep; 300,000 times without it.
COUNT = "GOMP_SPINCOUNT"
BOUND = "1000"

# Whoever has set one of these has decided how threads wait. The last is that of Intel's and LLVM's OpenMP.
POLICIES = (COUNT, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def is_decided(environment: Mapping[str, str]) -> bool:
    """Whether somebody has said how threads wait."""
    return any(name in environment for name in POLICIES)


def bound_waiting(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait sleep soon, in this process and in those that it starts, unless that is decided.

    Call it with os.environ before torch or numba is imported: OpenMP reads it once.
    """
    if not is_decided(environment):
        environment[COUNT] = BOUND


class Pace:
    """Notices when steps take TIMES as long as they did.

    It compares medians of WINDOW steps with the lowest such median so far: a step that the system interrupts
    and the first, which compiles, change nothing.

    Args:
        clock: seconds, from any moment.
    """

    WINDOW, TIMES = 50, 10

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._durations: list[float] = []
        self._usual: float | None = None

    def add(self, seconds: float) -> tuple[float, float] | None:
        """After a step that took so long: (the usual seconds, those of late) if steps have become slow."""
        self._durations.append(seconds)
        if len(self._durations) < self.WINDOW:
            return None
        late = statistics.median(self._durations)
        self._durations.clear()
        usual = self._usual
        self._usual = late if usual is None else min(usual, late)
        return (usual, late) if usual is not None and late >= self.TIMES * usual else None


def slow_words(usual: float, late: float) -> str:
    """What to tell somebody whose steps have become slow."""
    return (
        f"A step of this optimizer takes {1000 * late:.3g} ms, {late / usual:.0f} times as long as before. "
        "If other processes use the cores, threads of OpenMP that wait busily take their time. Start Python "
        f"with {COUNT}={BOUND} in the environment, or with OMP_NUM_THREADS=1; the slotkit command does the "
        "first by itself. docs/shared-machine.md has the figures."
    )
