"""Split models: any shard opens the set, and missing or misplaced shards are named."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFValueType

from rys_gguf import InvalidGGUF, LayerMap, Model, find_problems, make_plan, write_plan
from rys_gguf.checks.variant import VariantPair
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.shards import Shards
from tests import tiny
from tests.cli.calls import done, refused
from tests.command import leftovers
from tests.disk import finish
from tests.engine import direct_proof, logprobs
from tests.strategies import U32, raw_file, raw_kv, raw_tensor


def split_by_hand(source: Path, folder: Path, count: int) -> list[Path]:
    """Shards as llama-gguf-split writes them, made with stock gguf: metadata in the first only."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    per_shard = -(-len(reader.tensors) // count)
    paths = []
    for n in range(count):
        path = folder / f"m-{n + 1:05d}-of-{count:05d}.gguf"
        writer = gguf.GGUFWriter(str(path), arch)
        if n == 0:
            copy_keys(reader, writer)
        writer.add_uint16("split.no", n)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[n * per_shard : (n + 1) * per_shard]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        finish(writer)
        paths.append(path)
    return paths


def copy_keys(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """Add the keys of one file to another, except those that the writer adds itself."""
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A hybrid model in one file."""
    return tiny.write(tmp_path / "whole.gguf", "qwen35", 8, n_mtp=1)


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> list[Path]:
    """The same model in three files, in a folder of their own."""
    folder = tmp_path / "shards"
    folder.mkdir()
    return split_by_hand(whole, folder, 3)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_shard_opens_the_whole_model(whole: Path, shards: list[Path], which: int) -> None:
    """Tensors, keys and bytes are those of the single file."""
    with Model(whole) as one, Model(shards[which]) as many:
        assert [t.name for t in many.header.tensors] == [t.name for t in one.header.tensors]
        assert not [kv.key for kv in many.header.kvs if kv.key.startswith("split.")]
        for a, b in zip(one.header.tensors, many.header.tensors, strict=True):
            assert b"".join(one.read(one.data(a).span)) == b"".join(many.read(many.data(b).span))


def test_split_input_gives_one_file_equal_to_the_single_ones(
    whole: Path, shards: list[Path], tmp_path: Path
) -> None:
    """Patching the shards gives the tensors of the patched single file, and both run alike."""
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    done("apply", whole, "--blocks", "4,8", "-o", a)
    done("apply", shards[1], "--blocks", "4,8", "-o", b)
    assert find_problems(b, shards[2]) == []
    assert find_problems(b, whole, "blocks:4,8") != []  # the record names the shards as its source
    tensors = [{t.name: t.data.tobytes() for t in gguf.GGUFReader(p).tensors} for p in (a, b)]
    assert tensors[0] == tensors[1]
    assert np.array_equal(logprobs(a), logprobs(b))


def test_split_output_loads_verifies_and_proves(
    whole: Path, shards: list[Path], tmp_path: Path
) -> None:
    """--split-max-size follows llama.cpp's scheme; inspect, diff, verify and prove accept it."""
    out = tmp_path / "out"
    out.mkdir()
    args = ("--blocks", "4,8", "--split-max-size", "100K", "-o", out / "v.gguf")
    shown = done("apply", shards[0], *args)
    written = [Path(line) for line in shown.stdout.splitlines()]
    assert len(written) > 2
    count = len(written)
    assert [p.name for p in written] == [
        f"v-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)
    ]
    n_tensors = 0
    for n, path in enumerate(written):
        reader = gguf.GGUFReader(path)
        n_tensors += len(reader.tensors)
        fields = {f.name: f for f in reader.fields.values()}
        assert fields["split.no"].contents() == n
        assert fields["split.count"].contents() == count
        assert fields["split.no"].types == [gguf.GGUFValueType.UINT16]
        assert fields["split.tensors.count"].types == [gguf.GGUFValueType.INT32]
        assert ("general.architecture" in fields) == (n == 0)
    assert fields["split.tensors.count"].contents() == n_tensors
    assert find_problems(written[1], shards[0]) == []
    done("inspect", written[-1])
    done("diff", shards[0], written[0])
    one = tmp_path / "one.gguf"
    done("apply", whole, "--blocks", "4,8", "-o", one)
    assert np.array_equal(logprobs(written[0]), logprobs(one))
    layer_map = LayerMap.parse("blocks:4,8", 8)
    assert direct_proof(VariantPair(written[0], shards[0], layer_map)).holds()
    assert leftovers(out, written) == set()


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    """The message has the name of the missing file."""
    shards[1].unlink()
    assert "m-00002-of-00003.gguf: missing" in refused("plan", shards[0], "--blocks", "4,8")


def test_shards_in_another_order_are_named(shards: list[Path]) -> None:
    """split.no must agree with the name."""
    spare = shards[0].with_name("spare")
    shards[1].rename(spare)
    shards[2].rename(shards[1])
    spare.rename(shards[2])
    message = refused("plan", shards[0], "--blocks", "4,8")
    assert "m-00002-of-00003.gguf" in message
    assert "number 3 of 3" in message


def test_a_shard_of_another_model_is_named(shards: list[Path], tmp_path: Path) -> None:
    """Repeated tensors, or another number of tensors, give it away."""
    other = tmp_path / "other"
    other.mkdir()
    bigger = tiny.write(tmp_path / "bigger.gguf", "qwen35", 12)
    foreign = split_by_hand(bigger, other, 3)
    shutil.copy(foreign[1], shards[1])
    message = refused("plan", shards[0], "--blocks", "4,8")
    assert "of another model" in message or "not belong to one model" in message


def test_a_shard_under_another_name_is_refused(shards: list[Path]) -> None:
    """llama.cpp needs the names; without them the other shards cannot be found."""
    renamed = shards[0].with_name("first.gguf")
    shards[0].rename(renamed)
    assert "00001-of-00003" in refused("plan", renamed, "--blocks", "4,8")


def test_a_taken_shard_name_leaves_nothing_behind(whole: Path, tmp_path: Path) -> None:
    """If one of the names exists, none of the files is written."""
    out = tmp_path / "out"
    out.mkdir()
    with Model(whole) as model:
        plan = make_plan(model, LayerMap.parse("blocks:4,8", 8))
        names = write_plan(plan, out / "v.gguf", split_max_bytes=100_000).paths
    for path in names[:-1]:
        path.unlink()
    size = names[-1].stat().st_size
    args = ("--blocks", "4,8", "--split-max-size", "100K", "-o", out / "v.gguf")
    assert "exists already" in refused("apply", whole, *args)
    assert leftovers(out, [names[-1]]) == set()
    assert names[-1].stat().st_size == size


@pytest.mark.parametrize("size", ["50", "0G", "-1G", "1.5.5G", "G", "lots"])
def test_a_size_that_is_none_is_a_usage_error(whole: Path, size: str) -> None:
    """The exit code is 2, and the message gives the expected form."""
    args = ("--blocks", "4,8", f"--split-max-size={size}")
    assert "500M, 0.5G or 50G" in refused("apply", whole, *args, code=2)


# -- shards made by hand -------------------------------------------------------------------------


def shard(path: Path, n: int | None, count: int | None, name: bytes, byteorder: str = "<") -> Path:
    """A file with one tensor that says it is number n (from 0) of a count."""
    kvs = [
        raw_kv(key, GGUFValueType.UINT16, struct.pack(byteorder + "H", value), byteorder)
        for key, value in ((b"split.no", n), (b"split.count", count))
        if value is not None
    ]
    tensors = [raw_tensor(name, [1], byteorder=byteorder)]
    path.write_bytes(raw_file(kvs, tensors, bytes(32), byteorder=byteorder))
    return path


FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((0, 2, b"b"), "m-00002-of-00002.gguf: says it is number 1 of 2 shards"),
        ((None, 2, b"b"), "m-00002-of-00002.gguf: says it is no number of 2 shards"),
        ((1, 3, b"b"), "m-00002-of-00002.gguf: belongs to a model of 3 shards, not 2"),
        ((1, None, b"b"), "m-00002-of-00002.gguf: belongs to a model of 1 shards, not 2"),
        ((1, 2, b"a"), "m-00002-of-00002.gguf: tensor 'a' is also in an earlier shard"),
        ((1, 2, b"b", ">"), "m-00002-of-00002.gguf: has another byte order than shard 1"),
        (None, "m-00002-of-00002.gguf: missing; m-00001-of-00002.gguf is one of 2 shards"),
    ],
)
def test_a_shard_out_of_place_is_named(
    tmp_path: Path, second: tuple[Any, ...] | None, message: str
) -> None:
    """The message names the file and its fault, for paths and for open files."""
    shard(tmp_path / FIRST, 0, 2, b"a")
    if second is not None:
        shard(tmp_path / SECOND, *second)
    with pytest.raises(InvalidGGUF) as caught:
        Shards(tmp_path / FIRST)
    assert str(caught.value).startswith(message)
    if second is not None:
        readers = [HeaderReader(tmp_path / name) for name in (FIRST, SECOND)]
        with pytest.raises(InvalidGGUF) as caught:
            Shards(readers)
        assert str(caught.value).startswith(message)
        assert all(reader.file.fd == -1 for reader in readers), "closed after the failure"


