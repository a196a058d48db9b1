"""What is printed is harmless, and shows what was there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.text import harmless, printable, quoted

ANY = st.text(st.characters(codec=None, exclude_categories=()))


def test_escapes_are_shown_once() -> None:
    """In quotes as well: repr would double each backslash."""
    assert printable("a\x1b[2J") == r"a\x1b[2J"
    assert quoted("a\x1b[2J") == r"'a\x1b[2J'"
    assert quoted("a" * 300, 5) == "'aaaaa...'"


@given(ANY)
def test_no_text_reaches_the_terminal_unescaped(text: str) -> None:
    """Control characters, surrogates and overrides are escaped, and escaping again changes none."""
    for shown in (printable(text), quoted(text), harmless(text)):
        assert shown.replace("\n", "").isprintable()
        assert harmless(shown) == shown
