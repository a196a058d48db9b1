"""Maps of a sweep: i downwards, j across, colour for the difference to the base.

The conventions are those of the method's author: the matrix has a row and a column more than the
model has layers, (0, 0) is the base, red is better and blue worse, symmetric around 0. Windows
that were refused or dropped are hatched, those below the noise line faded, untried ones grey.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.stats.paired import extra
from rys_gguf.stats.pairs import Candidate, Evidence
from rys_gguf.stats.verdict import OVERALL, Search, points
from rys_gguf.text import printable

CLEAR, NOISE, DROPPED, FAILED, ILLEGAL = "clear", "noise", "dropped", "failed", "illegal"
HATCHED = (DROPPED, FAILED, ILLEGAL)
_RED, _BLUE, _MIDDLE, _GREY, _VIOLET = "#b9382b", "#2a64ad", "#f7f4ef", "#d3d2cd", "#5b3f8c"
_FADED = 0.35
# The value at this part of the ranked sizes has the full colour: one wild window bleaches nothing.
_FULL_COLOUR = 0.98


@dataclass(frozen=True, slots=True)
class Cell:
    """One window: its difference to the base (None if not measured) and what to think of it."""

    window: tuple[int, int]
    value: float | None
    state: str
    candidate: str
    note: str

    @property
    def spec(self) -> str:
        """The window as a spec."""
        return "blocks:{},{}".format(*self.window)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One measure over all windows of a model of `n_layers`.

    `signed`: a difference around 0, shown in points; otherwise a divergence from 0 up.
    """

    name: str
    title: str
    n_layers: int
    cells: tuple[Cell, ...]
    signed: bool

    def values(self) -> dict[tuple[int, int], float]:
        """What was measured, by window."""
        return {c.window: c.value for c in self.cells if c.value is not None}

    @property
    def limit(self) -> float:
        """The value of the full colour."""
        kept = [c.value for c in self.cells if c.state not in HATCHED and c.value is not None]
        sizes = sorted(abs(value) for value in kept or self.values().values())
        at = math.ceil(_FULL_COLOUR * len(sizes)) - 1
        return max(sizes[at], 1e-9) if sizes else 1.0

    @property
    def best(self) -> tuple[int, int] | None:
        """The window with the highest value that came through, on signed maps."""
        fit = {c.window: c.value for c in self.cells if c.state not in HATCHED}
        ranked = [(value, window) for window, value in fit.items() if value is not None]
        return max(ranked)[1] if ranked and self.signed else None

    def means(self, end: int) -> dict[int, float]:
        """The skyline: means over the windows that share an i (end 0) or a j (end 1)."""
        groups: dict[int, list[float]] = {}
        for window, value in self.values().items():
            groups.setdefault(window[end], []).append(value)
        return {at: fmean(values) for at, values in sorted(groups.items())}

    def shade(self, value: float) -> float:
        """A value as -1..1 of the colour scale."""
        return max(-1.0, min(1.0, value / self.limit))

    def show(self, value: float) -> str:
        """A value for people."""
        return points(value) if self.signed else f"{value:.3g}"


def maps(evidence: Evidence, found: Search) -> tuple[Heatmap, ...]:
    """Overall, each family, and the divergence from the base where the sweep measured it."""
    drawn = []
    for key in (OVERALL, *found.families):
        cells = []
        for rank in found.ranks:
            gain = rank.gains.get(key)
            noisy = gain is not None and abs(gain.mean) <= gain.line
            cells.append((rank.candidate, gain.mean if gain else None, noisy))
        title = f"{key}: credit over the base, points"
        drawn.append(_heatmap(evidence, key, title, cells, signed=True))
    damage = [
        (c, float(c.measures["kl"]), False)
        for c in evidence.windows
        if isinstance(c.measures.get("kl"), int | float) and math.isfinite(c.measures["kl"])
    ]
    if damage:
        title = "damage: divergence from the base on a fixed text, nats"
        drawn.append(_heatmap(evidence, "damage", title, damage, signed=False))
    return tuple(drawn)


