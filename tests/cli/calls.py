"""Call the command line in the test's own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rys_gguf.cli import main

# The package's own engine, which a LLAMA_SERVER in the environment may replace.
ONE_THREAD = ("--threads", "1")


def call(*args: str | Path) -> Result:
    """What a call does: exit code, stdout, stderr."""
    return CliRunner().invoke(main, list(map(str, args)))


def done(*args: str | Path) -> Result:
    """A call that must succeed."""
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def refused(*args: str | Path, code: int = 1) -> str:
    """The message of a call that must fail with `code`, as one line; nothing goes to stdout."""
    result = call(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def data(*args: str | Path) -> Any:
    """The value that a call with --json prints."""
    return json.loads(done(*args, "--json").stdout)
