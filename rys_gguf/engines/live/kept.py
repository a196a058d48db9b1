"""Sessions that wait for the next user of their model, which saves loading it again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.live.session import Session

_kept: dict[tuple[Path, EngineOptions], Session] = {}
_blocks: list[object] = []  # those of `sessions_kept` that are open


def take_session(model: str | os.PathLike[str], options: EngineOptions) -> Session:
    """A session that was kept for this model and these options, otherwise a new one."""
    return _kept.pop((Path(model).absolute(), options), None) or Session(model, options)


def keep_session(session: Session) -> None:
    """Keep a running session until somebody takes it or the block of `sessions_kept` ends."""
    key = session.model, session.options
    if (other := _kept.pop(key, None)) is not None:
        other.close()
    _kept[key] = session


@contextlib.contextmanager
def sessions_kept() -> Iterator[None]:
    """A block, or a function, in which sessions may be kept.

    Those that nobody took end with it, or with the outermost of such blocks.
    """
    _blocks.append(object())
    try:
        yield
    finally:
        _blocks.pop()
        while _kept and not _blocks:
            _kept.popitem()[1].close()
