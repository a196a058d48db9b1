"""A layer map to try, and the names it goes by."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.layers.layer_map import LayerMap


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer map to try. Equal maps are one candidate, however they were written."""

    layer_map: LayerMap

    @property
    def key(self) -> str:
        """The path in few characters: `0-11,8-29`."""
        return ",".join(
            f"{run.source}-{run.source + run.n_layers - 1}" if run.n_layers > 1 else f"{run.source}"
            for run in self.layer_map.path()
        )

    @property
    def is_base(self) -> bool:
        """Whether this is the model as it is."""
        return self.layer_map.is_identity

    @property
    def spec(self) -> str:
        """How a user writes it; `base` for the model as it is."""
        return "base" if self.is_base else self.layer_map.spec

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The half-open windows that are repeated; empty for the base and other paths."""
        return () if self.is_base else self.layer_map.windows() or ()
