"""An edited model computes the same whether it is a copy or shares what is not edited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rys_gguf import LayerMap, Model, VariantPair, apply, prove
from rys_gguf.checks import edited
from rys_gguf.checks.ablation import Edit, disturb, edited_copy, nudge, silence
from rys_gguf.checks.edited import edited_models
from rys_gguf.checks.pointers import loaded_edited
from rys_gguf.engines.base import LIVE, SERVER
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.live.link import Link
from rys_gguf.engines.live.session import Session
from rys_gguf.errors import EngineFailed
from rys_gguf.formats.header import KV
from rys_gguf.layers.architectures import ARCHITECTURES
from tests import tiny
from tests.command import leftovers
from tests.engine import OPTIONS

LIVE_OPTIONS = replace(OPTIONS, kind=LIVE)
PROMPT = [1, *range(50, 80)]
# Opens an edited model with an engine of a kind, says so, and keeps it until it is killed.
HOLD = """
import sys
from dataclasses import replace
from pathlib import Path
from rys_gguf import Model
from rys_gguf.checks.edited import edited_models
from tests.checks.test_edited import edits_of
from tests.engine import OPTIONS

path = Path(sys.argv[1])
with Model(path) as model:
    options = replace(OPTIONS, kind=sys.argv[2])
    with edited_models(options, [model], path.parent, lambda _: None) as models:
        with models.open(model, edits_of(model, "llama"), None):
            print("open", flush=True)
            sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty but for what the test makes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def edits_of(model: Model, arch: str) -> tuple[Edit, ...]:
    """Two silent layers, one of them disturbed, and an F32 vector moved in every layer."""
    silenced = tuple(silence(model, ARCHITECTURES[arch], [2, 4]))
    moved = nudge(model, ["attn_norm.weight"], 0.25)
    return (*silenced, *moved, *disturb(model, [2], silenced))


