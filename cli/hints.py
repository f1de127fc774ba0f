"""What to type next, fit for what was done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotkit.runs.folder import RunFolder

# With fewer options a connection than this, more of them are worth a try.
MANY = 64


def after_training(folder: RunFolder, factory: str | None = None) -> list[tuple[str, str]]:
    """(command, what it does) after a run.

    `factory` is what makes its network, if that is one's own: commands that build it need it again.
    """
    own = "" if factory is None else f" --model-factory {factory}"
    config, origins, path = folder.config(), folder.tables()["origins"], shlex.quote(str(folder.path))
    steps = [(f"slotkit evaluate {path}{own}", "")]
    if config.method == "learned":
        if config.sparse.is_on:
            steps.append((f"slotkit masks score {path}", "the graphs of its mask"))
        return [*steps, (f"slotkit export {path}", "the weights for plain PyTorch")]
    if (folder.path / "trace" / "about.json").is_file():
        steps.append((f"slotkit analyze flips {path}", "which connections still flip"))
    steps.append((f"slotkit finetune {path}{own}", "trains the selected weights further"))
    if not any(origin.startswith("recipe ") for origin in origins.values()):
        if config.slots.k < MANY and config.slots.kind is None:  # K says what a mask is
            again = f"slotkit train --config {shlex.quote(str(folder.path / 'config.toml'))} --k {MANY}{own}"
            steps.append((again, "more options a connection"))
        steps.append(("slotkit recipes list", "the paper's experiments"))
    return steps


def to_resume(run: str) -> str:
    """The command that goes on with a run that was stopped, for a sentence."""
    return f"`slotkit train --resume {shlex.quote(run)}`"


def print_next(steps: Sequence[tuple[str, str]]) -> None:
    """Below each other, the first after "next:"."""
    for number, (command, words) in enumerate(steps):
        print(f"{'' if number else 'next:':5} {command}{f'   ({words})' if words else ''}")
