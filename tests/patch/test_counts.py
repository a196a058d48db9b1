"""The keys that say how large a model is follow the map where they can."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import pytest

from rys_gguf import LayerMap, Model, Plan, find_problems, make_plan, write_plan
from rys_gguf.formats.header import KV, Header, TensorInfo
from rys_gguf.patch.counts import COUNT_KEY, LABEL_KEY, n_parameters, recounted, size_label
from tests import tiny


def planned(path: Path, spec: str = "blocks:1,3") -> Plan:
    """A plan; its model is closed again."""
    with Model(path) as model:
        return make_plan(model, LayerMap.parse(spec, model.n_trunk))


def value(plan: Plan, key: str) -> object:
    """A value of the plan's header."""
    kv = plan.header.get(key)
    assert kv is not None
    return kv.value


def stock_counts(path: Path) -> tuple[int, str]:
    """The number of parameters and the label that gguf-py's writer computes."""
    logging.disable(logging.WARNING)
    writer = gguf.GGUFWriter(None, "llama")
    for tensor in gguf.GGUFReader(path).tensors:
        writer.add_tensor_info(
            tensor.name, list(map(int, reversed(tensor.shape))), tensor.data.dtype, tensor.n_bytes
        )
    total, shared, experts, n_experts = writer.get_total_parameter_count()
    return total, gguf.size_label(total, shared, experts, n_experts)


@pytest.mark.parametrize("arch", ["llama", "mellum", "gpt-oss", "qwen3next"])
def test_counts_are_those_of_the_stock_writer(tmp_path: Path, arch: str) -> None:
    """With experts the label is their number times what one path through them holds."""
    path = tiny.write(tmp_path / "m.gguf", arch, 8)
    with Model(path) as model:
        tensors = model.header.tensors
    assert (n_parameters(tensors), size_label(tensors)) == stock_counts(path)


@pytest.mark.parametrize("arch", ["llama", "mellum"])
def test_counts_of_the_tensors_are_counted_again(tmp_path: Path, arch: str) -> None:
    """Where the source's keys say what its tensors hold, the output's do as well."""
    bare = tiny.write(tmp_path / "bare.gguf", arch, 8)
    total, label = stock_counts(bare)
    path = tiny.write(tmp_path / "m.gguf", arch, 8, extra={COUNT_KEY: total, LABEL_KEY: label})
    out = tmp_path / "out.gguf"
    with Model(path) as model:
        plan = make_plan(model, LayerMap.parse("blocks:0,8", 8))
        write_plan(plan, out)
    assert (value(plan, COUNT_KEY), value(plan, LABEL_KEY)) == stock_counts(out)
    assert value(plan, LABEL_KEY) != label
    assert not any("size" in note for note in plan.notes)
    assert find_problems(out, path) == []


def test_a_count_that_is_the_models_name_for_itself_stays_with_a_note(tmp_path: Path) -> None:
    """Such as 7B for 7.6 billion: nothing says what it would be now."""
    extra = {COUNT_KEY: 7, LABEL_KEY: "7B"}
    plan = planned(tiny.write(tmp_path / "m.gguf", "llama", 4, extra=extra))
    assert (value(plan, COUNT_KEY), value(plan, LABEL_KEY)) == (7, "7B")
    assert sum(" is kept: it is a name" in note for note in plan.notes) == 2
    plan = planned(tmp_path / "m.gguf", "layers:0,2,1,3")
    assert not any(" is kept: " in note for note in plan.notes)


def test_keys_of_other_types_stay(tmp_path: Path) -> None:
    """They come from a file of somebody else."""
    extra = {COUNT_KEY: "many", LABEL_KEY: 7}
    plan = planned(tiny.write(tmp_path / "m.gguf", "llama", 4, extra=extra))
    assert (value(plan, COUNT_KEY), value(plan, LABEL_KEY)) == ("many", 7)


def test_a_count_that_no_longer_fits_its_type_stays(tmp_path: Path) -> None:
    """A count of 32 bits goes up to 4.3 billion."""
    n = 3 * 2**30
    kv = KV.of(COUNT_KEY, gguf.GGUFValueType.UINT32, n)
    tensor = TensorInfo("blk.0.a", (n,), 0, 0, 4 * n)
    source = Header(3, "<", (kv,), (tensor,))
    assert recounted(source, [tensor, tensor]) == {}
    assert recounted(source, [tensor])[COUNT_KEY].value == n


def test_verify_tells_a_wrong_count(tmp_path: Path) -> None:
    """Old files, which kept the source's counts, are right as well."""
    bare = tiny.write(tmp_path / "bare.gguf", "llama", 4)
    total, _ = stock_counts(bare)
    path = tiny.write(tmp_path / "m.gguf", "llama", 4, extra={COUNT_KEY: total})
    out = tmp_path / "out.gguf"
    with Model(path) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        write_plan(plan, out)
    new = value(plan, COUNT_KEY)
    assert isinstance(new, int)
    raw = out.read_bytes()
    for number, is_right in ((total, True), (new, True), (new + 1, False)):
        out.write_bytes(
            raw.replace(
                COUNT_KEY.encode() + b"\4\0\0\0" + new.to_bytes(4, "little"),
                COUNT_KEY.encode() + b"\4\0\0\0" + number.to_bytes(4, "little"),
                1,
            )
        )
        assert (find_problems(out, path) == []) is is_right
