"""Two candidates' answers to the same items, and what each item adds."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import UNSET, structs

from rys_gguf.runs.records import ItemAnswer
from rys_gguf.runs.stage import FINAL
from rys_gguf.stats.pairs import overall, pair, parts_matrix, parts_of, readable


def answer(
    item: str, score: float | None, family: str = "eq", *, binary: bool = False
) -> ItemAnswer:
    """An answer as a worker emits it, unread without a score."""
    return ItemAnswer(
        candidate="x",
        stage=FINAL,
        item=item,
        family=family,
        binary=binary,
        status="no_answer" if score is None else "ok",
        score=score,
        soft_score=score,
    )


def answers(*of: ItemAnswer) -> dict[str, ItemAnswer]:
    """Answers by item."""
    return {a.item: a for a in of}


def test_an_unread_answer_has_no_score_but_counts_as_asked() -> None:
    """Emotions that could not be read: no zero in the mean, and a lower share of answers."""
    base = answers(*(answer(str(n), 0.5) for n in range(4)))
    window = {**base, "1": answer("1", None)}
    eq = pair(base, window)["eq"]
    assert eq.items == ("0", "2", "3")
    assert eq.mean == 0
    assert (eq.n_asked, eq.base_parsed, eq.window_parsed) == (4, 4, 3)


def test_only_items_of_both_are_paired() -> None:
    """Pairs are in the order of the base, by family."""
    base = answers(answer("a", 0.0), answer("b", 1.0, "math"), answer("c", 1.0))
    window = answers(answer("c", 0.5), answer("a", 1.0), answer("d", 1.0))
    families = pair(base, window)
    assert list(families) == ["eq"]
    assert families["eq"].items == ("a", "c")
    assert list(families["eq"].difference) == [1.0, -0.5]


def test_a_family_that_nobody_can_read_is_there_without_items() -> None:
    """Statistics leave it out; a change of format shows in it."""
    base, window = answers(answer("a", 1.0)), answers(answer("a", None))
    families = pair(base, window)
    assert families["eq"].items == ()
    assert families["eq"].n_asked == 1
    assert not families["eq"].binary
    assert readable(families) == {}


def test_a_family_is_binary_if_all_its_answers_are() -> None:
    """One graded answer makes it graded."""
    base = answers(answer("a", 1.0, binary=True), answer("b", 1.0, binary=True))
    assert pair(base, base)["eq"].binary
    assert not pair(base, {**base, "b": answer("b", 0.5)})["eq"].binary


def test_parts_add_up_to_the_overall_difference() -> None:
    """Each family counts the same, or by its weight; items not asked are 0."""
    base = answers(answer("a", 0.0), answer("b", 0.0), answer("c", 0.0, "math"))
    window = answers(answer("a", 1.0), answer("b", 0.0), answer("c", 0.5, "math"))
    families = pair(base, window)
    assert sum(parts_of(families).values()) == pytest.approx(overall(families))
    assert overall(families) == pytest.approx(0.5)
    weighted = parts_of(families, {"eq": 0.9, "math": 0.1})
    assert sum(weighted.values()) == pytest.approx(0.9 * 0.5 + 0.1 * 0.5)
    matrix = parts_matrix([parts_of(families), {("math", "c"): 1.0}])
    assert np.array_equal(matrix, [[0.25, 0.0, 0.25], [0.0, 0.0, 1.0]])


def test_clusters_are_those_that_the_base_recorded() -> None:
    """An item of an older run is its own; parts are the sums of clusters."""
    answers = {
        key: ItemAnswer(
            candidate="x", stage=FINAL, item=key, family="math", score=1.0, soft_score=1.0,
            cluster=cluster,
        )
        for key, cluster in (("a", "sums"), ("b", "sums"), ("c", UNSET))
    }  # fmt: skip
    wrong = {key: structs.replace(a, score=0.0, cluster="other") for key, a in answers.items()}
    families = pair(answers, wrong)
    assert families["math"].clusters == ("sums", "sums", "c")
    assert families["math"].sample.n_clusters == 2
    assert parts_of(families) == pytest.approx({("math", "sums"): -2 / 3, ("math", "c"): -1 / 3})
