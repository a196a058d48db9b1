"""How a layer map is written, and what to write instead of what other tools take.

    blocks:8,12                     windows, half-open; (8,12) and [8,12] mean the same
    blocks:2,4;6,8                  several windows, all in source coordinates
    layers:0..11,8..23              the whole path, ends included
    layers:..11,8..                 an open range begins at the first or ends at the last layer
    layers:0..9,10..13x3,14..23     a range, or a layer, that is passed three times in all
    blocks:8,12@0.5                 a copy that adds half of what its sources add
    layers:0..11,8..11@0.5,12..23   the same as a path

Sources: RYS src/core/layer_config.py (windows, lists in brackets), exllamav3 util/misc.py
(paths with open ranges), llm-circuit-finder layer_path.py (paths).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.text import printable, quoted

# Every pattern is one of ASCII digits: the digits of other scripts are no layer numbers.
_N = "[0-9]{1,9}"
_PAIR = re.compile(rf"\s*({_N})\s*,\s*({_N})\s*")
_PASSES = re.compile(rf"\s*(?:({_N})|({_N})?\s*\.\.\s*({_N})?)\s*(?:x\s*({_N}))?\s*")
_DAMP = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?)\s*", re.ASCII)
_REPEATED_PAIR = re.compile(rf"[(\[]?\s*({_N})\s*,\s*({_N})\s*[)\]]?\s*[x*]\s*({_N})")
_BRACKETED_PAIR = re.compile(rf"[(\[]\s*({_N})\s*,\s*({_N})\s*[)\]]")
_CLOSED = re.compile(rf"({_N})\s*(?:-|\.\.)\s*({_N})")
_PYTHON = re.compile(rf"({_N})?\s*:\s*({_N})?")
_THREE_DOTS = re.compile(rf"({_N})\s*\.\.\.\s*({_N})")
_BRACKETS = ("()", "[]", "[)")
_MERGEKIT = re.compile(
    r"(slices|merge_method|models|modules|base_model|dtype)\s*:|-\s*sources|.*\.ya?ml$"
)
# A line of a terminal, and the longest message that is still worth reading.
_LINE = 100
_LONGEST_HINT = 600
_MOST_SPELLED_OUT = 32
# With fewer numbers, a list is as likely to be a window.
_LEAST_LIST = 3


def windows(spec: str, n_source: int) -> list[tuple[int, int, float]]:
    """The half-open windows of a spec `blocks:...`, in its order, and what damps each.

    Raises InvalidLayerMap, pointing at the faulty part and saying what to write instead.
    """
    divided = [part.undamped() for part in _Part.split(spec, n_source, ";")]
    return [(*_window(part), damp) for part, damp in divided]


def path(spec: str, n_source: int) -> list[tuple[int, float]]:
    """The source layers of a spec `layers:...`, in its order, and what damps each.

    Raises InvalidLayerMap as above.
    """
    layers: list[tuple[int, float]] = []
    divided = [part.undamped() for part in _path_parts(spec, n_source)]
    parts = [(part, *_stretch(part)) for part, _ in divided]
    for (part, stretch, n_times), (_, damp) in zip(parts, divided, strict=True):
        if len(layers) + len(stretch) * n_times > MAX_LAYERS:
            raise part.error(f"more than {MAX_LAYERS} layers, llama.cpp's limit")
        layers.extend([(layer, damp) for layer in stretch] * n_times)
    if all(n_times > 1 for _, _, n_times in parts):
        _demand_the_rest(parts, n_source)
    return layers


def unknown(spec: str, n_source: int) -> InvalidLayerMap:
    """The error for a spec with neither prefix, with the prefix it should have if that is clear."""
    text = (
        f"layer spec {quoted(spec)}: expected blocks:i,j (half-open) or layers:a..b,... "
        f"(ends included)"
    )
    body = spec.strip()
    items = _unbracketed(body).split(",")
    if all(_pair(part) for part in body.split(";")):
        hint = f"write blocks:{body}"
    elif _all(_PASSES, items) and (".." in body or len(items) >= _LEAST_LIST):
        hint = f"write layers:{body}"
    else:
        hint = _window_hint(body, n_source, "blocks:") or _path_hint(body, "layers:")
    return InvalidLayerMap(_with_hint(text, hint))


def span(first: int, n: int) -> str:
    """The part of a path for `n` consecutive layers, such as 8..11 for four from layer 8 on."""
    return str(first) if n == 1 else f"{first}..{first + n - 1}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a spec and its position in it, so that an error can point at it."""

    spec: str
    n_source: int
    start: int
    text: str

    @classmethod
    def body(cls, spec: str, n_source: int) -> _Part:
        """All that stands behind the prefix."""
        start = spec.index(":") + 1
        return cls(spec, n_source, start, spec[start:])

    @classmethod
    def split(cls, spec: str, n_source: int, separator: str) -> list[_Part]:
        return cls.body(spec, n_source).divided(separator)

    def divided(self, separator: str) -> list[_Part]:
        parts = []
        start = self.start
        for text in self.text.split(separator):
            parts.append(_Part(self.spec, self.n_source, start, text))
            start += len(text) + len(separator)
        return parts

    def undamped(self) -> tuple[_Part, float]:
        """This part without `@` and its factor, and the factor; 1 if there is none."""
        text, at, factor = self.text.partition("@")
        match = _DAMP.fullmatch(factor)
        if at and (match is None or float(match[1]) > 1):
            raise self.error(f"{quoted(factor.strip())} damps nothing: expected @ and 0 to 1")
        return replace(self, text=text), float(match[1]) if match else 1.0

    def error(self, what: str, hint: str = "") -> InvalidLayerMap:
        text = f"layer spec: {what}; the model has layers 0..{self.n_source - 1}"
        # Carets line up only under text that is printed as it was typed.
        if self.spec.isprintable() and len(self.spec) <= _LINE:
            lead = len(self.text) - len(self.text.lstrip())
            width = max(1, len(self.text.strip()))
            text += f"\n  {self.spec}\n  {' ' * (self.start + lead)}{'^' * width}"
        else:
            text += f"\n  at {quoted(self.text)}"
        return InvalidLayerMap(_with_hint(text, hint))


