"""What belongs to a model follows the map of a variant, and nothing of another model does."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf import InvalidGGUF, LayerMap, Model, OutputFailed, Refused, RysError, apply
from rys_gguf.patch.companion import Companion, companions_beside
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.patch.remap import Variant
from tests import tiny
from tests.companions import (
    Importance,
    make_adapter,
    make_importance,
    merge_adapter,
    old_entry,
    overwrite,
    read_imatrix,
    read_old_imatrix,
    write_adapter,
    write_control_vector,
    write_drafter,
    write_imatrix,
    write_old_imatrix,
)
from tests.direct import DirectEngine
from tests.disk import digest, finish
from tests.engine_library import engine_library

N = 6
BLOCKS = "blocks:2,4"
PROMPT = (1, 50, 60, 70, 81, *range(90, 100))
WRITERS = ("attn_output.weight", "ffn_down.weight", "ffn_up.weight")


@pytest.fixture(scope="module")
def engine() -> Iterator[DirectEngine]:
    """One process for all models of this module."""
    with DirectEngine() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny llama in F32."""
    return tiny.write(tmp_path / "m.gguf", "llama", N)


@contextlib.contextmanager
def variant_of(path: Path, source: Path | None = None) -> Iterator[Variant]:
    """The variant at `path`, with the map that it records."""
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(Model(path))
        base = None if source is None else stack.enter_context(Model(source))
        yield Variant(model, resolve_layer_map(model, base), base)


def remapped(file: Path, variant: Path, source: Path | None = None) -> Path:
    """The companion written for the variant."""
    with variant_of(variant, source) as target, Companion(file, target) as companion:
        path = companion.default_output
        companion.write(path)
    return path


def made(source: Path, spec: str, *, damp: float = 1.0) -> Path:
    """A variant beside its source."""
    return apply(source, spec, source.with_name("v.gguf"), damp=damp).paths[0]


def assert_alike(found: Any, expected: Any, without: Any) -> None:
    """Logits are the expected ones but for rounding, and far from those without the companion.

    An adapter is added to products, and merged into weights: what is kept in F16 between layers
    rounds to another neighbour here and there.
    """
    effect = np.abs(expected - without).max()
    assert effect > 0.5
    assert np.abs(found - expected).max() < effect / 50


# -- LoRA adapters in the engine -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "options", "spec"),
    [
        ("llama", {}, BLOCKS),
        ("llama", {}, "layers:0..3,1..1,4..5"),
        ("llama", {}, "layers:0,2..5"),
        ("qwen3moe", {}, "blocks:1,3;4,5"),
        ("qwen35", {"n_mtp": 1, "recurrent_layers": True}, "blocks:0,4"),
    ],
)
def test_an_adapter_does_what_merging_first_and_copying_then_does(
    tmp_path: Path, engine: DirectEngine, arch: str, options: dict[str, Any], spec: str
) -> None:
    """The logits are those of a variant of the merged model, and far from those without."""
    n = 8 if arch == "qwen35" else N
    source = tiny.write(tmp_path / "m.gguf", arch, n, **options)
    adapter = make_adapter(source, *WRITERS, "ffn_down_exps.weight", "attn_q.weight")
    lora = write_adapter(tmp_path / "a.gguf", adapter, arch)
    out = made(source, spec)
    plain = engine.logits(out, PROMPT)
    found = engine.logits(out, PROMPT, lora=remapped(lora, out))
    merge_adapter(source, adapter)
    out.unlink()
    assert_alike(found, engine.logits(made(source, spec), PROMPT), plain)


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("type_", ["F32", "F16"])
def test_a_damped_layer_damps_its_adapter(
    tmp_path: Path, engine: DirectEngine, arch: str, type_: str
) -> None:
    """llama.cpp adds an adapter behind the scale of a damped weight, but before a damped norm."""
    source = tiny.write(tmp_path / "m.gguf", arch, 12)
    adapter = make_adapter(source, *WRITERS)
    quantized = gguf.GGMLQuantizationType[type_]
    lora = write_adapter(tmp_path / "a.gguf", adapter, arch, quantized)
    spec = "blocks:1,7"
    out = made(source, spec, damp=0.5)
    without = engine.logits(out, PROMPT)
    found = engine.logits(out, PROMPT, lora=remapped(lora, out, source))
    if arch == "llama":
        with pytest.raises(Refused, match=r"attn_output.scale' multiplies .* with --source"):
            remapped(lora, out)
    read = {t.name: t.data for t in gguf.GGUFReader(lora).tensors}
    rounded = {
        name: (a, np.array(read[f"{name}.lora_b"], np.float32)) for name, (a, _) in adapter.items()
    }
    merge_adapter(source, rounded)
    out.unlink()
    assert_alike(found, engine.logits(made(source, spec, damp=0.5), PROMPT), without)


