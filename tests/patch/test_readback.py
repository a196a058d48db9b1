"""Outputs are read back before they get their names: whatever is wrong with one, none appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf import LayerMap, Model, OutputFailed, Plan, Schedule, make_plan, write_plan
from rys_gguf.files.output import OutputFile
from rys_gguf.files.source import Progress, SourceFile
from rys_gguf.formats.header import KV, Header, Span
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.rule import Architecture
from rys_gguf.patch.align import align
from rys_gguf.patch.provenance import MAP_KEY
from rys_gguf.patch.tensors import layout, plan_tensors
from tests import tiny
from tests.command import leftovers
from tests.disk import write_llama

SPEC = "blocks:1,3"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A model of four layers, in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    return write_llama(folder / "m.gguf")


def apply(
    source: Path,
    out: Path,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    *,
    force: bool = False,
    split_max_bytes: int | None = None,
) -> None:
    """Write a plan, perhaps a changed one."""
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse(SPEC, model.n_trunk))
        write_plan(change(plan), out, force=force, split_max_bytes=split_max_bytes)


# -- writers that go wrong -----------------------------------------------------------------------


class WrongByte(OutputFile):
    """Flips one bit of the header, which is the first piece that is written."""

    at = 0

    def write(self, data: bytes) -> None:
        """Append `data`, the first time with the wrong bit."""
        if self._n_appended == 0:
            wrong = bytearray(data)
            wrong[self.at] ^= 1
            data = bytes(wrong)
        super().write(data)


class CutShort(OutputFile):
    """Leaves out the last byte of each run of tensor data."""

    def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
        """Append all but one of `n` bytes."""
        super().copy(source, offset, n - 1, progress)


class TooLong(OutputFile):
    """Appends a byte to each run of tensor data."""

    def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
        """Append `n` bytes and another."""
        super().copy(source, offset, n, progress)
        self.write(b"x")


class NothingAfterTheHeader(OutputFile):
    """Loses all tensor data."""

    def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
        """Append nothing."""


def use(monkeypatch: pytest.MonkeyPatch, kind: type[OutputFile]) -> None:
    """Let the writer write with this kind of file."""
    monkeypatch.setattr("rys_gguf.patch.writer.OutputFile", kind)


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
def test_every_wrong_byte_of_the_header_is_caught(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong bit anywhere before the data, padding included, and no file gets the name."""
    with Model(llama) as model:
        n = make_plan(model, LayerMap.parse(SPEC, model.n_trunk)).header.data_offset
    use(monkeypatch, WrongByte)
    for at in range(n):
        monkeypatch.setattr(WrongByte, "at", at)
        with pytest.raises(OutputFailed, match=r"^out\.gguf: .*nothing was written"):
            apply(llama, tmp_path / "out.gguf")
        assert leftovers(tmp_path, [llama.parent]) == set()


@pytest.mark.parametrize("kind", [CutShort, TooLong, NothingAfterTheHeader])
@pytest.mark.parametrize("split_max_bytes", [None, 1500])
def test_a_file_of_another_length_is_caught(
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[OutputFile],
    split_max_bytes: int | None,
) -> None:
    """A file with too few or too many bytes gets no name, and neither do the other shards."""
    use(monkeypatch, kind)
    with pytest.raises(OutputFailed, match=r"bytes|incomplete"):
        apply(llama, tmp_path / "out.gguf", split_max_bytes=split_max_bytes)
    assert leftovers(tmp_path, [llama.parent]) == set()


