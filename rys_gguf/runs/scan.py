"""The scan of a run: a small file of what each window did, to be given to others.

It holds effects and no answers, no questions and no paths. It may come from a stranger: `read_scan`
bounds its size and checks every field.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from rys_gguf.errors import RysError
from rys_gguf.files.text_file import read_text
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.runs.records import Count, Layer, Name
from rys_gguf.text import printable

MAX_WINDOWS = 1 << 14
_MAX_FAMILIES = 64
_MAX_BYTES = 16 << 20

# Half the width of a 95 % interval in standard errors.
Z_95 = 1.959964

Word = Annotated[str, Meta(max_length=256)]
# Scores are fractions of 1; a family of ratings can lose far more than it can gain.
Difference = Annotated[float, Meta(ge=-301, le=301)]


class ScanEffect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Window minus base, a fraction of 1, with the ends of its 95 % interval.

    The ends are None where there are too few items.
    """

    mean: Difference
    low: Difference | None = None
    high: Difference | None = None

    @property
    def error(self) -> float | None:
        """The standard error that fits the interval's width; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / (2 * Z_95)


class ScanWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate: `windows` are half-open, and empty for a map that is something else.

    `search` are soft scores on `n_items` items, overall and by family, empty if none was asked.
    `held_out` are the scores of a finalist on `n_held_out` items, with the verdict.
    """

    spec: Word
    windows: Annotated[tuple[tuple[Layer, Layer], ...], Meta(max_length=MAX_LAYERS)] = ()
    added_layers: Annotated[int, Meta(ge=-MAX_LAYERS, le=MAX_LAYERS)] = 0
    status: Literal["ok", "dropped", "failed"]
    n_items: Count = 0
    search: Annotated[dict[Name, ScanEffect], Meta(max_length=_MAX_FAMILIES)] = {}
    n_held_out: Count = 0
    held_out: ScanEffect | None = None
    verdict: Word = ""


class ScanModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that was swept; `sha256` is that of its header."""

    name: Word
    sha256: Word
    architecture: Word
    n_layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]


class Scan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file."""

    format: Literal["rys-gguf scan"] = "rys-gguf scan"
    schema: Literal[1] = 1
    rys_gguf: Word
    model: ScanModel
    suite: Word
    heldout: Word
    engine: Word
    windows: Annotated[tuple[ScanWindow, ...], Meta(max_length=MAX_WINDOWS)]


@dataclass(frozen=True, slots=True)
class PriorEffect:
    """What a single window did in another model, at its place relative to the number of layers.

    `start` and `length` are fractions of the layers, `mean` and `error` fractions of 1.
    """

    start: float
    length: float
    mean: float
    error: float
    n: int


def prior_effects(scan: Scan, family: str = "overall") -> Iterator[PriorEffect]:
    """The soft scores over the base of a scan's single windows that were asked items."""
    n_layers = scan.model.n_layers
    for window in scan.windows:
        effect = window.search.get(family)
        if effect is None or effect.error is None or len(window.windows) != 1:
            continue
        i, j = window.windows[0]
        if window.added_layers == j - i:
            place = i / n_layers, (j - i) / n_layers
            yield PriorEffect(*place, effect.mean, effect.error, window.n_items)


def encode_scan(scan: Scan) -> str:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(scan), indent=1).decode() + "\n"


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """The scan in a file. Raises RysError naming the field that is wrong."""
    text = read_text(path, "the scan", _MAX_BYTES)
    where = printable(path)
    try:
        scan = msgspec.json.decode(text, type=Scan)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as e:
        raise RysError(f"{where}: not a scan that this version reads: {printable(str(e))}") from e
    for number, window in enumerate(scan.windows):
        for i, j in window.windows:
            if not i < j <= scan.model.n_layers:
                raise RysError(
                    f"{where}: windows[{number}] is {i},{j}, but the model has "
                    f"{scan.model.n_layers} layers"
                )
        for effect in (*window.search.values(), window.held_out):
            if effect and not _is_ordered(effect):
                raise RysError(f"{where}: windows[{number}] has an interval without its mean")
    return scan


def _is_ordered(effect: ScanEffect) -> bool:
    low = -math.inf if effect.low is None else effect.low
    high = math.inf if effect.high is None else effect.high
    return low <= effect.mean <= high
