"""What the tests of training share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from together import NETWORK  # type: ignore[import-not-found]


@pytest.fixture
def with_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a temporary folder with the networks of tests/together.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.delitem(sys.modules, "net", raising=False)
