"""The map: every window of some sizes, for a picture of the whole model."""

from __future__ import annotations

from collections.abc import Sequence

from rys_gguf.search.samplers.halving import Halving, OneSet
from rys_gguf.search.space import Windows, every


class Grid(OneSet):
    """All windows of the given sizes."""

    def __init__(
        self,
        windows: Windows,
        sizes: Sequence[int],
        halving: Halving,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(every(windows, sizes), halving, notes)
