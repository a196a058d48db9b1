"""Rules for what llama.cpp derives from the number of layers."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Conflict, Metadata, Rescale, Rule
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class CountSwitch(Rule):
    """llama.cpp computes or loads something else when the number of trunk layers is in `counts`.

    With None every count is a case of its own. No key overrides the switch, so a map may not cross
    it, unless an explicit schedule can make up for it in the data (`repair`). `applies` tells
    whether the two behaviours differ for this model at all.
    """

    counts: Container[int] | None
    what: str
    applies: Callable[[Metadata], bool] = lambda _: True
    repair: Rescale | None = None

    def crossed(self, source: Metadata, target: Metadata) -> bool:
        """Whether the map changes the behaviour."""
        old, new = source.n_trunk, target.n_trunk
        crossed = (
            old != new if self.counts is None else (old in self.counts) != (new in self.counts)
        )
        return crossed and self.applies(source)

    def rescales(self, source: Metadata, target: Metadata) -> list[Rescale]:
        return [self.repair] if self.repair and self.crossed(source, target) else []

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        repaired = self.repair is not None and schedule is Schedule.EXPLICIT
        if repaired or not self.crossed(source, target):
            return []
        return [
            Conflict(
                f"{source.n_trunk} -> {target.n_trunk} layers would change {self.what}",
                curable=self.repair is not None,
            )
        ]

    def statement(self) -> str:
        return f"the number of layers decides {self.what}"

    def limit(self, schedule: Schedule) -> str | None:
        if schedule is Schedule.EXPLICIT and self.repair:
            return None
        if self.counts is None:
            return "same layer count"
        if isinstance(self.counts, range):
            return f"not across {self.counts.start} layers"
        numbers = sorted(n for n in range(1, MAX_LAYERS + 1) if n in self.counts)
        return f"not to or from {' or '.join(map(str, numbers))} layers"


@dataclass(frozen=True, slots=True)
class Pin(Rule):
    """Where `key` is missing, llama.cpp derives its value from the layer count: write the old one.

    `value` gives what the engine uses for the source, or None where nothing has to be written.
    """

    key: str
    type: GGUFValueType
    value: Callable[[Metadata], Any]

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        value = self._missing(source)
        return target if value is None else target.with_scalar(self.key, self.type, value)

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        value = self._missing(source)
        if value is None:
            return None
        return (
            f"{source.architecture}.{self.key} {value:g} written: without it llama.cpp derives "
            f"another value from the new layer count"
        )

    def statement(self) -> str:
        return f"{self.key} is written as it was, or the layer count would change it"

    def _missing(self, source: Metadata) -> Any:
        """The value to write; None if the source has the key, or nothing has to be written."""
        return None if source.kv(self.key) is not None else self.value(source)


@dataclass(frozen=True, slots=True)
class Looped(Rule):
    """The whole stack runs as often as `key` says, each pass with KV cache slots of its own.

    llama.cpp has 512 slots in all, and wants at least one pass.
    """

    key: str

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        n_loops = int(source.scalar(self.key, 1))
        if n_loops == 0:
            raise source.refused(self.key, "llama.cpp expects at least 1")
        n = target.n_trunk * n_loops
        if n <= MAX_LAYERS:
            return []
        return [Conflict(f"{self.key} times the layers makes {n}, llama.cpp stops at {MAX_LAYERS}")]

    def statement(self) -> str:
        return f"the whole stack runs {self.key} times, copies as well"
