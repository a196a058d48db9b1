"""The report's pictures, each drawn once by matplotlib: SVG for the page, PNG beside it.

Maps follow the method's author: i goes down, j across, the matrix has a row and a column more than
the model has layers, and (0, 0) is the base. Gains are blue and losses orange, symmetric around
0. Windows that were refused or dropped are hatched, those within the noise are faint, and those
that were not tried are dots.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rys_gguf.extras import load
from rys_gguf.report.content import Content
from rys_gguf.report.heatmap import FAILED, HATCHED, NOISE, Cell, Heatmap
from rys_gguf.report.sentences import points
from rys_gguf.report.settings import TASK, own_settings
from rys_gguf.report.svg import BACKGROUND, INK, LINE, SOFT, Mark, inline_svg
from rys_gguf.text import printable

# For PNGs and terminals without style sheets; report.css holds the page's colours.
_GAIN, _LOSS, _MORE, _MIDDLE, _HATCH = "#1b66b0", "#c2560c", "#5b3f8c", "#f2f0eb", "#8d8a83"
_UNTRIED = "#d8d5ce"
_FAINT = 0.35
_WIDTH = 6.4  # inches; the SVG counts 72 units an inch
_DPI = 220
_TICKS = (2, 4, 5, 8, 10, 20, 40, 50, 100)
_MAX_TICKS = 10
_GRID_LINES = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: markup for the page, and a file for everything else."""

    svg: str
    png: bytes


@dataclass
class _Canvas:
    """A figure and the marks of its artists."""

    figure: Any
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, artist: Any, mark: Mark) -> None:
        """Tie an artist to what the page adds to it."""
        name = f"mark-{len(self.marks)}"
        artist.set_gid(name)
        self.marks[name] = mark


@dataclass(frozen=True, slots=True)
class Pictures:
    """All pictures of a report: maps by the heatmap's name, and the scatter if there is one."""

    maps: Mapping[str, Picture]
    scatter: Picture | None


@own_settings()
def draw(content: Content) -> Pictures:
    """Draw everything that has values. Raises RysError if matplotlib is missing."""
    info = content.evidence.info
    run = f"{info.model.name}, run {info.run_id}"
    drawn = {}
    for heatmap in content.maps:
        if heatmap.values():
            asked = f", n up to {heatmap.n_items}" if heatmap.n_items else ""
            ring = f"{heatmap.best_text} (ring)" if heatmap.best else ""
            title = [heatmap.title, *([ring] if ring else []), *heatmap.remarks, run + asked]
            drawn[heatmap.name] = draw_map(heatmap, title)
    searched, held_out = content.searched, content.held_out
    if not searched and not held_out:
        return Pictures(drawn, None)
    n = max((v.judgement.overall.n for v in content.verdicts), default=0)
    title = ["Gain over the base against size, points", f"{run}, n = {n}" if n else run]
    return Pictures(drawn, draw_scatter(searched, held_out, content.front, title))


def draw_map(heatmap: Heatmap, title: Sequence[str]) -> Picture:
    """A map with the means of its rows and columns; the lines of `title` are on the PNG only."""
    canvas = _Canvas(_figure(_WIDTH, 0.94 * _WIDTH))
    n = heatmap.n_layers
    axes = canvas.figure.add_axes((0.13, 0.1, 0.72, 0.75))
    # These limits stay. So patches are added as artists: add_patch would compute their limits, too.
    axes.set(xlim=(-0.7, n + 0.7), ylim=(n + 0.7, -0.7))
    axes.set_xlabel("j: first layer after the window", color=SOFT)
    axes.set_ylabel("i: first layer repeated", color=SOFT)
    # Far enough from the numbers for the larger text that the page sets on small maps.
    axes.xaxis.set_label_coords(0.5, -0.09)
    axes.yaxis.set_label_coords(-0.13, 0.5)
    step = next(s for s in _TICKS if n / s <= _MAX_TICKS)
    axes.set_xticks(range(0, n + 1, step))
    axes.set_yticks(range(0, n + 1, step))
    _plain(axes)
    _draw_untried(axes, heatmap)
    for cell in heatmap.cells:
        _draw_cell(canvas, axes, heatmap, cell)
    circle = load(TASK, "matplotlib.patches").Ellipse
    rings = [((0, 0), 0.84)]
    if heatmap.best:
        rings.append((heatmap.best[::-1], 1.7))
    for place, size in rings:
        ring = circle(place, size, size, fill=False, edgecolor=INK, linewidth=1.4, zorder=4)
        axes.add_artist(ring)
        canvas.mark(ring, Mark("ring", "base" if place == (0, 0) else ""))
    _draw_means(canvas, axes, heatmap)
    _draw_key(canvas, axes, heatmap)
    return _picture(canvas, "map", _spoken(heatmap), title)