def _with_hint(text: str, hint: str) -> str:
    return f"{text}\n  {printable(hint, _LONGEST_HINT)}" if hint else text


# -- windows -------------------------------------------------------------------------------------


def _window(part: _Part) -> tuple[int, int]:
    pair = _pair(part.text)
    if pair is None:
        i_text, comma, j_text = (text.strip() for text in part.text.partition(","))
        wrong = j_text if re.fullmatch(_N, i_text) else i_text
        what = "expected i,j (half-open: i is copied, j is not)"
        if comma:
            what = f"{quoted(wrong)} is not a layer number"
        raise part.error(what, _window_hint(part.text.strip(), part.n_source))
    i, j = pair
    if i == j == 0:
        raise part.error("0,0 copies nothing: in RYS it is the model as it is")
    if i >= j:
        raise part.error(f"{i},{j} copies nothing: i must be below j")
    if j > part.n_source:
        raise part.error(f"{j} is past the end: j is at most {part.n_source}")
    return i, j


def _pair(text: str) -> tuple[int, int] | None:
    """The numbers of `8,12`, `(8,12)`, `[8,12]` or `[8,12)`."""
    text = text.strip()
    if text[:1] + text[-1:] in _BRACKETS:
        text = text[1:-1]
    match = _PAIR.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def _window_hint(text: str, n_source: int, prefix: str = "") -> str:
    """What to write for windows in another notation; empty if that is not known."""
    if _MERGEKIT.match(text):
        return _mergekit_hint()
    if match := _REPEATED_PAIR.fullmatch(text):
        return _repeat_hint((int(match[1]), int(match[2])), int(match[3]), prefix)
    items = [item.strip() for item in text.split(",")]
    ends, said = _other_windows(text, items, n_source)
    is_whole = len(ends) > 1 and ends[0][0] == 0 and max(j for _, j in ends) == n_source
    if is_whole or _is_path(items):
        path = _path_hint(text, "layers:") or f"write layers:{','.join(items)}"
        return f"{path}; that is a path, for --layers"
    if not ends or not all(i < j <= n_source for i, j in ends):
        return ""
    return f"write {_quoted(prefix, ends)}: {said}"


def _other_windows(
    text: str, items: Sequence[str], n_source: int
) -> tuple[list[tuple[int, int]], str]:
    """The windows of another notation, and what is different about it; none if it is unknown."""
    if found := _all(_CLOSED, items):
        ends = [(int(m[1]), int(m[2]) + 1) for m in found]
        return ends, f"j is one past the last layer, so layer {ends[0][1] - 1} is copied"
    if found := _all(_PYTHON, items):
        ends = [(int(m[1] or 0), n_source if m[2] is None else int(m[2])) for m in found]
        return ends, "i and j stand on both sides of a comma"
    if pairs := _pairs(text):
        return pairs, "semicolons stand between windows"
    numbers = _numbers(items)
    if numbers and numbers == [*range(numbers[0], numbers[0] + len(items))]:
        return [(numbers[0], numbers[-1] + 1)], "the first layer, and one past the last"
    return [], ""


