"""A page that follows a sweep which another process runs.

The sweep's folder is only read, but for the report in it, and looked at every few seconds. Where
the log grew the page is made again, but so seldom that this takes a small part of one core; in
between only the line that says how far the sweep is changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rys_gguf.extras import require
from rys_gguf.report.content import Content
from rys_gguf.report.write import PAGE, encoded, put, questions, report_folder
from rys_gguf.runs.records import Progress
from rys_gguf.runs.storage import ITEMS, RESULTS, Run, is_at_work, read_progress
from rys_gguf.text import duration, printable

if TYPE_CHECKING:
    from rys_gguf.report.pictures import Pictures

_LOOK_SECONDS = 2.0
# The pause after a page is this many times what the page took: a tenth of one core.
_PAUSES = 10


def watch(
    folder: Path,
    output: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep the page of a run fresh until no sweep is at work in its folder any more.

    `output` is that of `write_report`, and `say` is told when another part of the sweep begins.
    However it ends, the page no longer loads itself again. Raises RysError.
    """
    require("the report", "scipy", "matplotlib", "jinja2")
    target = report_folder(folder, output)
    part: str | None = None
    page: _Page | None = None
    drawn: tuple[int, ...] = ()
    line, due = "", clock()
    try:
        while is_at_work(folder):
            progress = read_progress(folder) or Progress()
            before, line = line, progress_sentence(progress)
            if progress.part != part:
                part = progress.part
                say(line)
            start, sizes = clock(), _sizes(folder)
            is_grown = sizes != drawn and start >= due
            if is_grown:
                page, drawn = _page(Run.open(folder)) or page, sizes
            if page is not None and (is_grown or line != before):
                put(target, {PAGE: page.html(line, is_renewed=True)})
            if is_grown:
                due = clock() + _PAUSES * (clock() - start)
            sleep(_LOOK_SECONDS)
        if part is None:
            say(f"{printable(folder)}: no sweep is at work here")
    finally:
        if page is not None:
            put(target, {PAGE: page.html(line, is_renewed=False)})


def progress_sentence(progress: Progress) -> str:
    """How far a running sweep is: "Running: round 2, 5 of at most 12 stages, about 3 min left"."""
    if not progress.part:
        return "Running"
    text = f"Running: {progress.part}, {progress.n_done} of at most {progress.n_total} stages"
    if progress.seconds_left is None:
        return text
    return f"{text}, about {duration(progress.seconds_left)} left in this part"


@dataclass(frozen=True, slots=True)
class _Page:
    """All that a page shows, so that it can be made again with another line."""

    content: Content
    pictures: Pictures
    questions: Mapping[str, str]

    def html(self, progress: str, *, is_renewed: bool) -> bytes:
        from rys_gguf.report.page import Watched, render

        watched = Watched(progress, is_renewed)
        return encoded(render(self.content, self.pictures, self.questions, watched))


def _page(run: Run) -> _Page | None:
    """The page of what is there; None while there is no base to compare with."""
    from rys_gguf.report.pictures import draw

    if run.base is None or not run.base.results:
        return None
    content = Content.of(run, is_running=True)
    return _Page(content, draw(content), questions(run.folder))


def _sizes(folder: Path) -> tuple[int, ...]:
    paths = (folder / RESULTS, folder / ITEMS)
    return tuple(path.stat().st_size if path.is_file() else 0 for path in paths)
