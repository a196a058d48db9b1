"""What a run keeps, as values: run.json, and the lines of results.jsonl and items.jsonl.

This is the only place that knows the format. Whatever comes from a file has been through
`decode_info`, `decode_result` or `decode_answer`, which hold every field within its bounds, so
that nothing above has to ask whether a score is a number. Schema 1 is that of version 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from rys_gguf.errors import RysError
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.runs.stage import Stage, Status
from rys_gguf.text import printable

SCHEMA = 1
_MAX_DEPTH = 64

Text = Annotated[str, Meta(max_length=1000)]
# Of families, topics, items and measures: short enough for a table.
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Measure = Annotated[float, Meta(ge=-1e12, le=1e12)]
Layer = Annotated[int, Meta(ge=0, le=MAX_LAYERS)]


class Times(Struct, frozen=True, kw_only=True):
    """Where a stage's seconds went: making the candidate, loading it, asking it."""

    write: Seconds = 0.0
    load: Seconds = 0.0
    ask: Seconds = 0.0


class StageResult(Struct, frozen=True, kw_only=True):
    """A line of results.jsonl: one candidate, one stage that is over.

    `scores` and `soft_scores` are means by family, fractions of 1. `engine_seconds` are those of
    loading and asking; `seconds` tells them apart. `time` is ISO 8601, UTC.
    """

    candidate: Name
    spec: Text
    windows: tuple[tuple[Layer, Layer], ...] = ()
    extra_layers: Annotated[int, Meta(ge=-MAX_LAYERS, le=MAX_LAYERS)] = 0
    is_base: bool = False
    stage: Stage
    status: Status
    reason: Text | None = None
    measures: dict[Name, Measure | None] = {}
    n_items: Count = 0
    scores: dict[Name, Fraction] = {}
    soft_scores: dict[Name, Fraction] = msgspec.field(name="credits", default_factory=dict)
    bytes_written: Count = 0
    bytes_shared: Count = 0
    engine_seconds: Seconds = 0.0
    seconds: Times = Times()
    log: tuple[Text, ...] = ()
    time: Annotated[str, Meta(max_length=40)] = ""

    @property
    def is_ok(self) -> bool:
        """Whether the candidate goes on."""
        return self.status is Status.OK


class ItemAnswer(Struct, frozen=True, kw_only=True):
    """A line of items.jsonl: what one candidate answered to one item in one stage.

    `score` and `soft_score` are None where the answer could not be read. `probabilities` hold one
    object for each forward pass, `response` the words of a generated answer.
    """

    candidate: Name
    stage: Stage
    scoring: Name = "quick"
    item: Name
    family: Name
    topic: Annotated[str, Meta(max_length=200)] = ""
    binary: bool = False
    status: Name = "ok"
    score: Fraction | None = None
    soft_score: Fraction | None = msgspec.field(name="credit", default=None)
    parsed: Any = None
    gold: Any = None
    response: Annotated[str, Meta(max_length=1 << 20)] | None = None
    probabilities: tuple[dict[str, Fraction], ...] = ()
    n_tokens: Count = 0
    seconds: Seconds = 0.0

    @property
    def is_read(self) -> bool:
        """Whether the answer could be read."""
        return self.status == "ok"


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The swept model, as run.json describes it; `layer_bytes` has a number for each layer."""

    name: Text = ""
    path: Text = ""
    architecture: Text = ""
    n_layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
    n_bytes: Count = 0
    layer_bytes: Annotated[tuple[Count, ...], Meta(max_length=MAX_LAYERS)] = ()
    rule: Text = ""


class IllegalWindow(Struct, frozen=True, kw_only=True):
    """A window that was not tried, and the rule that forbids it."""

    spec: Text
    rule: Text


class PlanInfo(Struct, frozen=True, kw_only=True):
    """Which windows were tried, in words for a report; `identity.settings` is what counts."""

    name: Text = ""
    sizes: tuple[Layer, ...] = ()
    notes: tuple[Text, ...] = ()


class Baseline(Struct, frozen=True, kw_only=True):
    """What answers score that ignore the question: the best constant one, and random ones."""

    constant: Fraction = 0.0
    random: Fraction = 0.0


class RunInfo(Struct, frozen=True, kw_only=True):
    """run.json. `identity` decides whether a folder's run may go on; all else is for readers.

    `identity` stays a plain object, compared as a whole: model, suite, heldout, settings, engine.
    """

    schema: int = SCHEMA
    run_id: Name = "0"
    identity: dict[str, Any]
    rys_gguf: Text = ""
    model: ModelInfo
    plan: PlanInfo = PlanInfo()
    families: tuple[Name, ...] = ()
    illegal: tuple[IllegalWindow, ...] = ()
    baselines: dict[Name, Baseline] = msgspec.field(name="floors", default_factory=dict)
    provenance: dict[Name, Text] = {}
    created: Annotated[str, Meta(max_length=40)] = ""


_T = TypeVar("_T")


def decode(data: bytes, kind: type[_T], where: str) -> _T:
    """A record from JSON. Raises RysError naming `where` and the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_from_text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        what = "nested too deep" if isinstance(e, RecursionError) else printable(str(e))
        raise RysError(f"{where}: not what a sweep writes: {what}") from e


def encode(record: Struct) -> bytes:
    """A record as one line of JSON, without its end."""
    return msgspec.json.encode(record, enc_hook=_to_text)


def builtins(record: Struct) -> Mapping[str, Any]:
    """A record as plain values with the names of the file."""
    plain: Mapping[str, Any] = msgspec.to_builtins(record, enc_hook=_to_text)
    return plain


def _from_text(kind: type[Any], value: Any) -> Any:
    if kind is Stage and isinstance(value, str):
        return Stage.parse(value)
    raise NotImplementedError(f"{kind} is no field of a run")


def _to_text(value: Any) -> Any:
    if isinstance(value, Stage):
        return str(value)
    raise NotImplementedError(f"{type(value)} is no field of a run")