# -- control vectors in the engine ---------------------------------------------------------------


def directions(n: int) -> dict[int, Any]:
    """A direction for each layer that can have one, but for one layer."""
    rng = np.random.default_rng(1)
    found = {k: rng.standard_normal(tiny.N_EMBD, dtype=np.float32) for k in range(1, n)}
    del found[n // 2]
    return found


@pytest.mark.parametrize("damp", [1.0, 0.5])
@pytest.mark.parametrize("spec", [BLOCKS, "blocks:0,6", "layers:0,3,2,1,4,5"])
def test_a_control_vector_is_added_behind_every_copy(
    tmp_path: Path,
    engine: DirectEngine,
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    damp: float,
) -> None:
    """It does what the same numbers do as biases of the layers that are copied."""
    if damp != 1 and "layers" in spec:
        pytest.skip("this path repeats no layer")
    plain = tiny.ARCHITECTURES["llama"]
    biased = tiny.Arch(
        plain.keys,
        lambda build, n: plain.layer(build, n) | {"ffn_down.bias": (tiny.N_EMBD,)},
        plain.globals,
    )
    monkeypatch.setitem(tiny.ARCHITECTURES, "llama", biased)
    source = tiny.write(tmp_path / "m.gguf", "llama", N)
    biases = [f"blk.{n}.ffn_down.bias" for n in range(N)]
    overwrite(source, dict.fromkeys(biases, np.zeros(tiny.N_EMBD, np.float32)))
    vector = write_control_vector(tmp_path / "c.gguf", directions(N))
    out = made(source, spec, damp=damp)
    plain_logits = engine.logits(out, PROMPT)
    steered = remapped(vector, out)
    found = engine.logits(out, PROMPT, control_vector=steered)
    count = gguf.GGUFReader(steered).fields["controlvector.layer_count"].contents()
    assert count == len(gguf.GGUFReader(steered).tensors)
    overwrite(source, {biases[n]: values for n, values in directions(N).items()})
    out.unlink()
    assert_alike(found, engine.logits(made(source, spec, damp=damp), PROMPT), plain_logits)


# -- importance matrices -------------------------------------------------------------------------


def expected_importance(importance: Importance, layer_map: LayerMap, n_mtp: int = 0) -> Importance:
    """What each output layer's weights were measured as, worked out without the package."""
    found = {}
    blocks = [*enumerate(layer_map.sources)]
    blocks += [(len(layer_map) + k, layer_map.n_source + k) for k in range(n_mtp)]
    for out, of in blocks:
        for name, value in importance.items():
            _, number, rest = name.split(".", 2)
            if int(number) == of:
                found[f"blk.{out}.{rest}"] = value
    return found


@pytest.mark.parametrize(
    ("arch", "n_mtp", "spec"),
    [
        ("llama", 0, BLOCKS),
        ("llama", 0, "layers:0,3..5,3..5,1"),
        ("qwen3moe", 0, "blocks:1,3;4,5"),
        ("qwen35", 2, "blocks:0,4"),
    ],
)
def test_each_output_layer_has_the_values_of_its_source(
    tmp_path: Path, arch: str, n_mtp: int, spec: str
) -> None:
    """Sums and counts are those of the source layer in both formats, and nothing else changes."""
    n = 8 if n_mtp else N
    source = tiny.write(tmp_path / "m.gguf", arch, n, n_mtp=n_mtp)
    importance = make_importance(source)
    out = made(source, spec)
    expected = expected_importance(importance, LayerMap.parse(spec, n), n_mtp)
    new = read_imatrix(
        remapped(write_imatrix(tmp_path / "i.gguf", importance, statistics=True), out)
    )
    assert new.keys() == expected.keys()
    for name, (sums, counts) in expected.items():
        assert np.array_equal(new[name][0], sums)
        assert np.array_equal(new[name][1], counts)
    for tail in (True, False):
        old = write_old_imatrix(tmp_path / f"{tail}.dat", importance, tail=tail)
        by_layer = read_old_imatrix(old)
        moved = remapped(old, out)
        assert read_old_imatrix(moved) == {
            name: by_layer[of]
            for name in expected
            for of in importance
            if importance[of] is expected[name]
        }
        assert moved.read_bytes().endswith(b"wiki.train.raw") == tail


def quantized(ggml: ctypes.CDLL, type_: gguf.GGMLQuantizationType, data: Any, entry: Any) -> bytes:
    """A matrix as llama-quantize makes it with an entry of an importance matrix.

    Source: load_imatrix in tools/quantize/quantize.cpp, llama_tensor_quantize_impl in
    src/llama-quant.cpp (b11549).
    """
    sums, counts = entry
    weights = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32)
    floats = ctypes.POINTER(ctypes.c_float)
    raw = b""
    matrices = np.ascontiguousarray(data, np.float32).reshape(len(weights), -1, data.shape[-1])
    for matrix, weight in zip(matrices, weights, strict=True):
        n_weights, n_bytes = gguf.GGML_QUANT_SIZES[type_]
        room = ctypes.create_string_buffer(matrix.size // n_weights * n_bytes)
        ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        size = ggml.ggml_quantize_chunk(
            int(type_), matrix.ctypes.data_as(floats), room, ctypes.c_int64(0),
            ctypes.c_int64(len(matrix)), ctypes.c_int64(matrix.shape[1]),
            weight.ctypes.data_as(floats),
        )  # fmt: skip
        assert size == len(room)
        raw += room.raw
    return raw


@pytest.mark.parametrize("arch", ["llama", "qwen3moe"])
def test_llama_cpp_quantizes_each_layer_as_its_source(tmp_path: Path, arch: str) -> None:
    """With the remapped matrix every layer of the variant gets the bytes that its source gets."""
    ggml = engine_library()
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    importance = make_importance(source)
    out = made(source, BLOCKS)
    moved = read_imatrix(remapped(write_imatrix(tmp_path / "i.gguf", importance), out))
    type_ = gguf.GGMLQuantizationType.IQ4_NL
    old = {t.name: t.data for t in gguf.GGUFReader(source).tensors}
    new = {t.name: t.data for t in gguf.GGUFReader(out).tensors}
    layer_map = LayerMap.parse(BLOCKS, N)
    assert len(moved) == len(layer_map) * len(importance) // N
    differ = 0
    for name, entry in moved.items():
        _, block, rest = name.split(".", 2)
        of = f"blk.{layer_map[int(block)]}.{rest}"
        expected = quantized(ggml, type_, old[of], importance[of])
        assert quantized(ggml, type_, new[name], entry) == expected
        other = importance.get(f"blk.{(layer_map[int(block)] + 1) % N}.{rest}")
        differ += other is not None and quantized(ggml, type_, old[of], other) != expected
    assert differ > len(moved) // 2


def test_keys_are_kept_and_the_map_is_recorded(source: Path, tmp_path: Path) -> None:
    """Numbers of chunks and names of data sets stay; a second remapping is refused."""
    out = made(source, BLOCKS)
    path = write_imatrix(tmp_path / "i.gguf", make_importance(source), statistics=True)
    moved = remapped(path, out)
    fields = gguf.GGUFReader(moved).fields
    assert fields["imatrix.chunk_count"].contents() == 100
    assert fields["imatrix.chunk_size"].contents() == 512
    assert fields["imatrix.datasets"].contents() == ["wiki.train.raw"]
    assert fields["rys.remapped"].contents() == BLOCKS
    # What compares a layer with the one before it no longer holds.
    assert "imatrix.stats_schema" not in fields
    assert not any(t.name.endswith(".stats") for t in gguf.GGUFReader(moved).tensors)
    with pytest.raises(Refused, match=r"i-rys_2-3\.gguf: was remapped before, by 'blocks:2,4'"):
        remapped(moved, out)


# -- draft models --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "layers", "expected"),
    [
        ("blocks:2,4", [0, 2, 5], [0, 2, 7]),  # the input of the first pass of layer 2
        ("blocks:2,4", [3, 4, 6], [5, 6, 8]),  # behind the last pass of layers 2, 3 and 5
        ("layers:0..5,0..5", [1, 6], [7, 12]),
        ("layers:0,2..5", [1, 3], [1, 2]),
    ],
)
@pytest.mark.parametrize("arch", ["eagle3", "dflash"])
def test_a_drafter_reads_the_last_pass(
    source: Path, tmp_path: Path, arch: str, spec: str, layers: list[int], expected: list[int]
) -> None:
    """Nothing but target_layers changes."""
    path = write_drafter(tmp_path / "d.gguf", layers, tiny.N_EMBD, arch)
    moved = remapped(path, made(source, spec))
    before, after = gguf.GGUFReader(path), gguf.GGUFReader(moved)
    assert after.fields[f"{arch}.target_layers"].contents() == expected
    assert [t.name for t in after.tensors] == ["fc.weight"]
    assert np.array_equal(after.tensors[0].data, before.tensors[0].data)


