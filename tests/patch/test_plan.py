"""From model and map to the whole output: legality, metadata, names, order, sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf import (
    LayerMap,
    Model,
    Refused,
    Schedule,
    default_output,
    find_problems,
    make_plan,
    write_plan,
)
from rys_gguf.files.source import SourceFile
from rys_gguf.layers.carry import metadata_of
from rys_gguf.patch.memory import layer_memory
from tests import tiny
from tests.cli.calls import done, refused
from tests.disk import finish
from tests.headers import kv_of

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma3", "qwen35", "qwen35moe", "qwen3next"]
HYBRIDS = ["qwen35", "qwen35moe", "qwen3next"]


def patched(source: Path, spec: str, out: Path, **options: Any) -> Path:
    """Write what `spec` makes of `source`."""
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse(spec, model.n_trunk), **options), out)
    return out


def contents(path: Path, *, without: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """KVs and tensors of a file as stock gguf reads them, whatever their order."""
    reader = gguf.GGUFReader(path)
    kvs = {
        f.name: (f.types, f.contents())
        for f in reader.fields.values()
        if not f.name.startswith(("GGUF.", *without))
    }
    return kvs, {t.name: (t.tensor_type, t.data.tobytes()) for t in reader.tensors}


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@pytest.mark.parametrize(
    ("arch", "n_mtp"), [*((arch, 0) for arch in ARCHITECTURES), *((arch, 1) for arch in HYBRIDS)]
)
def test_the_output_is_the_model_one_would_have_built(
    tmp_path: Path, arch: str, n_mtp: int
) -> None:
    """A patched file holds the KVs and tensors of a file written from the repeated layers."""
    options: dict[str, Any] = {"recurrent_layers": True} if arch in HYBRIDS else {}
    n, spec = (12, "blocks:4,8") if arch in HYBRIDS else (12, "blocks:2,8")
    source = tiny.write(tmp_path / "source.gguf", arch, n, n_mtp=n_mtp, **options)
    out = patched(source, spec, tmp_path / "out.gguf", provenance=False)
    layer_map = LayerMap.parse(spec, n)
    direct = tiny.write(
        tmp_path / "direct.gguf", arch, n, sources=layer_map.sources, n_mtp=n_mtp, **options
    )
    kvs, tensors = contents(out)
    want_kvs, want_tensors = contents(direct)
    assert tensors == want_tensors
    name = kvs.pop("general.name", None)
    assert name == want_kvs.pop("general.name", None)
    assert kvs == want_kvs


# The rule of the hybrids on their published sizes: window, legal portably, layers after.
INTERVAL_CASES = [
    (24, "blocks:8,12", True, 28),
    (24, "blocks:7,11", True, 28),
    (24, "blocks:8,16", True, 32),
    (24, "blocks:8,11", False, 27),
    (24, "blocks:0,1", False, 25),
    (24, "blocks:23,24", False, 25),
    (64, "blocks:15,20", False, 69),
    (64, "blocks:16,20", True, 68),
    (64, "blocks:11,15", True, 68),
]


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@pytest.mark.parametrize("recurrent_layers", [False, True])
@pytest.mark.parametrize("n_mtp", [0, 1])
@pytest.mark.parametrize(("n", "spec", "legal", "n_out"), INTERVAL_CASES)
def test_the_interval_decides_which_windows_are_portable(
    tmp_path: Path, n: int, spec: str, legal: bool, n_out: int, n_mtp: int, recurrent_layers: bool
) -> None:
    """With full_attention_interval 4 a window is legal if every output keeps its source's kind."""
    source = tiny.write(
        tmp_path / "m.gguf", "qwen35", n, n_mtp=n_mtp, recurrent_layers=recurrent_layers
    )
    with Model(source) as model:
        layer_map = LayerMap.parse(spec, n)
        assert len(layer_map) == n_out
        if legal:
            plan = make_plan(model, layer_map)
            array = plan.header.get("qwen35.attention.recurrent_layers")
            assert (array is not None) == recurrent_layers
        else:
            with pytest.raises(Refused, match="schedule portable"):
                make_plan(model, layer_map)
            plan = make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
            array = plan.header.get("qwen35.attention.recurrent_layers")
        assert kv_of(plan.header, "qwen35.block_count").value == n_out + n_mtp
        if array is not None:
            assert array.item_type == gguf.GGUFValueType.BOOL
            assert array.value == [(s + 1) % 4 != 0 for s in layer_map.sources] + [False] * n_mtp


