"""The records of a run: run.json, and the lines of results.jsonl and items.jsonl.

Only this module knows the format. `decode` and `decode_info` check that every field is within its
bounds, so that nothing else has to ask whether a score is a number. Schema 1 is that of version
0.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from rys_gguf.errors import RysError
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.probes.names import MAX_NAME
from rys_gguf.runs.stage import Stage, Status
from rys_gguf.text import printable, quoted

SCHEMA = 1
# The samplers that plans name.
HALVING, THOMPSON = "halving", "thompson"
# Of values without a type of their own: `identity`, `parsed` and `gold`.
_MAX_DEPTH = 64

Text = Annotated[str, Meta(max_length=1 << 16)]
Response = Annotated[str, Meta(max_length=1 << 20)]
# Candidates, families, topics, items, options and measures.
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
# Sums of probabilities may end a few roundings above 1.
Probability = Annotated[float, Meta(ge=0, le=1.000001)]
# A right answer scores 1, a wrong one 0, or -1 where two ratings are compared. Ratings score 0
# at the best constant answer; far below it their formula can reach -269, in a suite whose items
# one answer fits nearly all.
Score = Annotated[float, Meta(ge=-300, le=1.000001)]
Measure = Annotated[float, Meta(ge=-1e12, le=1e12)]
Layer = Annotated[int, Meta(ge=0, le=MAX_LAYERS)]
MAX_COMMAND = 1 << 14
Moment = Annotated[str, Meta(max_length=40)]


class Times(Struct, frozen=True, kw_only=True):
    """The seconds that a stage spent on writing the candidate, loading it and asking it."""

    write: Seconds = 0.0
    load: Seconds = 0.0
    ask: Seconds = 0.0


class StageResult(Struct, frozen=True, kw_only=True):
    """A line of results.jsonl: how one stage of one candidate ended.

    `scores` and `soft_scores` are means by family; 1 is right. `engine_seconds` is the time of
    loading and asking, and `seconds` has both apart. `time` is ISO 8601, UTC.
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
    scores: dict[Name, Score] = {}
    soft_scores: dict[Name, Score] = msgspec.field(name="credits", default_factory=dict)
    bytes_written: Count = 0
    bytes_shared: Count = 0
    engine_seconds: Seconds = 0.0
    seconds: Times = Times()
    log: tuple[Text, ...] = ()
    time: Moment = ""

    @property
    def is_ok(self) -> bool:
        """Whether the candidate goes on."""
        return self.status is Status.OK


class ItemAnswer(Struct, frozen=True, kw_only=True):
    """A line of items.jsonl: the answer of one candidate to one item in one stage.

    `cluster` names what the item has in common with others of its family; older runs did not know.
    `score` and `soft_score` are None if the answer could not be read. The `score` of a `binary`
    answer is 0 or 1. `probabilities` has an object for each forward pass, and `response` the text
    of a generated answer. Where the model was to think, `thoughts` has the text before the answer
    for each prompt, `thought_tokens` their tokens, and the other two count those that the limit cut
    off and those of them that loop.
    """

    candidate: Name
    stage: Stage
    scoring: Literal["quick", "generate"] = "quick"
    item: Name
    family: Name
    topic: Name = ""
    cluster: Name | msgspec.UnsetType = msgspec.UNSET
    binary: bool = False
    status: Literal["ok", "no_answer", "truncated"] = "ok"
    score: Score | None = None
    soft_score: Score | None = msgspec.field(name="credit", default=None)
    parsed: Any = None
    gold: Any = None
    response: Response | None = None
    probabilities: tuple[dict[Name, Probability], ...] = ()
    n_tokens: Count = 0
    seconds: Seconds = 0.0
    thoughts: tuple[Response, ...] | msgspec.UnsetType = msgspec.UNSET
    thought_tokens: Count | msgspec.UnsetType = msgspec.UNSET
    thoughts_cut: Count | msgspec.UnsetType = msgspec.UNSET
    thoughts_looping: Count | msgspec.UnsetType = msgspec.UNSET

    @property
    def n_thought(self) -> int | None:
        """The tokens it thought for before the answer; None if it was not to think."""
        return None if isinstance(self.thought_tokens, msgspec.UnsetType) else self.thought_tokens

    @property
    def common(self) -> str:
        """The cluster, or the item's own name."""
        return self.item if isinstance(self.cluster, msgspec.UnsetType) else self.cluster

    @property
    def is_read(self) -> bool:
        """Whether the answer could be read."""
        return self.status == "ok"


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The model of a sweep; `layer_bytes` has a number for each layer, or none at all."""

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
    """The plan of a sweep as reports show it; `identity.settings` has all of it.

    `sampler` decides how candidates are ranked.
    """

    name: Text = ""
    sizes: tuple[Layer, ...] = ()
    notes: tuple[Text, ...] = ()
    sampler: Text = HALVING


class Baseline(Struct, frozen=True, kw_only=True):
    """The scores of answers that ignore the question: the best constant one, and random ones."""

    constant: Score = 0.0
    random: Score = 0.0


class RunInfo(Struct, frozen=True, kw_only=True):
    """The content of run.json.

    `identity` (model, suite, heldout, settings, engine) decides whether a sweep may continue the
    run: it is a plain object, and all of it is compared. `search_until` is how many seconds of work
    there may be when the search begins its last questions, None for any. The rest is for reports.
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
    created: Moment = ""
    command: Annotated[str, Meta(max_length=MAX_COMMAND)] = ""
    n_threads: Count | None = None
    search_until: Seconds | None = None


