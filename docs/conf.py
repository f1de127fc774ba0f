"""Sphinx configuration."""

project = "slotkit"
author = "The slotkit founders"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
myst_heading_anchors = 3
