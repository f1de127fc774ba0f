"""What a shell completes: runs, sweeps and recipes. Answers at once, so nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import typer

# What lies in the folder of a run, and in that of a sweep, as `slotkit.runs` and `slotkit.sweeps` say.
RUN_FILES = ("config.toml", "summary.json")
SWEEP_FILE = "sweep.json"


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs in the runs folder; after "NAME/" those in that sweep or comparison."""
    return list(_names(ctx, incomplete, RUN_FILES))


def complete_sweep(ctx: typer.Context, incomplete: str) -> list[str]:
    """Sweeps in the runs folder."""
    return list(_names(ctx, incomplete, (SWEEP_FILE,)))


def complete_run_or_sweep(ctx: typer.Context, incomplete: str) -> list[str]:
    return list(_names(ctx, incomplete, (*RUN_FILES, SWEEP_FILE)))


def complete_recipe(incomplete: str) -> list[str]:
    names = (path.name for path in files("slotkit.recipes").iterdir() if path.name.endswith(".toml"))
    return sorted(name.removesuffix(".toml") for name in names if name.startswith(incomplete))


def _names(ctx: typer.Context, incomplete: str, marks: tuple[str, ...]) -> Iterator[str]:
    place = Path(ctx.params.get("runs_dir") or os.environ.get("SLOTKIT_RUNS", "runs"))
    before, slash, begun = incomplete.rpartition("/")
    folders = sorted((place / before).iterdir()) if (place / before).is_dir() else []
    for folder in folders:
        if folder.name.startswith(begun) and not folder.name.startswith("."):
            inside = any((folder / mark).is_file() for mark in marks)
            # What lies in a sweep is completed after its name.
            if inside or (folder / SWEEP_FILE).is_file():
                yield f"{before}{slash}{folder.name}"
