"""The tensors of an output: order, offsets, slices and scales."""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, Refused
from rys_gguf.formats.header import Header, TensorInfo, padded
from rys_gguf.layers.residual import f32_values
from rys_gguf.layers.rule import Architecture, Rescale
from rys_gguf.patch.tensors import (
    GatheredTensor,
    PlannedTensor,
    layout,
    plan_tensors,
)
from tests import tiny
from tests.disk import finish

F32 = int(GGMLQuantizationType.F32)
PLAIN = Architecture("llama", (), "")
TWICE = LayerMap.parse("blocks:0,1", 2)


def model(
    path: Path, *tensors: tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> Model:
    """A model of two layers with these tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    for name, data in tensors:
        writer.add_tensor(name, data)
    finish(writer)
    return Model(path)


def ones(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Some weights."""
    return np.ones(shape, np.float32)


@given(
    st.lists(st.integers(0, 10_000), max_size=30),
    st.sampled_from([1, 32, 64, 4096]),
    st.integers(0, 1000),
)
def test_a_layout_is_what_llama_cpp_demands(sizes: list[int], alignment: int, offset: int) -> None:
    """Aligned, without holes or overlaps, whatever the offsets were; nothing else changes."""
    before = [
        PlannedTensor(TensorInfo(f"t{n}", (size,), F32, offset, size), None, b"")
        for n, size in enumerate(sizes)
    ]
    after = layout(before, alignment)
    ends = [0, *(padded(t.target.offset + t.target.n_bytes, alignment) for t in after)]
    assert [t.target.offset for t in after] == ends[:-1]
    assert [replace(t.target, offset=offset) for t in after] == [t.target for t in before]
    assert all(a.target.offset <= b.target.offset for a, b in itertools.pairwise(after))
    if alignment == 32:
        assert Header(3, "<", (), tuple(t.target for t in after)).offset_issues() == []


def test_each_group_of_a_layer_is_followed_by_its_copies(tmp_path: Path) -> None:
    """Globals stay in their places, and so does the source's order of groups."""
    names = ["blk.1.a", "blk.0.a", "blk.0.b", "output.weight", "blk.0.c", "token_embd.weight"]
    with model(tmp_path / "m.gguf", *((name, ones(4)) for name in names)) as opened:
        tensors = plan_tensors(opened, TWICE, PLAIN, {})
    assert [t.target.name for t in tensors] == [
        "blk.2.a", "blk.0.a", "blk.0.b", "blk.1.a", "blk.1.b", "output.weight",
        "blk.0.c", "blk.1.c", "token_embd.weight",
    ]  # fmt: skip
    assert all(t.is_copy for t in tensors)


def test_a_file_without_tensors_has_none_to_plan(tmp_path: Path) -> None:
    """Nothing to copy is no error here."""
    with model(tmp_path / "m.gguf") as opened:
        assert plan_tensors(opened, TWICE, PLAIN, {}) == ()


def test_a_name_that_would_grow_too_long_is_refused(tmp_path: Path) -> None:
    """llama.cpp's names have 63 bytes; ten layers need another digit."""
    name = "blk.1." + "x" * 57
    with (
        model(tmp_path / "m.gguf", (name, ones(4))) as opened,
        pytest.raises(Refused, match="longer than 63 bytes"),
    ):
        plan_tensors(opened, LayerMap(2, (0,) * 10 + (1,)), PLAIN, {})


# -- gathered tensors ----------------------------------------------------------------------------


def sliced(dim: int) -> Architecture:
    """An architecture whose tensor `g` has a slice per layer in that dimension."""
    return Architecture("llama", (), "", gathered=(("g", dim),))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_slices_are_gathered_along_their_dimension(tmp_path: Path, dim: int) -> None:
    """Rows, slices and sizes follow from shape and dimension."""
    with model(tmp_path / "m.gguf", ("g", ones(2, 4, 6))) as opened:  # ne is [6, 4, 2]
        (tensor,) = plan_tensors(opened, LayerMap(2, (0, 1, 1)), sliced(dim), {})
    data = tensor.data
    assert isinstance(data, GatheredTensor)
    assert tensor.target.ne == tuple(n * 3 // 2 if d == dim else n for d, n in enumerate((6, 4, 2)))
    assert tensor.target.n_bytes == 6 * 4 * 2 * 4 * 3 // 2
    assert (data.n_rows, data.n_slices, data.gather) == ([8, 2, 1][dim], 2, (0, 1, 1))
    assert data.n_rows * data.n_slices * data.slice_bytes == 6 * 4 * 2 * 4
    assert not tensor.is_copy


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((4, 5), 0, r"tensor 'g' has shape \[5, 4\], expected 2 slices"),
        ((4, 4), 2, "expected 2 slices"),
        ((0, 4), 0, "expected 2 slices"),
    ],
)
def test_a_tensor_of_another_shape_is_refused(
    tmp_path: Path, shape: tuple[int, ...], dim: int, message: str
) -> None:
    """Its slices must be one per layer."""
    with (
        model(tmp_path / "m.gguf", ("g", np.ones(shape, np.float32))) as opened,
        pytest.raises(Refused, match=message),
    ):
        plan_tensors(opened, TWICE, sliced(dim), {})


