"""The files of a report: one page with everything, and data and pictures beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.extras import require
from rys_gguf.files.source import reason
from rys_gguf.report.content import Content
from rys_gguf.report.data import candidates_csv, map_csv, report_json
from rys_gguf.runs.disk import read_lines, write_whole
from rys_gguf.runs.storage import HELDOUT, SUITE
from rys_gguf.stats.evidence import RunData
from rys_gguf.text import printable

FOLDER = "report"
PAGE = "report.html"


def write_report(run: RunData, folder: Path | None = None) -> list[Path]:
    """Write report.html, report.json, report.csv, and each picture as PNG; return their paths.

    `folder` is the run's own folder `report` by default. Everything is computed before the first
    file is written, and each file replaces an older one only once it is complete. Raises RysError
    if packages are missing, and OutputFailed if the folder cannot be written, or if the default
    folder is a link: it may have come with somebody's run.
    """
    require("the report", "scipy", "matplotlib", "jinja2")
    folder = report_folder(run.folder, folder)
    return put(folder, _contents(run))


def report_folder(run: Path, folder: Path | None) -> Path:
    """The folder that the user named, or the run's own. Raises OutputFailed if that is a link."""
    if folder is None:
        folder = run / FOLDER
        _require_no_link(folder)
    return folder


def put(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files of a report, each complete or not at all. Raises OutputFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_whole(folder / name, data)
    except OSError as e:
        raise OutputFailed(f"{printable(folder)}: cannot write: {reason(e)}") from e
    return [folder / name for name in files]


def encoded(text: str) -> bytes:
    """A text of a report as bytes. Surrogates cannot be encoded; models' words are escaped."""
    return text.encode("utf-8", "backslashreplace")


def _contents(run: RunData) -> dict[str, bytes]:
    """Every file of the report; the page comes first, as users look for it first."""
    from rys_gguf.report.page import render
    from rys_gguf.report.pictures import draw

    content = Content.of(run)
    pictures = draw(content)
    texts = {
        PAGE: render(content, pictures, questions(run.folder)),
        "report.json": report_json(content),
        "report.csv": candidates_csv(content),
    }
    images = {}
    for n, heatmap in enumerate(content.maps):
        if heatmap.name in pictures.maps:
            name = f"map-{_file_name(heatmap.name, n)}"
            texts[f"{name}.csv"] = map_csv(heatmap)
            images[f"{name}.png"] = pictures.maps[heatmap.name].png
    if pictures.scatter:
        images["gain-and-size.png"] = pictures.scatter.png
    return {name: encoded(text) for name, text in texts.items()} | images


def _require_no_link(folder: Path) -> None:
    """Refuse a link in the run's folder, which may lead anywhere; users can name it with -o."""
    if folder.is_symlink():
        raise OutputFailed(
            f"{printable(folder)}: is a symbolic link in the run's folder; remove it, or name the "
            f"folder to write to with -o"
        )


def questions(folder: Path) -> dict[str, str]:
    """The questions by item, as far as the run's suites can be read: they only explain."""
    found: dict[str, str] = {}
    for name in (SUITE, HELDOUT):
        with contextlib.suppress(RysError, ValueError, KeyError, TypeError, RecursionError):
            for _, line in read_lines(folder / name):
                item = json.loads(line)
                found[str(item["id"])] = str(item["question"])
    return found


def _file_name(name: str, n: int) -> str:
    """A family's name as part of a file's name; families are named by users."""
    safe = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:40]
    return safe if safe == name else f"{n}-{safe}"
