"""A session that was kept serves the next user of its model, and ends if nobody comes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.find import open_kept_engine
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.live.kept import sessions_kept, take_session
from rys_gguf.errors import EngineFailed
from tests import tiny

OPTIONS = EngineOptions(kind=LIVE, n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model."""
    return tiny.write(tmp_path / "m.gguf", "llama", 2)


def pid_of_engine(model: Path) -> int:
    """The process of a kept engine, whose block is over."""
    with open_kept_engine(model, OPTIONS) as engine:
        assert isinstance(engine, LiveEngine)
        assert engine.tokenize("a")
        return engine.pid


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    return Path(f"/proc/{pid}").exists()


def test_the_next_user_goes_on_with_it(model: Path) -> None:
    """With the same options: others get a process of their own."""
    with sessions_kept():
        pid = pid_of_engine(model)
        assert pid_of_engine(model) == pid
        other = take_session(model, replace(OPTIONS, n_threads=2))
        with pytest.raises(EngineFailed, match="not started"):
            _ = other.pid
        session = take_session(model, OPTIONS)
        assert session.pid == pid
    assert is_there(pid)  # whoever took it ends it
    session.close()
    assert not is_there(pid)


def test_nobody_came_for_it(model: Path) -> None:
    """It ends with the block, whatever ended that."""
    with sessions_kept():
        pid = pid_of_engine(model)
        assert is_there(pid)
    assert not is_there(pid)
    with contextlib.suppress(KeyboardInterrupt), sessions_kept():
        pid = pid_of_engine(model)
        raise KeyboardInterrupt
    assert not is_there(pid)


def test_a_block_within_a_block_ends_none(model: Path) -> None:
    """Whoever comes after the inner block goes on with the session; the outer one ends it."""
    with sessions_kept():
        with sessions_kept():
            pid = pid_of_engine(model)
        assert pid_of_engine(model) == pid
    assert not is_there(pid)


def test_one_that_failed_is_not_kept(model: Path) -> None:
    """Its process ends with its block."""
    with sessions_kept():
        with contextlib.suppress(EngineFailed), open_kept_engine(model, OPTIONS) as engine:
            assert isinstance(engine, LiveEngine)
            pid = engine.pid
            engine.top_logprobs([10**6], 1)
        assert not is_there(pid)
        assert pid_of_engine(model) != pid