def test_a_fault_in_the_last_shard_leaves_none(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards appear or none does."""

    class LastWrong(WrongByte):
        """Only the last file is wrong."""

        def write(self, data: bytes) -> None:
            """Append `data`."""
            if "00004-of-00004" in self.name:
                super().write(data)
            else:
                OutputFile.write(self, data)

    monkeypatch.setattr(WrongByte, "at", 20)
    use(monkeypatch, LastWrong)
    with pytest.raises(OutputFailed, match=r"^out-00004-of-00004\.gguf: "):
        apply(llama, tmp_path / "out.gguf", split_max_bytes=2100)
    assert leftovers(tmp_path, [llama.parent]) == set()


def test_the_file_that_should_be_replaced_is_kept(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--force replaces nothing by a file that was not written as planned."""
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    use(monkeypatch, WrongByte)
    with pytest.raises(OutputFailed):
        apply(llama, out, force=True)
    assert out.read_text() == "precious"
    assert leftovers(tmp_path, [llama.parent, out]) == set()


def test_an_aligned_base_is_read_back_too(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`align` writes with the same care."""
    use(monkeypatch, CutShort)
    with Model(llama) as model, pytest.raises(OutputFailed, match="not the planned"):
        align(model, tmp_path / "out.gguf")
    assert leftovers(tmp_path, [llama.parent]) == set()


def test_long_values_are_compared_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary that stays in the source file is compared byte by byte."""

    class WrongVocabulary(OutputFile):
        """Skips a byte in the middle of the long value."""

        def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
            """Append `n` bytes."""
            at = offset + 500_000
            super().copy(source, offset, min(n, 500_000), progress)
            super().copy(source, at + (n == len(text) + 8), max(0, n - 500_000), progress)

    text = "x" * 500_000 + "y" + "x" * 500_000
    source = tiny.write(tmp_path / "m.gguf", "llama", 4, extra={"test.long": text})
    use(monkeypatch, WrongVocabulary)
    with pytest.raises(OutputFailed, match=r"of the header differs"):
        apply(source, tmp_path / "out.gguf")
    assert leftovers(tmp_path, [source]) == set()


# -- planners and encoders that go wrong ---------------------------------------------------------


def with_kv(plan: Plan, kv: KV) -> Plan:
    """The plan with one value of its header replaced."""
    kvs = tuple(kv if old.key == kv.key else old for old in plan.header.kvs)
    return replace(plan, header=replace(plan.header, kvs=kvs))


def _one_layer_too_many(plan: Plan) -> Plan:
    return with_kv(plan, KV.of("llama.block_count", GGUFValueType.UINT32, 7))


def _another_record(plan: Plan) -> Plan:
    recorded = [0, 1, 2, 3, 2, 3]
    types = (GGUFValueType.ARRAY, GGUFValueType.INT32)
    return with_kv(plan, KV.of(MAP_KEY, types[0], recorded, item_type=types[1]))


def _two_in_each_others_place(plan: Plan) -> Plan:
    a, b, *others = plan.header.tensors
    swapped = (replace(a, offset=b.offset), replace(b, offset=a.offset), *others)
    return replace(plan, header=replace(plan.header, tensors=swapped))


def _a_layer_without_its_tensor(plan: Plan) -> Plan:
    kept = [t for t in plan.tensors if t.target.name != "blk.5.ffn_up.weight"]
    tensors = layout(kept, 32)
    header = replace(plan.header, tensors=tuple(t.target for t in tensors))
    return replace(plan, tensors=tensors, header=header)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_one_layer_too_many, "has 7 layers and 0 MTP blocks, not the planned 6 and 0"),
        (_another_record, "records another layer map"),
        (_two_in_each_others_place, "has offset .*, llama.cpp expects 0"),
        (_a_layer_without_its_tensor, "block 5 does not hold the tensors of source block 3"),
    ],
)
def test_a_plan_that_contradicts_its_map_is_caught(
    llama: Path, tmp_path: Path, change: Callable[[Plan], Plan], fault: str
) -> None:
    """A file is judged by what it holds, not by the plan alone."""
    with pytest.raises(OutputFailed, match=fault):
        apply(llama, tmp_path / "out.gguf", change)
    assert leftovers(tmp_path, [llama.parent]) == set()


