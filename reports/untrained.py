"""The baseline of a random combination: networks before training, whose options nobody has chosen yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from slotkit.reports.collect import Row

from slotkit.errors import SlotkitError
from slotkit.files import make_folder, write_text
from slotkit.runs.schema import Fraction, Told, naming, read_json
from slotkit.training.experiment import evaluate_untrained

# Kept in the folder of a run of an older slotkit, because it takes seconds and never changes. Others have it
# in their summary.
KEPT = Path("analyses") / "untrained.json"

# Settings that nothing before the first step depends on.
LATER = (
    *("training.", "recording.", "sparse.", "evaluation.", "seeds.data"),
    *("data.dir", "data.download", "data.memory", "data.workers", "data.validation", "data.augment"),
)


class _Untrained(Told):
    accuracy: Fraction


def untrained(
    rows: Iterable[Row], tell: Callable[[str], None] = lambda text: None
) -> tuple[dict[int, list[float]], list[str]]:
    """Test accuracies (%) before training by K, and what could not be evaluated and why, a sentence each.

    Args:
        rows: finished greedy runs.
        tell: called before each evaluation, which takes some seconds.
    """
    found: dict[int, list[float]] = {}
    faults: dict[str, None] = {}
    for row in {_network(row): row for row in rows}.values():
        try:
            found.setdefault(row.config.slots.k, []).append(100 * _accuracy(row, tell))
        except SlotkitError as fault:
            faults[str(fault)] = None
    return {k: values for k, values in found.items() if values}, list(faults)


def _network(row: Row) -> tuple[Any, ...]:
    """What decides the network before its first step: runs that are trained otherwise may begin with one."""
    settings = row.folder.settings().items()
    return (row.data, *((path, str(value)) for path, value in settings if not path.startswith(LATER)))


def _accuracy(row: Row, tell: Callable[[str], None]) -> float:
    known = row.before()
    if known is not None:
        return known / 100
    path = row.folder.path / KEPT
    if path.is_file():
        with naming(path, "Delete it: it is made anew from the run."):
            return _Untrained.model_validate(read_json(path)).accuracy
    tell(f"{row.folder.name}: reading the network before training")
    accuracy = evaluate_untrained(row.folder).accuracy
    make_folder(path.parent)
    write_text(path, _Untrained(accuracy=accuracy).model_dump_json() + "\n")
    return accuracy
