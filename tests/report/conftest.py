"""One run with a winner, and its pictures, which take seconds to draw."""

from __future__ import annotations

import pytest

from rys_gguf.report.content import Content
from rys_gguf.report.pictures import Pictures, draw
from tests.fake_runs import make_run


@pytest.fixture(scope="session")
def content() -> Content:
    """What a report says of a run with a winner, which also answered in words."""
    return Content.of(make_run(0, generate=True))


@pytest.fixture(scope="session")
def drawn(content: Content) -> Pictures:
    """All pictures of that run, drawn once."""
    return draw(content)
