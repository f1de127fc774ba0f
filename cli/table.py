"""Tables of text that fit the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

GAP = "  "
# What doesn't fit beside the first columns goes below them, so far from the edge.
INDENT = 4
# A column is made narrower than this only if all of its cells are, and never cuts a word of so many letters.
NARROW, WORD = 16, 24

Line = Sequence[str]


def terminal_width() -> int | None:
    """COLUMNS, or the terminal's width; None where stdout is a file or a pipe, whose lines have no end."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None = None) -> str:
    """Left-aligned columns of text.

    A table that is wider than `width` (default: the terminal) has cells of several lines; if that is not
    enough, the columns at its end stand below those at its beginning.
    """
    lines = [list(headings)] + [["" if cell is None else str(cell) for cell in row] for row in rows]
    natural = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    limit = width or terminal_width()
    if limit is None or _whole(natural) <= limit:
        return _text(lines, [list(enumerate(natural))])
    least = [_least([line[column] for line in lines], wide) for column, wide in enumerate(natural)]
    if _whole(least) <= limit:
        return _text(lines, [list(enumerate(_shrunk(natural, least, limit)))])
    return _text(lines, list(_groups(natural, limit)))


def _whole(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _least(cells: Sequence[str], natural: int) -> int:
    """How narrow a column can be."""
    longest = max(len(piece.rstrip()) for cell in cells for piece in _pieces(cell))
    return max(min(longest, WORD), min(natural, NARROW))


def _shrunk(natural: Sequence[int], least: Sequence[int], limit: int) -> list[int]:
    """Widths that fit: the widest columns give way first."""
    widths = list(natural)
    while _whole(widths) > limit:
        column = max(
            (at for at in range(len(widths)) if widths[at] > least[at]), key=lambda at: widths[at] - least[at]
        )
        widths[column] -= 1
    return widths


def _groups(natural: Sequence[int], limit: int) -> Iterator[list[tuple[int, int]]]:
    """Columns (number, width) that fit beside each other, group below group."""
    group: list[tuple[int, int]] = []
    indent = 0
    for column, wide in enumerate(natural):
        left = limit - indent - sum(width + len(GAP) for _, width in group)
        # The last column, which often is text, may have lines of its own where it stands.
        least = min(wide, WORD) if column == len(natural) - 1 else wide
        if group and left < least:
            yield group
            group, indent = [], INDENT
            left = limit - indent
        group.append((column, max(1, min(wide, left))))
    yield group


def _text(lines: Sequence[Line], groups: Sequence[Sequence[tuple[int, int]]]) -> str:
    printed = []
    for line in lines:
        for number, group in enumerate(groups):
            cells = [_wrapped(line[column], width) for column, width in group]
            for row in range(max(len(cell) for cell in cells)):
                told = (
                    (cell[row] if row < len(cell) else "").ljust(width)
                    for cell, (_, width) in zip(cells, group, strict=True)
                )
                printed.append((" " * INDENT * bool(number) + GAP.join(told)).rstrip())
    return "\n".join(printed)


def _pieces(text: str) -> list[str]:
    """Where a line may end: after a space, and after a sign that joins words."""
    return re.split(r"(?<=[\s/,=-])", text)


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    lines, line = [], ""
    for whole in _pieces(text):
        piece = whole
        if len((line + piece).rstrip()) > width and line:
            lines.append(line.rstrip())
            line = ""
        while len(piece.rstrip()) > width:
            lines.append(piece[:width])
            piece = piece[width:]
        line += piece
    return [*lines, line.rstrip()]
