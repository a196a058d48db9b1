"""Rules for kinds of layers that come back with a period: attention, linear attention, RoPE."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import (
    Condition,
    Conflict,
    Metadata,
    Rule,
    holds,
    kind_conflicts,
    lost_kinds,
    without_last,
)
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Periodic(Rule):
    """One of every `default` layers (or of the number in `period_key`) is `special`.

    It is number `at` of its period, the last one with -1; the others are `regular`. Where `when`
    does not hold, all layers are alike: special, or `otherwise` if given. `array` names a key that
    may list the kinds (true = regular); an engine that knows the key reads it instead of the
    position. `array_read_by` tells which engines do, and what the others make of such a file.
    With `whole`, a source of whole periods must become an output of whole periods. With `divides`
    a period of 0 is an error, because llama.cpp divides by it. Of the kinds in `kept` a layer must
    be left; the last layers, the number in `but_last`, are none of them. The first layers, the
    number in `after`, are regular wherever they stand.
    """

    special: str
    regular: str
    default: int
    period_key: str | None = None
    at: int = -1
    when: Condition = None
    otherwise: str | None = None
    array: str | None = None
    array_read_by: str = ""
    whole: bool = False
    divides: bool = False
    kept: tuple[str, ...] = ()
    but_last: str | None = None
    after: str | None = None

    def arrays(self) -> tuple[str, ...]:
        return (self.array,) if self.array else ()

    def applies(self, meta: Metadata) -> bool:
        """Whether layers differ at all in this model."""
        return holds(self.when, meta)

    def period(self, meta: Metadata) -> int:
        """Layers per period, which decides where no array lists the kinds."""
        return int(meta.scalar(self.period_key, self.default)) if self.period_key else self.default

    def by_position(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer in an engine that reads no array."""
        if not self.applies(meta):
            return (self.otherwise or self.special,) * meta.n_trunk
        period = self.period(meta)
        at = period - 1 if self.at == -1 else self.at
        if at < 0 or at >= period:  # set_swa_pattern(0), or number 2 of every 1
            return (self.regular,) * meta.n_trunk
        kinds = [self.regular] * meta.n_trunk
        kinds[at::period] = [self.special] * len(range(at, meta.n_trunk, period))
        n_first = min(int(meta.scalar(self.after, 0)), meta.n_trunk) if self.after else 0
        return (self.regular,) * n_first + tuple(kinds[n_first:])

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer as a current llama.cpp computes it.

        Raises Refused where llama.cpp would divide by a period of 0.
        """
        flags = self._listed(meta) if self.applies(meta) else None
        if flags is not None:
            return tuple(self.regular if flag else self.special for flag in flags)
        if self.divides and self.applies(meta) and self.period(meta) == 0:
            raise meta.refused(
                str(self.period_key), "llama.cpp divides by it and expects at least 1"
            )
        return self.by_position(meta)

    def describe(self, meta: Metadata) -> str:
        if not self.applies(meta):
            lacking = f" (no {self.when})" if isinstance(self.when, str) else ""
            return f"every layer {self.otherwise or self.special}{lacking}"
        if self._listed(meta) is not None:
            return f"{meta.architecture}.{self.array} lists the kind of each layer"
        return self.describe_position(meta)

    def describe_position(self, meta: Metadata) -> str:
        """The period in words, and where it comes from."""
        period = self.period(meta)
        if self.period_key and isinstance(meta.scalar(self.period_key), int):
            origin = f"{meta.architecture}.{self.period_key} {period}"
        else:
            origin = f"period {period}, fixed in llama.cpp for {meta.architecture}"
        return f"{self.special} on the {self._place} layer of every {period} ({origin})"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        """List the kinds if asked to; an array of the source has been gathered already."""
        if not self._lists(source, schedule) or target.array(str(self.array)) is not None:
            return target
        kinds = self.kinds(source)
        flags = [kinds[s] == self.regular for s in layer_map.sources] + [False] * source.n_mtp
        return target.with_flags(str(self.array), flags)

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        if not self._lists(source, schedule):
            return None
        return f"{source.architecture}.{self.array} lists each layer's kind: {self.array_read_by}"

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        meant = self.kinds(source)
        # A source whose array agrees with its positions also runs on engines that do not know the
        # key; a portable variant keeps that property. A source whose array differs never had it.
        portable = schedule is Schedule.PORTABLE and meant == self.by_position(source)
        runs = self.by_position(target) if portable else self.kinds(target)
        curable = portable and self.array is not None
        conflicts = kind_conflicts(
            meant, runs, layer_map, self.describe_position(source), curable=curable
        )
        left = tuple(meant[s] for s in layer_map.sources)
        conflicts += lost_kinds(
            without_last(meant, source, self.but_last),
            without_last(left, target, self.but_last),
            self.kept,
        )
        period = self.period(source)
        demanded = self.whole and portable and self.applies(source) and period
        if demanded and source.n_trunk % period == 0 and target.n_trunk % period:
            conflicts.append(
                Conflict(
                    f"{target.n_trunk} layers are not divisible by {self.period_key} {period}; "
                    f"the source's {source.n_trunk} are",
                    curable,
                )
            )
        return conflicts

    def statement(self) -> str:
        origin = f"{self.period_key}, default {self.default}" if self.period_key else "fixed"
        only = f"; only where {self.when} is set" if isinstance(self.when, str) else ""
        listed = f"; {self.array} may list the kinds" if self.array else ""
        return (
            f"{self.special} on the {self._place} of every {self.default} layers ({origin}), "
            f"{self.regular} on the others{only}{listed}"
        )

    def limit(self, schedule: Schedule) -> str | None:
        if schedule is Schedule.EXPLICIT and self.array:
            return None
        key = f" ({self.period_key})" if self.period_key else ""
        return f"kinds of period {self.default}{key}"

    @property
    def _place(self) -> str:
        return {0: "first", -1: "last"}.get(self.at, f"number {self.at + 1}")

    def _listed(self, meta: Metadata) -> list[bool] | None:
        """Which layers are regular according to the array; None if the position decides.

        A number in place of the array holds for every layer, unless it is the period.
        """
        if self.array is None:
            return None
        same = meta.scalar(self.array) if self.array != self.period_key else None
        return meta.flags(self.array) if same is None else [bool(same)] * meta.n_trunk

    def _lists(self, source: Metadata, schedule: Schedule) -> bool:
        return schedule is Schedule.EXPLICIT and bool(self.array) and self.applies(source)


@dataclass(frozen=True, slots=True)
class Phase(Rule):
    """Layers whose tensors differ with a period of `period`: each output keeps its source's phase.

    This is for architectures that are not in the table: if their tensors repeat with a period,
    whatever else depends on the position probably does too.
    """

    period: int

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        return tuple(f"layer {il % self.period} of a period" for il in range(meta.n_trunk))

    def describe(self, meta: Metadata) -> str:
        return f"the layers' tensors repeat with a period of {self.period}"
