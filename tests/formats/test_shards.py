"""Split models: any shard opens the set, and what is missing or out of place is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from rys_gguf import LayerMap, Model, find_problems, make_plan, write_plan
from rys_gguf.checks.prove import prove
from rys_gguf.checks.variant import VariantPair
from tests import tiny
from tests.command import fails, leftovers, run
from tests.engine import OPTIONS, logprobs


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
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], sub)
        writer.add_uint16("split.no", n)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[n * per_shard : (n + 1) * per_shard]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


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
    """Patched from shards or from the whole, the tensors are the same, and both run alike."""
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    assert run("apply", whole, "--blocks", "4,8", "-o", a).returncode == 0
    assert run("apply", shards[1], "--blocks", "4,8", "-o", b).returncode == 0
    assert find_problems(b, shards[2]) == []
    assert find_problems(b, whole, "blocks:4,8") != []  # the record names the shards as its source
    tensors = [{t.name: t.data.tobytes() for t in gguf.GGUFReader(p).tensors} for p in (a, b)]
    assert tensors[0] == tensors[1]
    assert np.array_equal(logprobs(a), logprobs(b))


def test_split_output_loads_verifies_and_proves(
    whole: Path, shards: list[Path], tmp_path: Path
) -> None:
    """--split-max-size writes llama.cpp's scheme; inspect, diff, verify and prove take it."""
    out = tmp_path / "out"
    out.mkdir()
    args = ("--blocks", "4,8", "--split-max-size", "100K", "-o", out / "v.gguf")
    done = run("apply", shards[0], *args)
    written = [Path(line) for line in done.stdout.splitlines()]
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
    assert run("inspect", written[-1]).returncode == 0
    assert run("diff", shards[0], written[0]).returncode == 0
    one = tmp_path / "one.gguf"
    assert run("apply", whole, "--blocks", "4,8", "-o", one).returncode == 0
    assert np.array_equal(logprobs(written[0]), logprobs(one))
    layer_map = LayerMap.parse("blocks:4,8", 8)
    assert prove(VariantPair(written[0], shards[0], layer_map), OPTIONS).holds()
    assert leftovers(out, written) == set()


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    """The message has the name of the file that is not there."""
    shards[1].unlink()
    assert "m-00002-of-00003.gguf: missing" in fails("plan", shards[0], "--blocks", "4,8")


def test_shards_in_another_order_are_named(shards: list[Path]) -> None:
    """split.no has to agree with the name."""
    spare = shards[0].with_name("spare")
    shards[1].rename(spare)
    shards[2].rename(shards[1])
    spare.rename(shards[2])
    message = fails("plan", shards[0], "--blocks", "4,8")
    assert "m-00002-of-00003.gguf" in message
    assert "number 3 of 3" in message


def test_a_shard_of_another_model_is_named(shards: list[Path], tmp_path: Path) -> None:
    """Doubled tensors or another number of them show it."""
    other = tmp_path / "other"
    other.mkdir()
    bigger = tiny.write(tmp_path / "bigger.gguf", "qwen35", 12)
    foreign = split_by_hand(bigger, other, 3)
    shutil.copy(foreign[1], shards[1])
    message = fails("plan", shards[0], "--blocks", "4,8")
    assert "of another model" in message or "not of one model" in message


def test_a_shard_under_another_name_is_refused(shards: list[Path]) -> None:
    """llama.cpp wants the names; without them the others cannot be found."""
    renamed = shards[0].with_name("first.gguf")
    shards[0].rename(renamed)
    assert "00001-of-00003" in fails("plan", renamed, "--blocks", "4,8")


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
    assert "exists already" in fails("apply", whole, *args)
    assert leftovers(out, [names[-1]]) == set()
    assert names[-1].stat().st_size == size


@pytest.mark.parametrize("size", ["50", "0G", "-1G", "1.5G", "G", "lots"])
def test_a_size_that_is_none_is_a_usage_error(whole: Path, size: str) -> None:
    """Exit code 2 and the form expected."""
    args = ("--blocks", "4,8", f"--split-max-size={size}")
    assert "500M or 50G" in fails("apply", whole, *args, code=2)
