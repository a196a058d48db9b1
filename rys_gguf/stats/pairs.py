"""What a run measured, read for the report: candidates, and their items paired with the base's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rys_gguf.errors import RysError
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.runs.storage import DAMAGE, FINAL, GENERATE, LOOPS, SPEED
from rys_gguf.stats.paired import Floats
from rys_gguf.text import printable

# A candidate's way, though its speed is measured last; rounds stand between damage and loops.
_ORDER = {DAMAGE: 0, SPEED: 998, LOOPS: 999, FINAL: 1000, GENERATE: 1001}

Line = Mapping[str, Any]


class RunData(Protocol):
    """A run as `rys_gguf.search.run.Run` opens it."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    @property
    def info(self) -> Mapping[str, Any]:
        """run.json."""

    @property
    def results(self) -> Sequence[Line]:
        """A line per candidate and stage."""

    @property
    def items(self) -> Sequence[Line]:
        """A line per candidate, stage and item."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layer map and how far it came; `measures` of all stages, later ones first."""

    name: str
    spec: str
    windows: tuple[tuple[int, int], ...]
    extra_layers: int
    is_base: bool
    status: str
    reason: str
    stage: str
    n_items: int
    measures: Mapping[str, Any]
    by_stage: Mapping[str, Line]

    @property
    def window(self) -> tuple[int, int] | None:
        """The window, if it is one: the only candidates a map has a place for."""
        return self.windows[0] if len(self.windows) == 1 else None

    @property
    def is_out(self) -> bool:
        """Whether its last stage ended it; what was dropped may have been tried again."""
        return str(list(self.by_stage.values())[-1].get("status", "ok")) != "ok"

    @property
    def label(self) -> str:
        """What tables call it."""
        return "base" if self.is_base else self.spec

    def total(self, key: str) -> float:
        """`bytes_written` or `engine_seconds` over all stages."""
        return sum(float(line.get(key) or 0) for line in self.by_stage.values())


@dataclass(frozen=True, slots=True)
class Pairs:
    """The items of one family that both base and window answered, in one order.

    `n_asked` counts the items both were asked, also those without a score; of them `base_parsed`
    and `window_parsed` had answers that could be read.
    """

    items: tuple[str, ...]
    base: Floats
    window: Floats
    binary: bool
    n_asked: int
    base_parsed: int
    window_parsed: int

    @property
    def difference(self) -> Floats:
        """Window minus base, per item."""
        return np.asarray(self.window - self.base)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.difference.mean())


Families = dict[str, Pairs]


class Evidence:
    """A run, indexed. Raises RysError for a run without a base, or with what no sweep writes."""

    def __init__(self, run: RunData) -> None:
        for fault in _faults(run):
            raise RysError(f"{printable(run.folder)}: not what a sweep writes: {fault}")
        self.info = run.info
        by_candidate: dict[str, dict[str, Line]] = defaultdict(dict)
        for line in run.results:
            by_candidate[str(line["candidate"])][str(line["stage"])] = line
        self._items: dict[tuple[str, str], dict[str, Line]] = defaultdict(dict)
        for line in run.items:
            self._items[str(line["candidate"]), str(line["stage"])][str(line["item"])] = line
        self.candidates = {
            name: _candidate(name, {s: lines[s] for s in sorted(lines, key=stage_order)})
            for name, lines in by_candidate.items()
        }
        base = next((c for c in self.candidates.values() if c.is_base), None)
        if base is None:
            raise RysError("the run has no result of the base yet: there is nothing to compare")
        self.base = base
        self.windows = tuple(c for c in self.candidates.values() if not c.is_base)

    @property
    def rounds(self) -> tuple[str, ...]:
        """The search's stages in order; each adds items to the one before."""
        stages = {stage for _, stage in self._items if stage not in _ORDER}
        return tuple(sorted(stages, key=stage_order))

    def answers(self, candidate: str, stages: Iterable[str]) -> dict[str, Line]:
        """A candidate's item lines of some stages, by item."""
        found: dict[str, Line] = {}
        for stage in stages:
            found.update(self._items.get((candidate, stage), {}))
        return found

    def stages_of(self, candidate: str) -> list[str]:
        """The stages that asked a candidate items, in order."""
        return sorted({s for c, s in self._items if c == candidate}, key=stage_order)

    def pairs(self, candidate: str, stages: Iterable[str], field: str = "score") -> Families:
        """Base and window on the items both answered, by family; `field` is score or credit.

        A failed request is no answer, and emotions that could not be read have no score: such an
        item is left out on both sides.
        """
        stages = tuple(stages)
        return pair(self.answers(self.base.name, stages), self.answers(candidate, stages), field)

    def judged_stage(self) -> str | None:
        """The held-out stage that verdicts rest on: generated answers once all finalists have them.

        None while the run is a search only.
        """
        final, generated = self.finalists(FINAL), self.finalists(GENERATE)
        if generated and set(final) <= set(generated):
            return GENERATE
        return FINAL if final else None

    def finalists(self, stage: str) -> list[str]:
        """The candidates that were asked held-out items, if the base was too."""
        if not self._items.get((self.base.name, stage)):
            return []
        return [c.name for c in self.windows if self._items.get((c.name, stage))]


