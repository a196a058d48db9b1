"""Plans as models in a live session, without files that hold weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from rys_gguf.checks.ablation import Edit
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import HollowFile, Session
from rys_gguf.errors import EngineFailed
from rys_gguf.files.folder import private_folder
from rys_gguf.formats.header import KV
from rys_gguf.formats.model import Model
from rys_gguf.patch.hollow import Hollow, hollow, hollow_edited, is_tied
from rys_gguf.patch.plan import Plan


@contextlib.contextmanager
def loaded_plan(session: Session, plan: Plan) -> Iterator[Loaded]:
    """What a plan would write, as a model of a session that holds the plan's source.

    Raises EngineFailed where the engine cannot do that.
    """
    with _loaded(session, plan.model, partial(hollow, plan)) as loaded:
        yield loaded


@contextlib.contextmanager
def loaded_edited(session: Session, model: Model, edits: Iterable[Edit]) -> Iterator[Loaded]:
    """A model of a session that holds `model`, with edits that the held one does not get.

    Raises EngineFailed where the engine cannot do that.
    """
    edits = tuple(edits)
    tensors = {e.target.name: e.data for e in edits if not isinstance(e.target, KV)}
    values = {
        e.target.key: e.data or bytes(e.span.n_bytes) for e in edits if isinstance(e.target, KV)
    }
    with _loaded(session, model, partial(hollow_edited, model, tensors, values)) as loaded:
        yield loaded


@contextlib.contextmanager
def _loaded(session: Session, model: Model, header: Callable[..., Hollow]) -> Iterator[Loaded]:
    """The header that is made with or without `untied`, as a model."""
    with contextlib.ExitStack() as stack:
        loaded = None
        if is_tied(model) and session.holds_embedding_twice():
            # Some architectures take no head of their own; then it is the host's embedding.
            with contextlib.suppress(EngineFailed):
                loaded = stack.enter_context(loaded_hollow(session, model, header(untied=True)))
        if loaded is None:
            loaded = stack.enter_context(loaded_hollow(session, model, header(untied=False)))
        yield loaded


@contextlib.contextmanager
def loaded_hollow(session: Session, model: Model, header: Hollow) -> Iterator[Loaded]:
    """A header as a model of a session that holds `model`; its file is gone in the end."""
    with private_folder() as folder:
        path = folder / "header.gguf"
        header.write(model, path)
        file = HollowFile(path, header.pairs, header.pattern, header.twins)
        with session.variant(file) as loaded:
            yield loaded