@pytest.mark.parametrize(
    ("arch", "spec", "fault"),
    [
        (
            "gemma3",
            "blocks:4,8",
            "layer 9: runs as sliding-window attention; source 5 is full attention",
        ),
        ("gpt-oss", "blocks:6,7", "layer 7: runs as"),
        ("deepseek2", "blocks:0,1", r"layer 2: runs as MoE; source 1 is dense"),
    ],
)
def test_layers_that_would_run_as_another_kind_are_caught(
    tmp_path: Path, arch: str, spec: str, fault: str
) -> None:
    """Renamed tensors and a raised block_count alone would load, and compute something else."""
    source = tiny.write(tmp_path / "m.gguf", arch, 12)
    with Model(source) as model:
        layer_map = LayerMap.parse(spec, 12)
        tensors = plan_tensors(model, layer_map, Architecture(arch, (), ""), {})
        plan = make_plan(model, LayerMap.parse("blocks:2,12", 12), schedule=Schedule.EXPLICIT)
        count = KV.of(f"{arch}.block_count", GGUFValueType.UINT32, len(layer_map))
        kvs = tuple(count if kv.key == count.key else kv for kv in model.header.kvs)
        header = replace(model.header, kvs=kvs, tensors=tuple(t.target for t in tensors))
        naive = replace(plan, layer_map=layer_map, header=header, tensors=tensors)
        with pytest.raises(OutputFailed, match=fault):
            write_plan(naive, tmp_path / "out.gguf")
        # Without rules nothing speaks against it: the file is what such a plan wants.
        bare = ModelRules(Architecture(arch, (), ""), plan.rules.meta)
        write_plan(replace(naive, rules=bare), tmp_path / "out.gguf")
    assert leftovers(tmp_path, [source, tmp_path / "out.gguf"]) == set()


def _another_version(header: Header) -> Header:
    return replace(header, version=2)


def _without_a_key(header: Header) -> Header:
    return replace(header, kvs=header.kvs[:-1])


def _another_value(header: Header) -> Header:
    name = next(kv for kv in header.kvs if kv.key == "general.name")
    other = KV.of(name.key, name.type, str(name.value)[::-1])
    return replace(header, kvs=tuple(other if kv is name else kv for kv in header.kvs))


def _without_a_tensor(header: Header) -> Header:
    return replace(header, tensors=header.tensors[:-1])


def _another_type(header: Header) -> Header:
    *others, last = header.tensors
    wrong = replace(last, type=int(GGMLQuantizationType.I32))
    return replace(header, tensors=(*others, wrong))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_another_version, "GGUF version or byte order"),
        (_without_a_key, r"different keys|not the planned"),
        (_another_value, "'general.name' has another value"),
        (_without_a_tensor, r"tensors, not 7|not the planned"),
        (_another_type, "'blk.5.ffn_up.weight' has another tensor info"),
    ],
)
def test_an_encoder_that_goes_wrong_is_caught(
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Header], Header],
    fault: str,
) -> None:
    """The reader's values are compared with the plan's, not only bytes with the encoder's own."""
    real = Header.encode

    def encode(header: Header) -> Iterator[bytes | Span]:
        encoded = b"".join(p for p in real(change(header)) if isinstance(p, bytes))
        yield encoded + bytes(max(0, header.data_offset - len(encoded)))

    monkeypatch.setattr(Header, "encode", encode)
    with pytest.raises(OutputFailed, match=fault):
        apply(llama, tmp_path / "out.gguf")
    assert leftovers(tmp_path, [llama.parent]) == set()


# -- no false alarms -----------------------------------------------------------------------------


def test_shards_are_read_back_under_their_names(llama: Path, tmp_path: Path) -> None:
    """Split outputs pass, and open by any of their names afterwards."""
    apply(llama, tmp_path / "out.gguf", split_max_bytes=2100)
    with Shards(tmp_path / "out-00002-of-00004.gguf") as shards:
        assert len(shards.header.tensors) == 7


def test_interrupted_while_it_is_read_back_nothing_stays(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between writing and naming cleans up like any other."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rys_gguf.patch.writer.verify_written", interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(llama, tmp_path / "out.gguf")
    assert leftovers(tmp_path, [llama.parent]) == set()


def test_no_tensor_data_is_read_again(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back ends where the data starts, so that its time does not grow with the model."""
    reads: list[tuple[str, int]] = []
    real = SourceFile.read

    def read(file: SourceFile, offset: int, n: int) -> bytes:
        reads.append((file.name, offset + n))
        return real(file, offset, n)

    monkeypatch.setattr(SourceFile, "read", read)
    big = write_llama(tmp_path / "big.gguf", 4, n_floats=1 << 20)
    reads.clear()
    apply(big, tmp_path / "out.gguf")
    again = max(end for name, end in reads if name == "out.gguf")
    assert 0 < again <= 2 << 20  # a window for the header, in a file of 24 MiB
    assert np.isclose((tmp_path / "out.gguf").stat().st_size, 24 << 20, rtol=0.01)
