"""The windows that a user lists in a file."""

from __future__ import annotations

import os

from rys_gguf.search.samplers.halving import Halving, OneSet
from rys_gguf.search.space import Windows, listed


class Listed(OneSet):
    """The layer maps of a file. Raises RysError naming the file and the line that is wrong."""

    def __init__(self, windows: Windows, path: str | os.PathLike[str], halving: Halving) -> None:
        super().__init__(listed(windows, path), halving)