def pair(base: Mapping[str, Line], window: Mapping[str, Line], field: str = "score") -> Families:
    """The lines of two candidates on the same items, by family in the order of the base.

    A family of which nothing could be read on both sides is there, without items.
    """
    asked: dict[str, list[tuple[Line, Line]]] = defaultdict(list)
    kept: dict[str, list[tuple[str, Line, Line]]] = defaultdict(list)
    for item, a in base.items():
        b = window.get(item)
        if b is None or "error" in (a.get("status"), b.get("status")):
            continue
        asked[str(a["family"])].append((a, b))
        if _counts(a, field) and _counts(b, field):
            kept[str(a["family"])].append((item, a, b))
    return {
        family: Pairs(
            tuple(item for item, _, _ in rows),
            np.array([float(a[field]) for _, a, _ in rows]),
            np.array([float(b[field]) for _, _, b in rows]),
            bool(rows) and all(a.get("binary") and b.get("binary") for _, a, b in rows),
            len(asked[family]),
            sum(a.get("status") == "ok" for a, _ in asked[family]),
            sum(b.get("status") == "ok" for _, b in asked[family]),
        )
        for family in asked
        for rows in (kept[family],)
    }


def readable(families: Families) -> Families:
    """The families of which something could be read: statistics are of these."""
    return {family: p for family, p in families.items() if p.items}


def overall(families: Families) -> float:
    """Mean over families of the mean difference: every family counts the same."""
    return float(np.mean([p.mean for p in families.values()]))


def parts_of(families: Families) -> dict[tuple[str, str], float]:
    """What each item adds to the overall difference, by family and item."""
    return {
        (family, item): float(x) / (len(p.items) * len(families))
        for family, p in families.items()
        for item, x in zip(p.items, p.difference, strict=True)
    }


def parts_matrix(rows: Sequence[Mapping[tuple[str, str], float]]) -> Floats:
    """`parts_of` several candidates as [K, n]; 0 where a candidate was not asked an item."""
    items = {item: n for n, item in enumerate(dict.fromkeys(i for row in rows for i in row))}
    parts = np.zeros((len(rows), len(items)))
    for k, row in enumerate(rows):
        for item, x in row.items():
            parts[k, items[item]] = x
    return parts


def stage_order(stage: str) -> tuple[int, int, str]:
    """Sorts stages as a candidate goes through them; round10 follows round9."""
    digits = "".join(c for c in stage if c.isdecimal())
    return _ORDER.get(stage, 10), int(digits or 0), stage


def _faults(run: RunData) -> Iterator[str]:
    """What a report relies on and a run does not have: files can be edited, or come from anyone."""
    yield from _faults_of_info(run.info)
    n = run.info["model"]["n_layers"]
    for line in run.results:
        where = (
            f"results.jsonl, {printable(str(line['candidate']))} {printable(str(line['stage']))}"
        )
        for key, is_right in _RESULT_FIELDS.items():
            if key in line and not is_right(line[key]):
                yield f"{where}: {key} is {printable(repr(line[key]))}"
        windows = line.get("windows", ())
        if not all(
            isinstance(w, list) and len(w) == 2 and all(type(k) is int for k in w)  # noqa: PLR2004
            and 0 <= w[0] < w[1] <= n for w in windows
        ):  # fmt: skip
            yield f"{where}: windows are {printable(repr(windows))}, the model has {n} layers"
    for line in run.items:
        for key, is_right in _ITEM_FIELDS.items():
            if not is_right(line.get(key)):
                where = f"items.jsonl, {printable(str(line['item']))}"
                yield f"{where}: {key} is {printable(repr(line.get(key)))}"


def _faults_of_info(info: Line) -> Iterator[str]:
    for key in ("identity", "model", *({"floors", "provenance"} & info.keys())):
        if not isinstance(info.get(key), Mapping):
            yield f"run.json: {key} is no object"
    model, illegal = info.get("model", {}), info.get("illegal", [])
    n = model.get("n_layers")
    if type(n) is not int or not 0 < n <= MAX_LAYERS:
        yield f"run.json: model.n_layers is {printable(repr(n))}"
    sizes = model.get("layer_bytes")
    if sizes and not (
        isinstance(sizes, list) and len(sizes) == n and all(type(x) is int for x in sizes)
    ):
        yield f"run.json: model.layer_bytes is not one number for each of {n} layers"
    if type(model.get("n_bytes", 0)) is not int:
        yield f"run.json: model.n_bytes is {printable(repr(model['n_bytes']))}"
    if not isinstance(illegal, list) or not all(isinstance(x, Mapping) for x in illegal):
        yield "run.json: illegal is no list of objects"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _are_probabilities(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(isinstance(p, Mapping) and all(map(_is_number, p.values())) for p in value)
    )


_RESULT_FIELDS: dict[str, Callable[[Any], bool]] = {
    "windows": lambda value: isinstance(value, list),
    "measures": lambda value: (
        value is None or (isinstance(value, Mapping) and all(map(_is_number, value.values())))
    ),
    "extra_layers": lambda value: type(value) is int,
    **dict.fromkeys(("n_items", "bytes_written", "engine_seconds"), _is_number),
}
_ITEM_FIELDS: dict[str, Callable[[Any], bool]] = {
    "family": lambda value: isinstance(value, str),
    "probabilities": _are_probabilities,
    **dict.fromkeys(("score", "credit", "n_tokens"), _is_number),
}


def _counts(line: Line, field: str) -> bool:
    value = line.get(field)
    return isinstance(value, int | float) and math.isfinite(float(value))


def _candidate(name: str, lines: Mapping[str, Line]) -> Candidate:
    last = list(lines.values())[-1]
    bad = next((line for line in lines.values() if line.get("status", "ok") != "ok"), last)
    measures: dict[str, Any] = {}
    for line in lines.values():
        measures.update(line.get("measures") or {})
    return Candidate(
        name,
        str(last.get("spec", name)),
        tuple((int(i), int(j)) for i, j in last.get("windows", ())),
        int(last.get("extra_layers", 0)),
        bool(last.get("is_base")),
        str(bad.get("status", "ok")),
        str(bad.get("reason") or ""),
        str(last.get("stage")),
        int(last.get("n_items") or 0),
        measures,
        lines,
    )
