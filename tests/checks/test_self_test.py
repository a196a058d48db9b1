"""The live engine is tried before it is used, and what it has shown is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.checks.self_test import choose_kind, require_live
from rys_gguf.engines.base import AUTO, LIVE, SERVER, EngineOptions
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import HollowFile, Session
from rys_gguf.errors import EngineFailed, RysError
from tests import tiny

OPTIONS = EngineOptions(kind=LIVE, n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rys-gguf" / "live-engines.txt"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of 12 layers, of which only windows of six are legal."""
    (tmp_path / "models").mkdir()
    return tiny.write(tmp_path / "models" / "m.gguf", "gemma3", 12)


def break_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session starts any more."""

    def fail(_: Session) -> None:
        raise EngineFailed("does not start")

    monkeypatch.setattr(Session, "start", fail)


def test_a_sound_engine_passes_and_is_remembered(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is started, and the model's folder is as it was."""
    require_live(model, OPTIONS)
    assert len(cache.read_text().split()) == 1
    assert list(model.parent.iterdir()) == [model]
    break_sessions(monkeypatch)
    require_live(model, OPTIONS)
    with pytest.raises(EngineFailed, match="does not start"):
        require_live(model, replace(OPTIONS, environment=(("CUDA_VISIBLE_DEVICES", "1"),)))


def test_a_cache_that_is_damaged_counts_for_nothing(model: Path, cache: Path) -> None:
    """The engine is tried again, and the cache is of use again."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"\xff\x00 no key\n")
    require_live(model, OPTIONS)
    cache.unlink()
    cache.mkdir()
    require_live(model, OPTIONS)


@pytest.mark.parametrize("broken", ["variant", "point"])
def test_pointers_to_the_wrong_layer_are_found(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whether a variant was made wrongly or does not follow a change: nothing is remembered."""
    point = Session.point
    n_calls = 0

    def wrong(session: Session, variant: Loaded, pairs: Sequence[tuple[str, str]]) -> None:
        nonlocal n_calls
        n_calls += 1
        if broken == "variant":
            names = {name for name, _ in pairs}
            pairs = [(name, name if "attn_q." in name else source) for name, source in pairs]
            assert {name for name, _ in pairs} == names
        elif n_calls > 1:
            return
        point(session, variant, pairs)

    monkeypatch.setattr(Session, "point", wrong)
    with pytest.raises(EngineFailed, match=r"self-test of the live engine failed.* in a logit"):
        require_live(model, OPTIONS)
    assert not cache.exists()
    assert list(model.parent.iterdir()) == [model]


def test_an_engine_that_does_not_work_is_left_for_the_server(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says why; whoever asked for the live engine gets the error."""
    lines: list[str] = []
    assert choose_kind(model, replace(OPTIONS, kind=SERVER), lines.append).kind == SERVER
    assert lines == []
    break_sessions(monkeypatch)
    auto = replace(OPTIONS, kind=AUTO)
    assert choose_kind(model, auto, lines.append) == replace(OPTIONS, kind=SERVER)
    assert len(lines) == 1
    assert "does not start" in lines[0]
    with pytest.raises(RysError, match="does not start"):
        choose_kind(model, OPTIONS, lines.append)


def test_arguments_for_a_server_are_followed_or_make_it_the_server(model: Path) -> None:
    """The number of layers on a GPU is followed; flash attention cannot be set."""
    lines: list[str] = []
    auto = replace(OPTIONS, kind=AUTO)
    followed = replace(auto, arguments=("--n-gpu-layers", "99"))
    assert choose_kind(model, followed, lines.append).kind == LIVE
    unknown = replace(auto, arguments=("--flash-attn", "off"))
    assert choose_kind(model, unknown, lines.append).kind == SERVER
    assert len(lines) == 1
    assert "--flash-attn" in lines[0]


def test_a_variant_has_no_weights_of_its_own(model: Path, tmp_path: Path) -> None:
    """A hollow file that is not pointed anywhere computes nothing of use."""
    from rys_gguf.checks.pointers import loaded_plan
    from rys_gguf.formats.model import Model
    from rys_gguf.layers.layer_map import LayerMap
    from rys_gguf.patch.hollow import hollow
    from rys_gguf.patch.plan import make_plan

    session = Session(model, OPTIONS)
    session.start()
    with Model(model) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:2,8", 12), provenance=False)
        header = hollow(plan)
        header.write(opened, tmp_path / "h.gguf")
        with session.variant(HollowFile(tmp_path / "h.gguf", (), header.pattern)) as empty:
            nothing = empty.logits([(5, 6, 7)])[0]
        with loaded_plan(session, plan) as variant:
            assert variant.logits([(5, 6, 7)])[0].std() > 100 * nothing.std()
    session.close()
