"""The table of architectures in words, for people: `rys-gguf architectures`."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.layers.rules import Architecture
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture: its rules, and what a window has to respect under each schedule."""

    name: str
    rules: tuple[str, ...]
    portable: str
    explicit: str
    source: str
    unprovable: str

    @property
    def verdict(self) -> str:
        """Both schedules in one line."""
        if self.portable == self.explicit:
            return self.portable
        return f"{self.portable}; explicit: {self.explicit}"


def entry(arch: Architecture) -> Entry:
    """What the table says of one architecture."""
    statements = tuple(text for rule in arch.rules if (text := rule.statement()))
    return Entry(
        arch.name,
        statements or ("every layer alike",),
        _windows(arch, Schedule.PORTABLE),
        _windows(arch, Schedule.EXPLICIT),
        arch.source,
        arch.unprovable,
    )


def _windows(arch: Architecture, schedule: Schedule) -> str:
    limits = [text for rule in arch.rules if (text := rule.limit(schedule))]
    if "none" in limits:
        return "none"
    return "; ".join(dict.fromkeys(limits)) or "any"
