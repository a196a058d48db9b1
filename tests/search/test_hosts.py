"""Hosts make the model of a map; a working file is, tensor by tensor, what apply writes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, Schedule, make_plan, write_plan
from rys_gguf.checks.prove import make_prompts
from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.errors import EngineFailed, OutputFailed, Refused, RysError
from rys_gguf.search.hosts.base import MakeHost, Workplace
from rys_gguf.search.hosts.live import LiveHost
from rys_gguf.search.hosts.working_file import CandidateFile, WorkingFileHost
from rys_gguf.search.hosts.written import WrittenHost
from tests import tiny
from tests.disk import fill
from tests.engine import OPTIONS, logprobs


def digest(raw: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(raw).hexdigest()


HOSTS = pytest.mark.parametrize("make_host", [WorkingFileHost, WrittenHost, LiveHost])


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    """A model of 12 layers with a period of 6."""
    with Model(tiny.write(tmp_path / "m.gguf", "gemma3", 12)) as opened:
        yield opened


def options_of(make_host: MakeHost) -> EngineOptions:
    """The kind of engine that a host needs."""
    return replace(OPTIONS, kind=LIVE) if make_host is LiveHost else OPTIONS


def workplace(model: Model, folder: Path, options: EngineOptions = OPTIONS) -> Workplace:
    """A folder of its own for a host."""
    (folder / "work").mkdir()
    return Workplace(model, folder / "work", "host", Schedule.PORTABLE, options)


@HOSTS
def test_a_host_computes_what_apply_writes(
    make_host: MakeHost, model: Model, tmp_path: Path
) -> None:
    """One candidate after the other, and the base between them, which needs no file."""
    prompts = make_prompts(model)
    options = options_of(make_host)
    place = workplace(model, tmp_path, options)
    host = make_host(place)
    specs = ("blocks:0,6", "blocks:1,7", "layers:0..5")
    maps = [LayerMap.parse(spec, 12) for spec in specs]
    for layer_map in (maps[0], LayerMap.identity(12), *maps[1:]):
        expected = written(model, layer_map, tmp_path / "e.gguf", Schedule.PORTABLE)
        with host.open(layer_map) as hosted, hosted.engine as engine:
            found = np.stack([engine.logprobs(ids, tiny.N_VOCAB) for ids in prompts])
        assert (found == logprobs(expected, prompts, options=options)).all()
        n_bytes = hosted.n_written + hosted.n_shared
        assert (n_bytes == 0) == (layer_map.is_identity or make_host is LiveHost)
    host.close()
    host.close()
    assert list(place.folder.iterdir()) == []


@HOSTS
def test_after_a_refusal_a_host_is_as_usable_as_before(
    make_host: MakeHost, model: Model, tmp_path: Path
) -> None:
    """An illegal map leaves nothing behind that the next candidate would inherit."""
    host = make_host(workplace(model, tmp_path, options_of(make_host)))
    for spec in ("blocks:0,6", "blocks:1,7"):
        with pytest.raises(Refused), host.open(LayerMap.parse("blocks:5,8", 12)):
            pass
        with host.open(LayerMap.parse(spec, 12)) as hosted, hosted.engine as engine:
            assert engine.tokenize("a")
    host.close()


@HOSTS
def test_a_host_is_stopped_from_another_thread(
    make_host: MakeHost, model: Model, tmp_path: Path
) -> None:
    """Its engine ends, so that whatever it is being asked fails; stopping an idle host is fine."""
    host = make_host(workplace(model, tmp_path, options_of(make_host)))
    host.stop()
    with host.open(LayerMap.parse("blocks:0,6", 12)) as hosted, hosted.engine as engine:
        stopper = threading.Thread(target=host.stop)
        stopper.start()
        stopper.join()
        with pytest.raises(EngineFailed):
            engine.tokenize("a")
    host.stop()
    host.close()


def test_a_live_host_loads_the_base_once(model: Model, tmp_path: Path) -> None:
    """All candidates are in one process; after it was killed the next one has another."""
    host = LiveHost(workplace(model, tmp_path, options_of(LiveHost)))
    pids = []
    for spec in ("blocks:0,6", "blocks:1,7", "blocks:0,6"):
        with host.open(LayerMap.parse(spec, 12)) as hosted, hosted.engine as engine:
            assert isinstance(engine, LiveEngine)
            assert len(engine.logprobs([5, 6], tiny.N_VOCAB)) == tiny.N_VOCAB
            pids.append(engine.pid)
    assert len(set(pids)) == 1
    os.kill(pids[0], signal.SIGKILL)
    with (
        pytest.raises(EngineFailed, match="ended"),
        host.open(LayerMap.parse("blocks:0,6", 12)) as hosted,
        hosted.engine,
    ):
        pass
    with host.open(LayerMap.parse("blocks:0,6", 12)) as hosted, hosted.engine as engine:
        assert len(engine.logprobs([5, 6], tiny.N_VOCAB)) == tiny.N_VOCAB
    host.close()


def test_a_written_file_is_gone_after_use(model: Model, tmp_path: Path) -> None:
    """Finalists' files are large, so none outlives its use, even if the engine failed."""
    place = workplace(model, tmp_path)
    host = WrittenHost(place)
    with host.open(LayerMap.parse("blocks:0,6", 12)):
        (path,) = place.folder.iterdir()
        assert path.stat().st_size > model.n_bytes
    assert not path.exists()
    with pytest.raises(EngineFailed), host.open(LayerMap.parse("blocks:0,6", 12)):
        raise EngineFailed("llama.cpp ended")
    assert not path.exists()


