"""Items: what is asked of a model in either form."""

from __future__ import annotations

from typing import Any

from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings

BASE: dict[str, Any] = {"id": "x", "family": "own", "topic": "t", "level": 0, "question": "Well?"}
ITEMS: tuple[Item, ...] = (
    Choice(**{**BASE, "id": "c"}, answer="yes"),
    Choice(**{**BASE, "id": "l"}, answer="B", options=("A", "B"), texts=("a cat", "a dog")),
    Number(**{**BASE, "id": "n"}, answer=42, partial=True),
    Number(**{**BASE, "id": "m"}, answer=42, texts=("41", "42")),
    Ratings(**{**BASE, "id": "r"}, emotions=("joy", "fear"), reference=(9, 0)),
    Contrast(**{**BASE, "id": "k"}, other="Ill?", emotion="joy", higher="other"),
)


def test_the_forms_of_requests() -> None:
    """Options have names; a number without texts is read digit by digit; ratings share a prompt."""
    requests = [item.requests() for item in ITEMS]
    assert [len(a) for a in requests] == [1, 1, 1, 1, 2, 2]
    assert requests[0][0].names == ("yes", "no")
    assert requests[0][0].options == ((" yes", " Yes"), (" no", " No"))
    assert requests[1][0].options == ((" A",), (" B",))
    assert "A) a cat\nB) a dog" in requests[1][0].prompt
    assert requests[2][0].digits
    assert not requests[2][0].options
    assert requests[3][0].names == ("A", "B")
    assert "A)" not in ITEMS[3].prompt()
    assert requests[4][0].prompt == requests[4][1].prompt
    assert [a.opening for a in requests[4]] == ["joy:", "fear:"]
    assert requests[5][0].prompt != requests[5][1].prompt
    assert requests[5][0].names == tuple("0123456789")