# -- refusals ------------------------------------------------------------------------------------


def test_what_names_no_layer_fits_as_it_is(source: Path, tmp_path: Path) -> None:
    """A projector is said to fit; an ordinary draft model is refused with the same message."""
    writer = gguf.GGUFWriter(str(tmp_path / "mmproj.gguf"), "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_tensor("v.patch_embd.weight", np.zeros(4, np.float32))
    finish(writer)
    out = made(source, BLOCKS)
    with variant_of(out) as target, Companion(tmp_path / "mmproj.gguf", target) as companion:
        assert companion.fits == "a multimodal projector knows no layer of the language model"
    with pytest.raises(Refused, match=r"m\.gguf: is a model of its own"):
        remapped(source, out)


def small(n: int = tiny.N_EMBD) -> Any:
    """A vector."""
    return np.ones(n, np.float32)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "lora of another architecture": (
        lambda p: write_adapter(p, {"blk.0.attn_q.weight": (_ones(2, 32), _ones(32, 2))}, "qwen2"),
        "is for the architecture 'qwen2', v.gguf is 'llama'",
    ),
    "lora of a longer model": (
        lambda p: write_adapter(p, {"blk.6.attn_q.weight": (_ones(2, 32), _ones(32, 2))}),
        "'blk.6.attn_q.weight' is of block 6, the source of v.gguf has 6 layers",
    ),
    "lora of a wider model": (
        lambda p: write_adapter(p, {"blk.0.attn_q.weight": (_ones(2, 64), _ones(32, 2))}),
        r"'blk.0.attn_q.weight' of shape \[64, 32\], that of v.gguf has shape \[32, 32\]",
    ),
    "lora of another weight": (
        lambda p: write_adapter(p, {"blk.0.attn_x.weight": (_ones(2, 32), _ones(32, 2))}),
        "changes 'blk.0.attn_x.weight', which v.gguf does not have",
    ),
    "lora of something else": (
        lambda p: _tensors(p, gguf.GGUFType.ADAPTER, "blk.0.attn_q.weight.lora_c"),
        "tensor 'blk.0.attn_q.weight.lora_c' is neither lora_a nor lora_b",
    ),
    "lora with half a pair": (
        lambda p: _tensors(p, gguf.GGUFType.ADAPTER, "blk.0.attn_q.weight.lora_a"),
        "has only one of the two tensors for 'blk.0.attn_q.weight'",
    ),
    "control vector of a longer model": (
        lambda p: write_control_vector(p, {6: small()}),
        r"has 'direction.6'; the source of v.gguf has layers 0..5",
    ),
    "control vector of a wider model": (
        lambda p: write_control_vector(p, {1: small(64)}),
        r"'direction.1' is F32 of shape \[64\], v.gguf takes F32 of shape \[32\]",
    ),
    "control vector for layer 0": (
        lambda p: write_control_vector(p, {0: small()}),
        "'direction.0': expected direction.<number from 1>",
    ),
    "drafter of a longer model": (
        lambda p: write_drafter(p, [1, 2, 7], tiny.N_EMBD),
        r"eagle3.target_layers names layer 7, the source of v.gguf has layers 0..5",
    ),
    "drafter of a wider model": (
        lambda p: write_drafter(p, [1, 2, 3], 64),
        "eagle3.target_hidden_size is 64, v.gguf has embeddings of 32",
    ),
    "imatrix of a longer model": (
        lambda p: write_imatrix(p, {"blk.6.attn_q.weight": (_ones(1, 32), _ones(1, 1))}),
        "'blk.6.attn_q.weight' is of block 6",
    ),
    "imatrix of a wider model": (
        lambda p: write_imatrix(p, {"blk.0.attn_q.weight": (_ones(1, 64), _ones(1, 1))}),
        "has 64 values for 'blk.0.attn_q.weight', that of v.gguf takes 32",
    ),
    "imatrix of other weights": (
        lambda p: write_imatrix(p, {"blk.0.attn_x.weight": (_ones(1, 32), _ones(1, 1))}),
        "is of weights such as 'blk.0.attn_x.weight', none of which v.gguf has",
    ),
    "imatrix of something else": (
        lambda p: _tensors(p, "imatrix", "blk.0.attn_q.weight.sums"),
        "tensor 'blk.0.attn_q.weight.sums' is no sum and no count",
    ),
    "imatrix without counts": (
        lambda p: _tensors(p, "imatrix", "blk.0.attn_q.weight.in_sum2"),
        "has 'blk.0.attn_q.weight.in_sum2', but no 'blk.0.attn_q.weight.counts'",
    ),
    "imatrix without sums": (
        lambda p: _tensors(p, "imatrix", "blk.0.attn_q.weight.counts"),
        "has 'blk.0.attn_q.weight.counts', but no 'blk.0.attn_q.weight.in_sum2'",
    ),
    "imatrix in F16": (
        lambda p: _tensors(p, "imatrix", "blk.0.attn_q.weight.in_sum2", np.float16),
        "tensor 'blk.0.attn_q.weight.in_sum2' is F16, expected F32",
    ),
    "old imatrix of a wider model": (
        lambda p: write_old_imatrix(p, {"blk.0.attn_q.weight": (_ones(1, 64), _ones(1, 1))}),
        "has 64 values for 'blk.0.attn_q.weight'",
    ),
    "empty control vector": (
        lambda p: write_control_vector(p, {}),
        "has nothing for the layers of v.gguf",
    ),
}


