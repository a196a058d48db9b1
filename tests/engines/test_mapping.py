"""llama.cpp maps the file of a variant without filling its holes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from rys_gguf import LayerMap, Model, make_plan
from rys_gguf.engines.live import link
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.session import HollowFile, Session
from tests.engines.test_live_faults import use_child
from tests.live_maps import OPTIONS, hollow_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a way of Linux's")


@pytest.fixture(scope="module")
def variant(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> HollowFile:
    """A variant of SmolLM2 with 42 layers, of 120 MB."""
    with Model(smollm2) as model:
        plan = make_plan(model, LayerMap.parse("blocks:8,20", 30))
        return hollow_file(plan, tmp_path_factory.mktemp("variant") / "hollow.gguf")


def run(model: Path, file: HollowFile) -> tuple[bool, int, Logits]:
    """Whether the child maps lazily, the bytes of the file it has in memory, and some logits."""
    session = Session(model, OPTIONS)
    try:
        session.start()
        with session.variant(file) as loaded:
            (row,) = loaded.logits([(1, 2, 3)])
            return session.about["maps_lazily"], resident(session.pid, file.path), row
    finally:
        session.close()


def resident(pid: int, path: Path) -> int:
    """Bytes of a file that a process has in memory."""
    found, is_it = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            is_it = rest[-1] == str(path)
        elif is_it and first == "Rss:":
            found += int(rest[0]) * 1024
    return found


def test_the_holes_of_a_variant_are_not_filled(
    smollm2: Path,
    variant: HollowFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the library cannot be changed they are, and the logits are the same."""
    lazily, n_bytes, row = run(smollm2, variant)
    assert lazily
    assert n_bytes < 1 << 20
    use_child(
        tmp_path,
        monkeypatch,
        "__main__.py",
        'llama.maps_lazily = map_lazily(settings["library"])',
        "assert map_lazily",
    )
    lazily, n_bytes, same = run(smollm2, variant)
    assert not lazily
    assert n_bytes > 100 << 20
    assert np.array_equal(row, same)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x7fELF" + bytes(60)])
def test_a_library_that_cannot_be_read_is_left_as_it_is(
    tmp_path: Path, content: bytes | None
) -> None:
    """Nothing is changed, and nothing raised."""
    path = tmp_path / "libllama.so"
    if content is not None:
        path.write_bytes(content)
    spec = importlib.util.spec_from_file_location("mapping", link._CHILD / "mapping.py")
    assert spec is not None
    assert spec.loader is not None
    mapping = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mapping)
    assert mapping.map_lazily(str(path)) is False
    assert not mapping._kept
