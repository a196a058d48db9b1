"""Whether an output shares blocks with its source, and the room it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rys_gguf import LayerMap, Model, Plan, make_plan, write_plan
from rys_gguf.files import copying
from rys_gguf.files.source import SourceFile
from rys_gguf.patch.align import align
from rys_gguf.patch.plan import split
from rys_gguf.patch.sharing import Sharing, room, sharing
from tests.command import leftovers
from tests.disk import write_llama


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that shares blocks, here by copying them."""

    def clone(source: SourceFile, out_fd: int, offset: int, n: int) -> None:
        os.write(out_fd, source.read(offset, n))

    monkeypatch.setattr(copying, "_clone", clone)


def planned(model: Model) -> Plan:
    """Two layers repeated."""
    return make_plan(model, LayerMap.parse("blocks:1,3", model.n_trunk))


@pytest.mark.usefixtures("shares")
def test_an_aligned_model_shares_its_tensors(tmp_path: Path) -> None:
    """The variant takes room for its header only, and says how much it shared."""
    source, base, out = write_llama(tmp_path / "m.gguf", 4, 8192), tmp_path / "b", tmp_path / "out"
    with Model(source) as model:
        assert not sharing(planned(model)).is_shared
        assert "rys-gguf align" in sharing(planned(model)).why_not
        align(model, base)
    with Model(base) as model:
        plan = planned(model)
        assert sharing(plan) == sharing(plan, out) == Sharing(is_shared=True, why_not="")
        (file,) = split(plan, None)
        n_blocks = sum(t.target.n_bytes // 4096 for t in plan.tensors)
        assert room(model, file, out) == plan.n_bytes - 4096 * n_blocks
        written = write_plan(plan, out)
        # Padding comes from the source as well: more than whole blocks of tensors are shared.
        assert written.n_shared >= 4096 * n_blocks
        assert written.n_shared + written.n_copied == plan.n_bytes == out.stat().st_size
    assert leftovers(tmp_path, [source, base, out]) == set()


def test_elsewhere_the_whole_file_takes_room(tmp_path: Path) -> None:
    """The reason is a sentence for the user."""
    source = write_llama(tmp_path / "m.gguf")
    with Model(source) as model:
        plan = planned(model)
        (file,) = split(plan, None)
        assert room(model, file, tmp_path / "out") == plan.n_bytes
        report = sharing(plan, tmp_path / "none" / "out")
        assert not report.is_shared
        assert "No such file" in report.why_not
