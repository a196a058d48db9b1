"""Models with edits, opened in an engine: as files of their own, or without any."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rys_gguf.checks.ablation import Edit, edited_copy, require_room
from rys_gguf.checks.pointers import loaded_edited
from rys_gguf.engines.base import LIVE, Engine, EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.live.session import Session
from rys_gguf.formats.model import Model

# Where outputs are searched for, two models are asked in turns. Both are held, each in a process,
# if their files together have at most as many bytes; a device may have no memory for larger ones.
_MAX_HELD = 2 << 30


class EditedModels(Protocol):
    """Opens models with edits, one at a time."""

    def open(
        self, model: Model, edits: Iterable[Edit], n_ubatch: int | None
    ) -> contextlib.AbstractContextManager[Engine]:
        """An engine with the edited model, whose file stays as it is.

        `n_ubatch` is the number of tokens computed at once, None for that of the options. Raises
        EngineFailed if the model does not load, RysError if it cannot be written.
        """


@contextlib.contextmanager
def edited_models(
    options: EngineOptions, models: Sequence[Model], folder: Path, say: Callable[[str], None]
) -> Iterator[EditedModels]:
    """What opens edited models of these with the engine of the options.

    A server gets copies of the files in `folder`, for which there must be room. Raises RysError.
    """
    if options.kind == LIVE:
        hold_all = sum(model.n_bytes for model in models) <= _MAX_HELD
        with contextlib.closing(_Pointers(options, hold_all=hold_all)) as pointers:
            yield pointers
        return
    n_bytes = max(model.n_bytes for model in models)
    free = require_room(folder, n_bytes)
    say(f"silenced copies need {n_bytes} bytes, {free} are free")
    yield _Copies(options, folder)


class _Copies:
    """Each edited model is a copy of its file, and gets a server."""

    def __init__(self, options: EngineOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder

    @contextlib.contextmanager
    def open(self, model: Model, edits: Iterable[Edit], n_ubatch: int | None) -> Iterator[Engine]:
        """As EditedModels."""
        with (
            edited_copy(model, edits, self._folder) as path,
            open_engine(path, _with_ubatch(self._options, n_ubatch)) as engine,
        ):
            yield engine


class _Pointers:
    """A model is loaded as it is; an edited one shares what is not edited.

    If `hold_all` is off, only the model that was opened last is loaded.
    """

    def __init__(self, options: EngineOptions, *, hold_all: bool) -> None:
        self._options = options
        self._hold_all = hold_all
        self._sessions: dict[Path, Session] = {}

    @contextlib.contextmanager
    def open(self, model: Model, edits: Iterable[Edit], n_ubatch: int | None) -> Iterator[Engine]:
        """As EditedModels."""
        path = model.files[0].path
        if path not in self._sessions:
            if not self._hold_all:
                self.close()
            self._sessions[path] = Session(path, self._options)
        edits = tuple(edits)
        with LiveEngine(
            path,
            _with_ubatch(self._options, n_ubatch),
            self._sessions[path],
            (lambda session: loaded_edited(session, model, edits)) if edits else None,
        ) as engine:
            yield engine

    def close(self) -> None:
        """End the processes of the models that are loaded."""
        while self._sessions:
            self._sessions.popitem()[1].close()


def _with_ubatch(options: EngineOptions, n_ubatch: int | None) -> EngineOptions:
    return replace(options, n_ubatch=n_ubatch or options.n_ubatch)