def test_the_refusal_names_layer_source_kinds_and_legal_windows(tmp_path: Path) -> None:
    """15,20 on 64 layers: output 20 is source 15, full attention, in a linear layer's place."""
    source = tiny.write(tmp_path / "m.gguf", "qwen35", 64)
    message = refused("plan", source, "--blocks", "15,20")
    assert "output 20 would run as linear attention" in message
    assert "source 15, full attention" in message
    assert "69 layers are not divisible by full_attention_interval 4" in message
    assert "blocks:15,19" in message
    assert "blocks:16,20" in message
    assert "--schedule explicit" in message


def test_gemma3_is_refused_by_its_engines_period(gemma3: Path) -> None:
    """The real Gemma 3 has no key for its period; the refusal says where it comes from."""
    message = refused("plan", gemma3, "--blocks", "5,8")
    assert "every 6" in message
    assert "blocks:2,8" in message
    done("plan", gemma3, "--blocks", "6,12")


def test_an_explicit_gemma3_lists_its_sliding_layers(gemma3: Path) -> None:
    """BOOL, one entry per layer, true = sliding, gathered by the map."""
    with Model(gemma3) as model:
        layer_map = LayerMap.parse("blocks:5,8", 18)
        plan = make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
    array = kv_of(plan.header, "gemma3.attention.sliding_window_pattern")
    assert array.item_type == gguf.GGUFValueType.BOOL
    assert array.value == [s % 6 != 5 for s in layer_map.sources]
    assert any("older engines" in note for note in plan.notes)


def test_an_architecture_without_rules_is_refused(tmp_path: Path) -> None:
    """The message says that a guess would load and compute something else."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "newarch")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.x.weight", np.zeros(4, np.float32))
    finish(writer)
    assert "'newarch' is not in the table" in refused("plan", path, "--blocks", "0,1")


def test_every_per_layer_array_is_gathered_and_others_stay(tmp_path: Path) -> None:
    """new[out] = old[map[out]] for arrays of one value per block, which other arrays are not."""
    source = tiny.write(
        tmp_path / "m.gguf",
        "llama",
        4,
        extra={
            "llama.attention.head_count": [2, 2, 2, 2],
            "llama.something.new": [10, 11, 12, 13],
            "llama.rope.dimension_sections": [1, 2, 3, 4],
            "other.list": [1, 2, 3, 4],
        },
    )
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
    assert kv_of(plan.header, "llama.something.new").value == [10, 11, 12, 11, 12, 13]
    assert kv_of(plan.header, "llama.attention.head_count").n_items == 6
    assert kv_of(plan.header, "llama.rope.dimension_sections").value == [1, 2, 3, 4]
    assert kv_of(plan.header, "other.list").value == [1, 2, 3, 4]


def test_a_per_layer_array_of_another_length_is_refused(tmp_path: Path) -> None:
    """A source that is inconsistent is refused."""
    source = tiny.write(
        tmp_path / "m.gguf", "llama", 4, extra={"llama.attention.head_count_kv": [1, 1, 1]}
    )
    assert "3 entries for 4 blocks" in refused("plan", source, "--blocks", "1,3")


def test_a_layers_tensors_stay_together_in_file_order(smollm2: Path) -> None:
    """Each group of one layer is followed by its copies; the source's order is kept otherwise."""
    with Model(smollm2) as model:
        plan = make_plan(model, LayerMap.parse("blocks:10,14", 30))
        order = [t.name for t in model.header.tensors]
        sources = [t.source.name for t in plan.tensors if t.source]
    assert list(dict.fromkeys(sources)) == order
    layers = [m.target.name.split(".")[1] for m in plan.tensors if m.target.name.startswith("blk.")]
    changes = [a for a, b in zip(layers, [*layers[1:], None], strict=True) if a != b]
    assert len(changes) == len(set(changes)) == 34


def test_offsets_follow_llama_cpps_rule(smollm2: Path) -> None:
    """Every offset is the running sum of padded sizes, in table order."""
    with Model(smollm2) as model:
        assert make_plan(model, LayerMap.parse("blocks:10,14", 30)).header.offset_issues() == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen3.5-2B-UD-Q4_K_XL.gguf", "Qwen3.5-2B-rys_1-2-UD-Q4_K_XL.gguf"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct-rys_1-2.Q4_1.gguf"),
        ("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m-rys_1-2-q4_k_m.gguf"),
        ("model.i1-IQ3_XXS.gguf", "model-rys_1-2.i1-IQ3_XXS.gguf"),
        ("model-BF16.gguf", "model-rys_1-2-BF16.gguf"),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b-rys_1-2-MXFP4.gguf"),
        ("plain.gguf", "plain-rys_1-2.gguf"),
        ("no-extension", "no-extension-rys_1-2"),
    ],
)
def test_the_default_name_puts_the_map_before_the_quantisation(
    tmp_path: Path, name: str, expected: str
) -> None:
    """As published RYS files are named."""
    source = tiny.write(tmp_path / name, "llama", 4)
    with Model(source) as model:
        assert default_output(model, LayerMap.parse("blocks:1,3", 4)) == tmp_path / expected


