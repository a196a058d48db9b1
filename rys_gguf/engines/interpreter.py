"""Command lines that run Python code without importing from the user's current folder.

`python -m` and `python -c` put the current folder first on sys.path, so a stray json.py beside a
downloaded model would be executed. `python -P` prevents this but needs Python 3.11, and `-I` also
drops PYTHONPATH. These commands only drop the current folder.
"""

from __future__ import annotations

import os
import sys

# "" is the current folder. sys is built in and runpy is imported only after the cut.
_SAFE = "import sys; sys.path[:] = filter(None, sys.path); import runpy; "


def python_file(path: str | os.PathLike[str], *arguments: str) -> list[str]:
    """The command that runs a file of Python code; it finds its arguments in sys.argv[1:]."""
    code = f"{_SAFE}del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return [sys.executable, "-c", code, os.fspath(path), *arguments]


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that does what `python -m name arguments` does."""
    code = f"{_SAFE}runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", code, *arguments]
