"""Find llama.cpp's library: the one in the xllamacpp package, or the one beside llama-server."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_NAME = {"darwin": "libllama.dylib"}.get(sys.platform, "libllama.so")


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library with llama.cpp's C functions.

    `backends` is the folder of the backends that it loads as it starts; None if it has them in it.
    `name` is what people call it.
    """

    path: Path
    name: str
    backends: Path | None = None


def find_library(binary: Path | None) -> Library:
    """The library of the xllamacpp package, or of the build that a llama-server belongs to.

    Raises EngineFailed if there is none.
    """
    if sys.platform == "win32":
        raise EngineFailed("the live engine does not run on Windows")
    if binary is None:
        return _of_package()
    real = binary.resolve()
    for folder in dict.fromkeys((real.parent, real.parent.parent / "lib", binary.parent)):
        path = folder / _NAME
        if path.is_file():
            return Library(path.resolve(), printable(binary.name), path.parent)
    raise EngineFailed(
        f"there is no {_NAME} beside {printable(binary)}, as there is in llama.cpp's releases and "
        f"in builds with shared libraries"
    )


def package_version() -> str:
    """The version of the xllamacpp package."""
    try:
        return metadata.version("xllamacpp")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _of_package() -> Library:
    # Not imported: that takes time, and the parent needs nothing of it.
    spec = find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("xllamacpp*.so")):
            return Library(path, f"xllamacpp {package_version()}")
    raise EngineFailed("the package xllamacpp has no library: pip install xllamacpp")
