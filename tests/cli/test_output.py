"""What commands print, and the text files they write."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rys_gguf.cli import output
from rys_gguf.cli.output import TextOutput, echo, echo_coloured, echo_json, output_path, say
from rys_gguf.errors import OutputFailed
from tests import tiny
from tests.cli.calls import done
from tests.command import fails, leftovers

RED, OFF = "\x1b[31m", "\x1b[0m"
SENTENCE = "A verdict is a sentence of many words (n = 32 items), which wraps at words alone."


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stdout."""
    return capsys.readouterr().out


def test_results_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from files of strangers."""
    echo(["a\x1b[2Jb", "c\nd"])
    assert printed(capsys) == "a\\x1b[2Jb\nc\nd\n"
    say("e\x1b]0;owned\a")
    assert capsys.readouterr().err == "e\\x1b]0;owned\\x07\n"


def test_only_colours_of_a_coloured_line_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not the codes that move the cursor, and nothing that only begins as a colour does."""
    echo_coloured([f"{RED}+1{OFF} \x1b[2J \x1b[3", f"\x1b]0;t\a{OFF}"])
    assert printed(capsys) == f"{RED}+1{OFF} \\x1b[2J \\x1b[3\n\\x1b]0;t\\x07{OFF}\n"


def on_tty(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let stdout be a terminal of some width."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 9)))


def test_sentences_wrap_at_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number stays with its name; rows of tables and maps are left alone."""
    table = "  blocks:1,2    +4.1 points, in a row of a table that is wider than the terminal is"
    coloured = f"{RED}a{OFF} " * 30
    with monkeypatch.context() as patch:
        on_tty(patch, 43)
        echo_coloured([SENTENCE, table, coloured, "", "x" * 80])
    lines = printed(capsys).splitlines()
    assert lines[:3] == [
        "A verdict is a sentence of many words",
        "  (n = 32 items), which wraps at words",
        "  alone.",
    ]
    assert lines[3:] == [table, coloured, "", "x" * 80]


def test_lines_of_a_pipe_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Another program reads them."""
    echo_coloured([SENTENCE])
    assert printed(capsys) == SENTENCE + "\n"


@pytest.mark.parametrize(
    ("is_tty", "no_color", "wanted"),
    [(True, None, True), (True, "", True), (True, "1", False), (False, None, False)],
)
def test_colours_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, is_tty: bool, no_color: str | None, wanted: bool
) -> None:
    """NO_COLOR switches them off, if it is not empty (no-color.org)."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_tty)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert output.is_colour_wanted() is wanted


@dataclass
class Pair:
    """Some values."""

    low: float
    names: tuple[str, ...]


def test_json_is_valid_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON knows neither infinity nor NaN; dataclasses are objects at any depth."""
    echo_json({"pairs": [Pair(-math.inf, ("a", "\udcff"))], "nan": math.nan, "n": 1})
    text = printed(capsys)
    assert text.isascii()
    assert json.loads(text) == {
        "pairs": [{"low": None, "names": ["a", "\udcff"]}], "nan": None, "n": 1
    }  # fmt: skip


def test_a_folder_gets_the_default_name(tmp_path: Path) -> None:
    """A file is written as named; without a name there is the default."""
    default = Path("/models/m.probe.jsonl")
    assert output_path(None, default) == default
    assert output_path(tmp_path, default) == tmp_path / "m.probe.jsonl"
    assert output_path(tmp_path / "x", default) == tmp_path / "x"


# -- text files ----------------------------------------------------------------------------------