def test_the_default_name_of_a_variants_variant_has_one_label(tmp_path: Path) -> None:
    """That of the whole map, like its general.name; a variant that was renamed keeps its name."""
    source = tiny.write(tmp_path / "m-BF16.gguf", "llama", 4)
    second = LayerMap.parse("blocks:0,1", 6)
    for name, expected in (
        ("m-rys_1-2-BF16.gguf", "m-rys_0-0_1-2-BF16.gguf"),
        ("mine-BF16.gguf", "mine-rys_0-0-BF16.gguf"),
    ):
        first = patched(source, "blocks:1,3", tmp_path / name)
        with Model(first) as model:
            assert default_output(model, second) == tmp_path / expected


def test_both_notations_write_the_same_bytes(smollm2: Path, tmp_path: Path) -> None:
    """blocks:10,14 and the equivalent path give the same file: 34 layers, 308 tensors."""
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    done("apply", smollm2, "--blocks", "10,14", "-o", a)
    done("apply", smollm2, "--layers", "0..13,10..13,14..29", "-o", b)
    assert a.read_bytes() == b.read_bytes()
    with Model(a) as model:
        assert len(model.header.tensors) == 308
        assert kv_of(model.header, "llama.block_count").value == 34


def test_provenance_says_map_and_source_or_nothing(tmp_path: Path) -> None:
    """rys.* and the marked name are written by default, and left out without provenance."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4, extra={"general.name": "Tiny"})
    first = patched(source, "blocks:1,3", tmp_path / "first.gguf")
    kvs = {f.name: f.contents() for f in gguf.GGUFReader(first).fields.values()}
    assert kvs["rys.spec"] == "blocks:1,3"
    assert kvs["rys.layer_map"] == [0, 1, 2, 1, 2, 3]
    assert kvs["rys.source"][:2] == ["m.gguf", str(source.stat().st_size)]
    assert kvs["general.name"] == "Tiny rys_1-2"
    # A variant of a variant leads back to the original; without a record, no stale one stays.
    second = patched(first, "blocks:0,1", tmp_path / "second.gguf")
    assert gguf.GGUFReader(second).fields["rys.spec"].contents() == "blocks:0,1;1,3"
    bare = patched(first, "blocks:0,1", tmp_path / "bare.gguf", provenance=False)
    assert not [k for k in gguf.GGUFReader(bare).fields if k.startswith("rys.")]
    assert find_problems(second, first) == []
    assert find_problems(bare, first, "blocks:0,1") == []


def test_plan_and_dry_run_are_the_same_and_write_nothing(tmp_path: Path) -> None:
    """`apply --dry-run` is `plan`."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    plan = done("plan", source, "--blocks", "0,6", "--full")
    dry = done("apply", source, "--blocks", "0,6", "--full", "--dry-run")
    assert plan.stdout == dry.stdout
    assert "output 6..11 <- source 0..5" in plan.stdout
    assert list(tmp_path.iterdir()) == [source]


def test_the_json_plan_predicts_the_file(tmp_path: Path) -> None:
    """Sizes, map and header changes in JSON agree with the file written afterwards."""
    source = tiny.write(tmp_path / "m.gguf", "qwen3", 4)
    out = tmp_path / "out.gguf"
    plan = json.loads(done("plan", source, "--blocks", "1,3", "--json").stdout)
    done("apply", source, "--blocks", "1,3", "-o", out)
    assert plan["n_bytes"] == [source.stat().st_size, out.stat().st_size]
    assert plan["layer_map"] == [0, 1, 2, 1, 2, 3]
    found = json.loads(done("diff", source, out, "--json").stdout)
    assert found["kvs"] == plan["header"]["kvs"]


