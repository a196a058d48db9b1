"""README and help say what is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import rys_gguf
from rys_gguf.cli import main
from tests.command import run

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    """A command nobody can find is not there."""
    assert f"| `{name} " in (ROOT / "README.md").read_text()
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert len(command.help or "") > 40
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_every_public_name_resolves() -> None:
    """The names in __all__ load on first use."""
    for name in rys_gguf.__all__:
        assert getattr(rys_gguf, name) is not None
    with pytest.raises(AttributeError):
        _ = rys_gguf.nonesuch


def test_the_table_of_architectures_in_the_readme_is_current() -> None:
    """It is written by a script from the table the tool uses."""
    script = ROOT / "scripts" / "update_readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_and_version_import_neither_numpy_nor_gguf() -> None:
    """They answer at once; and the parts that need no arrays never load them."""
    for flag in ("--help", "--version"):
        code = (
            "import sys; sys.argv = ['rys-gguf', sys.argv[1]]\n"
            "from rys_gguf.cli import main\n"
            "try: main()\n"
            "finally: print([m for m in ('numpy', 'gguf', 'tqdm') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.parametrize("args", [["plan"], ["nonesuch"], ["plan", "x", "--blokcs", "1,2"], []])
def test_a_wrong_call_is_told_with_code_2(args: list[str]) -> None:
    """Typos get click's usage message, not a traceback."""
    done = run(*args)
    assert done.returncode == 2
    assert "Usage: rys-gguf" in done.stderr
