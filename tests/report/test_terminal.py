"""The report on a terminal: colours arrive as colours, and columns line up with and without."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rys_gguf.errors import RysError
from rys_gguf.report.content import Content
from rys_gguf.report.data import report_json
from rys_gguf.report.page import render
from rys_gguf.report.pictures import Pictures
from rys_gguf.report.sentences import CUT
from rys_gguf.report.terminal import report_lines, text_report
from rys_gguf.report.text_map import text_map
from rys_gguf.runs.records import Progress, encode
from rys_gguf.runs.storage import PROGRESS, Run
from tests.fake_runs import WINNER, make_run
from tests.report.test_heatmap import looping
from tests.report.test_page import HOSTILE, hostile_run

_SGR = re.compile(r"\x1b\[[0-9;]*m")


def test_verdicts_come_first() -> None:
    """The next step, the luck of the search, the ranks and the map follow."""
    lines = list(text_report(make_run(0), ascii_only=True))
    assert lines[1].startswith("blocks:10,14: better.")
    assert "  rys-gguf apply tiny-instruct.Q4_1.gguf --blocks 10,14" in lines
    assert any(line.startswith("If all 19 windows were equal to the base") for line in lines)
    assert any("and 11 more windows" in line for line in lines)


def test_a_search_alone_claims_nothing() -> None:
    """There are ranks and no verdict."""
    text = "\n".join(text_report(make_run(0, final=False)))
    assert "it ranks windows and gives no verdicts" in text
    assert "better." not in text


def test_a_sweep_that_is_not_over_says_what_it_is_worth(tmp_path: Path) -> None:
    """With held-out answers and without, on the page and in the data; not once it is over."""
    for name, final in (("searched", False), ("judged", True)):
        folder = make_run(0, final=final).write(tmp_path / name)
        over = list(text_report(Run.open(folder)))
        progress = Progress(part="round\x1b 2", n_done=1, n_total=5)
        (folder / PROGRESS).write_bytes(encode(progress))
        content = Content.of(Run.open(folder))
        lines = list(report_lines(content))
        assert lines[1].startswith(r"This sweep is not over: it came to 'round\x1b 2'.")
        assert ("Nothing is proven yet" in lines[1]) != final
        assert any(line.startswith("blocks:10,14: better.") for line in lines) == final
        step = next(line for line in lines if line.startswith("Next step: "))
        assert ("Run the sweep again" in step) != final, "a better window can be written"
        assert "only searched" not in "\n".join(lines)
        data = json.loads(report_json(content))
        assert not data["is_over"]
        assert data["next_step"]["text"] in step
        assert "This sweep is not over: it came to" in render(content, Pictures({}, None), {})
        (folder / PROGRESS).write_bytes(encode(Progress(is_over=True)))
        assert list(text_report(Run.open(folder))) == over


def test_a_search_that_was_out_of_time_says_so(tmp_path: Path) -> None:
    """On the terminal, on the page and in the data, once the sweep is over."""
    folder = make_run(0).write(tmp_path / "run")
    for progress in (Progress(is_over=True, is_cut=True), Progress(is_cut=True), Progress()):
        (folder / PROGRESS).write_bytes(encode(progress))
        content = Content.of(Run.open(folder))
        is_cut = progress.is_over
        assert json.loads(report_json(content))["is_cut"] == is_cut
        assert (CUT in report_lines(content)) == is_cut
        assert (CUT in render(content, Pictures({}, None), {})) == is_cut


def test_what_loops_says_so_beside_its_gain() -> None:
    """A high rank alone would look like a recommendation."""
    (line,) = (x for x in text_report(looping()) if x.startswith(f"  blocks:{WINNER[0]},"))
    assert "dropped at loops: loops: 3 of 4" in line


def test_the_map() -> None:
    """One row for each i, the best starred, marks for what did not run; ASCII if asked."""
    heatmap = Content.of(make_run(0)).maps[0]
    lines = list(text_map(heatmap, ascii_only=True))
    assert all(line.isascii() for line in lines)
    row = next(line for line in lines if line.split()[:1] == ["10"])
    assert "*8" in row
    assert "mean +" in row
    text = "\n".join(lines)
    assert text.count("//") == 2
    assert text.count("xx") == 2, "the window, and the key"
    assert "\u2588" in "".join(text_map(heatmap))
    assert "\x1b" not in "".join(text_map(heatmap))


def test_colours_change_no_width() -> None:
    """Without their codes, coloured lines are the plain ones."""
    run = make_run(0)
    plain, coloured = (list(text_report(run, color=c)) for c in (False, True))
    assert [_SGR.sub("", line) for line in coloured] == plain
    assert "\x1b[32m*" in "\n".join(coloured), "gains are green"
    assert "\x1b[31m" in "\n".join(coloured), "losses are red"


def test_colours_are_the_only_codes() -> None:
    """Whatever a file says is escaped before colours are put around it."""
    for color in (False, True):
        text = "\n".join(text_report(hostile_run(), color=color))
        assert "\\x1b[2J" in text
        rest = _SGR.sub("", text)
        assert not set(rest) & {"\x1b", "\x00", "\u202e"}
        assert HOSTILE not in text


def test_a_terminal_gets_colours_and_straight_columns(tmp_path: Path) -> None:
    """Printed to a real terminal device, codes are codes and every row ends where it should."""
    make_run(0).write(tmp_path / "run")
    program = (
        "import sys\n"
        "from rys_gguf.report.terminal import text_report\n"
        "from rys_gguf.runs.storage import Run\n"
        "for line in text_report(Run.open(sys.argv[1]), color=sys.stdout.isatty()): print(line)\n"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path / "run"], stdout=theirs)
    os.close(theirs)
    written = bytearray()
    # The end of a terminal is an error on Linux.
    with contextlib.suppress(OSError):
        while data := os.read(ours, 4096):
            written += data
    os.close(ours)
    assert child.wait() == 0
    text = written.decode().replace("\r\n", "\n")
    assert "\\x1b" not in text
    assert "\x1b[32m" in text
    rows = [line for line in _SGR.sub("", text).splitlines() if re.match(r"  +\d+ .*mean", line)]
    assert len(rows) == 19
    assert len({line.index("  mean ") for line in rows}) == 1


def test_a_run_without_its_base_is_refused() -> None:
    """A sweep that was stopped in its first minute has nothing to report."""
    run = make_run(0)
    run.results = [r for r in run.results if not r["is_base"]]
    with pytest.raises(RysError, match="no result of the base yet"):
        list(text_report(run))
