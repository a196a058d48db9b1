"""Which llama.cpp is run, and whether a model is asked through a template."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf.engines import find
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.template import has_template
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engines.stand_in import script


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, in an environment without LLAMA_SERVER."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    return tmp_path


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without xllamacpp."""
    monkeypatch.setattr(find, "find_spec", lambda _name: None)


def test_xllamacpp_goes_before_a_program_on_path(programs: Path) -> None:
    """The installed package is used unless a program is named."""
    script(programs / "llama-server", "")
    assert find_engine() is None


@pytest.mark.usefixtures("no_package")
def test_a_program_on_path_is_found(programs: Path) -> None:
    """Without the package, llama-server on PATH is used."""
    binary = script(programs / "llama-server", "")
    assert find_engine() == binary


@pytest.mark.usefixtures("no_package", "programs")
def test_without_any_the_message_names_the_package() -> None:
    """It says what to install, or what to name instead."""
    with pytest.raises(EngineFailed, match="pip install xllamacpp, or name a llama-server"):
        find_engine()


def test_the_environment_names_a_program(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLAMA_SERVER goes before the package, and an argument before LLAMA_SERVER."""
    first, second = script(programs / "one", ""), script(programs / "two", "")
    monkeypatch.setenv("LLAMA_SERVER", str(first))
    assert find_engine() == first
    assert find_engine("two") == second


def test_a_relative_path_becomes_absolute(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the current folder is not looked up on PATH later."""
    script(programs / "server", "")
    monkeypatch.chdir(programs)
    assert find_engine("./server") == programs / "server"


def test_a_program_that_is_not_there_is_named() -> None:
    """A wrong path in --llama-server is reported."""
    with pytest.raises(EngineFailed, match="/no/such: no such file or program"):
        find_engine("/no/such")


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (None, (), False),
        ("", (), False),
        ("{{ messages }}", (), True),
        (None, ("--chat-template", "chatml"), True),
        (None, ("--chat-template-file=t.jinja",), True),
        (None, ("--jinja",), False),
    ],
)
def test_a_template_is_in_the_file_or_among_the_arguments(
    tmp_path: Path, template: str | None, arguments: tuple[str, ...], expected: bool
) -> None:
    """The template that llama.cpp substitutes for a missing one does not count."""
    extra = None if template is None else {"tokenizer.chat_template": template}
    path = tiny.write(tmp_path / "m.gguf", "llama", 2, extra=extra)
    assert has_template(path, EngineOptions(arguments=arguments)) is expected
