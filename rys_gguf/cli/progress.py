"""How far a command is: a bar on a terminal, lines now and then elsewhere, and lines in a log file.

Everything goes to stderr. Without a terminal (nohup, a batch system, CI) a line is written every
30 seconds at first and every 5 minutes in a run of hours; short work writes none.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rys_gguf.cli.output import say
from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.text import duration, harmless, printable, size

if TYPE_CHECKING:
    from tqdm import tqdm

_FIRST_SECONDS = 30.0
_LAST_SECONDS = 300.0
# Of the time that a part has run: later lines are further apart.
_SHARE = 0.05


class LogFile:
    """Lines with the time of day, appended to a file. Raises OutputFailed if that cannot be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
            self._fd = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as e:
            raise OutputFailed(f"{printable(path)}: cannot write the log: {e.strerror}") from e
        if not stat.S_ISREG(os.fstat(self._fd).st_mode) or os.read(self._fd, 4) == b"GGUF":
            self.close()
            raise OutputFailed(f"{printable(path)}: is not a log file; choose another one")

    def write(self, text: str) -> None:
        """Append `text`; each of its lines gets the time."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{now}  {line}\n" for line in harmless(text).split("\n"))
        try:
            if self._fd >= 0:
                os.write(self._fd, lines.encode("utf-8", "backslashreplace"))
        except OSError as e:  # hours of work must not end because their log's disk is full
            self.close()
            say(f"{printable(self._path)}: the log ends here: {e.strerror}")

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Progress:
    """Shows the parts of a command's work one after another.

    with Progress() as progress:
        progress.begin("copy", n_bytes, "B")
        work(progress=progress.advance)
    """

    def __init__(
        self, log_file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = LogFile(log_file) if log_file is not None else None
        self._is_terminal = sys.stderr.isatty()
        self._clock = clock
        self._bar: tqdm[NoReturn] | None = None
        self._part: _Part | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._end(finished=kind is None)
        if self._log is None:
            return
        if kind is not None:
            self._log.write(f"Error: {error}" if isinstance(error, RysError) else "interrupted")
        self._log.close()

    def say(self, line: str) -> None:
        """Show a line above the bar, and in the log."""
        if self._bar is not None:
            self._bar.clear()
        say(line)
        if self._log is not None:
            self._log.write(line)

    def begin(self, what: str, total: int, unit: str = "step") -> None:
        """Begin a part of `total` units; the part before it is over. Unit "B" is bytes."""
        self._end(finished=True)
        self._part = _Part(what, total, unit, self._clock())
        if self._log is not None:
            self._log.write(f"{what}: {self._part.amount(total)} to do")
        if self._is_terminal:
            # Here, because commands that draw no bar need not wait for it.
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=printable(what), unit=unit, unit_scale=unit == "B",
                unit_divisor=1024, leave=False, file=sys.stderr,
            )  # fmt: skip

    def advance(self, n: int = 1) -> None:
        """Count `n` more units of the part as done."""
        part = self._part
        assert part is not None, "begin comes first"
        part.n_done += n
        if self._bar is not None:
            self._bar.update(n)
        now = self._clock()
        if part.is_line_due(now):
            part.last_line = now
            self._write(part.line(now))

    def _end(self, *, finished: bool) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        part, self._part = self._part, None
        if part is None or not finished:
            return
        seconds = self._clock() - part.start
        line = f"{part.what}: {part.amount(part.n_done)} done in {duration(seconds)}"
        if part.last_line > part.start:
            self._write(line)
        elif self._log is not None:
            self._log.write(line)

    def _write(self, line: str) -> None:
        if not self._is_terminal:
            say(line)
        if self._log is not None:
            self._log.write(line)


class _Part:
    """A part of the work, and when its last line was written."""

    def __init__(self, what: str, total: int, unit: str, start: float) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.start = self.last_line = start
        self.n_done = 0

    def is_line_due(self, now: float) -> bool:
        wait = min(max(_FIRST_SECONDS, _SHARE * (now - self.start)), _LAST_SECONDS)
        return now - self.last_line >= wait and self.n_done < self.total

    def line(self, now: float) -> str:
        done, total = self.n_done, self.total
        of = size(done) if self.unit == "B" else str(done)
        elapsed = now - self.start
        left = duration(elapsed * (total - done) / done) if done else "unknown"
        return (
            f"{self.what}: {of} of {self.amount(total)} ({100 * done // total} %) "
            f"after {duration(elapsed)}, about {left} left"
        )

    def amount(self, n: int) -> str:
        if self.unit == "B":
            return size(n)
        return f"{n} {self.unit}{'' if n == 1 else 'es' if self.unit.endswith('s') else 's'}"
