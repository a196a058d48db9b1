"""Every class of architecture in the real engine: exact where legal, refused where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rys_gguf import LayerMap, Model, Refused, Schedule, find_problems, make_plan, write_plan
from rys_gguf.checks.prove import Proof
from rys_gguf.checks.variant import VariantPair
from rys_gguf.errors import EngineFailed
from rys_gguf.layers.architectures import ARCHITECTURES
from scripts.naive import naive_plan
from tests import tiny
from tests.cli.calls import refused
from tests.engine import direct_proof, embeddings, logprobs

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

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
    ("k2-horizon", {}, ["3,5", "0,2"], [], ["1,3"]),
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
    return direct_proof(VariantPair(out, source, layer_map))


@pytest.mark.parametrize(("arch", "options", "window", "schedule"), LEGAL)
def test_what_is_legal_is_exact(
    tmp_path: Path, arch: str, options: dict[str, Any], window: str, schedule: Schedule
) -> None:
    """With the copies ablated, and with the originals ablated, the base's bits come out."""
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
    """A map that no schedule can express is refused; the refusal names legal windows."""
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
    """Renaming tensors and raising block_count gives another model, hence the refusal."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    layer_map = LayerMap.parse(f"blocks:{window}", N)
    with Model(source) as model:
        write_plan(naive_plan(model, layer_map), tmp_path / "out.gguf")
    proof = direct_proof(VariantPair(tmp_path / "out.gguf", source, layer_map))
    assert max(r.max_difference for r in proof.results) > 1e-3


@pytest.mark.parametrize("window", ["2,4", "8,10"])
def test_shared_kv_moves_with_the_window(tmp_path: Path, window: str) -> None:
    """gemma4 with shared K/V in its last layers: the file equals one built directly."""
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


@pytest.mark.parametrize(
    ("arch", "options", "spec", "schedule"),
    [
        ("gemma-embedding", {}, "blocks:3,9", Schedule.PORTABLE),
        ("gemma-embedding", {}, "blocks:4,8", Schedule.EXPLICIT),
        ("gemma-embedding2", {}, "blocks:3,9", Schedule.PORTABLE),
        ("gemma-embedding2", {}, "blocks:4,8", Schedule.EXPLICIT),
        ("gemma-embedding2", {}, "layers:5,0..11", Schedule.EXPLICIT),
        ("lfm2", {"decision": 2}, "blocks:3,5", Schedule.PORTABLE),
        ("lfm2", {"decision": 2}, "blocks:0,10", Schedule.PORTABLE),
        ("modern-bert", {}, "blocks:3,9", Schedule.PORTABLE),
        ("modern-bert", {}, "blocks:4,6", Schedule.EXPLICIT),
        ("modern-bert", {"decision": 3}, "blocks:1,7", Schedule.PORTABLE),
        ("modern-bert", {"decision": 3}, "blocks:2,9", Schedule.EXPLICIT),
    ],
)
def test_an_embedding_model_embeds_as_its_map_says(
    tmp_path: Path, arch: str, options: dict[str, Any], spec: str, schedule: Schedule
) -> None:
    """There are no probabilities to prove it by, so it must equal a model built directly.

    That one lists which layers slide, so that nothing in it goes by position.
    """
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    out, direct = tmp_path / "out.gguf", tmp_path / "direct.gguf"
    layer_map = LayerMap.parse(spec, N)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map, schedule=schedule), out)
    assert find_problems(out, source) == []
    if arch != "lfm2":
        options = options | {"pattern": True}
    tiny.write(direct, arch, N, sources=layer_map.sources, **options)
    embedded = embeddings(out)
    assert np.array_equal(embedded, embeddings(direct))
    assert np.abs(embedded - embeddings(source)).max() > 1e-3


@pytest.mark.parametrize(
    ("arch", "options", "window", "why"),
    [
        ("gemma-embedding2", {}, "4,8", "sliding-window attention"),
        ("lfm2", {"decision": 2}, "9,11", "the decision head"),
        ("lfm2", {"decision": 2}, "11,12", "the decision head"),
        ("modern-bert", {}, "0,3", "no norm before its attention"),
        ("modern-bert", {"decision": 3}, "6,12", "the decision head"),
    ],
)
def test_what_an_embedding_model_refuses_does_not_load(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    options: dict[str, Any],
    window: str,
    why: str,
) -> None:
    """Without its rule the model would lack tensors, or have some of another shape."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    assert why in refused("plan", source, "--blocks", window)
    monkeypatch.setitem(ARCHITECTURES, arch, replace(ARCHITECTURES[arch], rules=()))
    with Model(source) as model:
        layer_map = LayerMap.parse(f"blocks:{window}", N)
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    with pytest.raises(EngineFailed, match="tensor"):
        embeddings(tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("arch", "spec"),
    [
        ("gemma-embedding", "layers:5,11"),
        ("gemma-embedding2", "layers:5,11"),
        ("gemma-embedding2", "layers:0,1"),
        ("modern-bert", "layers:0,3"),
        ("modern-bert", "layers:0,3,6,10,11"),
        ("lfm2", "layers:0..2,10,11"),
    ],
)
def test_an_encoder_keeps_a_layer_of_each_kind(tmp_path: Path, arch: str, spec: str) -> None:
    """Full or sliding attention alone is loaded, and aborts at the first text.

    The layers of a decision head, 10 and 11, do not count: they use another mask.
    """
    options: dict[str, Any] = (
        {} if arch.startswith("gemma") or "11" not in spec else {"decision": 2}
    )
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    layer_map = LayerMap.parse(spec, N)
    with Model(source) as model, pytest.raises(Refused, match="aborts without"):
        make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
    direct = tmp_path / "direct.gguf"
    listed: dict[str, Any] = {"pattern": True} if arch != "lfm2" else {}
    tiny.write(direct, arch, N, sources=layer_map.sources, **options, **listed)
    with pytest.raises(EngineFailed, match="GGML_ASSERT"):
        embeddings(direct)


