"""A tensor in the dense form under observation. Its K scores are there, so flips and margins are read off
them, whatever optimizer moves them and whichever of them get a gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.form import Form
from slotkit.recording.softmax import Softmax
from slotkit.reel import Reel
from slotkit.selection import greedy as highest


class DenseWatch:
    """See `slotkit.recording.watching.Watched`.

    Margins are gaps between the highest score and the next one. A flip is expected when the first of the
    other scores reaches the highest, if all go on as in the last step.
    """

    def __init__(self, form: Form, reel: Reel, sample: Tensor, greedy: bool, full: bool) -> None:
        self.form, self.reel, self.sample = form, reel, sample
        self.reads_beside = not greedy
        self._everything = greedy or full
        self._softmax = None if greedy else Softmax(self)
        self._best = self._read()
        self._used = self._in_use() if self.reads_beside else self._best
        self._flips = torch.zeros(0, dtype=torch.int64)
        self.changed = 0

    @property
    def flipped(self) -> int:
        return len(self._flips)

    @property
    def events(self) -> tuple[Tensor, Tensor]:
        return self._flips.int().cpu(), self._best[self._flips].int().cpu()

    @property
    def c(self) -> float:
        return math.nan

    def selection(self) -> Tensor:
        return self._best

    def follow(self) -> None:
        best = self._read()
        before = self._best.to(best.device)
        self._flips, self._best = (best != before).nonzero().squeeze(-1), best
        if self.reads_beside:
            used = self._in_use()
            self.changed, self._used = int((used != self._used.to(used.device)).sum()), used
        else:
            self.changed = self.flipped

    def _rows(self) -> Tensor:
        """The scores (n, K)."""
        return self.form.scores(self.reel.name).reshape(-1, self.reel.k)

    def _read(self) -> Tensor:
        """The option of the highest score, int64 (n,), or (m,) of the sample."""
        rows = self._rows()
        return highest(rows if self._everything else rows[self.sample.to(rows.device)])

    def _in_use(self) -> Tensor:
        # A copy: the next draw is written where this one is.
        return self.form.selected(self.reel.name).reshape(-1).clone()

    def positions(self) -> Tensor:
        return self.scores_of(self.sample).cpu()

    def staircase(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now = self.positions()
        if now.shape[-1] == 1:  # a reel of one option never flips
            never = torch.full((len(now),), math.inf, dtype=torch.float64)
            return never, torch.zeros_like(never), never
        best = highest(now)[:, None]
        gaps = now.gather(1, best) - now
        closing = before.gather(1, best) - before - gaps
        others = torch.ones_like(gaps, dtype=torch.bool).scatter_(1, best, False)
        gaps, closing = (values[others].view(len(now), -1) for values in (gaps, closing))
        margin, runner_up = gaps.min(dim=-1)
        waits = torch.where(closing > 0, gaps / closing, math.inf).amin(dim=-1)
        return margin, closing.gather(1, runner_up[:, None]).abs().squeeze(-1), waits

    def softmax(self) -> dict[str, Any]:
        return {} if self._softmax is None else self._softmax.measure()

    def scores_of(self, some: Tensor) -> Tensor:
        rows = self._rows()
        return rows[some.to(rows.device)].double()

    def options_of(self, some: Tensor) -> Tensor:
        return self.reel.rows(some.cpu())[0]

    def bound(self) -> float:
        return float(self.form.options(self.reel.name).abs().max()) or 1.0

    def state(self) -> tuple[Tensor, Tensor] | None:
        # The greedy reading is that of the scores, which the machine's own state has.
        return None if self._softmax is None else (torch.zeros(0), self._softmax.expected)

    def load(self, reading: Any, expected: Any) -> None:
        self._best = self._read()
        self._used = self._in_use() if self.reads_beside else self._best
        if self._softmax is not None:
            self._softmax.load(expected)

    def close(self) -> None:
        pass  # flips are read off the scores here

    def stop_reading(self) -> None:
        raise SlotkitError("it lacks the greedy reading of a tensor")
