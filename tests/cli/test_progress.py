"""Progress on a terminal, in a pipe and in a log file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rys_gguf.cli.progress import Progress
from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.text import duration
from tests import tiny
from tests.cli.terminal import on_terminal
from tests.command import run


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def work(progress: Progress, clock: Clock, n: int, seconds: float) -> None:
    """Do `n` units, each in so many seconds."""
    for _ in range(n):
        clock.now += seconds
        progress.advance()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5940, "99 min"),
        (12000, "3 h 20 min"),
        (7200, "2 h 0 min"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    """No more digits than a plan needs."""
    assert duration(seconds) == text


def test_short_work_in_a_pipe_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts that read stderr see messages only."""
    clock = Clock()
    with Progress(clock=clock) as progress:
        progress.begin("copy", 29)
        work(progress, clock, 29, 1)
    assert capsys.readouterr().err == ""


def test_long_work_in_a_pipe_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every 30 seconds a line with the time left, and one at the end."""
    clock = Clock()
    with Progress(clock=clock) as progress:
        progress.begin("pass 1", 10)
        work(progress, clock, 10, 15)
    assert capsys.readouterr().err.splitlines() == [
        "pass 1: 2 of 10 steps (20 %) after 30 s, about 2 min left",
        "pass 1: 4 of 10 steps (40 %) after 60 s, about 90 s left",
        "pass 1: 6 of 10 steps (60 %) after 90 s, about 60 s left",
        "pass 1: 8 of 10 steps (80 %) after 2 min, about 30 s left",
        "pass 1: 10 steps done in 2 min",
    ]


def test_units_have_their_plural(capsys: pytest.CaptureFixture[str]) -> None:
    """A proof counts passes."""
    clock = Clock()
    with Progress(clock=clock) as progress:
        progress.begin("prove", 2, "pass")
        work(progress, clock, 2, 40)
    assert capsys.readouterr().err.splitlines() == [
        "prove: 1 of 2 passes (50 %) after 40 s, about 40 s left",
        "prove: 2 passes done in 80 s",
    ]


def test_hours_of_work_do_not_flood_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """The longer it takes, the rarer the lines; but never more than five minutes apart."""
    clock = Clock()
    with Progress(clock=clock) as progress:
        progress.begin("sweep", 3600)
        work(progress, clock, 3600, 10)
    n_lines = capsys.readouterr().err.count("\n")
    assert 10 * 3600 / 300 <= n_lines <= 200


def test_bytes_are_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    """An amount of data in units that people know."""
    clock = Clock()
    with Progress(clock=clock) as progress:
        progress.begin("m.gguf", 4 << 30, "B")
        clock.now = 40
        progress.advance(1 << 30)
    assert capsys.readouterr().err.splitlines()[0] == (
        "m.gguf: 1.0 GiB of 4.0 GiB (25 %) after 40 s, about 2 min left"
    )


def test_work_of_nothing_has_no_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero units are all done."""
    with Progress() as progress:
        progress.begin("verify", 0, "B")
        progress.advance(0)
    assert capsys.readouterr().err == ""


def test_the_log_holds_everything_with_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages, beginnings and ends, however short; a second run is appended."""
    path = tmp_path / "log.txt"
    for _ in range(2):
        with Progress(path) as progress:
            progress.begin("round 1", 2)
            progress.say("note: \x1b[2J strange\nand two lines")
            progress.advance(2)
    lines = path.read_text().splitlines()
    assert len(lines) == 8
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert [line[21:] for line in lines[:4]] == [
        "round 1: 2 steps to do",
        "note: \\x1b[2J strange",
        "and two lines",
        "round 1: 2 steps done in 0 s",
    ]
    assert capsys.readouterr().err.startswith("note: \\x1b[2J strange\nand two lines\n")


@pytest.mark.parametrize(
    ("error", "line"), [(RysError("no room"), "Error: no room"), (SystemExit(), "interrupted")]
)
def test_work_that_was_ended_is_not_done(tmp_path: Path, error: BaseException, line: str) -> None:
    """The log ends with the reason, and no line says that the part was finished."""
    path = tmp_path / "log.txt"
    with contextlib.suppress(RysError, SystemExit), Progress(path) as progress:
        progress.begin("round 1", 2)
        raise error
    assert [text[21:] for text in path.read_text().splitlines()] == ["round 1: 2 steps to do", line]


def _model(path: Path) -> None:
    tiny.write(path, "llama", 2)


def _folder(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_model, _folder, _fifo])
def test_only_a_log_is_appended_to(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A slip of the fingers must not put lines at the end of a model."""
    path = tmp_path / "log"
    make(path)
    before = path.lstat()
    with pytest.raises(OutputFailed, match="log"):
        Progress(path)
    assert path.lstat().st_size == before.st_size


def test_a_log_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    """The message comes before the work begins."""
    with pytest.raises(OutputFailed, match="cannot write the log"):
        Progress(tmp_path / "no" / "log.txt")


def test_a_full_disk_under_the_log_does_not_end_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told once, and the work goes on."""
    with Progress(tmp_path / "log.txt") as progress, open("/dev/full", "wb") as full:
        assert progress._log is not None
        os.dup2(full.fileno(), progress._log._fd)
        progress.begin("round 1", 1)
        progress.say("hello")
        progress.advance()
    assert capsys.readouterr().err == (
        f"{tmp_path / 'log.txt'}: the log ends here: No space left on device\nhello\n"
    )


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """It is gone when the work is done: only the result stays."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 12)
    code, text = on_terminal("apply", model, "--blocks", "2,4")
    assert code == 0
    assert "m-rys_2-3.gguf:   0%" in text
    assert text.rstrip().endswith(str(tmp_path / "m-rys_2-3.gguf"))


def test_a_pipe_gets_no_bar(tmp_path: Path) -> None:
    """A pipe gets no bar, not even a carriage return."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 12)
    assert run("apply", model, "--blocks", "2,4").stderr == ""
