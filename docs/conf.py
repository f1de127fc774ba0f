"""Sphinx: `nox -s docs` builds the site, and a warning is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import typer
from slotkit.cli.main import app as commands
from sphinx.application import Sphinx

import slotkit
from slotkit.section import Section

project = "slotkit"
author = "The slotkit founders"
release = slotkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "slotkit"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3

# What our docstrings put between single backticks is code.
default_role = "literal"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def under_a_heading(lines: list[str], heading: str) -> list[str]:
    """A paragraph of "name: what it is" lines is a list of arguments, with or without a heading."""
    told: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        names = [line for line in paragraph.split("\n") if line and not line.startswith(" ")]
        if len(names) > 1 and all(re.match(r"[a-z_]+(, [a-z_]+)*: ", line) for line in names):
            told += [heading, *(f"    {line}" for line in paragraph.split("\n")), ""]
        else:
            told += [*paragraph.split("\n"), ""]
    return told


def to_markup(lines: list[str]) -> list[str]:
    """A docstring of ours in reStructuredText.

    An indented block after an empty line is code or a table: it stays as it is. Elsewhere stars and bars are
    those of arithmetic, not of emphasis.
    """
    marked: list[str] = []
    is_code = False
    for place, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not is_code and marked and not marked[-1]:
            is_table = re.search(r"\S {3,}\S", "\n".join(lines[place:]).split("\n\n")[0])
            marked += [".. code-block:: text" if is_table else "::", ""]
            is_code = True
        elif line and not indented:
            is_code = False
        marked.append(line if is_code else "`".join(_escaped(line)))
    return marked


def _escaped(line: str) -> Iterator[str]:
    for place, part in enumerate(line.split("`")):
        in_backticks = place % 2 == 1
        yield part if in_backticks else re.sub(r"\*(?=\S)|\|", r"\\\g<0>", part)


def _read_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    lines[:] = to_markup(under_a_heading(lines, "Attributes:" if what == "class" else "Args:"))
    if isinstance(thing, type) and issubclass(thing, Section):
        lines += ["", *settings_of(thing)]


def _leave_out_signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str, returned: str
) -> tuple[str, str] | None:
    """Of a table of settings: the list below it says more."""
    return ("", "") if isinstance(thing, type) and issubclass(thing, Section) else None


def settings_of(section: type[Section]) -> list[str]:
    """A list of the settings, as reStructuredText."""
    told = []
    for name, field in section.model_fields.items():
        if field.description:
            told.append(
                f"* ``{name}`` = ``{field.get_default(call_default_factory=True)!r}``: {field.description}"
            )
    return told


def helps(command: click.Command, name: str, above: click.Context | None = None) -> Iterator[str]:
    """What `--help` says of a command and of those below it, a section each, as Markdown."""
    settings = {"terminal_width": 80, **command.context_settings}
    context = click.Context(command, info_name=name, parent=above, **settings)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    for below in getattr(command, "commands", {}).values():
        yield from helps(below, below.name, context)


def _add_commands(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "commands":
        source[0] += "\n".join(helps(typer.main.get_command(commands), "slotkit"))


def setup(app: Sphinx) -> dict[str, Any]:
    # Before napoleon, whose stars and bars are markup.
    app.connect("autodoc-process-docstring", _read_docstring, priority=100)
    app.connect("autodoc-process-signature", _leave_out_signature)
    app.connect("source-read", _add_commands)
    return {"parallel_read_safe": True}
