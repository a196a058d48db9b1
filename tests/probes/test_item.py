"""Items: what is asked of a model in either form."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.names import FAMILIES
from rys_gguf.probes.suite import Suite, build_suite

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


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_generated_items_say_what_they_have_in_common(level: int) -> None:
    """Every item has a template or an event, and no wording has half of a family."""
    levels = dict.fromkeys(FAMILIES, level)
    suite = build_suite("quick", levels=levels, split="heldout")
    for family in FAMILIES:
        items = [item for item in suite.items if item.family == family]
        assert all(bool(item.event) == (family == "eq") for item in items)
        assert all(bool(item.template) != bool(item.event) for item in items)
        common = Counter(item.common for item in items)
        assert len(common) >= 12
        assert max(common.values()) < len(items) / 2


def test_a_users_cluster_is_what_counts() -> None:
    """It takes the place of template and event; unlike them it is part of the suite's id."""
    item = build_suite("quick").items[0]
    assert item.common == item.template
    assert replace(item, cluster="mine").common == "mine"
    assert replace(item, template="").common == item.id
    ids = [
        Suite((x,)).suite_id
        for x in (item, replace(item, template="", event="x"), replace(item, cluster="mine"))
    ]
    assert ids[0] == ids[1] != ids[2]
