"""The report of a sweep as a terminal shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.terminal import COLOUR, on_terminal, width
from tests.command import run

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of `report` on a terminal of 80 columns."""
    code, text = on_terminal("report", GOLDEN, "-o", tmp_path_factory.mktemp("report"), columns=80)
    assert code == 0, text
    return text.splitlines()


def test_the_map_is_coloured(shown: list[str]) -> None:
    """Colour codes reach the terminal as codes, not as escaped text."""
    assert "\\x1b" not in "\n".join(shown)
    codes = COLOUR.findall("\n".join(shown))
    assert len(codes) > 10
    coloured = [line for line in shown if COLOUR.search(line)]
    assert all(COLOUR.findall(line)[-1] == "\x1b[0m" for line in coloured)


def test_the_columns_of_the_map_are_straight(shown: list[str]) -> None:
    """Colours take no room: each mean stands in the column of the others."""
    rows = [COLOUR.sub("", line) for line in shown if re.search(r"  mean [+-]", line)]
    assert len(rows) > 3
    assert len({row.index("  mean ") for row in rows}) == 1


def test_verdicts_wrap_at_words(shown: list[str]) -> None:
    """A sentence keeps to the width and goes on in an indented line; tables are left alone."""
    end = next(n for n, line in enumerate(shown) if COLOUR.search(line))
    sentences = [line for line in shown[:end] if not line.startswith("  ")]
    assert len(sentences) > 3
    assert all(width(line) <= 80 for line in sentences)
    assert any(after.startswith("  ") for after in shown[:end])


def test_a_pipe_gets_plain_whole_lines(tmp_path: Path, shown: list[str]) -> None:
    """The same words, without colours and without wrapping."""
    done = run("report", GOLDEN, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    plain = " ".join(COLOUR.sub("", "\n".join(shown)).split())
    assert " ".join(done.stdout.split())[:400] == plain[:400]


def test_no_color_is_respected(tmp_path: Path) -> None:
    """The terminal gets the map in one colour."""
    code, text = on_terminal("report", GOLDEN, "-o", tmp_path, NO_COLOR="1")
    assert code == 0
    assert not COLOUR.search(text)