def _ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def _tensors(path: Path, type_: str, name: str, kind: type = np.float32) -> Path:
    """A file of that general.type with one tensor."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type(type_)
    writer.add_tensor(name, np.ones((2, tiny.N_EMBD), kind))
    finish(writer)
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_another_model_is_refused(source: Path, tmp_path: Path, case: str) -> None:
    """The message names the file, what is wrong in it, and the variant."""
    write, message = BAD[case]
    path = write(tmp_path / "x.gguf")
    with pytest.raises(Refused, match=rf"^x\.gguf: .*{message}"):
        remapped(path, made(source, BLOCKS))
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf", "v.gguf", "x.gguf"}


def test_what_has_no_place_in_the_variant_is_refused(source: Path, tmp_path: Path) -> None:
    """llama.cpp has no direction for the first layer; no drafter reads a layer that is gone."""
    out = made(source, "layers:1..5")
    vector = write_control_vector(tmp_path / "c.gguf", {1: small()})
    with pytest.raises(Refused, match=r"source layer 1, which is the first in v\.gguf"):
        remapped(vector, out)
    drafter = write_drafter(tmp_path / "d.gguf", [1, 2, 3], tiny.N_EMBD)
    with pytest.raises(Refused, match=r"the output of layer 0, which v\.gguf leaves out"):
        remapped(drafter, out)


def test_a_weight_that_the_variant_lacks_is_a_note(source: Path, tmp_path: Path) -> None:
    """Matrices are often measured on a conversion with a few other tensors."""
    importance = {**make_importance(source), "blk.0.attn_kv_b.weight": (_ones(1, 8), _ones(1, 1))}
    path = write_imatrix(tmp_path / "i.gguf", importance)
    with variant_of(made(source, BLOCKS)) as target, Companion(path, target) as companion:
        assert companion.notes == (
            "'blk.0.attn_kv_b.weight': no such weight in v.gguf; llama-quantize skips it",
        )


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    """Not the output of an earlier call without `force`, and the file itself never."""
    out = made(source, BLOCKS)
    for path in (
        write_imatrix(tmp_path / "i.gguf", make_importance(source)),
        write_old_imatrix(tmp_path / "i.dat", make_importance(source)),
    ):
        before = digest(path)
        moved = remapped(path, out)
        with pytest.raises(OutputFailed, match="exists already"):
            remapped(path, out)
        with variant_of(out) as target, Companion(path, target) as companion:
            companion.write(moved, force=True)
            with pytest.raises(OutputFailed, match="is the source"):
                companion.write(path, force=True)
        assert digest(path) == before


# -- damaged and hostile files -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it ends at byte 0"),
        (b"\0\0\0\0", "0 entries at byte 0"),
        (b"\xff\xff\xff\x7f", "2147483647 entries at byte 0"),
        (b"\1\0\0\0\xff\xff\xff\xff", "-1 bytes of a name at byte 4"),
        (b"\1\0\0\0\4\0\0\0blk", "it ends at byte 11"),
        (b"\1\0\0\0\1\0\0\0x\1\0\0\0\xff\xff\xff\x7f", "it ends at byte 17"),
        (b"\1\0\0\0" + old_entry(b"x", small(4))[:-1], "4 values at byte 13, expected 1 to 3"),
        (b"\2\0\0\0" + 2 * old_entry(b"x", small(4)), "'x' appears twice"),
        (b"\1\0\0\0" + old_entry(b"x", small(4)) + b"12345", "it ends at byte 38"),
        (b"\1\0\0\0" + old_entry(b"x", small(4)) + bytes(9), "9 bytes follow its 1 entries"),
    ],
)
def test_a_damaged_old_matrix_is_invalid(
    source: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    """Every count is compared with the file before it is used."""
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(InvalidGGUF, match=rf"^i\.dat: neither GGUF nor .*: {message}"):
        remapped(tmp_path / "i.dat", made(source, BLOCKS))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file with bytes changed or cut off is remapped or refused, and nothing else happens."""
    folder = tmp_path_factory.getbasetemp() / "damage"
    if not folder.exists():
        folder.mkdir()
        source = tiny.write(folder / "m.gguf", "llama", 3)
        made(source, "blocks:1,2")
        importance = {k: v for k, v in make_importance(source).items() if "attn_q" in k}
        write_imatrix(folder / "1.gguf", importance)
        write_old_imatrix(folder / "2.gguf", importance)
        write_adapter(folder / "3.gguf", make_adapter(source, "attn_q.weight"))
        write_control_vector(folder / "4.gguf", {1: small(), 2: small()})
        write_drafter(folder / "5.gguf", [1, 2], tiny.N_EMBD)
    raw = bytearray((folder / f"{data.draw(st.integers(1, 5))}.gguf").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 600) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(raw)))
    path = folder / "x.gguf"
    path.write_bytes(raw[:cut])
    out = folder / "x-rys_1-1.gguf"
    out.unlink(missing_ok=True)
    with contextlib.suppress(RysError):
        remapped(path, folder / "v.gguf")


# -- beside a model ------------------------------------------------------------------------------


def test_only_what_goes_by_layers_is_named(source: Path, tmp_path: Path) -> None:
    """Adapters of other architectures, other models and what was remapped are passed over."""
    importance = make_importance(source)
    write_imatrix(tmp_path / "a.imatrix", importance)
    write_old_imatrix(tmp_path / "b.dat", importance)
    lora = make_adapter(source, "attn_q.weight")
    write_adapter(tmp_path / "c.gguf", lora)
    write_adapter(tmp_path / "d.gguf", lora, "qwen2")
    write_control_vector(tmp_path / "e.gguf", {1: small()})
    write_drafter(tmp_path / "f.gguf", [1, 2], tiny.N_EMBD)
    (tmp_path / "g.gguf").write_bytes(b"GGUF")
    (tmp_path / "h.dat").write_bytes(b"no matrix")
    (tmp_path / "i.gguf").symlink_to("nowhere")
    out = made(source, BLOCKS)
    remapped(tmp_path / "c.gguf", out)
    with Model(source) as model:
        assert companions_beside(model) == ("a.imatrix", "b.dat", "c.gguf", "e.gguf", "f.gguf")