def test_slices_of_half_a_block_cannot_be_cut(tmp_path: Path) -> None:
    """A quantisation block belongs to one layer."""
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_block_count(2)
    raw = np.zeros((3, 34), np.uint8)  # rows of one block of 32 weights
    writer.add_tensor("g", raw, raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)
    with (
        Model(tmp_path / "m.gguf") as opened,
        pytest.raises(Refused, match="a layer's slice has rows of 16 weights, Q8_0 needs"),
    ):
        plan_tensors(opened, TWICE, sliced(0), {})


def test_slices_of_an_unknown_type_cannot_be_cut(tmp_path: Path) -> None:
    """Nobody knows where its blocks end."""
    path = tmp_path / "m.gguf"
    with model(path, ("g", ones(3, 32))) as opened:
        at = path.read_bytes().index(struct.pack("<IQQI", 2, 32, 3, F32)) + 20
        assert opened.n_trunk == 2
    content = bytearray(path.read_bytes())
    content[at : at + 4] = struct.pack("<I", 999)
    path.write_bytes(content)
    with Model(path) as opened, pytest.raises(Refused, match="'g' is type 999; it cannot be cut"):
        plan_tensors(opened, TWICE, sliced(0), {})


# -- rescaled tensors ----------------------------------------------------------------------------


def rescale(tensor: str, *, new: bool = False) -> dict[Rescale, float]:
    """A change of every layer by 1.5."""
    return {Rescale(tensor, lambda _a, _b: 1.5, new): 1.5}


def test_vectors_of_the_trunk_are_multiplied(tmp_path: Path) -> None:
    """The bytes are in the plan; an MTP block and other tensors stay as they are."""
    path = tiny.write(tmp_path / "m.gguf", "qwen35", 4, n_mtp=1)
    with Model(path) as opened:
        tensors = plan_tensors(
            opened, LayerMap.identity(4), PLAIN, rescale("post_attention_norm.weight")
        )
        norms = [t for t in tensors if t.target.name.endswith("post_attention_norm.weight")]
        assert [t.is_copy for t in norms] == [False] * 4 + [True]
        for tensor in norms[:4]:
            assert isinstance(tensor.data, bytes)
            span = opened.data(tensor.target).span
            before = np.frombuffer(b"".join(opened.read(span)), "<f4")
            assert np.array_equal(np.frombuffer(tensor.data, "<f4"), before * np.float32(1.5))
    assert sum(not t.is_copy for t in tensors) == 4


def test_a_new_scale_stands_behind_its_weight(tmp_path: Path) -> None:
    """One float per layer, which the source does not have."""
    weights = [(f"blk.{n}.q.weight", ones(4)) for n in range(2)]
    with model(tmp_path / "m.gguf", *weights) as opened:
        tensors = plan_tensors(opened, TWICE, PLAIN, rescale("q.scale", new=True))
    assert [t.target.name for t in tensors] == [
        f"blk.{n}.q.{part}" for n in range(3) for part in ("weight", "scale")
    ]
    for scale in tensors[1::2]:
        assert scale.source is None
        assert scale.data == struct.pack("<f", 1.5)
        assert (scale.target.ne, scale.target.type, scale.target.n_bytes) == ((1,), F32, 4)


@pytest.mark.parametrize(
    ("names", "scales", "message"),
    [
        (["blk.0.n"], rescale("n"), "block 1 has no n: what the new layer count does"),
        (["blk.0.q.weight"], rescale("q.scale", new=True), "block 1 has no q.weight"),
        (
            ["blk.0.q.weight", "blk.0.q.scale", "blk.1.q.weight"],
            rescale("q.scale", new=True),
            "block 0 has a q.scale already",
        ),
    ],
)
def test_a_model_that_lacks_what_is_to_be_scaled_is_refused(
    tmp_path: Path, names: list[str], scales: dict[Rescale, float], message: str
) -> None:
    """Every layer needs it, or the output would differ in some."""
    with (
        model(tmp_path / "m.gguf", *((name, ones(4)) for name in names)) as opened,
        pytest.raises(Refused, match=message),
    ):
        plan_tensors(opened, TWICE, PLAIN, scales)


def test_only_vectors_in_f32_are_rescaled(tmp_path: Path) -> None:
    """A quantised tensor would lose precision."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2, quantize=GGMLQuantizationType.Q8_0)
    with Model(path) as opened:
        up = next(t for t in opened.layers[0] if "ffn_up" in t.name)
        with pytest.raises(Refused, match=r"is Q8_0 of .* only vectors in F32 can be rescaled"):
            f32_values(opened, up)