def is_own(head: bytes) -> bool:
    """Whether a file looks like one of the test's."""
    return head.startswith(b"own")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input of a command."""
    path = tmp_path / "source"
    path.write_text("precious")
    return path


def test_an_earlier_output_is_replaced(tmp_path: Path, source: Path) -> None:
    """The file that the command named itself, and wrote itself."""
    path = tmp_path / "out"
    for text in ("own 1", "own 2"):
        out = TextOutput.default(path, [source], is_own, force=False)
        out.require()
        out.write(text)
        assert path.read_text() == text
    assert leftovers(tmp_path, [source, path]) == set()


@pytest.mark.parametrize("content", ["", "thesis", "other own"])
def test_another_file_under_the_default_name_is_kept(
    tmp_path: Path, source: Path, content: str
) -> None:
    """Only --force replaces what the command did not write."""
    path = tmp_path / "out"
    path.write_text(content)
    out = TextOutput.default(path, [source], is_own, force=False)
    for refused in (out.require, lambda: out.write("own")):
        with pytest.raises(OutputFailed, match="exists already; --force replaces it"):
            refused()
    assert path.read_text() == content
    TextOutput.default(path, [source], is_own, force=True).write("own")
    assert path.read_text() == "own"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("target", ["own", "thesis", None])
def test_a_planted_link_is_not_followed(
    tmp_path: Path, source: Path, target: str | None, force: bool
) -> None:
    """A folder from somebody else may hold a link under the name that a command would choose."""
    victim, path = tmp_path / "victim", tmp_path / "out"
    if target is not None:
        victim.write_text(target)
    path.symlink_to(victim)
    out = TextOutput.default(path, [source], is_own, force=force)
    for refused in (out.require, lambda: out.write("own")):
        with pytest.raises(OutputFailed, match="is a link; remove it"):
            refused()
    assert (victim.read_text() if target is not None else victim.exists()) == (target or False)


def test_a_fifo_under_the_default_name_is_not_waited_for(tmp_path: Path, source: Path) -> None:
    """Nobody writes to it."""
    os.mkfifo(tmp_path / "out")
    out = TextOutput.default(tmp_path / "out", [source], is_own, force=False)
    with pytest.raises(OutputFailed, match="not a regular file"):
        out.require()


def test_a_folder_without_permission_is_told_at_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is found before the work, and looking for it leaves nothing behind."""
    out = TextOutput.named(tmp_path / "out", [source], force=False)
    out.require()
    assert leftovers(tmp_path, [source]) == set()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        # Only the output is opened with a mode.
        real = os.open
        patch.setattr(
            os, "open", lambda path, flags, *mode: refuse() if mode else real(path, flags)
        )
        with pytest.raises(OutputFailed, match="cannot write here: Permission denied"):
            out.require()


READ_ONLY = Path("/proc")  # nobody may make a file there, not even root


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="no file system that refuses everybody")
def test_probe_and_validate_fail_before_the_work(tmp_path: Path) -> None:
    """Where the answers cannot be saved nothing is asked: the engine here could not even start."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    engine = ["--llama-server", "/bin/false"]
    message = fails("probe", source, "-o", READ_ONLY / "x.jsonl", *engine)
    assert "/proc: cannot write here" in message
    done("apply", source, "--blocks", "1,3")
    message = fails(
        "validate", tmp_path / "m-rys_1-2.gguf", "--source", source,
        "--report", READ_ONLY / "x.json", *engine,
    )  # fmt: skip
    assert "/proc: cannot write here" in message


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("m.gguf.probe.jsonl", ["probe", "m.gguf"]),
        (
            "m.gguf.validate.json",
            ["validate", "m.gguf", "--source", "s.gguf", "--layers", "0..2,2"],
        ),
    ],
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_was_planted_beside_a_model_stops_a_command(
    tmp_path: Path, name: str, args: Sequence[str], force: Sequence[str]
) -> None:
    """A link keeps its target; a file of something else is replaced by --force alone."""
    tiny.write(tmp_path / "m.gguf", "llama", 4)
    tiny.write(tmp_path / "s.gguf", "llama", 3)
    victim = tmp_path / "victim"
    victim.write_text("thesis")
    (tmp_path / name).symlink_to(victim)
    engine = ["--llama-server", "/bin/false"]
    message = fails(*args, *(force if args[0] == "probe" else ["--force"]), *engine, cwd=tmp_path)
    assert "is a link; remove it, or name another output" in message
    (tmp_path / name).unlink()
    (tmp_path / name).write_text("thesis")
    assert "exists already" in fails(*args, *engine, cwd=tmp_path)
    assert victim.read_text() == (tmp_path / name).read_text() == "thesis"
