"""The program as a process: signals and errors become exit codes, streams may be closed or full.

Exit codes: 0 success, 1 refused or failed (with one message), 2 usage error, 128 + N ended by
signal N. Imports nothing that `--help` could do without.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import click

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.text import harmless

# The longest line of an error message: values from a stranger's file may be of any length.
_MAX_LINE = 1000
# A signal that got lost is raised again after this time.
_RAISE_AGAIN_SECONDS = 0.5
_CANNOT_PRINT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@dataclass(slots=True)
class Process:
    """What is known of the running command; the root context's `obj`."""

    when_stopped: str = "nothing was left behind"
    show: Callable[[], None] = field(default=lambda: None)


def when_stopped(text: str, show: Callable[[], None] = lambda: None) -> None:
    """Set what the user is told if a signal ends the command from now on.

    `show` then prints what there is, unless a second signal tells that nobody waits for it.
    """
    process = click.get_current_context().find_object(Process)
    if process is not None:  # None where a command is called without its group
        process.when_stopped = text
        process.show = show


class Signalled(BaseException):
    """A signal asked the command to end; raised so that every `finally` runs."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(slots=True)
class _Signals:
    """The signals that came: the first one, 0 before it, and how many."""

    first: int = 0
    n: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is defined ("module:function"), and its summary in the list of commands."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import the command's module."""
        module, _, name = self.target.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command), self.target
        return command


class Program(click.Group):
    """The group of all commands. A command's module is imported when the command is used."""

    def __init__(self, *args: Any, table: dict[str, Command], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all commands."""
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        entry = self.table.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. A mistyped name is answered with the similar ones."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # only mistakes need it

            if similar := get_close_matches(name, self.table):
                names = " or ".join(map(repr, similar))
                ctx.fail(f"No such command {name!r}. Did you mean {names}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands by their summaries, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name].summary) for name in sorted(self.table)])

    def _context_of(self, ctx: click.Context) -> click.Context:
        """The context of the command that was called, whose usage is shown beside an error."""
        name = ctx.invoked_subcommand or ""
        command = self.get_command(ctx, name)
        return ctx if command is None else click.Context(command, parent=ctx, info_name=name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program, whatever its standard streams are."""
        _open_streams()
        # numpy's BLAS would start a thread per core and multiply no matrix. On busy cores that
        # alone takes longer than `apply` may take more than `cp`.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            return super().main(*args, **kwargs)
        except OSError as e:
            if e.filename is not None or e.errno not in _CANNOT_PRINT:
                raise
            _abandon_streams(e)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors and signals become a message and an exit code."""
        process = ctx.ensure_object(Process)
        try:
            with _signals(came := _Signals()):
                return super().invoke(ctx)
        except InvalidOptions as e:
            raise click.UsageError(harmless(str(e), _MAX_LINE), self._context_of(ctx)) from e
        except RysError as e:
            raise click.ClickException(harmless(str(e), _MAX_LINE)) from e
        except Signalled as e:
            name = signal.Signals(e.number).name
            click.echo(f"Stopped by {name}; {process.when_stopped}.", err=True)
            if came.n == 1:
                # Not for long, and a second Ctrl-C ends it.
                with contextlib.suppress(KeyboardInterrupt):
                    process.show()
            ctx.exit(128 + e.number)


def _open_streams() -> None:
    """Open /dev/null in place of every closed standard stream.

    Otherwise the next file opened, perhaps a model, gets the stream's number and with it whatever
    is printed there.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not _is_open(fd):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - open until the end


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _abandon_streams(error: OSError) -> None:
    """Say why nothing more can be printed, and keep Python from trying again at exit."""
    with contextlib.suppress(OSError):
        click.echo(f"Error: printing: {error.strerror}", err=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@contextlib.contextmanager
def _signals(came: _Signals) -> Iterator[None]:
    """Raise Signalled for the first signal, until it arrives.

    Python drops an exception that is raised while it runs a finalizer, such as that of a socket.
    So the signal is raised again after a while, and with the next signal, unless it is being
    handled: nothing interrupts the cleaning up.
    """

    def stop(number: int, _frame: object) -> None:
        came.first = came.first or number
        came.n += number != getattr(signal, "SIGALRM", None)
        if hasattr(signal, "SIGALRM"):  # not on Windows
            before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, stop))
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN_SECONDS)
        if not _is_handled():
            raise Signalled(came.first)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # What the caller ignores (nohup) stays ignored.
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if came.first and hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_handled() -> bool:
    """Whether code runs that a Signalled has reached: an except or finally block, or an exit."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Signalled):
        error = error.__context__
    return error is not None
