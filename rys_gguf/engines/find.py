"""Which llama.cpp to run."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable


def find_engine(binary: str | os.PathLike[str] | None = None) -> Path | None:
    """The llama-server to use, or None for xllamacpp.

    In order: `binary`, the environment's LLAMA_SERVER, xllamacpp where it is installed,
    llama-server on PATH. Raises EngineFailed if there is none.
    """
    wanted = binary or os.environ.get("LLAMA_SERVER")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise EngineFailed(f"{printable(os.fspath(wanted))}: not a program that can be run")
        # Absolute: "./llama-server" as a Path loses its dot, and would be looked up on PATH.
        return Path(found).absolute()
    if find_spec("xllamacpp") is not None:
        return None
    on_path = shutil.which("llama-server")
    if on_path is None:
        raise EngineFailed(
            "no llama.cpp found: pip install 'rys-gguf[engine]', or name a llama-server with "
            "--llama-server or LLAMA_SERVER"
        )
    return Path(on_path)
