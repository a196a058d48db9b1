"""Random layer maps of every architecture: those written are exact, those refused deserve it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.direct import DirectEngine
from tests.random_maps import OVER, WRONG, judge
from tests.strategies import map_cases


@pytest.fixture(scope="module")
def engine() -> Iterator[DirectEngine]:
    """One child process with llama.cpp."""
    with DirectEngine() as engine:
        yield engine


@pytest.mark.parametrize("arch", sorted(tiny.ARCHITECTURES))
@settings(
    max_examples=6,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_maps_are_exact_or_deserve_their_refusal(
    engine: DirectEngine, arch: str, data: st.DataObject
) -> None:
    """A small sample; scripts/random_maps.py takes as many as you like."""
    case = data.draw(map_cases(arch, 24))
    judgement = judge(case, engine)
    assert judgement.outcome not in (WRONG, OVER), f"{case.as_json()}: {judgement.why}"
