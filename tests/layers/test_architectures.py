"""Every architecture class in the real engine: exact where legal, refused where it would differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rys_gguf import LayerMap, Model, Refused, Schedule, find_problems, make_plan, write_plan
from rys_gguf.checks.prove import Proof, prove
from rys_gguf.checks.variant import VariantPair
from rys_gguf.formats.header import KV
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.carry import Carried, ModelRules
from rys_gguf.layers.describe import entry
from rys_gguf.layers.rule import Architecture, Metadata, Rule
from rys_gguf.layers.rules import (
    Anchored,
    BoundToPreceding,
    LayerIndex,
    Leading,
    SharedTail,
    TensorNames,
    TiedTail,
    Unsupported,
)
from scripts.naive import naive_plan
from tests import tiny
from tests.command import fails, run
from tests.disk import finish
from tests.engine import OPTIONS

N = 12

# Architecture, options of the tiny model, windows: legal portably, legal only explicitly, never.
CASES: list[tuple[str, dict[str, Any], list[str], list[str], list[str]]] = [
    ("llama", {}, ["3,5", "0,12"], [], []),
    ("minicpm", {"residual_scale": None}, ["3,5"], [], []),
    ("apertus", {}, ["3,5"], [], []),
    ("smollm3", {}, ["4,8"], [], ["3,5"]),
    ("gemma2", {}, ["4,8"], ["3,6"], []),
    ("gemma3", {}, ["3,9"], ["4,8"], []),
    ("gpt-oss", {}, ["3,5"], ["6,7"], []),
    ("olmo2", {}, ["4,8"], ["3,5"], []),
    ("plamo3", {"window": 8}, ["2,10"], ["3,5"], []),
    ("mellum", {}, ["4,8"], ["3,5"], []),
    ("cohere2", {}, ["4,8"], ["3,5"], []),
    ("llama4", {}, ["4,8"], [], ["3,5"]),
    ("smallthinker", {}, ["4,8"], [], ["3,5"]),
    ("afmoe", {}, ["4,8"], [], ["3,5", "0,4"]),
    ("deepseek2", {}, ["3,5", "0,1", "0,2"], [], ["1,3"]),
    ("jamba", {}, ["3,5"], [], []),
    ("granitehybrid", {}, ["3,5"], [], []),
    ("lfm2", {}, ["3,5"], [], []),
    ("qwen35", {}, ["4,8", "5,9"], ["3,5"], []),
    ("qwen35moe", {}, ["4,8"], ["6,7"], []),
    ("qwen3next", {"recurrent_layers": True}, ["4,8"], ["6,7"], []),
]
LEGAL = [
    (arch, options, window, schedule)
    for arch, options, portable, explicit, _ in CASES
    for schedule, windows in (
        (Schedule.PORTABLE, portable),
        (Schedule.EXPLICIT, [portable[0], *explicit]),
    )
    for window in windows
]
ILLEGAL = [
    (arch, options, window, schedule)
    for arch, options, _, explicit, never in CASES
    for schedule, windows in (
        (Schedule.PORTABLE, [*explicit, *never]),
        (Schedule.EXPLICIT, never),
    )
    for window in windows
]


def proven(source: Path, window: str, out: Path, **options: Any) -> Proof:
    """Write the variant, verify it, and compare it with its source in the engine."""
    with Model(source) as model:
        layer_map = LayerMap.parse(f"blocks:{window}", model.n_trunk)
        write_plan(make_plan(model, layer_map, **options), out)
    assert find_problems(out, source) == []
    return prove(VariantPair(out, source, layer_map), OPTIONS)


@pytest.mark.parametrize(("arch", "options", "window", "schedule"), LEGAL)
def test_what_is_legal_is_exact(
    tmp_path: Path, arch: str, options: dict[str, Any], window: str, schedule: Schedule
) -> None:
    """Copies ablated, then originals ablated: the base's distribution bit for bit."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    proof = proven(source, window, tmp_path / "out.gguf", schedule=schedule)
    assert proof.holds()
    assert {o for r in proof.results for o in r.outputs} == set(
        range(len(proof.results[0].outputs) + len(proof.results[0].ablated))
    )


