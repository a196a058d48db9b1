"""Aligned bases: the same model, and variants that share its blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGUFValueType

from rys_gguf import (
    EngineFailed,
    InvalidGGUF,
    LayerMap,
    Model,
    OutputFailed,
    Refused,
    find_problems,
    make_plan,
    write_plan,
)
from rys_gguf.files.copying import can_share
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.patch.align import align, plan_aligned
from rys_gguf.patch.diff import diff_plan
from rys_gguf.patch.writer import Written
from rys_gguf.search.hosts.working_file import CandidateFile
from tests import tiny
from tests.command import leftovers
from tests.disk import digest, write_llama
from tests.engine import OPTIONS, logprobs
from tests.strategies import U32, architecture, raw_file, raw_kv, raw_tensor

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

PROMPTS = [[1, 50], [1, *range(40, 60)]]
# One kind of layer, two by a period, and two with an MTP block and arrays.
MODELS = [("llama", 6, {}), ("gemma3", 12, {}), ("qwen35", 8, {"n_mtp": 1})]
WINDOWS = {"llama": "1,4", "gemma3": "0,6", "qwen35": "0,4"}


def aligned(path: Path, alignment: int = 4096) -> Path:
    """The aligned copy of a model, beside it."""
    out = path.with_name(f"{path.stem}-{alignment}.gguf")
    with Model(path) as model:
        align(model, out, alignment=alignment)
    return out


def variant(path: Path, window: str, out: Path) -> Written:
    """Write the model with a window of layers repeated."""
    with Model(path) as model:
        return write_plan(make_plan(model, LayerMap.parse(f"blocks:{window}", model.n_trunk)), out)


@pytest.fixture(params=MODELS, ids=[arch for arch, _, _ in MODELS])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A tiny model and a window it may repeat."""
    arch, n_layers, options = request.param
    return tiny.write(tmp_path / f"{arch}.gguf", arch, n_layers, **options), WINDOWS[arch]


def test_tensors_start_on_blocks_and_nothing_else_changes(model: tuple[Path, str]) -> None:
    """Data section and tensors are aligned; keys, table and every byte of data are as before."""
    path, _ = model
    with Model(path) as before, Model(aligned(path)) as after:
        assert after.header.data_offset % 4096 == 0
        assert all(t.offset % 4096 == 0 for t in after.header.tensors)
        assert after.offset_issues() == []
        assert after.header.kvs[:-1] == before.header.kvs
        assert after.header.kvs[-1].key == "general.alignment"
        assert [t.name for t in after.header.tensors] == [t.name for t in before.header.tensors]
        for old, new in zip(before.header.tensors, after.header.tensors, strict=True):
            assert (new.ne, new.type, new.n_bytes) == (old.ne, old.type, old.n_bytes)
            spans = before.data(old).span, after.data(new).span
            assert b"".join(before.read(spans[0])) == b"".join(after.read(spans[1]))


def test_variants_of_an_aligned_model_are_aligned(model: tuple[Path, str], tmp_path: Path) -> None:
    """A variant keeps the alignment, and verifies against the aligned base."""
    path, window = model
    base, out = aligned(path), tmp_path / "v.gguf"
    variant(base, window, out)
    with Model(out) as opened:
        assert opened.header.data_offset % 4096 == 0
        assert all(t.offset % 4096 == 0 for t in opened.header.tensors)
    assert find_problems(out, base) == []


def test_the_engine_computes_the_same(model: tuple[Path, str], tmp_path: Path) -> None:
    """The aligned base and its variant compute the same bits as the model and its variant."""
    path, window = model
    base = aligned(path)
    variant(path, window, tmp_path / "a.gguf")
    variant(base, window, tmp_path / "b.gguf")
    for old, new in ((path, base), (tmp_path / "a.gguf", tmp_path / "b.gguf")):
        want, have = (logprobs(p, PROMPTS, tiny.N_VOCAB) for p in (old, new))
        assert np.isfinite(want).all()
        assert np.array_equal(want, have)


def test_a_key_that_is_there_is_replaced_in_place(tmp_path: Path) -> None:
    """general.alignment keeps its place among the keys, and going back gives the first file."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 3)
    once = aligned(path, 64)
    there_and_back = aligned(aligned(once), 64)
    assert digest(there_and_back) == digest(once)


def test_shards_become_one_file(tmp_path: Path) -> None:
    """A split model is aligned into the same single file as the whole one."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 6)
    variant(path, "1,4", tmp_path / "whole.gguf")
    with Model(path) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:1,4", 6))
        shards = write_plan(plan, tmp_path / "v.gguf", split_max_bytes=60_000).paths
    assert len(shards) > 2
    assert digest(aligned(shards[0])) == digest(aligned(tmp_path / "whole.gguf"))


