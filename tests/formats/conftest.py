"""What tests of readers share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that each example overwrites."""
    return tmp_path_factory.mktemp("reader") / "m.gguf"