@pytest.mark.parametrize(("arch", "options", "window", "schedule"), ILLEGAL)
def test_what_would_differ_is_refused(
    tmp_path: Path, arch: str, options: dict[str, Any], window: str, schedule: Schedule
) -> None:
    """Whatever no schedule can say is refused; the portable refusal names what is legal."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    with Model(source) as model:
        layer_map = LayerMap.parse(f"blocks:{window}", N)
        with pytest.raises(Refused, match="nearest legal windows: blocks:"):
            make_plan(model, layer_map, schedule=schedule)


@pytest.mark.parametrize(
    ("arch", "window"),
    [
        ("gemma3", "4,8"),
        ("gpt-oss", "6,7"),
        ("cohere2", "3,5"),
        ("llama4", "3,5"),
        ("smollm3", "3,5"),
    ],
)
def test_the_naive_copy_of_the_refused_loads_and_differs(
    tmp_path: Path, arch: str, window: str
) -> None:
    """Renaming tensors and raising block_count gives another model: that is why it is refused."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    layer_map = LayerMap.parse(f"blocks:{window}", N)
    with Model(source) as model:
        write_plan(naive_plan(model, layer_map), tmp_path / "out.gguf")
    proof = prove(VariantPair(tmp_path / "out.gguf", source, layer_map), OPTIONS)
    assert max(r.max_difference for r in proof.results) > 1e-3


@pytest.mark.parametrize("window", ["2,4", "8,10"])
def test_shared_kv_moves_with_the_window(tmp_path: Path, window: str) -> None:
    """gemma4 with its last layers on shared K/V: the file is what one would have built."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", N, shared_kv_layers=4)
    layer_map = LayerMap.parse(f"blocks:{window}", N)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map, provenance=False), tmp_path / "out.gguf")
    assert find_problems(tmp_path / "out.gguf", source, f"blocks:{window}") == []
    direct = tiny.write(
        tmp_path / "direct.gguf", "gemma4", N, shared_kv_layers=4, sources=layer_map.sources
    )
    ours, built = (gguf.GGUFReader(p) for p in (tmp_path / "out.gguf", direct))
    assert {t.name: t.data.tobytes() for t in ours.tensors} == {
        t.name: t.data.tobytes() for t in built.tensors
    }
    assert ours.fields["gemma4.attention.shared_kv_layers"].contents() == (
        4 if window == "2,4" else 6
    )


def test_a_window_across_the_shared_kv_boundary_is_refused(tmp_path: Path) -> None:
    """No number can say that layers with and without K/V of their own alternate."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", N, shared_kv_layers=4)
    assert "one side of layer 8" in fails("plan", source, "--blocks", "6,10")


@pytest.mark.parametrize(
    ("arch", "n", "window"),
    [("gemma3", 62, "6,12"), ("gemma3", 56, "6,12"), ("gemma2", 46, "4,8"), ("gemma2", 42, "4,8")],
)
def test_a_count_that_changes_the_attention_scale_needs_data_to_undo_it(
    tmp_path: Path, arch: str, n: int, window: str
) -> None:
    """Refused portably; explicit rescales gemma3's Q norm, gives gemma2's Q a scale of its own."""
    source = tiny.write(tmp_path / "m.gguf", arch, n)
    assert "attention scale" in fails("plan", source, "--blocks", window)
    proof = proven(source, window, tmp_path / "out.gguf", schedule=Schedule.EXPLICIT)
    # 60 random layers make much of a last bit; without the repair the difference is above 1.
    assert max(r.max_difference for r in proof.results) < 0.05


@pytest.mark.parametrize(("n", "window"), [(64, "4,8"), (60, "4,8")])
def test_exaone4_across_64_layers_is_refused(tmp_path: Path, n: int, window: str) -> None:
    """Sliding windows exist with exactly 64 layers only; nothing can say so otherwise."""
    source = tiny.write(tmp_path / "m.gguf", "exaone4", n)
    message = fails("plan", source, "--blocks", window, "--schedule", "explicit")
    assert f"{n} -> 64" in message or "64 -> 68" in message
    assert ("no window of this model is legal" in message) == (n == 64)


# -- the rules by themselves ---------------------------------------------------------------------


def meta(n: int, n_mtp: int = 0, **values: object) -> Metadata:
    """Metadata of an architecture `a` with the given keys (dots written as __)."""
    kvs = {}
    for name, value in {"block_count": n + n_mtp, **values}.items():
        key = "a." + name.replace("__", ".")
        if isinstance(value, list):
            item = gguf.GGUFValueType.UINT32
            kvs[key] = KV.of(key, gguf.GGUFValueType.ARRAY, value, item_type=item)
        else:
            kvs[key] = KV.of(key, gguf.GGUFValueType.UINT32, value)
    return Metadata("a", kvs, n, n_mtp)


