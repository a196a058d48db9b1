"""The table of architectures on the command line."""

from __future__ import annotations

from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from tests.cli.calls import data, done, refused


def test_all_are_listed_with_a_verdict() -> None:
    """Every architecture has one line."""
    head, *lines = done("architectures").stdout.splitlines()
    assert head == f"{len(ARCHITECTURES)} architectures, read from llama.cpp {CHECKED_AGAINST}"
    assert [line.split()[0] for line in lines] == list(ARCHITECTURES)
    assert all(len(line.split()) > 1 for line in lines)


def test_one_is_shown_in_full() -> None:
    """The entry holds the rules, and where llama.cpp's source states them."""
    text = done("architectures", "gemma3").stdout
    assert text.startswith("gemma3: ")
    assert f"llama.cpp {CHECKED_AGAINST}, src/models/gemma3.cpp:" in text
    (entry,) = data("architectures", "gemma3")
    assert entry["name"] == "gemma3"
    assert entry["llama_cpp"] == CHECKED_AGAINST
    assert all(rule in text for rule in entry["rules"])


def test_an_unknown_one_is_answered_with_similar_names() -> None:
    """A typo costs no second look at a list of a hundred."""
    assert "'gemma33' is not in the table; did you mean gemma3" in refused(
        "architectures", "gemma33"
    )
    assert refused("architectures", "xyzzyxyzzy").endswith("is not in the table")
