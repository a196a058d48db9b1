"""The command that hands a run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf.runs.scan import read_scan
from tests.cli.calls import done, refused

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


def test_a_scan_is_written(tmp_path: Path) -> None:
    """To a new file; an existing one is kept."""
    path = tmp_path / "scan.json"
    assert done("export", GOLDEN, "--scan", path).stdout == f"{path}\n"
    assert len(read_scan(path).windows) == 24
    assert "exists already" in refused("export", GOLDEN, "--scan", path)


def test_a_study_is_added(tmp_path: Path) -> None:
    """Its name is told."""
    pytest.importorskip("optuna")
    result = done("export", GOLDEN, "--optuna", f"sqlite:///{tmp_path}/s.db")
    assert "study 'rys-gguf c57676370773bfe3' added" in result.stderr
    assert (tmp_path / "s.db").is_file()


def test_something_must_be_asked_for() -> None:
    """A usage error says what."""
    message = refused("export", GOLDEN, code=2)
    assert "say what to make: --optuna URL or --scan FILE" in message
