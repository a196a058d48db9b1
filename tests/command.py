"""Run the command line as a user does: as another process with two streams and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def command(*args: str | Path) -> list[str]:
    """The argv of one call of rys-gguf with this Python."""
    return [sys.executable, "-m", "rys_gguf", *map(str, args)]


def run(
    *args: str | Path, timeout: float = 120, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run rys-gguf and return its exit code and streams; `options` are those of subprocess.run."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command(*args), capture_output=True, text=True, timeout=timeout, **options
    )
    return done


def fails(*args: str | Path, code: int = 1, **options: Any) -> str:
    """The message of a call that must fail with `code`: a few lines without a traceback."""
    done = run(*args, **options)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") <= 12
    return done.stderr


def leftovers(folder: Path, expected: Sequence[Path]) -> set[str]:
    """Names in `folder` beyond the expected ones."""
    return {p.name for p in folder.iterdir()} - {p.name for p in expected}