def test_bytes_after_the_data_are_kept(tmp_path: Path) -> None:
    """Bytes behind the last tensor are behind it again."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 3)
    with path.open("ab") as file:
        file.write(b"signature of somebody")
    with Model(aligned(path)) as opened:
        assert opened.n_trailing_bytes == len(b"signature of somebody")
        assert opened.files[0].path.read_bytes().endswith(b"signature of somebody")


def test_a_table_that_llama_cpp_would_refuse_is_not_aligned(tmp_path: Path) -> None:
    """Holes and overlaps are reported, not repaired without a word."""
    path = tmp_path / "m.gguf"
    kvs = [architecture(), raw_kv(b"llama.block_count", GGUFValueType.UINT32, U32(1))]
    path.write_bytes(raw_file(kvs, [raw_tensor(b"blk.0.x", [1], offset=32)], bytes(64)))
    with Model(path) as opened, pytest.raises(InvalidGGUF, match="has offset 32"):
        plan_aligned(opened)


@pytest.mark.parametrize("alignment", [0, 1, 16, 48, 4095, 1 << 25, -4096])
def test_alignments_that_cannot_be_are_refused(tmp_path: Path, alignment: int) -> None:
    """Only powers of two that llama.cpp loads are accepted."""
    with (
        Model(tiny.write(tmp_path / "m.gguf", "llama", 2)) as opened,
        pytest.raises(Refused, match="a power of two from 32"),
    ):
        plan_aligned(opened, alignment)


def test_the_source_is_not_the_output(tmp_path: Path) -> None:
    """Aligning in place is refused, and the model stays what it was."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    before = digest(path)
    with Model(path) as opened, pytest.raises(OutputFailed, match="source model itself"):
        align(opened, path, force=True)
    assert digest(path) == before
    assert leftovers(tmp_path, [path]) == set()


# -- sources with less than llama.cpp needs --------------------------------------------------------

# llama.cpp loads of these what happens to start at a multiple of 32.
TOO_SMALL = [(n, phase) for n in (1, 2, 4, 8, 16) for phase in (0, n)]


def write_in_phase(path: Path, alignment: int, phase: int) -> Path:
    """A llama model whose data starts `phase` bytes past a multiple of 32."""
    for n in range(1, 64):
        extra = {"general.alignment": alignment, "general.name": "x" * n}
        with HeaderReader(tiny.write(path, "llama", 4, extra=extra)) as reader:
            if reader.data_offset % 32 == phase:
                return path
    raise AssertionError(f"no name puts the data at {phase}")


@pytest.mark.parametrize(("alignment", "phase"), [*TOO_SMALL, (32, 0), (64, 0), (4096, 0)], ids=str)
def test_outputs_load_whatever_the_alignment_of_the_source(
    alignment: int, phase: int, tmp_path: Path
) -> None:
    """One file, shards, a working file and an aligned base: the engine runs each as planned."""
    path = write_in_phase(tmp_path / "m.gguf", alignment, phase)
    direct = tiny.write(tmp_path / "direct.gguf", "llama", 4, sources=[0, 1, 2, 1, 2, 3])
    want = logprobs(direct, PROMPTS)
    with Model(path) as model:
        layer_map = LayerMap.parse("blocks:1,3", 4)
        plan = make_plan(model, layer_map)
        whole = write_plan(plan, tmp_path / "whole.gguf").paths
        shards = write_plan(plan, tmp_path / "shards.gguf", split_max_bytes=60_000).paths
        candidate = CandidateFile(model, tmp_path / "candidate.gguf")
        candidate.become(LayerMap.parse("blocks:2,4", 4))
        candidate.become(layer_map)
        align(model, tmp_path / "base.gguf", alignment=32)
    assert len(shards) > 1
    for out in (whole[0], shards[0], candidate.path):
        with Model(out) as opened:
            assert opened.header.alignment == max(32, alignment)
        assert np.array_equal(logprobs(out, PROMPTS), want), out.name
    assert find_problems(whole[0], path) == []
    assert find_problems(shards[0], path) == []
    base = logprobs(tmp_path / "base.gguf", PROMPTS)
    if phase == 0:
        assert np.array_equal(logprobs(path, PROMPTS), base)
    else:
        with pytest.raises(EngineFailed, match="rys-gguf align MODEL -o BASE --alignment 32"):
            logprobs(path, PROMPTS, options=OPTIONS)


@pytest.mark.parametrize("alignment", [1, 16])
def test_a_raised_alignment_is_shown_and_noted(alignment: int, tmp_path: Path) -> None:
    """The plan's diff has the key, its notes the reason, and the output the record."""
    path = write_in_phase(tmp_path / "m.gguf", alignment, 0)
    with Model(path) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
    change = next(c for c in diff_plan(plan).kvs if c.key == "general.alignment")
    assert change.old is not None
    assert change.new is not None
    assert (change.old.value, change.new.value) == (alignment, 32)
    assert diff_plan(plan).layout == ()
    assert [note for note in plan.notes if f"general.alignment is {alignment}," in note]


