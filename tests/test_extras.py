"""Optional packages are named before they are missed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rys_gguf.errors import RysError
from rys_gguf.extras import load, require


def test_everything_installed_is_no_error() -> None:
    """A requirement that is met says nothing."""
    require("a test", "json", "click.testing")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["nonesuch"], "a sweep needs nonesuch: pip install nonesuch"),
        (["no_a", "json", "no_b.c"], "a sweep needs no_a and no_b: pip install no_a no_b"),
        (["no_a", "no_b", "no_c"], "a sweep needs no_a, no_b and no_c: pip install no_a no_b no_c"),
        (["no_a.b", "no_a.c"], "a sweep needs no_a: pip install no_a"),
    ],
)
def test_a_message_names_what_is_missing_and_how_to_get_it(
    modules: list[str], message: str
) -> None:
    """Only missing packages are named, each once, and the command can be pasted."""
    with pytest.raises(RysError) as caught:
        require("a sweep", *modules)
    assert str(caught.value) == message


def test_a_package_is_named_as_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that holds lm_eval has another name, and a bracket a shell would expand."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RysError) as caught:
        require("--lm-eval", "lm_eval")
    assert str(caught.value) == "--lm-eval needs lm-eval[api]: pip install 'lm-eval[api]'"


def test_nothing_is_imported_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that takes seconds to import costs nothing before it is used."""
    (tmp_path / "slow_one.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    require("a test", "slow_one")


def test_a_module_is_loaded() -> None:
    """What is there comes back."""
    assert load("a test", "json") is json


def test_a_missing_module_is_named_by_its_package() -> None:
    """As `require` would have named it."""
    with pytest.raises(RysError, match=r"^the report needs nonesuch: pip install nonesuch$"):
        load("the report", "nonesuch.figure")


@pytest.mark.parametrize("line", ["import nonesuch", "from json import nonesuch"])
def test_a_broken_package_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """To install it again would not help: the message says why it does not load."""
    (tmp_path / "broken_one.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RysError, match=r"^the report needs broken_one, which does not load: .*"):
        load("the report", "broken_one")