def _heatmap(
    evidence: Evidence,
    name: str,
    title: str,
    measured: Iterable[tuple[Candidate, float | None, bool]],
    *,
    signed: bool,
) -> Heatmap:
    n = int(evidence.info["model"]["n_layers"])
    cells = []
    for c, value, noisy in measured:
        if c.window is None:
            continue
        state = NOISE if noisy else CLEAR
        if c.status == FAILED:
            state = FAILED
        elif c.status == DROPPED and c.is_out:
            state = DROPPED
        cells.append(Cell(c.window, value, state, c.name, c.reason))
    for window, rule in illegal_windows(evidence):
        cells.append(Cell(window, None, ILLEGAL, "", rule))
    return Heatmap(name, title, n, tuple(cells), signed)


def illegal_windows(evidence: Evidence) -> Iterator[tuple[tuple[int, int], str]]:
    """The single windows the sweep was not allowed to write, with the rule."""
    n = int(evidence.info["model"]["n_layers"])
    for refused in evidence.info.get("illegal", ()):
        try:
            windows = LayerMap.parse(str(refused.get("spec")), n).windows() or ()
        except InvalidLayerMap:
            continue
        if len(windows) == 1:
            yield windows[0], str(refused.get("rule", ""))


# -- text and CSV ------------------------------------------------------------------------------

_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII = "12345678"
_ROOMY = 24
_MARKS = {DROPPED: "//", FAILED: "xx", ILLEGAL: "::"}
_ANSI_UP, _ANSI_DOWN, _ANSI_FAINT, _ANSI_OFF = "\x1b[31m", "\x1b[34m", "\x1b[2m", "\x1b[0m"


def text_map(heatmap: Heatmap, *, ascii_only: bool = False, color: bool = False) -> Iterator[str]:
    """The map for a terminal: two characters a window, a sign and a height.

    Rows and columns in which nothing was tried are left out.
    """
    cells = {c.window: c for c in heatmap.cells}
    tried = [c.window for c in heatmap.cells if c.state != ILLEGAL]
    if not tried:
        return
    columns = sorted({j for _, j in tried})
    rows = sorted({i for i, _ in tried})
    means = heatmap.means(0)
    # Two characters a window; with many, nothing between them and every second j named.
    gap, named = (" ", 1) if len(columns) <= _ROOMY else ("", 2)
    yield printable(heatmap.title)
    yield "  i\\j " + gap.join(
        f"{j:>2}"[-2:] if n % named == 0 else "  " for n, j in enumerate(columns)
    )
    for i in rows:
        line = gap.join(
            _text_cell(heatmap, cells.get((i, j)), ascii_only=ascii_only, color=color)
            for j in columns
        )
        mean = f"  mean {heatmap.show(means[i])}" if i in means else ""
        yield f"  {i:>3} {line}{mean}"
    full = heatmap.show(heatmap.limit)
    scale = (_ASCII if ascii_only else _BLOCKS)[-1]
    yield f"      {'+' if heatmap.signed else ' '}{scale} = {full}; " + (
        "+ better, - worse, * best, . within noise; // dropped, xx failed, :: not legal"
        if heatmap.signed
        else "// dropped, xx failed, :: not legal"
    )


def _text_cell(heatmap: Heatmap, cell: Cell | None, *, ascii_only: bool, color: bool) -> str:
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
    paint = _ANSI_UP if shade > 0 else _ANSI_DOWN if shade < 0 else ""
    return (_ANSI_FAINT if cell.state == NOISE else "") + paint + text + _ANSI_OFF


def csv_text(heatmap: Heatmap) -> str:
    """The map as CSV, a line per window; values as fractions, not points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["i", "j", "value", "state", "note"])
    for cell in sorted(heatmap.cells, key=lambda c: c.window):
        value = "" if cell.value is None else f"{cell.value:.6g}"
        writer.writerow([*cell.window, value, cell.state, printable(cell.note)])
    return out.getvalue()


# -- SVG ---------------------------------------------------------------------------------------

_U = 10  # units a cell


@dataclass(frozen=True, slots=True)
class _Frame:
    """Lengths in the SVG: a map of any size is shown at one width, so text scales with it."""

    n_layers: int

    @property
    def side(self) -> float:
        return float((self.n_layers + 1) * _U)

    @property
    def em(self) -> float:
        """The largest text the page's style sets; it may set a smaller one."""
        return self.side / 26

    @property
    def left(self) -> float:
        return 3.6 * self.em

    @property
    def sky(self) -> float:
        """Room for a skyline."""
        return 3.2 * self.em

    @property
    def top(self) -> float:
        return 3.0 * self.em + self.sky


