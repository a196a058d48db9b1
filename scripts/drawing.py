"""The figures of measurements on the pages: the same numbers give the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rys_gguf.extras import load
from rys_gguf.report.svg import INK, LINE

COLOURS = ("#b9b4a8", "#8d8a83", "#7fa8d1", "#1b66b0", "#5b3f8c", "#c2560c")
_SIZE = 6.4, 3.0  # inches


def axes(x: str, y: str) -> Any:
    """Axes with a share of 0 to 1 on the vertical one, and their labels."""
    pyplot = load("a figure", "matplotlib.pyplot")
    # Text stays text, and ids do not change from one drawing to the next.
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rys-gguf", "font.size": 9})
    _, drawn = pyplot.subplots(figsize=_SIZE, layout="constrained")
    drawn.set(xlabel=x, ylabel=y, ylim=(0, 1))
    drawn.yaxis.set_major_formatter(load("a figure", "matplotlib.ticker").PercentFormatter(1))
    drawn.grid(axis="y", color=LINE, linewidth=0.6)
    drawn.set_axisbelow(True)
    drawn.tick_params(colors=INK)
    drawn.spines[["top", "right"]].set_visible(False)
    return drawn


def save(drawn: Any, path: Path) -> None:
    """Write the figure as SVG."""
    drawn.figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
