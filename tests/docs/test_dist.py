"""What is published is complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_dist import ROOT, missing, tracked


def test_sdist_and_wheel_hold_every_file(tmp_path: Path) -> None:
    """An sdist can be tested by whoever gets it, and a wheel has the package's data."""
    if not (ROOT / ".git").exists():
        pytest.skip("git says what belongs to the project, and this is no checkout")
    source, out = tmp_path / "source", tmp_path / "dist"
    for name in [*tracked(), ".gitignore"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert missing(out) == []