class Progress(Struct, frozen=True, kw_only=True):
    """The content of progress.json: the part of a sweep that is at work, and how far it is.

    `n_done` of at most `n_total` stages of the part are over; `seconds_left` are those of the part,
    None while nothing tells. `time` is that of the last change. Once the sweep `is_over`, no part
    is left. `is_cut` then tells whether the search ran out of time before its last questions.
    """

    part: Text = ""
    n_done: Count = 0
    n_total: Count = 0
    seconds_left: Seconds | None = None
    is_over: bool = False
    is_cut: bool = False
    time: Moment = ""


_T = TypeVar("_T")


def decode(data: bytes, kind: type[_T], where: str) -> _T:
    """A record from a line of JSON. Raises RysError naming `where` and the field that is wrong."""
    try:
        record = msgspec.json.decode(data, type=kind, dec_hook=_from_text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise _not_ours(where, e) from e
    if isinstance(record, ItemAnswer):
        for name in ("parsed", "gold"):
            _require_shallow(getattr(record, name), f"{where}: not what a sweep writes: {name}")
        if record.binary and record.score not in (None, 0.0, 1.0):
            raise RysError(
                f"{where}: not what a sweep writes: score is {record.score:g}, a right-or-wrong "
                f"answer has 0 or 1"
            )
    return record


def decode_info(data: bytes, where: str) -> RunInfo:
    """The content of run.json. Raises RysError naming `where` and the field that is wrong."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise RysError(f"{where}: not JSON: {printable(str(e))}") from e
    if not isinstance(plain, dict) or "identity" not in plain:
        raise RysError(f"{where}: not what a sweep writes: identity is missing")
    if plain.get("schema") != SCHEMA:
        raise RysError(
            f"{where}: schema is {printable(repr(plain.get('schema')))}, expected {SCHEMA}: "
            f"another version of rys-gguf wrote it"
        )
    _require_shallow(plain, f"{where}: not what a sweep writes: it")
    try:
        info = msgspec.convert(plain, RunInfo, dec_hook=_from_text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as e:
        raise _not_ours(where, e) from e
    n, sizes = info.model.n_layers, info.model.layer_bytes
    if sizes and len(sizes) != n:
        raise RysError(
            f"{where}: not what a sweep writes: model.layer_bytes has {len(sizes)} numbers for "
            f"{n} layers"
        )
    return info


def encode(record: Struct) -> bytes:
    """A record as one line of JSON, without its end."""
    try:
        return msgspec.json.encode(record, enc_hook=_to_text)
    except UnicodeEncodeError:
        # UTF-8 has no half surrogate pairs, but JSON from an engine may: they become "?".
        text = json.dumps(builtins(record), ensure_ascii=False)
        return text.encode("utf-8", "replace")


def encode_info(info: RunInfo) -> bytes:
    """The bytes of run.json. A path that is not UTF-8 is kept by escapes."""
    return (json.dumps(builtins(info), indent=2) + "\n").encode()


def builtins(record: Struct) -> Mapping[str, Any]:
    """A record as plain values, with the field names of the file."""
    plain: Mapping[str, Any] = msgspec.to_builtins(record, enc_hook=_to_text)
    return plain


def _not_ours(where: str, error: Exception) -> RysError:
    if isinstance(error, RecursionError):
        reason = "nested too deep"
    elif isinstance(error, UnicodeEncodeError):
        # Not an error of msgspec's own, so it names no field.
        reason = f"{quoted(error.object)} holds half a surrogate pair"
    else:
        reason = printable(str(error))
    return RysError(f"{where}: not what a sweep writes: {reason}")


def _require_shallow(value: Any, what: str) -> None:
    """Raise RysError for values too deep to be compared and printed by recursion."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RysError(f"{what} is nested too deep")


def _from_text(kind: type[Any], value: Any) -> Any:
    assert kind is Stage, f"{kind} is not a field of a run"
    if not isinstance(value, str):
        raise ValueError("Expected `str`, the name of a stage")  # noqa: TRY004 - msgspec adds where
    return Stage.parse(value)


def _to_text(value: Any) -> Any:
    if isinstance(value, Stage):
        return str(value)
    raise NotImplementedError(f"{type(value)} is not a field of a run")