def _is_path(items: Sequence[str]) -> bool:
    """Whether ranges can only be a path: open, passed several times, or with another after 0."""
    found = _all(_PASSES, items)
    if not found or not any(".." in item for item in items):
        return False
    is_special = any(m[4] or (m[1] is None and None in (m[2], m[3])) for m in found)
    return is_special or (len(items) > 1 and int(found[0][1] or found[0][2]) == 0)


def _repeat_hint(pair: tuple[int, int], n: int, prefix: str) -> str:
    """Three of a window may be three passes in all or three more."""
    if not 1 < n <= _MOST_SPELLED_OUT:
        return f"write {prefix}{pair[0]},{pair[1]} once for each extra pass, and ; between them"
    in_all, extra = _quoted(prefix, [pair] * (n - 1)), _quoted(prefix, [pair] * n)
    return f"write {in_all} for {n} passes in all, or {extra} for {n} extra passes"


def _quoted(prefix: str, ends: Sequence[tuple[int, int]]) -> str:
    """Windows as a shell takes them, which would end the command at a semicolon."""
    text = prefix + ";".join(f"{i},{j}" for i, j in ends)
    return f"'{text}'" if len(ends) > 1 else text


# -- paths ---------------------------------------------------------------------------------------


def _path_parts(spec: str, n_source: int) -> list[_Part]:
    body = _Part.body(spec, n_source)
    inner = _unbracketed(body.text)
    if inner == body.text:
        return body.divided(",")
    if pair := _PAIR.fullmatch(inner):
        i, j = int(pair[1]), int(pair[2])
        raise body.error(
            f"{printable(body.text.strip())} may be a window or two layers",
            f"write {i},{j} for these two layers alone; to repeat layers {i} to {j - 1}, write "
            f"blocks:{i},{j}, with --blocks" if i < j else f"write {i},{j} for these two layers",
        )  # fmt: skip
    start = body.start + body.text.index("[") + 1
    return _Part(spec, n_source, start, inner).divided(",")


def _unbracketed(text: str) -> str:
    """What stands in the only brackets of a list such as [0,1,2]; other text as it is."""
    stripped = text.strip()
    is_list = stripped[:1] + stripped[-1:] == "[]" and not re.search(r"[\[\]()]", stripped[1:-1])
    return stripped[1:-1] if is_list else text


def _stretch(part: _Part) -> tuple[range, int]:
    match = _PASSES.fullmatch(part.text)
    if match is None:
        raise part.error(_what_is_wrong(part.text), _path_hint(_body_of(part)))
    n = part.n_source
    single, first, last, times = match.groups()
    a = int(single or first or 0)
    b = int(single) if single else n - 1 if last is None else int(last)
    n_times = 1 if times is None else int(times)
    if max(a, b) >= n:
        hint = _half_open_hint(_body_of(part), n)
        raise part.error(f"layer {b if b >= n else a} does not exist", hint)
    if a > b:
        listed = ",".join(map(str, range(a, b - 1, -1)))
        how = listed if a - b < _MOST_SPELLED_OUT else "the layers one by one"
        raise part.error(f"{a}..{b} runs backwards", f"write {how}")
    if n_times < 1:
        raise part.error("x0 passes nothing", "write the path without these layers")
    return range(a, b + 1), n_times


def _demand_the_rest(parts: Sequence[tuple[_Part, range, int]], n_source: int) -> None:
    """Refuse a list of repeated layers, in order, that leaves out the layers between them."""
    whole, at = [], 0
    for part, stretch, _ in parts:
        if stretch.start < at:
            return
        whole += [*_gap(at, stretch.start, n_source), part.text.strip()]
        at = stretch.stop
    whole += _gap(at, n_source, n_source)
    if len(whole) > len(parts):
        n_layers = sum(len(stretch) * n_times for _, stretch, n_times in parts)
        raise _Part.body(parts[0][0].spec, n_source).error(
            f"this makes a model of {n_layers} layers, without all others",
            f"write {','.join(whole)} to keep the others",
        )


def _gap(first: int, stop: int, n_source: int) -> list[str]:
    """The layers from `first` to `stop`, if there are any, as a part of a path."""
    if first >= stop:
        return []
    if first == 0:
        return [f"..{stop - 1}"]
    return [f"{first}.." if stop == n_source else span(first, stop - first)]


