"""A hollow file has a header and holes, and says which of the base's tensors each of its own is."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from rys_gguf import LayerMap, Model, OutputFailed, Plan, Schedule, make_plan, write_plan
from rys_gguf.patch.hollow import Hollow, hollow, hollow_edited, is_tied
from tests import tiny
from tests.random_maps import Case


def written(plan: Plan, path: Path, *, untied: bool = False) -> Hollow:
    """The plan's hollow file."""
    file = hollow(plan, untied=untied)
    file.write(plan.model, path)
    return file


@pytest.mark.parametrize(
    "case",
    [
        Case("llama", 6, (0, 1, 2, 1, 2, 3, 4, 5)),
        Case("qwen35", 8, (0, 1, 2, 3, 3, 4, 5, 6, 7), "explicit", n_mtp=1),
        Case("gemma3", 61, (*range(61), 60), "explicit"),
        Case("gemma4", 8, (*range(8), *range(4, 8))),
    ],
    ids=lambda case: case.arch,
)
def test_each_tensor_has_the_data_of_the_variants(case: Case, tmp_path: Path) -> None:
    """Either the base's tensor beside it has them, or the file itself."""
    source = case.write(tmp_path / "m.gguf")
    with Model(source) as model:
        plan = make_plan(model, case.layer_map, schedule=Schedule(case.schedule))
        out = write_plan(plan, tmp_path / "out.gguf").paths[0]
        file = written(plan, tmp_path / "hollow.gguf")
    base, variant, sparse = (
        {t.name: t for t in gguf.GGUFReader(path).tensors}
        for path in (source, out, tmp_path / "hollow.gguf")
    )
    assert sparse.keys() == variant.keys()
    pairs = dict(file.pairs)
    assert len(pairs) == len(file.pairs)
    own = {t.target.name for t in file.own}
    assert pairs.keys() | own == variant.keys()
    assert not pairs.keys() & own
    assert bool(own) == (case.arch in ("gemma3", "gemma4"))
    for name, tensor in variant.items():
        assert tuple(sparse[name].shape) == tuple(tensor.shape)
        assert sparse[name].tensor_type == tensor.tensor_type
        holder = sparse[name] if name in own else base[pairs[name]]
        assert holder.data.tobytes() == tensor.data.tobytes()
        assert (name in own) == sparse[name].data.any()


def test_a_hollow_file_takes_no_room(tmp_path: Path) -> None:
    """It is as long as the variant, and its blocks on disk are those of its header."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 48)
    with Model(path) as model:
        plan = make_plan(model, LayerMap.parse("blocks:8,40", 48))
        written(plan, tmp_path / "hollow.gguf")
    stat = os.stat(tmp_path / "hollow.gguf")
    assert stat.st_size > plan.header.n_data_bytes > 1 << 21
    assert stat.st_blocks * 512 < 128 << 10


def test_a_hollow_file_has_no_vocabulary(smollm2: Path, tmp_path: Path) -> None:
    """Only its size and the templates are left; the rest of the header is the variant's."""
    with Model(smollm2) as model:
        plan = make_plan(model, LayerMap.parse("blocks:8,12", 30))
        written(plan, tmp_path / "hollow.gguf")
        header = plan.header
    with Model(tmp_path / "hollow.gguf") as file:
        found = {kv.key: kv.value for kv in file.header.kvs}
    template = "tokenizer.chat_template"
    assert {k: v for k, v in found.items() if k.startswith("tokenizer.")} == {
        "tokenizer.ggml.model": "no_vocab",
        template: next(kv.value for kv in header.kvs if kv.key == template),
    }
    assert found["llama.vocab_size"] == 49152
    kept = {kv.key for kv in header.kvs if not kv.key.startswith("tokenizer.")}
    assert found.keys() == kept | {"tokenizer.ggml.model", "llama.vocab_size", template}
    assert found["llama.block_count"] == 34


