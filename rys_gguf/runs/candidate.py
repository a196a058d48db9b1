"""A layer map to try, and the names it goes by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.blocks import Block, blocks_of
from rys_gguf.layers.layer_map import LayerMap, at
from rys_gguf.text import printable, quoted

_STRETCH = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?(?:@([0-9.e-]{1,24}))?", re.ASCII)


# Without slots, so that names are made once: samplers look them up again and again.
@dataclass(frozen=True)
class Candidate:
    """A layer map to try. Equal maps are the same candidate, however they were written."""

    layer_map: LayerMap

    @classmethod
    def from_key(cls, key: str, n_layers: int) -> Candidate:
        """The candidate with this `key`, of a model with `n_layers`.

        Raises InvalidLayerMap if the text is not a key, or names layers that the model lacks.
        """
        sources: list[int] = []
        damping: list[float] = []
        for part in key.split(","):
            match = _STRETCH.fullmatch(part)
            if match is None:
                raise InvalidLayerMap(f"{quoted(key)} is not a path such as 0-11,8-29")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < n_layers:
                raise InvalidLayerMap(
                    f"{quoted(key)}: {printable(part)} is not in a model with layers "
                    f"0..{n_layers - 1}"
                )
            sources.extend(range(first, last + 1))
            damping.extend([_factor(match[3], key)] * (last + 1 - first))
        candidate = cls(LayerMap(n_layers, tuple(sources), tuple(damping)))
        if candidate.key != key:
            raise InvalidLayerMap(f"{quoted(key)}: expected {candidate.key} for this path")
        return candidate

    @classmethod
    def base(cls, n_layers: int) -> Candidate:
        """The model as it is."""
        return cls(LayerMap.identity(n_layers))

    @cached_property
    def key(self) -> str:
        """The path in few characters, such as `0-11,8-29`: the candidate's name in a run folder.

        What damps a part stands behind it, as in `0-11,8-11@0.5,12-29`.
        """
        return ",".join(
            (
                f"{run.source}-{run.source + run.n_layers - 1}"
                if run.n_layers > 1
                else f"{run.source}"
            )
            + at(run.damp)
            for run in self.layer_map.path()
        )

    @property
    def is_base(self) -> bool:
        """Whether this is the model as it is."""
        return self.layer_map.is_identity

    @property
    def spec(self) -> str:
        """The layer spec that a user would write; `base` for the model as it is."""
        return "base" if self.is_base else self.layer_map.spec

    @cached_property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The half-open windows that are repeated; empty for the base and for other paths."""
        return () if self.is_base else self.layer_map.undamped.windows() or ()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The windows and how they are repeated; empty for the base and for other paths."""
        return blocks_of(self.windows)

    @property
    def window(self) -> tuple[int, int] | None:
        """The window of the only block: only a candidate of one block has a place on a map."""
        blocks = self.blocks
        return blocks[0].window if len(blocks) == 1 else None

    @property
    def n_added(self) -> int:
        """How many layers more than the base it has; negative for a path that drops some."""
        return self.layer_map.n_added


def _factor(text: str | None, key: str) -> float:
    """What damps a part of a key."""
    try:
        return 1.0 if text is None else float(text)
    except ValueError as e:
        raise InvalidLayerMap(f"{quoted(key)}: {quoted(text or '')} is no number") from e
