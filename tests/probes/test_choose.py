"""Search and held-out items: where they come from, and that they share no question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.probes.choose import SuiteOptions, choose_suites
from rys_gguf.probes.suite import build_suite

GENERATED = SuiteOptions(suite_size="quick", families=("math", "reasoning"))


def own(path: Path, *questions: str) -> Path:
    """A file of items of a user's own."""
    items = [{"kind": "choice", "question": q, "answer": "no"} for q in questions]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_later_levels_win_and_found_ones_fill_the_gaps() -> None:
    """Control families are in the held-out suite only."""
    options = replace(
        GENERATED, controls=("eq",), seed=3,
        levels=((("math", "reasoning"), 2), (("math",), 1)),
    )  # fmt: skip
    assert options.without_level == ("eq",)
    with pytest.raises(InvalidOptions, match="no level of eq: give one"):
        choose_suites(options)
    search, heldout = choose_suites(options.with_levels({"math": 7, "eq": 2}))
    levels = {"math": 1, "reasoning": 2, "eq": 2}
    assert search == build_suite("quick", levels=levels, seed=3, families=("math", "reasoning"))
    assert heldout == build_suite(
        "quick", levels=levels, seed=3, split="heldout", families=("math", "reasoning", "eq")
    )


def test_own_items_are_halved_or_held_out_by_their_file(tmp_path: Path) -> None:
    """Without a held-out file each half gets its share."""
    suite = own(tmp_path / "a.jsonl", "Is it?", "Was it?", "Will it?")
    search, heldout = choose_suites(SuiteOptions(suite))
    assert sorted(len(s.items) for s in (search, heldout)) == [1, 2]
    other = own(tmp_path / "b.jsonl", "Has it?")
    search, heldout = choose_suites(SuiteOptions(suite, heldout=other))
    assert (len(search.items), len(heldout.items)) == (3, 1)
    assert SuiteOptions(suite).without_level == ()


def test_held_out_items_must_be_others(tmp_path: Path) -> None:
    """Searched items cannot judge the search, and one item cannot be divided."""
    suite = own(tmp_path / "a.jsonl", "Is it?")
    with pytest.raises(RysError, match=r"b.jsonl: item line-2 asks the same as line-1 of .*a"):
        choose_suites(SuiteOptions(suite, heldout=own(tmp_path / "b.jsonl", "Was it?", "Is it?")))
    with pytest.raises(RysError, match="one item cannot be divided"):
        choose_suites(SuiteOptions(suite))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SuiteOptions(Path("a"), controls=("eq",)), "--control asks generated items"),
        (SuiteOptions(heldout=Path("a")), "--heldout goes with --suite"),
        (SuiteOptions(controls=("eq", "math")), "--control eq,math: is in --families"),
    ],
)
def test_options_that_contradict_each_other(options: SuiteOptions, message: str) -> None:
    """Such options are refused before any file is opened."""
    with pytest.raises(InvalidOptions, match=message):
        choose_suites(options)