def test_the_pattern_matches_the_tensors_without_data(tmp_path: Path) -> None:
    """llama.cpp searches it in the names; those with data of their own are not found."""
    import re

    case = Case("gemma3", 61, (*range(61), 60), "explicit")
    with Model(case.write(tmp_path / "m.gguf")) as model:
        plan = make_plan(model, case.layer_map, schedule=Schedule.EXPLICIT)
        file = hollow(plan)
    own = {t.target.name for t in file.own}
    assert own
    for tensor in plan.tensors:
        name = tensor.target.name
        assert bool(re.search(file.pattern, name)) == (name not in own)
    # A name that only begins with one of theirs has no data.
    assert re.search(file.pattern, next(iter(own)) + "x")


def test_a_head_of_its_own_has_the_data_of_the_embedding(tmp_path: Path) -> None:
    """For a base that holds its embedding twice; elsewhere there is no such tensor."""
    tied = tiny.write(tmp_path / "tied.gguf", "cohere2", 4)
    with Model(tied) as model:
        assert is_tied(model)
        plan = make_plan(model, LayerMap.identity(4))
        assert "output.weight" not in dict(hollow(plan).pairs)
        file = written(plan, tmp_path / "h.gguf", untied=True)
    assert dict(file.pairs)["output.weight"] == "token_embd.weight"
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "h.gguf").tensors}
    assert tuple(tensors["output.weight"].shape) == tuple(tensors["token_embd.weight"].shape)
    with Model(tiny.write(tmp_path / "untied.gguf", "llama", 2)) as model:
        assert not is_tied(model)


def test_zeros_of_a_kind_are_held_once(tmp_path: Path) -> None:
    """Every tensor has data from one place, and the file has none for zeros."""
    kinds = ("attn_output.weight", "ffn_down.weight")
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 32)) as model:
        names = [f"blk.{n}.{kind}" for n in range(1, 31) for kind in kinds]
        file = hollow_edited(model, dict.fromkeys(names), {})
        file.write(model, tmp_path / "hollow.gguf")
        own = [tensor.target.name for tensor in file.own]
        assert sorted(own) == sorted(f"blk.1.{kind}" for kind in kinds)
        twins, pairs = dict(file.twins), dict(file.pairs)
        assert set(twins.values()) == set(own)
        assert sorted([*own, *twins]) == sorted(names)
        assert sorted([*own, *twins, *pairs]) == sorted(t.name for t in model.header.tensors)
        assert all(name == source for name, source in file.pairs)
        n_bytes = model.n_bytes
    stat = os.stat(tmp_path / "hollow.gguf")
    assert stat.st_size > n_bytes / 2 > stat.st_blocks * 512


def test_edits_are_in_the_file_itself(tmp_path: Path) -> None:
    """New bytes of a tensor, and a new value of a scalar; all else is the base's."""
    name, key = "blk.1.attn_norm.weight", "llama.rope.freq_base"
    values = np.arange(tiny.N_EMBD, dtype=np.float32)
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 2)) as model:
        file = hollow_edited(model, {name: values.tobytes()}, {key: struct.pack("<f", 7)})
        file.write(model, tmp_path / "hollow.gguf")
        others = {t.name for t in model.header.tensors} - {name}
    assert file.pairs == tuple((t, t) for t in dict(file.pairs))
    assert dict(file.pairs).keys() == others
    found = gguf.GGUFReader(tmp_path / "hollow.gguf")
    assert found.fields[key].contents() == 7
    for tensor in found.tensors:
        assert np.array_equal(tensor.data, values) if tensor.name == name else not tensor.data.any()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path, small_disk: Path) -> None:
    """The message names it."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 2)) as model:
        file = hollow(make_plan(model, LayerMap.identity(2)))
        with pytest.raises(OutputFailed, match="missing"):
            file.write(model, tmp_path / "missing" / "h.gguf")
        (small_disk / "full").write_bytes(bytes(64 << 20)[: os.statvfs(small_disk).f_bavail << 12])
        with pytest.raises(OutputFailed, match=r"h\.gguf"):
            file.write(model, small_disk / "h.gguf")