@pytest.mark.parametrize("arch", ["llama", "gemma4", "deepseek4"])
def test_both_ways_compute_the_same(tmp_path: Path, temporary: Path, arch: str) -> None:
    """Zeros, other bytes, and zeros in the header: bit for bit, and nothing but for a while."""
    path = tiny.write(tmp_path / "m.gguf", arch, 8)
    copies, shared = [], []
    with Model(path) as model:
        edits = edits_of(model, arch)
        assert any(isinstance(edit.target, KV) for edit in edits) == (arch == "deepseek4")
        with edited_models(LIVE_OPTIONS, [model], tmp_path, lambda _: None) as models:
            for some in ((), edits, edits[:2], ()):
                with models.open(model, some, None) as engine:
                    shared.append(engine.logprobs(PROMPT, tiny.N_VOCAB))
                with (
                    edited_copy(model, some, tmp_path) as copy,
                    open_engine(copy, LIVE_OPTIONS) as engine,
                ):
                    copies.append(engine.logprobs(PROMPT, tiny.N_VOCAB))
    for theirs, ours in zip(copies, shared, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    plain, whole, part, again = shared
    assert (plain == again).all()
    assert not any((a == b).all() for a, b in ((plain, whole), (plain, part), (whole, part)))
    assert not list(temporary.iterdir())


def test_a_live_proof_writes_nothing_beside_the_variant(tmp_path: Path, temporary: Path) -> None:
    """Only headers are written, to the folder of temporary files, one at a time."""
    source, out = tiny.write(tmp_path / "m.gguf", "llama", 24), tmp_path / "out.gguf"
    apply(source, "blocks:8,16", out)
    seen: list[int] = []
    said: list[str] = []

    def look(_: int) -> None:
        assert leftovers(tmp_path, [source, out, temporary]) == set()
        seen.append(len(list(temporary.rglob("*.gguf"))))

    pair = VariantPair(out, source, LayerMap.parse("blocks:8,16", 24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edited, "require_room", forbidden)
        patch.setattr(edited, "edited_copy", forbidden)
        assert prove(pair, LIVE_OPTIONS, say=said.append, progress=look).holds()
    assert seen
    assert not any(seen)
    assert all(line.startswith("silencing outputs") for line in said)
    assert not list(temporary.iterdir())


def forbidden(*_: Any) -> Any:
    """What a live proof must not do."""
    raise AssertionError


def test_an_error_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """A header that llama.cpp does not load, and a process that ends: one error, no file."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 4)
    with (
        Model(path) as model,
        edited_models(LIVE_OPTIONS, [model], tmp_path, lambda _: None) as models,
    ):
        kv = model.header.get("llama.attention.head_count")
        assert kv is not None
        span = model.data(model.header.tensors[0]).span
        wrong = Edit(kv, replace(span, n_bytes=4), b"\x07\0\0\0")
        with pytest.raises(EngineFailed), models.open(model, [wrong], None):
            raise AssertionError
        silent = tuple(silence(model, ARCHITECTURES["llama"], [1]))
        with models.open(model, silent, None) as engine:
            assert np.isfinite(engine.logprobs(PROMPT, tiny.N_VOCAB)).all()
            os.kill(engine.pid, 9)  # type: ignore[attr-defined]
            with pytest.raises(EngineFailed):
                engine.logprobs(PROMPT, tiny.N_VOCAB)
    assert not list(temporary.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="locks folders")
@pytest.mark.parametrize("kind", [LIVE, SERVER])
def test_what_a_killed_proof_left_is_removed_by_the_next(
    tmp_path: Path, temporary: Path, kind: str
) -> None:
    """Silenced copies, which are as large as the model, and headers."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 8)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        other.send_signal(signal.SIGKILL)
    assert files_below(tmp_path) != {path}
    with (
        Model(path) as model,
        edited_models(replace(OPTIONS, kind=kind), [model], tmp_path, lambda _: None) as models,
        models.open(model, edits_of(model, "llama"), None),
    ):
        pass
    assert files_below(tmp_path) == {path}


def files_below(folder: Path) -> set[Path]:
    """The files in a folder and in the folders in it."""
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("n_ubatch", [None, 1])
def test_a_model_computes_as_many_tokens_at_once_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_ubatch: int | None
) -> None:
    """The model as it is and an edited one, in one process."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 4)
    sizes: list[int] = []
    ask: Callable[..., Any] = Link.ask

    def seen(link: Link, do: str, *args: Any, **fields: Any) -> Any:
        if do == "context":
            sizes.append(fields["sizes"][2])
        return ask(link, do, *args, **fields)

    monkeypatch.setattr(Link, "ask", seen)
    with (
        Model(path) as model,
        edited_models(LIVE_OPTIONS, [model], tmp_path, lambda _: None) as models,
    ):
        for edits in ((), tuple(silence(model, ARCHITECTURES["llama"], [1]))):
            for n in (7, n_ubatch):
                with models.open(model, edits, n) as engine:
                    engine.logprobs(PROMPT, tiny.N_VOCAB)
    assert sizes == [7, n_ubatch or 512] * 2


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many sessions ran after each start of one."""
    sessions: set[Session] = set()
    counts: list[int] = []
    start, close = Session.start, Session.close

    def started(session: Session) -> None:
        start(session)
        sessions.add(session)
        counts.append(len(sessions))

    def closed(session: Session) -> None:
        close(session)
        sessions.discard(session)

    monkeypatch.setattr(Session, "start", started)
    monkeypatch.setattr(Session, "close", closed)
    yield counts
    assert not sessions


@pytest.mark.parametrize("max_held", [0, 1 << 30])
def test_large_models_are_loaded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: list[int], max_held: int
) -> None:
    """A proof that holds changes from the source to the variant once, a search many times."""
    monkeypatch.setattr(edited, "_MAX_HELD", max_held)
    monkeypatch.setattr("rys_gguf.checks.prove._MAX_LOCATED", 1)
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    naive = tiny.write(tmp_path / "naive.gguf", "gemma3", 12, sources=[*range(8), *range(4, 12)])
    right = tmp_path / "out.gguf"
    apply(source, "blocks:3,9", right)
    assert prove(VariantPair(right, source, LayerMap.parse("blocks:3,9", 12)), LIVE_OPTIONS).holds()
    both = max_held > 0
    assert running == ([1, 2] if both else [1, 1])
    wrong = VariantPair(naive, source, LayerMap.parse("blocks:4,8", 12))
    assert prove(wrong, LIVE_OPTIONS).differing == (9, 15)
    assert max(running) == (2 if both else 1)
    assert (len(running) == 4) == both


def test_an_error_of_the_user_of_a_model_is_not_taken_for_one_of_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds the embedding twice: an error inside the block arrives as it is."""
    monkeypatch.setattr(Session, "holds_embedding_twice", lambda _: True)
    path = tiny.write(tmp_path / "m.gguf", "gemma3", 4)
    session = Session(path, LIVE_OPTIONS)
    try:
        session.start()
        with (
            Model(path) as model,
            pytest.raises(EngineFailed, match="of the user"),
            loaded_edited(session, model, no_edits()),
        ):
            raise EngineFailed("of the user")
    finally:
        session.close()


def no_edits() -> Iterable[Edit]:
    """None at all."""
    return ()


def test_a_variant_in_shards_is_proven(tmp_path: Path) -> None:
    """It is loaded as it is; its silenced models are one file each."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 8)
    out = tmp_path / "out.gguf"
    done = apply(source, "blocks:2,5", out, split_max_bytes=1 << 17)
    assert len(done.paths) > 1
    pair = VariantPair(done.paths[0], source, LayerMap.parse("blocks:2,5", 8))
    assert prove(pair, LIVE_OPTIONS).holds()
    with Model(done.paths[0]) as model:
        edits = nudge(model, ["attn_norm.weight"], 0.5)
        (tmp_path / "copy").mkdir()
        with edited_copy(model, edits, tmp_path / "copy") as wrong:
            assert not prove(replace(pair, variant=wrong), LIVE_OPTIONS).holds()
