"""Find the llama.cpp to run, and open a model with it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from rys_gguf.engines.base import LIVE, Engine, EngineOptions
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable


def open_engine(model: str | os.PathLike[str], options: EngineOptions) -> Engine:
    """An engine of the kind that the options name, for one model.

    Entering its `with` block starts it, and raises EngineFailed if it does not load the model.
    """
    # Here, because commands that run no engine read the options too, and HTTP takes time to load.
    if options.kind == LIVE:
        from rys_gguf.engines.live.engine import LiveEngine

        return LiveEngine(model, options)
    from rys_gguf.engines.server import ServerEngine

    return ServerEngine(model, options)


@contextlib.contextmanager
def open_kept_engine(model: str | os.PathLike[str], options: EngineOptions) -> Iterator[Engine]:
    """An engine whose session is kept for the next user of the model, if it is a live one.

    It has to be called within `engines.live.kept.sessions_kept`.
    """
    if options.kind != LIVE:
        with open_engine(model, options) as engine:
            yield engine
        return
    from rys_gguf.engines.live.engine import LiveEngine
    from rys_gguf.engines.live.kept import keep_session, take_session

    session = take_session(model, options)
    try:
        with LiveEngine(model, options, session) as engine:
            yield engine
    except BaseException:
        session.close()
        raise
    keep_session(session)


def find_engine(binary: str | os.PathLike[str] | None = None) -> Path | None:
    """The llama-server to use, or None for xllamacpp.

    The first of: `binary`, LLAMA_SERVER of the environment, xllamacpp if it is installed,
    llama-server on PATH. Raises EngineFailed if there is none.
    """
    named = binary or os.environ.get("LLAMA_SERVER")
    if named:
        path = shutil.which(named)
        if path is None:
            why = "not executable" if os.path.isfile(named) else "no such file or program on PATH"
            raise EngineFailed(f"{printable(os.fspath(named))}: {why}")
        # Path("./llama-server") loses its dot and would be looked up on PATH, so make it absolute.
        return Path(path).absolute()
    if find_spec("xllamacpp") is not None:
        return None
    on_path = shutil.which("llama-server")
    if on_path is None:
        raise EngineFailed(
            "no llama.cpp found: pip install xllamacpp, or name a llama-server with "
            "--llama-server or LLAMA_SERVER"
        )
    return Path(on_path).absolute()