@pytest.mark.parametrize("arch", ["gemma-embedding", "modern-bert"])
def test_the_naive_copy_of_an_embedding_model_differs(tmp_path: Path, arch: str) -> None:
    """Sliding windows by position: the refused copy loads and embeds something else."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    layer_map = LayerMap.parse("blocks:4,6", N)
    assert "sliding-window attention" in refused("plan", source, "--blocks", "4,6")
    with Model(source) as model:
        write_plan(naive_plan(model, layer_map), tmp_path / "naive.gguf")
        write_plan(make_plan(model, layer_map, schedule=Schedule.EXPLICIT), tmp_path / "right.gguf")
    naive, right = (embeddings(tmp_path / f"{name}.gguf") for name in ("naive", "right"))
    assert np.abs(naive - right).max() > 1e-3


def test_what_gives_no_probabilities_is_not_proved(tmp_path: Path) -> None:
    """The reason is known before any model is loaded."""
    source = tiny.write(tmp_path / "m.gguf", "gemma-embedding2", N)
    with pytest.raises(Refused, match="not provable this way: it gives embeddings"):
        proven(source, "3,9", tmp_path / "out.gguf")


def test_a_window_across_the_shared_kv_boundary_is_refused(tmp_path: Path) -> None:
    """No count can express alternating layers with and without K/V of their own."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", N, shared_kv_layers=4)
    assert "one side of layer 8" in refused("plan", source, "--blocks", "6,10")


@pytest.mark.parametrize(
    ("arch", "n", "window"),
    [("gemma3", 62, "6,12"), ("gemma3", 56, "6,12"), ("gemma2", 46, "4,8"), ("gemma2", 42, "4,8")],
)
def test_a_count_that_changes_the_attention_scale_needs_data_to_undo_it(
    tmp_path: Path, arch: str, n: int, window: str
) -> None:
    """Portably it is refused; explicit rescales gemma3's Q norm and adds a scale to gemma2's Q."""
    source = tiny.write(tmp_path / "m.gguf", arch, n)
    assert "attention scale" in refused("plan", source, "--blocks", window)
    proof = proven(source, window, tmp_path / "out.gguf", schedule=Schedule.EXPLICIT)
    # 60 random layers make much of a last bit; without the repair the difference is above 1.
    assert max(r.max_difference for r in proof.results) < 0.05


