"""llama.cpp runs a model from a cache, where its files are links to blobs with other names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import LayerMap, Model, find_model, make_plan, write_plan
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from rys_gguf.engines.port import free_port
from rys_gguf.serve.variant import serve_file, serve_plan
from tests import tiny
from tests.hub.test_caches import pulled, put

OPTIONS = EngineOptions(find_engine(), n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


def said(path: Path, kind: str) -> str:
    """What a model writes after a prompt."""
    with open_engine(path, replace(OPTIONS, kind=kind)) as engine:
        return engine.generate("a b c", 8).text


@pytest.fixture
def cached(home: Path, tmp_path: Path) -> Path:
    """The first of several shards in huggingface_hub's cache."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 6)) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,2", 6))
        paths = write_plan(plan, tmp_path / "s.gguf", split_max_bytes=100_000).paths
    assert len(paths) > 1
    folder = home / ".cache" / "huggingface" / "hub" / "models--o--r"
    (folder / "snapshots" / "c").mkdir(parents=True)
    for n, path in enumerate(paths):
        put(folder / "blobs" / str(n), path.read_bytes())
        (folder / "snapshots" / "c" / path.name).symlink_to(f"../../blobs/{n}")
    found = find_model("hf:o/r")
    assert isinstance(found, Path)
    return found


@pytest.mark.parametrize("kind", [SERVER, LIVE])
def test_shards_in_a_cache_run(cached: Path, tmp_path: Path, kind: str) -> None:
    """llama.cpp finds the other shards by the name of the first."""
    whole = tiny.write(tmp_path / "whole.gguf", "llama", 6, sources=[0, 1, 1, 2, 3, 4, 5])
    assert said(cached, kind) == said(whole, kind)


def test_a_blob_of_ollama_runs(home: Path) -> None:
    """Its name does not end in .gguf."""
    blob = pulled(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest")
    tiny.write(blob, "llama", 6)
    found = find_model("ollama:tiny")
    assert isinstance(found, Path)
    assert said(found, LIVE) == said(tiny.write(home / "m.gguf", "llama", 6), LIVE)


@pytest.mark.parametrize("spec", [None, "blocks:1,3"])
def test_shards_in_a_cache_are_served(cached: Path, spec: str | None) -> None:
    """As they are, and as a variant of pointers."""
    options = replace(OPTIONS, kind=LIVE, arguments=("--port", str(free_port()), "--no-warmup"))
    if spec is None:
        with serve_file(cached, options) as server:
            assert server.address.url
        return
    with Model(cached) as model:
        plan = make_plan(model, LayerMap.parse(spec, 7))
        with serve_plan(plan, options, lambda _: None) as server:
            assert server.address.url