def outcome(rule: Rule, source: Metadata, spec: str, **options: Any) -> Carried:
    """The outcome of one rule on a map."""
    layer_map = LayerMap.parse(spec, source.n_trunk)
    rules = ModelRules(Architecture("a", (rule,), "", **options), source)
    return rules.carry(layer_map, Schedule.PORTABLE)


@pytest.mark.parametrize(
    ("spec", "moved"),
    [("blocks:0,1", 3), ("blocks:0,2", 4), ("blocks:2,4", 2), ("blocks:1,3", None),
     ("layers:0,2..5", 1), ("layers:2..5", 0), ("layers:2,0,1,3..5", None)],
)  # fmt: skip
def test_a_leading_count_moves_or_the_map_is_refused(spec: str, moved: int | None) -> None:
    """K becomes the number of outputs from inside, which must come first."""
    found = outcome(Leading("lead", "dense", "MoE"), meta(6, lead=2), spec)
    assert bool(found.conflicts) == (moved is None)
    if moved is not None:
        assert found.target.scalar("lead") == moved


@pytest.mark.parametrize(
    ("spec", "legal"),
    [("blocks:2,4", True), ("blocks:0,1", False), ("blocks:1,3", False), ("layers:1..5", False)],
)
def test_anchored_layers_stay_in_place_once(spec: str, legal: bool) -> None:
    """The first two neither move nor repeat nor go."""
    assert bool(outcome(Anchored(2, "because"), meta(6), spec).conflicts) != legal


@pytest.mark.parametrize(
    ("spec", "legal"), [("blocks:0,4", True), ("blocks:3,5", False), ("layers:0..4", False)]
)
def test_a_tied_tail_stays_last(spec: str, legal: bool) -> None:
    """The last two neither move nor repeat nor go."""
    assert bool(outcome(TiedTail("tail", "because"), meta(6, tail=2), spec).conflicts) != legal


@pytest.mark.parametrize(
    ("spec", "moved"),
    [
        ("blocks:0,2", 2),
        ("blocks:2,4", 2),
        ("blocks:4,6", 4),
        ("blocks:3,4", None),
        ("blocks:3,5", None),
    ],
)
def test_a_shared_tail_moves_and_keeps_its_two_givers(spec: str, moved: int | None) -> None:
    """Layers 2 and 3 give K/V to 4 and 5, and must stay the two before them."""
    found = outcome(SharedTail("shared"), meta(6, shared=2), spec)
    assert bool(found.conflicts) == (moved is None)
    if moved is not None:
        assert found.target.scalar("shared") == moved


@pytest.mark.parametrize(
    ("spec", "legal"),
    [("blocks:2,4", True), ("blocks:3,4", True), ("blocks:0,6", True), ("blocks:1,3", False)],
)
def test_a_layer_keeps_the_chooser_before_it(spec: str, legal: bool) -> None:
    """With choosers at 0, 2 and 4 a window starts on one or holds none."""
    rule = BoundToPreceding("types", "indexer")
    found = outcome(rule, meta(6, types=[1, 0, 1, 0, 1, 0]), spec)
    assert bool(found.conflicts) != legal


def test_a_layer_named_by_number_is_followed() -> None:
    """ple.layers = [3] becomes [5] after two layers before it; a copy of it is refused."""
    rule = LayerIndex("ple__layers".replace("__", "."), "the layer with the lookup")
    source = meta(6, ple__layers=[3])
    assert outcome(rule, source, "blocks:0,2").target.array("ple.layers") == [5]
    assert outcome(rule, source, "blocks:3,4").conflicts


def test_lists_of_tensor_names_follow_the_map() -> None:
    """One entry per copy, its parallel value with it; names of the whole model stay."""
    names = ["blk.1.x", "output.weight", "blk.2.x", "blk.6.x"]
    source = meta(6, n_mtp=1)
    kvs = dict(source.kvs)
    string, u32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
    kvs["t.name"] = KV.of("t.name", gguf.GGUFValueType.ARRAY, names, item_type=string)
    kvs["t.value"] = KV.of("t.value", gguf.GGUFValueType.ARRAY, [7, 8, 9, 10], item_type=u32)
    found = outcome(TensorNames("t.name", ("t.value",)), replace(source, kvs=kvs), "blocks:1,3")
    assert found.target.kvs["t.name"].value == [
        "blk.1.x", "blk.3.x", "output.weight", "blk.2.x", "blk.4.x", "blk.8.x",
    ]  # fmt: skip
    assert found.target.kvs["t.value"].value == [7, 7, 8, 9, 9, 10]