def svg(heatmap: Heatmap) -> str:
    """The map as an inline SVG that takes its colours from the page's custom properties.

    Windows carry `data-candidate`, and a title that says what a pointer rests on.
    """
    frame = _Frame(heatmap.n_layers)
    width, height = frame.left + frame.side + frame.sky + 2, frame.top + frame.side + 0.6 * frame.em
    best = heatmap.best
    spoken = f"{heatmap.title}. {len(heatmap.values())} windows measured"
    if best:
        spoken += f", best {best[0]},{best[1]} at {heatmap.show(heatmap.values()[best])}"
    ident = "".join(c if c.isascii() and c.isalnum() else "-" for c in heatmap.name)
    head = (
        f'<svg viewBox="0 0 {width:.1f} {height:.1f}" role="img" class="map" '
        f'style="--side:{frame.side}" aria-label="{escape(printable(spoken))}">'
    )
    patterns = (
        f'<defs><pattern id="h-{ident}" width="4" height="4" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="4" height="4" class="hole"/>'
        f'<rect width="1.4" height="4" class="hatch"/></pattern>'
        f'<pattern id="g-{ident}" width="{_U}" height="{_U}" patternUnits="userSpaceOnUse">'
        f'<rect x="3.7" y="3.7" width="2.6" height="2.6" class="untried"/>'
        f"</pattern></defs>"
    )
    middle = _U / 2
    base = f'<circle cx="{middle}" cy="{middle}" r="4.2" class="ring"><title>base</title></circle>'
    parts = [
        head,
        patterns,
        *_svg_axes(frame),
        f'<g transform="translate({frame.left:.1f},{frame.top:.1f})">',
        f'<path d="{_stairs(frame.n_layers)}" fill="url(#g-{ident})"/>',
        *(_svg_cell(heatmap, cell, ident) for cell in heatmap.cells),
        base,
    ]
    if best:
        i, j = best
        parts.append(
            f'<circle cx="{(j + 0.5) * _U}" cy="{(i + 0.5) * _U}" r="{_U * 0.85}" class="ring"/>'
        )
    parts += [*_svg_skyline(heatmap, frame), *_svg_legend(heatmap, frame, ident), "</g></svg>"]
    return "".join(parts)


def _stairs(n: int) -> str:
    """The outline of all windows: above the diagonal, one column to the right of it."""
    steps = "".join(f"V{(i + 1) * _U}H{(i + 2) * _U}" for i in range(n - 1))
    return f"M{_U} 0{steps}V{n * _U}H{(n + 1) * _U}V0Z"


def _svg_axes(frame: _Frame) -> Iterator[str]:
    n, em, left, top = frame.n_layers, frame.em, frame.left, frame.top
    step = next(s for s in (2, 4, 5, 8, 10, 20, 40, 50, 100) if n / s <= 10)  # noqa: PLR2004
    for at in range(0, n + 1, step):
        middle = (at + 0.5) * _U
        yield (
            f'<text x="{left - em / 2:.1f}" y="{top + middle + em / 3:.1f}" text-anchor="end">{at}'
            f'</text><text x="{left + middle:.1f}" y="{top - em / 2:.1f}" text-anchor="middle">'
            f"{at}</text>"
        )
    y = top + frame.side / 2
    yield (
        f'<text x="{em:.1f}" y="{y:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 {em:.1f} {y:.1f})">i: first layer repeated</text>'
        f'<text x="{left + 2:.1f}" y="{top - 1.9 * em:.1f}">j: first layer after it</text>'
    )


def _fill(heatmap: Heatmap, value: float) -> str:
    shade = heatmap.shade(value)
    pole = "--more" if not heatmap.signed else "--up" if shade > 0 else "--down"
    return f"fill:color-mix(in oklab,var({pole}) {100 * abs(shade):.0f}%,var(--mid))"


