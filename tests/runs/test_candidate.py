"""Candidates: equal maps are one, and a key says all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate


@given(st.integers(1, 40), st.data())
def test_a_key_is_the_map(n: int, data: st.DataObject) -> None:
    """Any map is found again by its key, however far it jumps about."""
    factors = st.sampled_from([1.0, 1.0, 0.5]) | st.floats(0, 1)
    path = st.lists(st.tuples(st.integers(0, n - 1), factors), min_size=1, max_size=80)
    sources, damping = zip(*data.draw(path), strict=True)
    candidate = Candidate(LayerMap(n, sources, damping))
    assert Candidate.from_key(candidate.key, n) == candidate


def test_what_a_candidate_tells_of_itself() -> None:
    """Spec, windows and layers of one window, two, a path and the base."""
    one = Candidate(LayerMap.parse("blocks:8,12", 30))
    assert (one.key, one.spec, one.windows, one.window, one.n_added) == (
        "0-11,8-29", "blocks:8,12", ((8, 12),), (8, 12), 4,
    )  # fmt: skip
    two = Candidate(LayerMap.parse("blocks:2,4;8,12", 30))
    assert (two.windows, two.window, two.n_added) == (((2, 4), (8, 12)), None, 6)
    path = Candidate(LayerMap.parse("layers:0..3,8..29", 30))
    assert (path.windows, path.window, path.n_added) == ((), None, -4)
    damped = Candidate(LayerMap.parse("blocks:8,12@0.5", 30))
    assert (damped.key, damped.spec, damped.window) == (
        "0-11,8-11@0.5,12-29", "blocks:8,12@0.5", (8, 12),
    )  # fmt: skip
    base = Candidate.base(30)
    assert (base.key, base.spec, base.windows, base.n_added) == ("0-29", "base", (), 0)
    assert base.is_base
    assert not one.is_base


@pytest.mark.parametrize(
    "key",
    ["", "0-11,", "0-30", "30", "5-3", "0-0", "00-29", "0-11,12-29", "0..29", "-1", "0-99999",
     "0-29\n", "٣", "0-11@0.50,12-29", "0-29@2", "0-29@", "0-29@1", "0-29@0.5.5", "0-29@-"],
)  # fmt: skip
def test_other_texts_are_no_key(key: str) -> None:
    """Among them other ways to write a map: a candidate has one key."""
    with pytest.raises(InvalidLayerMap):
        Candidate.from_key(key, 30)


def test_a_key_of_too_many_layers_is_refused() -> None:
    """However short it is written."""
    with pytest.raises(InvalidLayerMap, match=r"llama\.cpp stops at"):
        Candidate.from_key(",".join(["0-29"] * 20), 30)