def _figure(width: float, height: float) -> Any:
    figure = load(TASK, "matplotlib.figure").Figure(figsize=(width, height), dpi=_DPI)
    load(TASK, "matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any) -> None:
    """Axes without frame and tick marks: numbers are enough."""
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=9)


def _draw_untried(axes: Any, heatmap: Heatmap) -> None:
    n = heatmap.n_layers
    untried = {(i, j) for i in range(n) for j in range(i + 1, n + 1)}
    untried -= {cell.window for cell in heatmap.cells}
    path = load(TASK, "matplotlib.path").Path
    squares = [_square(path, j, i, 0.13) for i, j in sorted(untried)]
    if squares:
        patch = load(TASK, "matplotlib.patches").PathPatch
        dots = path.make_compound_path(*squares)
        axes.add_artist(patch(dots, facecolor=_UNTRIED, linewidth=0))


def _square(path: Any, x: float, y: float, half: float) -> Any:
    corners = [(x + half * a, y + half * b) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return path([*corners, corners[0]], closed=True)


def _draw_cell(canvas: _Canvas, axes: Any, heatmap: Heatmap, cell: Cell) -> None:
    rectangle = load(TASK, "matplotlib.patches").Rectangle
    i, j = cell.window
    place = {"xy": (j - 0.46, i - 0.46), "width": 0.92, "height": 0.92}
    look = "pick" if cell.candidate else ""
    mark = Mark(look, heatmap.describe(cell), cell.candidate)
    if cell.value is not None:
        shade, is_faint = heatmap.shade(cell.value), cell.state == NOISE
        face = _colour(heatmap, shade, is_faint=is_faint)
        box = rectangle(**place, facecolor=face, edgecolor=LINE, linewidth=0.5, clip_on=False)
        axes.add_artist(box)
        fill = _css_colour(heatmap, shade, is_faint=is_faint)
        canvas.mark(box, Mark(look, mark.title, cell.candidate, fill))
    if cell.state in HATCHED or cell.value is None:
        behind = BACKGROUND if cell.value is None else "none"
        box = rectangle(**place, facecolor=behind, edgecolor=LINE, linewidth=0.5, clip_on=False)
        box.set(hatch="/////", hatchcolor=_HATCH)
        axes.add_artist(box)
        canvas.mark(box, mark)
    if cell.state == FAILED:
        (cross,) = axes.plot(j, i, marker="x", color=INK, markersize=5)
        canvas.mark(cross, mark)


def _draw_means(canvas: _Canvas, axes: Any, heatmap: Heatmap) -> None:
    """Bars of the column means above the map and of the row means right of it."""
    figure = canvas.figure
    above = figure.add_axes((0.13, 0.86, 0.72, 0.12), sharex=axes)
    right = figure.add_axes((0.86, 0.1, 0.12, 0.75), sharey=axes)
    low = -heatmap.limit if heatmap.signed else 0.0
    for end, side in ((1, above), (0, right)):
        _plain(side)
        side.tick_params(labelbottom=False, labelleft=False)
        means = heatmap.means(end)
        bars = (side.bar if end else side.barh)(
            list(means), [heatmap.limit * heatmap.shade(v) for v in means.values()], 0.7
        )
        (side.set_ylim if end else side.set_xlim)(low, heatmap.limit)
        (side.axhline if end else side.axvline)(0, color=LINE, linewidth=0.8)
        for bar, (at, value) in zip(bars, means.items(), strict=True):
            shade = math.copysign(1.0, value)
            bar.set_facecolor(_colour(heatmap, shade))
            title = f"mean of {'j' if end else 'i'} = {at}: {heatmap.show(value)}"
            canvas.mark(bar, Mark("", title, fill=_css_colour(heatmap, shade)))
    above.annotate(
        "means", (1, 0.5), (4, 0), xycoords="axes fraction", textcoords="offset points",
        color=SOFT, fontsize=9, va="center",
    )  # fmt: skip


def _draw_key(canvas: _Canvas, axes: Any, heatmap: Heatmap) -> None:
    """Scale and marks, in the corner below the diagonal, where no window can be."""
    rectangle = load(TASK, "matplotlib.patches").Rectangle
    left, top, width, n = 0.03, 0.3, 0.36, 21
    look = {"transform": axes.transAxes, "linewidth": 0, "clip_on": False}
    for k in range(n):
        shade = 2 * k / (n - 1) - 1 if heatmap.signed else k / (n - 1)
        box = rectangle((left + k * width / n, top), width / n + 0.001, 0.028, **look)
        box.set_facecolor(_colour(heatmap, shade))
        axes.add_artist(box)
        canvas.mark(box, Mark(fill=_css_colour(heatmap, shade)))
    words = [(0.0, "left", heatmap.show(-heatmap.limit) if heatmap.signed else "0", -0.045)]
    words.append((1.0, "right", heatmap.show(heatmap.limit), -0.045))
    if heatmap.signed:
        words += [(0.5, "center", "0", -0.045)]
        words += [(0.0, "left", "loss", 0.042), (1.0, "right", "gain", 0.042)]
    for share, align, word, up in words:
        axes.text(
            left + share * width, top + up, word, ha=align, transform=axes.transAxes,
            color=SOFT, fontsize=9,
        )  # fmt: skip
    keys: list[tuple[str, float, Mapping[str, Any]]] = [
        ("not legal, dropped or failed", 0.03,
         {"facecolor": BACKGROUND, "hatch": "/////", "hatchcolor": _HATCH}),
        ("not tried", 0.012, {"facecolor": _UNTRIED}),
    ]  # fmt: skip
    if heatmap.signed:
        faint = rectangle((left, 0.17), 0.03, 0.03, **look)
        faint.set_facecolor(_colour(heatmap, 0.8, is_faint=True))
        axes.add_artist(faint)
        canvas.mark(faint, Mark(fill=_css_colour(heatmap, 0.8, is_faint=True)))
        _key_word(axes, left, 0.17, "faint: within the noise")
    for k, (word, size, colours) in enumerate(keys):
        y = 0.105 - 0.065 * k
        inset = (0.03 - size) / 2
        axes.add_artist(rectangle((left + inset, y + inset), size, size, **look, **colours))
        _key_word(axes, left, y, word)


def _key_word(axes: Any, left: float, y: float, word: str) -> None:
    axes.text(
        left + 0.045, y + 0.015, word, va="center", transform=axes.transAxes, color=SOFT,
        fontsize=9,
    )  # fmt: skip


def _spoken(heatmap: Heatmap) -> str:
    spoken = f"{heatmap.title}. {len(heatmap.values())} windows measured"
    return f"{spoken}, {heatmap.best_text}" if heatmap.best else spoken


def draw_scatter(
    searched: Mapping[str, tuple[float, int]],
    held_out: Mapping[str, tuple[float, int]],
    front: Sequence[str],
    title: Sequence[str],
) -> Picture:
    """Gain over the base against extra layers; finalists have names, `front` is joined up."""
    canvas = _Canvas(_figure(8.0, 3.4))
    axes = canvas.figure.add_axes((0.08, 0.16, 0.9, 0.8))
    every = [*searched.values(), *held_out.values(), (0.0, 0)]
    top = max(0.02, *(gain for gain, _ in every)) * 1.12
    bottom = min(-0.02, *(gain for gain, _ in every)) * 1.12
    fewest = min(n for _, n in every)
    widest = max(1, *(n for _, n in every))
    # Room on the right for the names of the points.
    axes.set(xlim=(fewest - 0.02 * (widest - fewest), fewest + 1.22 * (widest - fewest)))
    axes.set(ylim=(bottom, top))
    axes.set_xlabel("extra layers", color=SOFT, loc="right")
    _plain(axes)
    step = next(s for s in _steps() if (top - bottom) / s <= _GRID_LINES)
    ticks = [k * step for k in range(math.ceil(bottom / step), math.floor(top / step) + 1)]
    axes.set_yticks(ticks, [points(tick) for tick in ticks])
    axes.set_xticks(range(fewest, widest + 1, max(1, -(-(widest - fewest) // 12))))
    for tick in ticks:
        axes.axhline(tick, color=SOFT if tick == 0 else LINE, linewidth=0.7, zorder=0)
    for name, (gain, n) in searched.items():
        (dot,) = axes.plot(n, gain, "o", color=SOFT, alpha=0.45, markersize=6, markeredgewidth=0)
        canvas.mark(dot, Mark("", f"{printable(name)} {points(gain)}"))
    corners = [(0.0, 0), *((held_out or searched)[name] for name in front)]
    axes.plot([n for _, n in corners], [gain for gain, _ in corners], color=_GAIN, linewidth=1.5)
    same: dict[tuple[float, int], list[str]] = {}
    for name, point in held_out.items():
        same.setdefault(point, []).append(printable(name))
    spans = (widest - fewest, top - bottom)
    for (gain, n), names, down in _labels(same, spans):
        colour = {"+": _GAIN, "-": _LOSS}.get(points(gain)[0], SOFT)
        (dot,) = axes.plot(n, gain, "o", color=colour, markersize=8, markeredgewidth=0, zorder=4)
        canvas.mark(dot, Mark("", f"{' '.join(names)} {points(gain)}"))
        # Below and right of its point no front can pass: fronts only rise.
        axes.annotate(
            " ".join(names), (n, gain), (7, -4 - down), textcoords="offset points", va="top",
            color=INK, fontsize=9, zorder=5,
            bbox={"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
        )  # fmt: skip
    spoken = "Gain over the base in points against extra layers"
    return _picture(canvas, "plot", spoken, title)


def _steps() -> Iterable[float]:
    return (digit * 10.0**power for power in itertools.count(-2) for digit in (1, 2, 5))


def _labels(
    same: Mapping[tuple[float, int], list[str]], spans: tuple[int, float]
) -> Iterable[tuple[tuple[float, int], list[str], float]]:
    """Each point with its names and how far they move down to stay clear of others, in points."""
    width, height = 0.9 * 8.0 * 72 / 1.24 / spans[0], 0.8 * 3.4 * 72 / spans[1]
    taken: list[tuple[float, float]] = []
    for (gain, n), names in sorted(same.items(), key=lambda kv: (-kv[0][0], kv[0][1])):
        x, y = n * width, -gain * height
        down = 0.0
        while any(abs(x - a) < 90 and abs(y + down - b) < 12 for a, b in taken):  # noqa: PLR2004 - a label's size
            down += 4
        taken.append((x, y + down))
        yield (gain, n), names, down


def _colour(heatmap: Heatmap, shade: float, *, is_faint: bool = False) -> tuple[float, ...]:
    """The colour of -1..1 on white paper."""
    colours = load(TASK, "matplotlib.colors").to_rgb
    colour = _mixed(colours(_MIDDLE), colours(_pole(heatmap, shade)[0]), abs(shade))
    return _mixed(colours("white"), colour, _FAINT) if is_faint else colour


def _css_colour(heatmap: Heatmap, shade: float, *, is_faint: bool = False) -> str:
    """The colour of -1..1 on the page, light or dark."""
    pole = _pole(heatmap, shade)[1]
    colour = f"color-mix(in oklab,var({pole}) {100 * abs(shade):.0f}%,var(--mid))"
    return f"color-mix(in oklab,{colour} {100 * _FAINT:.0f}%,var(--bg))" if is_faint else colour


def _pole(heatmap: Heatmap, shade: float) -> tuple[str, str]:
    if not heatmap.signed:
        return _MORE, "--more"
    return (_GAIN, "--gain") if shade > 0 else (_LOSS, "--loss")


def _mixed(a: Sequence[float], b: Sequence[float], share: float) -> tuple[float, ...]:
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))


def _picture(canvas: _Canvas, kind: str, spoken: str, title: Sequence[str]) -> Picture:
    rc = {
        "svg.fonttype": "none",  # text stays text: the page sets its size
        "svg.hashsalt": f"{kind} {spoken}",  # identifiers differ from picture to picture
        "text.parse_math": False,  # names of files may hold dollar signs
    }
    svg, png = io.BytesIO(), io.BytesIO()
    with load(TASK, "matplotlib").rc_context(rc), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph")
        canvas.figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        lines = "\n".join(printable(line, 100) for line in title)
        canvas.figure.suptitle(lines, y=1.0, va="bottom", fontsize=10, color=INK)
        canvas.figure.savefig(png, format="png", bbox_inches="tight", facecolor="white")
    colours = {
        _GAIN: "var(--gain)",
        _LOSS: "var(--loss)",
        _UNTRIED: "var(--untried)",
        _HATCH: "var(--hatch)",
    }
    return Picture(
        inline_svg(svg.getvalue(), kind, printable(spoken, 1000), canvas.marks, colours),
        png.getvalue(),
    )