def _svg_cell(heatmap: Heatmap, cell: Cell, ident: str) -> str:
    i, j = cell.window
    at = f'x="{j * _U + 0.5}" y="{i * _U + 0.5}" width="{_U - 1}" height="{_U - 1}"'
    said = f"{cell.spec}: {cell.state}" if cell.state in HATCHED else cell.spec
    if cell.value is not None:
        said += f" {heatmap.show(cell.value)}" + (" (noise)" if cell.state == NOISE else "")
    said += f" - {cell.note}" if cell.note else ""
    shapes = []
    if cell.value is not None:
        faded = f' opacity="{_FADED}"' if cell.state == NOISE else ""
        shapes.append(f'<rect {at} class="hole cell"/>')
        shapes.append(f'<rect {at}{faded} style="{_fill(heatmap, cell.value)}"/>')
    if cell.state in HATCHED or cell.value is None:
        opacity = ' opacity=".55"' if cell.value is not None else ""
        shapes.append(f'<rect {at}{opacity} fill="url(#h-{ident})" class="cell"/>')
    if cell.state == FAILED:
        x, y = j * _U, i * _U
        shapes.append(f'<path d="M{x + 2} {y + 2}l6 6m0 -6l-6 6" class="cross"/>')
    pick = f' class="pick" data-candidate="{escape(printable(cell.candidate))}"'
    return (
        f"<g{pick if cell.candidate else ''}><title>{escape(printable(said))}</title>"
        f"{''.join(shapes)}</g>"
    )


def _svg_skyline(heatmap: Heatmap, frame: _Frame) -> Iterator[str]:
    """Bars of the column means above the map and of the row means right of it."""
    columns, rows = heatmap.means(1), heatmap.means(0)
    limit = heatmap.limit  # bars end where colours do
    room = frame.sky - 0.6 * frame.em
    half = room / 2 if heatmap.signed else room
    for means, is_row in ((rows, True), (columns, False)):
        for at, value in means.items():
            length = min(1.0, abs(value) / limit) * half
            back = half if heatmap.signed else 0.0
            if is_row:
                zero = frame.side + 0.5 * frame.em + back
                start = zero - (length if value < 0 else 0)
                box = (start, at * _U + 1.5, max(length, 0.4), _U - 3.0)
            else:
                zero = -3.0 * frame.em - back
                start = zero - (length if value > 0 else 0)
                box = (at * _U + 1.5, start, _U - 3.0, max(length, 0.4))
            x, y, width, height = box
            yield (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'style="{_fill(heatmap, math.copysign(limit, value))}">'
                f"<title>mean of {'i' if is_row else 'j'} = {at}: {heatmap.show(value)}</title>"
                "</rect>"
            )


def _svg_legend(heatmap: Heatmap, frame: _Frame, ident: str) -> Iterator[str]:
    """The scale and the marks, in the corner where there are no windows."""
    em = frame.em
    width, x, y = 10.5 * em, 0.4 * em, frame.side - 6.2 * em
    steps = 21
    for k in range(steps):
        share = 2 * k / (steps - 1) - 1 if heatmap.signed else k / (steps - 1)
        yield (
            f'<rect x="{x + k * width / steps:.2f}" y="{y:.1f}" '
            f'width="{width / steps + 0.3:.2f}" height="{0.8 * em:.1f}" '
            f'style="{_fill(heatmap, share * heatmap.limit)}"/>'
        )
    low = heatmap.show(-heatmap.limit) if heatmap.signed else "0"
    words = [(0.0, "start", low, 1.9), (1.0, "end", heatmap.show(heatmap.limit), 1.9)]
    if heatmap.signed:
        words += [(0.5, "middle", "0", 1.9)]
        words += [(0.0, "start", "worse", -0.4), (1.0, "end", "better", -0.4)]
    for share, anchor, word, down in words:
        yield (
            f'<text x="{x + share * width:.1f}" y="{y + down * em:.1f}" text-anchor="{anchor}">'
            f"{word}</text>"
        )
    top, size = y + 2.7 * em, 0.9 * em
    keys = (
        ("not legal, dropped or failed", f"{x:.1f}", size, f'fill="url(#h-{ident})"'),
        ("not tried", f"{x + 0.3 * size:.1f}", 0.4 * size, 'class="untried"'),
    )
    for k, (word, left, width, look) in enumerate(keys):
        middle = top + 1.5 * k * em + size / 2
        yield (
            f'<rect x="{left}" y="{middle - width / 2:.1f}" width="{width:.1f}" '
            f'height="{width:.1f}" {look}/><text x="{x + 1.6 * em:.1f}" '
            f'y="{middle + em / 3:.1f}">{word}</text>'
        )


