"""Matplotlib with its own settings: not those of a user, and not those of whoever made a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.extras import load

TASK = "the report"


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults. Raises RysError if it is missing."""
    with _elsewhere():
        matplotlib = load(TASK, "matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Leave the current folder for a moment.

    When it is imported, matplotlib reads a file `matplotlibrc` of the current folder, which may
    have come with a model: it could name programs to run, or be a pipe that nobody writes to.
    """
    try:
        here = os.getcwd()
    except OSError:  # the folder is gone, and so are its files
        yield
        return
    os.chdir(Path(__file__).parent)
    try:
        yield
    finally:
        os.chdir(here)
