"""What to type next, fit for what was done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slotkit.errors import typed

if TYPE_CHECKING:
    from slotkit.runs.folder import RunFolder

# With fewer options a connection than this, more of them are worth a try.
MANY = 64


def after_training(folder: RunFolder, factory: str | None = None) -> list[tuple[str, str]]:
    """(command, what it does) after a run.

    `factory` is what makes its network, if that is one's own: commands that build it need it again.
    """
    own = "" if factory is None else f" --model-factory {typed(factory)}"
    path = typed(folder.path)
    config, origins = folder.config(), folder.tables()["origins"]
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
            again = f"slotkit train --config {typed(folder.path / 'config.toml')} --k {MANY}{own}"
            steps.append((again, "more options a connection"))
        steps.append(("slotkit recipes list", "the paper's experiments"))
    return steps


def to_resume(folder: str, factory: str | None = None) -> str:
    """The command that goes on with a run or a comparison, in a sentence; `factory` as above."""
    own = "" if factory is None else f" --model-factory {typed(factory)}"
    return f"`slotkit train --resume {typed(folder)}{own}`"


def print_next(steps: Sequence[tuple[str, str]]) -> None:
    """Below each other, the first after "next:"."""
    for number, (command, words) in enumerate(steps):
        print(f"{'' if number else 'next:':5} {command}{f'   ({words})' if words else ''}")
