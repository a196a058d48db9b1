"""The ways in which llama.cpp lets a layer's computation depend on where the layer stands.

An architecture is a row of data (see `architectures`) made of these rules. Each rule can say, from
a header's metadata alone, what every layer would run as; comparing that between source and output
is what decides whether a map is legal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rys_gguf.header import KV


@dataclass(frozen=True)
class Metadata:
    """What the engine would read of one header: its KVs, and how many layers of which sort.

    Keys are given without the architecture's prefix.
    """

    architecture: str
    kvs: Mapping[str, KV]
    n_trunk: int
    n_mtp: int

    def kv(self, suffix: str) -> KV | None:
        """The KV `{architecture}.{suffix}`."""
        return self.kvs.get(f"{self.architecture}.{suffix}")

    def scalar(self, suffix: str, default: Any = None) -> Any:
        """A scalar's value; `default` if the key is missing or an array."""
        kv = self.kv(suffix)
        return default if kv is None or kv.is_array else kv.value

    def array(self, suffix: str) -> list[Any] | None:
        """An array's items, or None if the key is missing or a scalar."""
        kv = self.kv(suffix)
        return list(kv.value) if kv is not None and kv.is_array else None


@dataclass(frozen=True, slots=True)
class Periodic:
    """One layer in `default` (or in the value of `period_key`) is `special`, the others `regular`.

    The special one is the last of each period, or the first with `special_first`. With `when` the
    rule holds only where that key is present and positive. Where `array` names a key that spells
    the kinds out (true = regular), an engine that knows the key reads it instead of the position;
    `array_read_by` says which do and what the others make of such a file.
    """

    special: str
    regular: str
    default: int
    period_key: str | None = None
    special_first: bool = False
    when: str | None = None
    array: str | None = None
    array_read_by: str = ""
    whole_periods: bool = False

    def applies(self, meta: Metadata) -> bool:
        """Whether layers differ at all in this model."""
        return self.when is None or (meta.scalar(self.when) or 0) > 0

    def period(self, meta: Metadata) -> int:
        """Layers per period, in force where no array says otherwise."""
        return int(meta.scalar(self.period_key, self.default)) if self.period_key else self.default

    def by_position(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer as an engine computes it that reads no array."""
        if not self.applies(meta):
            return (self.special,) * meta.n_trunk
        period = self.period(meta)
        if period == 0:  # set_swa_pattern(0): every layer slides
            return (self.regular,) * meta.n_trunk
        at = 0 if self.special_first else period - 1
        return tuple(
            self.special if il % period == at else self.regular for il in range(meta.n_trunk)
        )

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer as a current llama.cpp computes it."""
        listed = meta.array(self.array) if self.array and self.applies(meta) else None
        if listed is None:
            return self.by_position(meta)
        # Read into a zeroed array without a length check: a short one leaves the tail special.
        listed = listed[: meta.n_trunk] + [0] * (meta.n_trunk - len(listed))
        return tuple(self.regular if flag else self.special for flag in listed)

    def describe(self, meta: Metadata) -> str:
        """The rule in force, in words."""
        if not self.applies(meta):
            return f"every layer {self.special} (no {self.when})"
        if self.array and meta.array(self.array) is not None:
            return f"{meta.architecture}.{self.array} lists the kind of each layer"
        return self.describe_position(meta)

    def describe_position(self, meta: Metadata) -> str:
        """What decides the kinds where no array does: the period, and who says it."""
        period = self.period(meta)
        where = "first" if self.special_first else "last"
        if self.period_key and isinstance(meta.scalar(self.period_key), int):
            said = f"{meta.architecture}.{self.period_key} {period}"
        else:
            said = f"period {period}, llama.cpp's default for {meta.architecture}"
        return f"{self.special} on the {where} layer of every {period} ({said})"


@dataclass(frozen=True, slots=True)
class CountSwitch:
    """llama.cpp computes something else throughout when the trunk has exactly one of `counts` layers.

    Nothing in the file overrides it, so a map may not cross it. `applies` says whether the two
    behaviours differ for this model at all.
    """

    counts: frozenset[int]
    what: str
    applies: Callable[[Metadata], bool]

    def crossed(self, source: Metadata, target: Metadata) -> bool:
        """Whether the map changes the behaviour."""
        on, off = (m.n_trunk in self.counts for m in (source, target))
        return on != off and self.applies(source)


Rule = Periodic | CountSwitch


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table: the rules of an architecture and where in llama.cpp they stand.

    `arrays` are its per-layer keys beyond those that every architecture has.
    """

    name: str
    rules: tuple[Rule, ...]
    source: str
    arrays: tuple[str, ...] = ()