def content(path: Path) -> tuple[object, ...]:
    """Keys and tensors by name, with digests of what they hold; the order is no part of it."""
    with Model(path) as model:
        assert model.offset_issues() == []
        kvs = {
            kv.key: (kv.type, digest(b"".join(model.raw(kv))))
            for kv in model.header.kvs
            if kv.key != "rys.search.room"
        }
        tensors = {
            t.name: (t.type, t.ne, digest(b"".join(model.read(model.data(t).span))))
            for t in model.header.tensors
        }
        return kvs, tensors


def written(model: Model, layer_map: LayerMap, path: Path, schedule: Schedule) -> Path:
    """The file that apply writes, without provenance."""
    write_plan(make_plan(model, layer_map, schedule=schedule, provenance=False), path, force=True)
    return path


MAPS = st.one_of(
    st.tuples(st.integers(0, 5), st.integers(1, 4)).map(
        lambda w: LayerMap.from_blocks([(w[0], min(6, w[0] + w[1]))], 6)
    ),
    st.lists(st.integers(0, 5), min_size=1, max_size=9).map(lambda s: LayerMap(6, tuple(s))),
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([1.0, 0.5, 0.25])), min_size=1, max_size=9
    ).map(lambda path: LayerMap(6, tuple(s for s, _ in path), tuple(damp for _, damp in path))),
)


@given(st.lists(MAPS, min_size=1, max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_it_was_before_it_is_the_candidate(tmp_path: Path, maps: list[LayerMap]) -> None:
    """Windows, paths that drop layers, other sizes: nothing of an earlier candidate shows."""
    path = tmp_path / "m.gguf"
    if not path.exists():
        tiny.write(path, "llama", 6)
    with Model(path) as model:
        file = CandidateFile(model, tmp_path / "work.gguf")
        for layer_map in maps:
            file.become(layer_map)
            expected = written(model, layer_map, tmp_path / "e.gguf", Schedule.PORTABLE)
            assert content(tmp_path / "work.gguf") == content(expected)


@pytest.mark.parametrize(
    ("arch", "n", "specs"),
    [
        ("gemma3", 12, ["blocks:5,8", "blocks:6,9", "blocks:2,8", "blocks:0,3"]),
        ("qwen35", 12, ["blocks:0,4", "blocks:1,5", "blocks:4,8"]),
        ("gemma4", 12, ["blocks:0,6", "blocks:1,7"]),
    ],
)
def test_metadata_of_each_candidate_and_its_logits_are_those_of_apply(
    tmp_path: Path, arch: str, n: int, specs: list[str]
) -> None:
    """Schedules, per-layer arrays and gathered tensors follow the map; the engine sees the same."""
    source = tiny.write(tmp_path / "m.gguf", arch, n)
    with Model(source) as model:
        file = CandidateFile(model, tmp_path / "work.gguf", Schedule.EXPLICIT)
        for spec in specs:
            layer_map = LayerMap.parse(spec, model.n_trunk)
            file.become(layer_map)
            expected = written(model, layer_map, tmp_path / "e.gguf", Schedule.EXPLICIT)
            assert content(tmp_path / "work.gguf") == content(expected)
        assert (logprobs(tmp_path / "work.gguf") == logprobs(expected)).all()


def test_a_window_that_moves_on_writes_one_layer(smollm2: Path, tmp_path: Path) -> None:
    """On real weights: a whole file first, then a layer and a header's table each."""
    with Model(smollm2) as model:
        layer = max(sum(t.n_bytes for t in tensors) for tensors in model.layers)
        file = CandidateFile(model, tmp_path / "work.gguf")
        first = file.become(LayerMap.parse("blocks:4,8", 30))
        assert first.n_written + first.n_shared > model.n_bytes
        for i in range(5, 12):
            change = file.become(LayerMap.parse(f"blocks:{i},{i + 4}", 30))
            assert layer <= change.n_written + change.n_shared < 1.1 * layer
        again = file.become(LayerMap.parse("blocks:11,15", 30))
        assert again.n_written + again.n_shared == 0
        shorter = file.become(LayerMap.parse("blocks:11,14", 30))
        assert shorter.n_written + shorter.n_shared < 3.1 * layer


def test_an_illegal_map_is_refused_and_the_file_made_anew(tmp_path: Path) -> None:
    """A refusal changes nothing on disk; what comes next is whole."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    with Model(source) as model:
        file = CandidateFile(model, tmp_path / "work.gguf")
        file.become(LayerMap.parse("blocks:0,6", 12))
        before = content(tmp_path / "work.gguf")
        with pytest.raises(RysError, match="period 6"):
            file.become(LayerMap.parse("blocks:5,8", 12))
        assert content(tmp_path / "work.gguf") == before
        file.become(LayerMap.parse("blocks:1,7", 12))
        expected = written(
            model, LayerMap.parse("blocks:1,7", 12), tmp_path / "e.gguf", Schedule.PORTABLE
        )
        assert content(tmp_path / "work.gguf") == content(expected)


def test_a_full_disk_is_an_error_and_the_next_candidate_is_whole(
    small_disk: Path,
    tmp_path: Path,
) -> None:
    """Room for the file but not for what it grows by."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 8)
    with Model(source) as model:
        file = CandidateFile(model, small_disk / "work.gguf")
        file.become(LayerMap.parse("blocks:1,2", 8))
        filler = fill(small_disk)
        with pytest.raises(OutputFailed):
            file.become(LayerMap.parse("blocks:0,8", 8))
        filler.unlink()
        layer_map = LayerMap.parse("blocks:2,5", 8)
        file.become(layer_map)
        expected = written(model, layer_map, tmp_path / "e.gguf", Schedule.PORTABLE)
        assert content(small_disk / "work.gguf") == content(expected)