def _body_of(part: _Part) -> str:
    return part.spec.partition(":")[2]


def _what_is_wrong(text: str) -> str:
    """Why a part is no part of a path: the first thing in it that should have been a number."""
    first, dots, last = text.partition("..") if "..." not in text else (text, "", "")
    if not text.strip() or (not first.strip() and not dots):
        return "expected a layer number or a..b"
    is_first = not dots or (first.strip() and not re.fullmatch(_N, first.strip()))
    return f"{quoted((first if is_first else last).strip())} is not a layer number"


def _half_open_hint(body: str, n_source: int) -> str:
    """What to write for a path whose ends are exclusive, as its last number shows."""
    found = _all(_CLOSED, [item.strip() for item in body.split(",")])
    ends = [(int(m[1]), int(m[2])) for m in found]
    if not ends or max(b for _, b in ends) != n_source or any(a >= b for a, b in ends):
        return ""
    return f"write {_half_open(ends)} if the ends are exclusive, as they are in mergekit"


def _half_open(ends: Iterable[tuple[int, int]]) -> str:
    return ",".join(span(a, b - a) for a, b in ends)


def _path_hint(text: str, prefix: str = "") -> str:
    """What to write for a path in another notation; empty if that is not known."""
    text = text.strip()
    if _MERGEKIT.match(text):
        return _mergekit_hint()
    if pairs := _pairs(text):
        if any(a >= b for a, b in pairs):
            return ""
        return f"write {prefix}{_half_open(pairs)} if the ends are exclusive, as in mergekit"
    items = [item.strip() for item in _unbracketed(text).split(",")]
    if found := _all(_PYTHON, items):
        return _python_hint(found, prefix)
    if any("-" in item for item in items) and all(
        _CLOSED.fullmatch(item) or _PASSES.fullmatch(item) for item in items
    ):
        path = ",".join(re.sub(r"\s*-\s*", "..", item) for item in items)
        return f"write {prefix}{path}, ends included"
    return _dots_hint(items, prefix)


def _python_hint(found: Sequence[re.Match[str]], prefix: str) -> str:
    """Slices as in Python; their end is exclusive, and may be open."""
    parts = []
    for match in found:
        first, last = match[1] or "", match[2]
        if last is not None and int(last) <= int(first or 0):
            return ""
        parts.append(f"{first}..{'' if last is None else int(last) - 1}")
    return f"write {prefix}{','.join(parts)}: ends are included here"


def _dots_hint(items: Sequence[str], prefix: str) -> str:
    """Three dots instead of two, lists such as 0,1,...,9, and lists without commas."""
    if len(items) == 1 and (match := _THREE_DOTS.fullmatch(items[0])):
        a, b = int(match[1]), int(match[2])
        return f"write {prefix}{a}..{b} if layer {b} belongs to it" if a < b else ""
    if len(items) == 1 and (numbers := _numbers(items[0].split())):
        return f"write {prefix}{','.join(map(str, numbers))}, with commas"
    path = re.sub(r",?(?:\.\.\.|\u2026),?", "..", ",".join(items))
    if path != ",".join(items) and _all(_PASSES, path.split(",")):
        return f"write {prefix}{path}: a range has two dots and no commas"
    return ""


def _pairs(text: str) -> list[tuple[int, int]]:
    """The pairs of `[0,8],[4,12]` or `(0,8),(4,12)`, with or without brackets around them all."""
    rest = text.strip()
    if re.match(r"\[\s*[\[(]", rest) and rest.endswith("]"):
        rest = rest[1:-1]
    found = [(int(a), int(b)) for a, b in _BRACKETED_PAIR.findall(rest)]
    return found if not _BRACKETED_PAIR.sub("", rest).strip(", ") else []


def _all(pattern: re.Pattern[str], items: Iterable[str]) -> list[re.Match[str]]:
    """The match of every item; empty if one does not match."""
    found = [pattern.fullmatch(item) for item in items]
    return [match for match in found if match] if all(found) else []


def _numbers(items: Sequence[str]) -> list[int]:
    """Three numbers or more; empty if there are fewer, or something else."""
    return (
        [int(i) for i in items] if len(items) >= _LEAST_LIST and _all(re.compile(_N), items) else []
    )


def _mergekit_hint() -> str:
    return "that is a mergekit recipe: plan and apply read its file with --mergekit"
