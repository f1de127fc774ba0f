"""The one exception type for everything a user can put right."""

from __future__ import annotations

import shlex


class SlotkitError(ValueError):
    """Bad input: a wrong value, a missing dataset, a damaged file.

    Its text is a sentence that says what came, what is accepted and what to do next.
    Commands print it and exit with code 2; a traceback is kept for faults of slotkit itself.
    """


class UnreadableError(SlotkitError):
    """A picture could not be read in the midst of a training: what was trained until then is whole."""


class DivergedError(SlotkitError):
    """Training came to numbers that are not finite: its settings are at fault, not its surroundings."""


def typed(path: object) -> str:
    """A path as a command has it that a sentence suggests: quoted where a shell would take it apart."""
    return shlex.quote(str(path))


def is_text(name: str) -> bool:
    """Whether a name of a file is text that UTF-8 can hold: Python keeps bytes that are not as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def many(count: int, noun: str) -> str:
    """A count and what is counted, as a sentence has it: "1 run", "2 runs", "1,000 steps"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def are(count: int) -> str:
    """The verb after `many`: "1 run is", "2 runs are"."""
    return "is" if count == 1 else "are"