def test_plan_reads_no_tensor_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read a plan makes ends before the data section starts."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    reads: list[int] = []
    real = SourceFile.read

    def read(file: SourceFile, offset: int, n: int) -> bytes:
        reads.append(offset + n)
        return real(file, offset, n)

    with Model(source) as model:
        monkeypatch.setattr(SourceFile, "read", read)
        make_plan(model, LayerMap.parse("blocks:1,3", 4))
        assert max(reads) <= model.header.data_offset


def test_memory_counts_kv_and_recurrent_state_by_kind(tmp_path: Path) -> None:
    """A full layer costs K and V per token, a linear one a fixed state."""
    with Model(tiny.write(tmp_path / "m.gguf", "qwen35", 8)) as model:
        meta = metadata_of(model)
        linear, full = layer_memory(model, meta, 0), layer_memory(model, meta, 3)
        heads = meta.scalar("attention.head_count_kv")
        width = meta.scalar("attention.key_length") + meta.scalar("attention.value_length")
    assert linear.state > 0
    assert linear.kv_per_token == 0
    assert full.state == 0
    assert full.kv_per_token == 2 * heads * width


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_map_of_a_uniform_model_gives_the_map(data: st.DataObject, tmp_path: Path) -> None:
    """Output layer i equals source layer map[i] byte for byte, whatever the map."""
    source = tmp_path / "m.gguf"
    if not source.exists():
        tiny.write(source, "llama", 5)
    sources = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    layer_map = LayerMap(5, tuple(sources))
    out = tmp_path / "out.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), out, force=True)
    _, before = contents(source)
    _, after = contents(out)
    names = {name.split(".", 2)[2] for name in before if name.startswith("blk.0.")}
    for i, s in enumerate(sources):
        for name in names:
            assert after[f"blk.{i}.{name}"] == before[f"blk.{s}.{name}"]
    assert sum(name.startswith("blk.") for name in after) == len(sources) * len(names)
    assert find_problems(out, source) == []


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_either_byte_order_is_written_as_it_was_read(
    tmp_path: Path, endian: gguf.GGUFEndian
) -> None:
    """New values are in the file's own byte order, and its data is not touched."""
    source = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(source), "llama", endianess=endian)
    writer.add_block_count(3)
    writer.add_array("llama.attention.head_count", [4, 4, 4])
    for n in range(3):
        writer.add_tensor(f"blk.{n}.ffn_up.weight", np.full(32, n, np.float32))
    finish(writer)
    out = patched(source, "blocks:1,2", tmp_path / "out.gguf")
    reader = gguf.GGUFReader(out)
    assert reader.endianess == endian
    assert reader.fields["llama.block_count"].contents() == 4
    assert reader.fields["llama.attention.head_count"].contents() == [4, 4, 4, 4]
    values = {t.name: float(t.data[0]) for t in reader.tensors}
    assert [values[f"blk.{n}.ffn_up.weight"] for n in range(4)] == [0, 1, 1, 2]
    assert find_problems(out, source) == []


def test_bytes_after_the_tensors_of_shards_are_left_out_and_noted(tmp_path: Path) -> None:
    """They have no place in the output, but the user hears of them."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    layer_map = LayerMap.parse("blocks:1,3", 4)
    with Model(source) as model:
        whole = make_plan(model, layer_map)
        shards = write_plan(whole, tmp_path / "s.gguf", split_max_bytes=60_000).paths
    for shard in shards[:2]:
        with shard.open("ab") as file:
            file.write(b"seven b")
    with Model(shards[0]) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 6))
        write_plan(plan, tmp_path / "out.gguf")
        assert plan.notes == ("14 bytes after the last tensors of the shards are left out",)
    assert find_problems(tmp_path / "out.gguf", shards[0]) == []


def test_bytes_after_the_last_tensor_are_kept_and_noted(tmp_path: Path) -> None:
    """llama.cpp ignores them, but another program may not."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    with source.open("ab") as file:
        file.write(b"signature")
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        write_plan(plan, tmp_path / "out.gguf")
        rules = plan.rules
        assert make_plan(model, plan.layer_map, rules=rules).rules is rules
        *others, last = write_plan(plan, tmp_path / "s.gguf", split_max_bytes=2100).paths
    (note,) = plan.notes
    assert note.startswith("9 bytes after the last tensor are kept at the end of a single file")
    assert (tmp_path / "out.gguf").read_bytes().endswith(b"signature")
    assert (tmp_path / "out.gguf").stat().st_size == plan.n_bytes
    assert note.endswith("shards leave them out")
    assert not last.read_bytes().endswith(b"signature")
    assert find_problems(others[0], source) == []
