"""From the options of `slotkit analyze gap` to the sweep that they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slotkit.analyses.gap.plan import plan
from slotkit.analyses.gap.sweep import Sweep, find, train
from slotkit.analyses.gap.sweep import start as start_planned

from slotkit.config import Overrides, parse_assignment, parse_seeds
from slotkit.runs.folder import default_runs_dir
from slotkit.sweeps.contract import Options

__all__ = ["find", "start", "train"]


def start(
    runs_dir: Path | None,
    seeds: str = "0,1",
    limit_batches: int | None = None,
    data_dir: str | None = None,
    set_: Sequence[str] = (),
    name: str | None = None,
    executor: str = "local",
    jobs: int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Sweep:
    """The sweep that the options describe: a new one, or the one in its folder. Nothing is trained yet.

    Args:
        runs_dir: where its folder lies.
        seeds: with commas.
        limit_batches, data_dir, set_: settings of every run; `set_` as "a.b=v".
        name: of the folder, if not that of the plan.
        executor, jobs, threads: where the runs are trained, see `slotkit.sweeps.contract.Options`.
        options: the others are those of `slotkit.analyses.gap.plan.plan`.
    """
    where = Options(jobs=jobs, threads=threads)
    flags = {"training.limit_batches": limit_batches, "data.dir": data_dir}
    given = {path: value for path, value in flags.items() if value is not None}
    layers = [*([Overrides("flags", given)] if given else []), *map(parse_assignment, set_)]
    planned = plan(seeds=parse_seeds(seeds), layers=layers, **options)
    sweep = start_planned(planned, (runs_dir or default_runs_dir()) / (name or planned.name))
    return replace(sweep, executor=executor, options=where)
