"""The lines of a comparison say where its numbers come from."""

from __future__ import annotations

from rys_gguf.report.comparison import comparison_lines
from rys_gguf.stats.compare import compare
from tests.fake_runs import FakeRun, make_run


def text_of(a: FakeRun, b: FakeRun) -> str:
    """The lines of a comparison."""
    return "\n".join(comparison_lines(compare(a, b)))


def test_a_run_beside_itself() -> None:
    """Models, items, suite, and every candidate with what it keeps."""
    text = text_of(make_run(0), make_run(0))
    assert text.startswith("A  tiny-instruct.Q4_1.gguf\nB  tiny-instruct.Q4_1.gguf\n")
    assert "on held-out items scored by probability, suite heldout-1" in text
    assert "\nblocks:10,14\n" in text
    assert "100% kept" in text
    assert "gain of overall" in text
    assert "no gain in A to keep" in text


def test_a_score_at_its_baseline_has_nothing_to_keep() -> None:
    """Words stand where a fraction of nothing would."""
    low = make_run(0)
    low.raw["floors"] = {
        family: {"constant": 0.9, "random": 0.1} for family in ("math", "eq", "reasoning")
    }
    assert "at its baseline" in text_of(low, low)


def test_without_held_out_items_it_says_so() -> None:
    """Search items rank, and judge nothing."""
    text = text_of(make_run(0, final=False), make_run(0, final=False))
    assert "on search items, which only rank" in text