@pytest.mark.parametrize(
    ("arch", "spec", "options"),
    [
        ("deepseek2", "layers:2..11", {}),
        ("gemma4", "layers:0..7", {"shared_kv_layers": 4}),
        ("gemma4", "layers:0..7,4..7", {"shared_kv_layers": 4}),
    ],
)
def test_a_map_may_leave_out_all_layers_of_a_kind(
    tmp_path: Path, arch: str, spec: str, options: dict[str, Any]
) -> None:
    """The count becomes 0, and the remaining layers keep their kind."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse(spec, N)), tmp_path / "out.gguf")
    assert find_problems(tmp_path / "out.gguf", source) == []


def test_an_interval_of_zero_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """llama.cpp divides by it, unless the file lists the kinds itself."""
    extra = {".full_attention_interval": 0}
    source = tiny.write(tmp_path / "m.gguf", "qwen35", N, extra=extra)
    message = refused("plan", source, "--blocks", "4,8")
    assert "m.gguf: qwen35.full_attention_interval is 0; llama.cpp divides by it" in message
    with pytest.raises(EngineFailed, match="SIGFPE"):
        logprobs(source, [[1, 50, 60]])
    tiny.write(source, "qwen35", N, extra=extra, recurrent_layers=True)
    assert proven(source, "4,8", tmp_path / "out.gguf").holds()


@pytest.mark.parametrize("n_shared", [7, 8, 9])
def test_two_layers_of_gemma4_keep_kv_of_their_own(tmp_path: Path, n_shared: int) -> None:
    """llama.cpp aborts on a count that leaves fewer."""
    extra = {".attention.shared_kv_layers": n_shared}
    source = tiny.write(tmp_path / "m.gguf", "gemma4", 8, extra=extra)
    message = refused("plan", source, "--blocks", "2,4")
    assert f"shared_kv_layers is {n_shared}; of 8 layers the first two" in message
    with pytest.raises(EngineFailed, match="n_layer_kv_from_start >= 2"):
        logprobs(source, [[1, 50, 60]])


@pytest.mark.parametrize(("n", "window"), [(64, "4,8"), (60, "4,8")])
def test_exaone4_across_64_layers_is_refused(tmp_path: Path, n: int, window: str) -> None:
    """Sliding windows exist with exactly 64 layers only, and no key can change that."""
    source = tiny.write(tmp_path / "m.gguf", "exaone4", n)
    message = refused("plan", source, "--blocks", window, "--schedule", "explicit")
    assert f"{n} -> 64" in message or "64 -> 68" in message
    assert ("no window of this model is legal" in message) == (n == 64)


@pytest.mark.parametrize("spec", ["layers:1,0,2..11", "layers:0..3,2..3,4..11"])
def test_the_step_of_the_experts_does_not_reach_the_dense_layers(tmp_path: Path, spec: str) -> None:
    """The leading layers of ernie4_5-moe are dense wherever they stand."""
    options: dict[str, Any] = {"moe_step": 2, "leading_dense": 4}
    source = tiny.write(tmp_path / "m.gguf", "ernie4_5-moe", N, **options)
    layer_map = LayerMap.parse(spec, N)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    direct = tiny.write(
        tmp_path / "direct.gguf", "ernie4_5-moe", N, sources=layer_map.sources, **options
    )
    assert find_problems(tmp_path / "out.gguf", source) == []
    assert np.array_equal(logprobs(tmp_path / "out.gguf"), logprobs(direct))
    assert direct_proof(VariantPair(tmp_path / "out.gguf", source, layer_map)).holds()