def test_an_alignment_that_is_enough_is_kept_without_a_word(tmp_path: Path) -> None:
    """Neither key nor note where llama.cpp maps the source."""
    for extra in ({}, {"general.alignment": 32}, {"general.alignment": 4096}):
        path = tiny.write(tmp_path / "m.gguf", "llama", 4, extra=extra)
        with Model(path) as model:
            plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        assert plan.notes == ()
        assert plan.header.get("general.alignment") == model.header.get("general.alignment")


@pytest.mark.parametrize("of_output", [1, 16, 64])
@pytest.mark.parametrize("of_source", [16, 32])
def test_another_alignment_than_the_planned_one_is_a_problem(
    of_output: int, of_source: int, tmp_path: Path
) -> None:
    """Too little for llama.cpp, and more than the source leads to."""
    path = write_in_phase(tmp_path / "m.gguf", of_source, 0)
    out = tmp_path / "out.gguf"
    extra = {"general.alignment": of_output, "general.name": "x"}
    tiny.write(out, "llama", 4, sources=[0, 1, 2, 1, 2, 3], extra=extra)
    problems = [str(p) for p in find_problems(out, path, "blocks:1,3")]
    if of_output < 32:
        assert f"out.gguf: has alignment {of_output}, llama.cpp needs at least 32" in problems
    else:
        assert f"alignment: is {of_output}, expected 32" in problems


# -- on a file system that shares blocks -----------------------------------------------------------


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An XFS of 640 MiB in a sparse file, where the machine lets the tests make one."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("needs root and mkfs.xfs (package xfsprogs)")
    folder = tmp_path_factory.mktemp("xfs")
    image, mounted = folder / "image", folder / "mounted"
    image.touch()
    os.truncate(image, 640 << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mounted], capture_output=True).returncode:
        pytest.skip("cannot mount a loop device here")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def used(folder: Path) -> int:
    """Bytes in use on the file system, after everything is on disk."""
    os.sync()
    info = os.statvfs(folder)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


@pytest.fixture(scope="module")
def base(xfs: Path) -> Path:
    """A model of 240 MB on that XFS, aligned: two would fit, four of its size would not."""
    path = write_llama(xfs / "m.gguf", 8, 7_500_000)
    out = aligned(path)
    path.unlink()
    return out


def test_variants_take_only_the_blocks_of_their_headers(base: Path, xfs: Path) -> None:
    """Three variants, which would not fit on the disk as copies, take less than 1 MiB each."""
    with Model(base) as opened:
        assert can_share(opened.files[0], xfs, opened.header.alignment) == (True, "")
    for n, window in enumerate(("1,3", "0,8", "6,8")):
        out = xfs / f"v{n}.gguf"
        before = used(xfs)
        written = variant(base, window, out)
        assert used(xfs) - before < 1 << 20
        assert written.n_shared + written.n_copied == out.stat().st_size
        assert written.n_copied < 1 << 16
        assert find_problems(out, base) == []


def test_a_shared_variant_is_the_copied_one(base: Path, xfs: Path, tmp_path: Path) -> None:
    """On a file system without sharing the same file is written."""
    shared, copied = xfs / "shared.gguf", tmp_path / "copied.gguf"
    assert variant(base, "2,4", shared).n_shared > 0
    assert variant(base, "2,4", copied).n_shared == 0
    assert digest(shared) == digest(copied)


def test_a_model_that_is_not_aligned_is_copied(xfs: Path) -> None:
    """The plan gives the reason and the remedy, and the copy is complete."""
    path = write_llama(xfs / "plain.gguf", 4, 10_000)
    with Model(path) as opened:
        is_possible, why = can_share(opened.files[0], xfs, opened.header.alignment)
    assert not is_possible
    assert "rys-gguf align" in why
    assert variant(path, "1,3", xfs / "plain-v.gguf").n_shared == 0
    assert find_problems(xfs / "plain-v.gguf", path) == []


def test_another_file_system_is_named(base: Path, tmp_path: Path) -> None:
    """The reason is the output's file system."""
    with Model(base) as opened:
        is_possible, why = can_share(opened.files[0], tmp_path, opened.header.alignment)
    assert not is_possible
    assert "another file system" in why
    assert "file system" in why
    assert leftovers(tmp_path, []) == set()


def test_a_folder_that_is_not_there_is_no_traceback(tmp_path: Path) -> None:
    """The plan has an answer even where apply would fail."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 2)) as opened:
        is_possible, why = can_share(opened.files[0], tmp_path / "no", 4096)
    assert not is_possible
    assert "No such file" in why