def test_a_longer_array_keeps_its_surplus() -> None:
    """compress_ratios may be longer than the blocks; the rest stays behind the gathered ones."""
    source = meta(4, ratios=[1, 2, 3, 4, 99])
    found = outcome(Rule(), source, "blocks:1,3", longer_arrays=("ratios",))
    assert found.target.array("ratios") == [1, 2, 3, 2, 3, 4, 99]


def test_an_unsupported_architecture_says_why() -> None:
    """One sentence, and no window is named because none is legal."""
    assert outcome(Unsupported("it loops"), meta(4), "blocks:1,3").conflicts[0].text == "it loops"


# -- the table -----------------------------------------------------------------------------------


def test_every_row_has_a_source_and_words() -> None:
    """The table is for reading: each row names its file in llama.cpp and says what is legal."""
    assert len(ARCHITECTURES) >= 153
    for name, arch in ARCHITECTURES.items():
        found = entry(arch)
        assert arch.source.startswith("src/models/"), name
        assert found.portable
        assert found.rules


def test_the_table_is_printed(tmp_path: Path) -> None:
    """All rows in one line each, one row in full, an unknown name refused."""
    assert len(run("architectures").stdout.splitlines()) == len(ARCHITECTURES)
    shown = run("architectures", "gemma3").stdout
    assert "every 6" in shown
    assert "src/models/gemma3.cpp" in shown
    assert "not in the table" in fails("architectures", "nonesuch")


# -- architectures nobody has read ---------------------------------------------------------------


def rename_architecture(path: Path, old: str, new: str) -> Path:
    """Give a file another architecture of the same length in all its keys."""
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    return path


def test_alike_layers_of_an_unknown_architecture_need_a_word(tmp_path: Path) -> None:
    """Refused, unless --assume-uniform takes responsibility; the message names the way out."""
    source = rename_architecture(tiny.write(tmp_path / "m.gguf", "llama", 4), "llama", "lluma")
    message = fails("plan", source, "--blocks", "1,3")
    assert "--assume-uniform" in message
    assert "prove" in message
    out = tmp_path / "out.gguf"
    args = ("--blocks", "1,3", "--assume-uniform", "-o", out)
    assert run("apply", source, *args).returncode == 0
    assert run("verify", out, "--source", source).returncode == 0


def test_periodic_layers_of_an_unknown_architecture_keep_their_phase(tmp_path: Path) -> None:
    """Where the tensors repeat with a period, the map has to."""
    source = rename_architecture(tiny.write(tmp_path / "m.gguf", "qwen35", 8), "qwen35", "qwin35")
    assert "period of 4" in fails("plan", source, "--blocks", "3,5")
    assert run("plan", source, "--blocks", "2,6").returncode == 0


def test_two_stacks_of_layers_are_refused(tmp_path: Path) -> None:
    """An encoder-decoder's tensors say so."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "newenc")
    writer.add_block_count(1)
    for name in ("enc.blk.0.x", "dec.blk.0.x", "blk.0.x"):
        writer.add_tensor(name, np.zeros(4, np.float32))
    finish(writer)
    assert "more than one stack" in fails("plan", path, "--blocks", "0,1", "--assume-uniform")


def test_an_mtp_key_without_its_block_is_refused(tmp_path: Path) -> None:
    """llama.cpp would leave out the last layer with a warning."""
    source = tiny.write(tmp_path / "m.gguf", "deepseek2", 8, extra={".nextn_predict_layers": 1})
    assert "nextn_predict_layers is 1" in fails("plan", source, "--blocks", "3,5")


def test_a_file_of_mtp_blocks_only_is_named(tmp_path: Path) -> None:
    """A draft file has no layers to repeat."""
    source = tiny.write(tmp_path / "m.gguf", "qwen35", 4, n_mtp=1)
    reader = gguf.GGUFReader(source)
    path = tmp_path / "mtp.gguf"
    writer = gguf.GGUFWriter(str(path), "qwen35")
    for key in ("block_count", "nextn_predict_layers"):
        writer.add_uint32(f"qwen35.{key}", reader.fields[f"qwen35.{key}"].contents())
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.4."):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    finish(writer)
    assert "only MTP blocks" in fails("plan", path, "--blocks", "0,4")