# -- PNG ---------------------------------------------------------------------------------------


def save_png(heatmap: Heatmap, path: Path) -> None:
    """The map as a PNG of about 1400 x 1300 pixels. Needs matplotlib (extra `report`)."""
    figure_class = extra("matplotlib.figure").Figure
    canvas = extra("matplotlib.backends.backend_agg").FigureCanvasAgg
    patches, colors = extra("matplotlib.patches"), extra("matplotlib.colors")
    n = heatmap.n_layers
    figure = figure_class(figsize=(9.2, 8.7), dpi=150, layout="constrained")
    canvas(figure)
    grid = figure.add_gridspec(2, 3, width_ratios=(12, 1.6, 0.4), height_ratios=(1.6, 12))
    axes = figure.add_subplot(grid[1, 0])
    stops = [_BLUE, _MIDDLE, _RED] if heatmap.signed else [_MIDDLE, _VIOLET]
    scale = colors.LinearSegmentedColormap.from_list("rys", stops)
    low = -heatmap.limit if heatmap.signed else 0.0
    norm = colors.Normalize(low, heatmap.limit, clip=True)

    untried = {(i, j) for i in range(n) for j in range(i + 1, n + 1)}
    untried -= {cell.window for cell in heatmap.cells}
    if untried:
        rows, columns = zip(*sorted(untried), strict=True)
        axes.scatter(columns, rows, marker="s", s=260 / n, color=_GREY, linewidth=0)
    for cell in heatmap.cells:
        i, j = cell.window
        box = {"xy": (j - 0.46, i - 0.46), "width": 0.92, "height": 0.92}
        if cell.value is not None:
            faded = _FADED if cell.state == NOISE else 1.0
            axes.add_patch(patches.Rectangle(**box, facecolor="white", linewidth=0))
            face = scale(norm(cell.value), alpha=faded)
            line = {"edgecolor": _GREY, "linewidth": 0.6}
            axes.add_patch(patches.Rectangle(**box, facecolor=face, **line))
        if cell.state in HATCHED or cell.value is None:
            face = "white" if cell.value is None else "none"
            axes.add_patch(
                patches.Rectangle(
                    **box, facecolor=face, edgecolor="#777777", hatch="////", linewidth=0
                )
            )
        if cell.state == FAILED:
            axes.plot(j, i, marker="x", color="#222222", markersize=5)
    axes.add_patch(patches.Circle((0, 0), 0.42, fill=False, linewidth=1.5, edgecolor="#222222"))
    title = printable(heatmap.title)
    if best := heatmap.best:
        i, j = best
        axes.add_patch(patches.Circle((j, i), 0.85, fill=False, linewidth=1.8, edgecolor="#222222"))
        title += f"\nbest: blocks:{i},{j} at {heatmap.show(heatmap.values()[best])} (ring)"
    axes.set(xlim=(-0.7, n + 0.7), ylim=(n + 0.7, -0.7), aspect="auto")
    axes.set_xlabel("j, first layer after the window")
    axes.set_ylabel("i, first layer repeated")
    axes.spines[["top", "right"]].set_visible(False)

    for end, place in ((1, grid[0, 0]), (0, grid[1, 1])):
        share = {"sharex": axes} if end else {"sharey": axes}
        side = figure.add_subplot(place, **share)
        means = heatmap.means(end)
        bars = side.bar if end else side.barh
        shades = [scale(norm(math.copysign(heatmap.limit, v))) for v in means.values()]
        bars(list(means), [_shown(heatmap, v) for v in means.values()], 0.8, color=shades)
        (side.axhline if end else side.axvline)(0, color="#444444", linewidth=0.6)
        side.tick_params(labelbottom=not end, labelleft=bool(end), labelsize=7)
        side.spines[["top", "right"]].set_visible(False)
        (side.set_ylabel if end else side.set_xlabel)("mean", fontsize=8)
    mappable = extra("matplotlib.cm").ScalarMappable(
        colors.Normalize(_shown(heatmap, low), _shown(heatmap, heatmap.limit)), scale
    )
    figure.colorbar(mappable, cax=figure.add_subplot(grid[1, 2]))
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _shown(heatmap: Heatmap, value: float) -> float:
    return 100 * value if heatmap.signed else value
