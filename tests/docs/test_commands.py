"""Every command and example on the pages runs, and prints what the page shows."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from scripts import generated
from scripts.docs import PROGRESS, ROOT, Block, blocks, commands, pages, renewed, steady


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_shows_what_its_commands_print(page: Path) -> None:
    """`make docs` writes the pages."""
    old = page.read_text()
    new = renewed(old).text
    assert old == new, "".join(
        difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    )


@pytest.mark.parametrize("name", generated.FILES)
def test_a_picture_is_current(name: str) -> None:
    """The pictures are made by the script that runs the pages."""
    assert (ROOT / name).read_text() == generated.FILES[name]()


def test_marks_and_commands_are_found() -> None:
    """A block has the mark of the line before it, and a command may go on below."""
    page = "text\n\n<!-- not run: why -->\n```console\n$ a \\\n  b\nout\n\n$ c\n```\n"
    page += "\n```python\nx\n```\n"
    console, python = blocks(page)
    assert console == Block("console", "$ a \\\n  b\nout\n\n$ c\n", "not run: why")
    assert list(commands(console.text)) == [("a \\\n  b\n", "out\n\n"), ("c\n", "")]
    assert not console.is_run
    assert python == Block("python", "x\n", "")
    assert python.is_run


def test_a_mark_holds_for_the_next_block_only() -> None:
    """What lies between two blocks that are not run is run."""
    block = "```console\n$ x\n```\n"
    page = f"<!-- not run: why -->\n{block}text\n{block}<!-- not run: why not -->\n{block}"
    assert [block.is_run for block in blocks(page)] == [False, True, False]


def test_times_are_not_compared() -> None:
    """Two runs of one command differ in seconds, free bytes and divergences only."""
    assert steady("load   1.2 s  ok") == steady("load  12.9 s  ok")
    assert steady("5.14 nats, 12 are free") == steady("5.2 nats, 13 are free")
    assert steady("n = 32") != steady("n = 33")


def test_progress_is_no_output() -> None:
    """Whether a command says how far it is depends on the machine."""
    lines = "silenced 5, 6: bit-exact\n"
    lines += (
        "prove: 2 of 4 passes (50 %) after 37 s, about 37 s left\nprove: 4 passes done in 1 min\n"
    )
    assert PROGRESS.sub("", lines) == "silenced 5, 6: bit-exact\n"
