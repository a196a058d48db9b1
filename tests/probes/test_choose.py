"""Search and held-out items: where they come from, and that they share no question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.probes.choose import SuiteOptions, choose_suites
from rys_gguf.probes.suite import build_suite
from tests import tiny

GENERATED = SuiteOptions(suite_size="quick", families=("math", "reasoning"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model, for which level 0 is chosen."""
    return tiny.write(tmp_path / "m.gguf", "llama", 2)


def own(path: Path, *questions: str) -> Path:
    """A file of items of a user's own."""
    items = [{"kind": "choice", "question": q, "answer": "no"} for q in questions]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_levels_follow_the_model_and_then_the_options(model: Path) -> None:
    """Later options win, and control families are in the held-out suite only."""
    search, heldout = choose_suites(model, GENERATED)
    assert {i.level for i in (*search.items, *heldout.items)} == {0}
    options = replace(
        GENERATED, controls=("eq",), seed=3,
        levels=((("math", "eq", "reasoning"), 2), (("math",), 1)),
    )  # fmt: skip
    search, heldout = choose_suites(model, options)
    levels = {"math": 1, "reasoning": 2, "eq": 2}
    assert search == build_suite("quick", levels=levels, seed=3, families=("math", "reasoning"))
    assert heldout == build_suite(
        "quick", levels=levels, seed=3, split="heldout", families=("math", "reasoning", "eq")
    )


def test_own_items_are_halved_or_held_out_by_their_file(model: Path, tmp_path: Path) -> None:
    """Without a held-out file each half gets its share."""
    suite = own(tmp_path / "a.jsonl", "Is it?", "Was it?", "Will it?")
    search, heldout = choose_suites(model, SuiteOptions(suite))
    assert sorted(len(s.items) for s in (search, heldout)) == [1, 2]
    other = own(tmp_path / "b.jsonl", "Has it?")
    search, heldout = choose_suites(model, SuiteOptions(suite, heldout=other))
    assert (len(search.items), len(heldout.items)) == (3, 1)


def test_held_out_items_must_be_others(model: Path, tmp_path: Path) -> None:
    """Searched items cannot judge the search, and one item cannot be divided."""
    suite = own(tmp_path / "a.jsonl", "Is it?")
    with pytest.raises(RysError, match=r"b.jsonl: item line-2 asks the same as line-1 of .*a"):
        choose_suites(
            model, SuiteOptions(suite, heldout=own(tmp_path / "b.jsonl", "Was it?", "Is it?"))
        )
    with pytest.raises(RysError, match="one item cannot be divided"):
        choose_suites(model, SuiteOptions(suite))


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
        choose_suites("none.gguf", options)
