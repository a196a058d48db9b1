"""The rule for models in which no layer can be repeated."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Condition, Conflict, Metadata, Rule, holds
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Unsupported(Rule):
    """No map is legal where `when` holds, for the reason given."""

    why: str
    when: Condition = None

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        return [Conflict(self.why, final=True)] if holds(self.when, source) else []

    def describe(self, meta: Metadata) -> str | None:
        return f"no map is possible: {self.why}" if holds(self.when, meta) else None

    def statement(self) -> str:
        return f"refused: {self.why}"

    def limit(self, schedule: Schedule) -> str | None:
        if self.when is None:
            return "none"
        return f"none with {self.when}" if isinstance(self.when, str) else "none in some models"