def test_a_shard_named_otherwise_is_refused(tmp_path: Path) -> None:
    """The name must have the shard's number and the number of shards."""
    for name in ("m.gguf", "m-00001-of-00003.gguf"):
        with pytest.raises(InvalidGGUF, match=r"is one of 2 shards, but not named as such"):
            Shards(shard(tmp_path / name, 0, 2, b"a"))


def test_open_files_are_shards_under_any_name(tmp_path: Path) -> None:
    """Their order counts; the second one's offsets are those in a single file."""
    paths = [shard(tmp_path / name, n, 2, bytes([97 + n])) for n, name in enumerate("xy")]
    with Shards([HeaderReader(path) for path in paths]) as shards:
        assert [(t.name, t.offset) for t in shards.header.tensors] == [("a", 0), ("b", 32)]
        assert [shards.data[name].span.shard for name in "ab"] == [0, 1]
        assert shards.n_bytes == sum(path.stat().st_size for path in paths)
        assert shards.header.kvs == ()
        assert shards.offset_issues() == []


def test_a_missing_tensor_is_counted(tmp_path: Path) -> None:
    """The first shard says how many tensors the model has."""
    total = raw_kv(b"split.tensors.count", GGUFValueType.INT32, U32(3))
    split = [raw_kv(b"split.count", GGUFValueType.UINT16, b"\2\0"), total]
    (tmp_path / FIRST).write_bytes(
        raw_file(
            [*split, raw_kv(b"split.no", GGUFValueType.UINT16, b"\0\0")],
            [raw_tensor(b"a", [1])],
            bytes(32),
        )
    )
    shard(tmp_path / SECOND, 1, 2, b"b")
    with pytest.raises(InvalidGGUF, match="the model has 3 tensors, its shards hold 2"):
        Shards(tmp_path / SECOND)


def test_offsets_are_judged_in_each_file(tmp_path: Path) -> None:
    """An issue names its shard."""
    tensors = [raw_tensor(b"b", [1], offset=32)]
    split = [
        raw_kv(b"split.no", GGUFValueType.UINT16, b"\1\0"),
        raw_kv(b"split.count", GGUFValueType.UINT16, b"\2\0"),
    ]
    shard(tmp_path / FIRST, 0, 2, b"a")
    (tmp_path / SECOND).write_bytes(raw_file(split, tensors, bytes(64)))
    with Shards(tmp_path / FIRST) as shards:
        assert shards.offset_issues() == [
            f"{SECOND}: tensor 'b' has offset 32, llama.cpp expects 0"
        ]
