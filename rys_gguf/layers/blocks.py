"""Blocks: windows and how they are repeated, as a sweep combines them and reports name them.

A layer map keeps no blocks; `blocks_of` finds them in its windows. So equal maps have equal blocks,
however they were written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# How plans and exports name the two ways: a window as a whole, and each of its layers on its own.
BLOCK, LAYER = "block", "layer"


class Form(NamedTuple):
    """How a window is repeated: it runs `n_passes` times in all.

    It runs as a whole (2,3,2,3), or with `by_layer` each of its layers on its own (2,2,3,3).
    """

    n_passes: int = 2
    by_layer: bool = False

    def __str__(self) -> str:
        times = "twice" if self.n_passes == 2 else f"{self.n_passes} times"  # noqa: PLR2004 - twice
        return f"{times}, layer by layer" if self.by_layer else times


# As the method's author repeats windows.
TWICE = Form()


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """The half-open window (`start`, `stop`) in a form.

    A window of one layer has no form by layer: it would be the same map.
    """

    start: int
    stop: int
    form: Form = TWICE

    def __post_init__(self) -> None:
        if self.stop - self.start == 1:
            object.__setattr__(self, "form", self.form._replace(by_layer=False))

    @property
    def window(self) -> tuple[int, int]:
        """Its first layer, and the one behind its last."""
        return self.start, self.stop

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The windows whose copies make it, as `LayerMap.from_blocks` takes them.

        Block(2, 4, Form(3)).windows == ((2, 4), (2, 4))
        Block(2, 4, Form(by_layer=True)).windows == ((2, 3), (3, 4))
        """
        parts = [(k, k + 1) for k in range(*self.window)] if self.form.by_layer else [self.window]
        return tuple(part for part in parts for _ in range(self.form.n_passes - 1))

    def overlaps(self, other: Block) -> bool:
        """Whether both repeat some layer."""
        return self.start < other.stop and other.start < self.stop


def blocks_of(windows: Sequence[tuple[int, int]]) -> tuple[Block, ...]:
    """The blocks that windows come to, first layer first; empty where they overlap.

    Single layers side by side that run equally often are one block, by layer.
    """
    blocks: list[Block] = []
    for block in _repeated(windows):
        if blocks and _is_next_layer(blocks[-1], block):
            before = blocks.pop()
            form = Form(block.form.n_passes, by_layer=True)
            blocks.append(Block(before.start, block.stop, form))
        else:
            blocks.append(block)
    if any(b.start < a.stop for a, b in itertools.pairwise(blocks)):
        return ()
    return tuple(blocks)


def _repeated(windows: Sequence[tuple[int, int]]) -> Iterator[Block]:
    for (start, stop), group in itertools.groupby(windows):
        yield Block(start, stop, Form(1 + sum(1 for _ in group)))


def _is_next_layer(before: Block, layer: Block) -> bool:
    is_of_layers = before.form.by_layer or before.stop - before.start == 1
    return (
        is_of_layers
        and layer.stop - layer.start == 1
        and layer.start == before.stop
        and layer.form.n_passes == before.form.n_passes
    )
