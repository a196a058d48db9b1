"""The program as a whole: its list of commands, its help, its exit codes."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import rys_gguf.cli
from rys_gguf.cli import COMMANDS, main
from rys_gguf.cli.process import Command, Program, when_stopped
from rys_gguf.errors import RysError
from tests.command import run

MAX_LINES = 30
MAX_PARAMETERS = 10


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_commands_say(name: str) -> None:
    """A summary stands in the list and in the command; they are the same."""
    help_text = COMMANDS[name].load().help or ""
    assert COMMANDS[name].summary == help_text.partition("\n")[0]
    assert len(help_text) > len(COMMANDS[name].summary)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    """An option nobody explains is one nobody uses; hidden ones only answer other programs'."""
    for parameter in COMMANDS[name].load().params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_short_function_of_few_parameters(name: str) -> None:
    """What a command does is in the library; options come as objects."""
    module = importlib.import_module(COMMANDS[name].target.partition(":")[0])
    (function,) = (
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    body = function.body[1:]  # without the docstring
    assert (body[-1].end_lineno or 0) - body[0].lineno + 1 <= MAX_LINES
    assert len(function.args.args) <= MAX_PARAMETERS


def test_all_commands_are_listed() -> None:
    """The commands stand in alphabetical order, each with its summary."""
    done = CliRunner().invoke(main, ["--help"], terminal_width=200)
    listed = [line.split() for line in done.output.partition("Commands:\n")[2].splitlines()]
    assert [words[0] for words in listed] == sorted(COMMANDS)
    assert [" ".join(words[1:]) for words in listed] == [
        COMMANDS[name].summary for name in sorted(COMMANDS)
    ]


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_large(flag: str) -> None:
    """They answer at once."""
    code = (
        "import sys\n"
        "from rys_gguf.cli import main\n"
        "try: main([sys.argv[1]], prog_name='rys-gguf')\n"
        "finally: print([m for m in ('numpy', 'gguf', 'tqdm', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert "rys-gguf" in done.stdout


def test_help_needs_no_optional_package() -> None:
    """Who wonders what `sweep` can do has not installed what it needs."""
    code = (
        "import sys\n"
        "optional = 'msgspec scipy matplotlib jinja2 ray xllamacpp lm_eval huggingface_hub'\n"
        "sys.modules.update(dict.fromkeys(optional.split()))\n"
        "from rys_gguf.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    main([name, '--help'], prog_name='rys-gguf', standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: rys-gguf") == len(COMMANDS)


@pytest.mark.parametrize("args", [["plan"], ["nonesuch"], ["plan", "x", "--blokcs", "1,2"], []])
def test_a_usage_error_has_code_2(args: list[str]) -> None:
    """Typos get a usage message, not a traceback."""
    done = run(*args)
    assert done.returncode == 2
    assert "Usage: rys-gguf" in done.stderr


@click.command()
@click.argument("what")
def misbehave(what: str) -> None:
    """End in one of several ways."""
    if what == "error":
        raise RysError("bad \x1b[31mname\nsecond line")
    if what == "note":
        when_stopped("the answers so far are kept")
    if what == "show":
        when_stopped("the answers so far are kept", lambda: click.echo("this is known so far"))
    if what == "hurry":
        when_stopped("the answers so far are kept", hurry)
    if what == "tidy":
        when_stopped("nothing was left behind", lambda: click.echo("nobody waits for this"))
        tidy()
    if what == "finalizer":
        Swallowing()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.01)
        raise RysError("the signal was lost")
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


class Swallowing:
    """An object that ends as a signal arrives: Python drops what its finalizer raises."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(100):
            len("time for the handler to run")


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Needs a second at its end, in which more signals come."""
    try:
        yield
    finally:
        for _ in range(10):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.15)
        click.echo("tidied")


def hurry() -> None:
    """Print for so long that the user presses Ctrl-C again."""
    click.echo("this is")
    signal.raise_signal(signal.SIGINT)
    click.echo("too long")


def tidy() -> None:
    """Get a signal inside a block that cleans up."""
    with cleaning_up(), contextlib.suppress(ValueError):
        signal.raise_signal(signal.SIGTERM)


def program() -> Program:
    """A program whose only command misbehaves."""
    table = {"misbehave": Command("tests.cli.test_program:misbehave", "End.")}
    return Program("program", table=table)


def test_a_mistyped_command_is_answered_with_the_right_one() -> None:
    """The list of commands loads none of them, so click alone would know no similar names."""
    done = CliRunner().invoke(main, ["insepct"])
    assert done.exit_code == 2
    assert "No such command 'insepct'. Did you mean 'inspect'?" in done.output
    assert "Did you mean" not in CliRunner().invoke(main, ["xyzzy"]).output


def test_an_error_is_one_message_with_code_1() -> None:
    """Whatever a file's names hold is escaped; line breaks of the message itself stay."""
    done = CliRunner().invoke(program(), ["misbehave", "error"])
    assert done.exit_code == 1
    assert done.output == "Error: bad \\x1b[31mname\nsecond line\n"


@pytest.mark.parametrize(
    ("what", "left"),
    [("quiet", "nothing was left behind"), ("note", "the answers so far are kept")],
)
def test_a_signal_is_told_with_what_it_leaves(what: str, left: str) -> None:
    """The exit code is the shell's for the signal; the command says what remains."""
    done = CliRunner().invoke(program(), ["misbehave", what])
    assert done.exit_code == 128 + signal.SIGTERM
    assert done.output == f"Stopped by SIGTERM; {left}.\n"


@pytest.mark.parametrize(
    ("what", "shown"), [("show", "this is known so far\n"), ("hurry", "this is\n")]
)
def test_what_there_is_comes_after_the_message(what: str, shown: str) -> None:
    """A second Ctrl-C ends it at once, with the code of the first signal."""
    done = CliRunner().invoke(program(), ["misbehave", what])
    assert done.exit_code == 128 + signal.SIGTERM
    assert done.output == f"Stopped by SIGTERM; the answers so far are kept.\n{shown}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finalizer_swallowed_is_raised_again() -> None:
    """Sockets have finalizers, and a command that waits for its engine makes many of them."""
    done = CliRunner().invoke(program(), ["misbehave", "finalizer"])
    assert done.exit_code == 128 + signal.SIGTERM, done.output


def test_no_signal_interrupts_the_cleaning_up() -> None:
    """However many come, and however long it takes; the first one is told, and nothing more."""
    done = CliRunner().invoke(program(), ["misbehave", "tidy"])
    assert done.output == "tidied\nStopped by SIGTERM; nothing was left behind.\n"


def test_signal_handlers_are_put_back() -> None:
    """A program that calls the command line in its own process keeps its handlers."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGALRM]
    before = [signal.getsignal(number) for number in numbers]
    CliRunner().invoke(program(), ["misbehave", "quiet"])
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_note_on_signals_needs_no_group() -> None:
    """A command may be called by itself."""
    context = click.Context(misbehave)
    with context:
        when_stopped("nothing")


def test_the_entry_point_is_the_group() -> None:
    """What pyproject.toml names as the script."""
    assert isinstance(rys_gguf.cli.main, Program)
