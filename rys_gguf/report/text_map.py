"""A map for a terminal: two characters for each window, a sign and a height."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rys_gguf.report.heatmap import DROPPED, FAILED, ILLEGAL, NOISE, Cell, Heatmap
from rys_gguf.text import printable

_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII = "12345678"
# With more columns than this there is no gap between them, and every second one has its number.
_ROOMY = 24
_MARKS = {DROPPED: "//", FAILED: "xx", ILLEGAL: "::"}
# SGR codes, the only control sequences of a report: gains green, losses red, noise faint.
_GAIN, _LOSS, _FAINT, _OFF = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


def text_map(heatmap: Heatmap, *, ascii_only: bool = False, color: bool = False) -> Iterator[str]:
    """The map in lines, without the rows and columns in which nothing was tried.

    Words from files are printable; codes for colours stand around single cells only, so that
    lines with and without them are equally wide on a terminal.
    """
    cells = {c.window: c for c in heatmap.cells}
    tried = [c.window for c in heatmap.cells if c.state != ILLEGAL]
    if not tried:
        return
    columns = sorted({j for _, j in tried})
    rows = sorted({i for i, _ in tried})
    means = heatmap.means(0)
    gap, named = (" ", 1) if len(columns) <= _ROOMY else ("", 2)
    yield printable(heatmap.title)
    yield "  i\\j " + gap.join(
        f"{j:>2}"[-2:] if n % named == 0 else "  " for n, j in enumerate(columns)
    )
    for i in rows:
        line = gap.join(
            _cell(heatmap, cells.get((i, j)), ascii_only=ascii_only, color=color) for j in columns
        )
        mean = f"  mean {heatmap.show(means[i])}" if i in means else ""
        yield f"  {i:>3} {line}{mean}"
    yield from (f"      {remark}" for remark in heatmap.remarks)
    full = heatmap.show(heatmap.limit)
    scale = (_ASCII if ascii_only else _BLOCKS)[-1]
    yield f"      {'+' if heatmap.signed else ' '}{scale} = {full}; " + (
        "+ gain, - loss, * best, . within the noise; // dropped, xx failed, :: not legal"
        if heatmap.signed
        else "// dropped, xx failed, :: not legal"
    )


def _cell(heatmap: Heatmap, cell: Cell | None, *, ascii_only: bool, color: bool) -> str:
    if cell is None:
        return "  "
    if cell.state in _MARKS:
        return _MARKS[cell.state]
    if cell.value is None:
        return " ?"
    levels = _ASCII if ascii_only else _BLOCKS
    shade = heatmap.shade(cell.value)
    sign = " " if not heatmap.signed else "+" if shade > 0 else "-" if shade < 0 else " "
    if cell.state == NOISE:
        sign = "."
    if cell.window == heatmap.best:
        sign = "*"
    text = sign + (levels[max(0, math.ceil(abs(shade) * len(levels)) - 1)] if shade else "0")
    if not color or not heatmap.signed:
        return text
    paint = _GAIN if shade > 0 else _LOSS if shade < 0 else ""
    return (_FAINT if cell.state == NOISE else "") + paint + text + _OFF
