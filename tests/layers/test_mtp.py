"""Multi-token-prediction blocks: counted and absent, or not counted at all, in rules and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rys_gguf import InvalidGGUF, LayerMap, Model, Refused, Schedule, find_problems, make_plan
from rys_gguf import write_plan as write
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engine import logprobs

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

N = 8
NEXTN = ".nextn_predict_layers"


def planned(source: Path, spec: str, out: Path, schedule: Schedule) -> tuple[str, ...]:
    """Write and verify the variant of a model; the notes of its plan."""
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse(spec, model.n_trunk), schedule=schedule)
        write(plan, out)
    assert find_problems(out, source) == []
    return plan.notes


@pytest.mark.parametrize(
    ("arch", "spec", "schedule"),
    [
        ("qwen35", "blocks:0,4", Schedule.PORTABLE),
        ("qwen35", "blocks:1,3", Schedule.EXPLICIT),
        ("qwen35moe", "blocks:2,6", Schedule.PORTABLE),
        ("qwen3next", "layers:0..3", Schedule.PORTABLE),
        ("glm5-next", "blocks:3,5", Schedule.PORTABLE),
        ("bailingmoe3", "blocks:3,5", Schedule.PORTABLE),
    ],
)
def test_blocks_that_are_counted_and_absent_stay_so(
    tmp_path: Path, arch: str, spec: str, schedule: Schedule
) -> None:
    """The source runs as without them, and the output as the model that was built directly."""
    source, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    plain = logprobs(tiny.write(source, arch, N))
    assert np.array_equal(plain, logprobs(tiny.write(source, arch, N, n_mtp=1, mtp_is_absent=True)))
    notes = planned(source, spec, out, schedule)
    sources = LayerMap.parse(spec, N).sources
    with Model(out) as model:
        assert (model.block_count, model.n_mtp) == (len(sources) + 1, 1)
    listed: dict[str, Any] = {"recurrent_layers": True} if schedule is Schedule.EXPLICIT else {}
    direct = tiny.write(tmp_path / "direct.gguf", arch, N, sources=sources, **listed)
    assert np.array_equal(logprobs(out), logprobs(direct))
    # bailingmoe3 has been loaded without its block for as long as it is known.
    assert any("b11549 loads such a file" in note for note in notes) == (arch != "bailingmoe3")


@pytest.mark.parametrize("spec", ["blocks:3,6", "layers:0..3"])
def test_deepseek4_counts_blocks_by_their_tensor(tmp_path: Path, spec: str) -> None:
    """Without it llama.cpp takes the number for 0, and all blocks for layers."""
    source, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    plain = logprobs(tiny.write(source, "deepseek4", N))
    tiny.write(source, "deepseek4", N, extra={NEXTN: 1})
    assert np.array_equal(plain, logprobs(source))
    with Model(source) as model:
        assert (model.n_trunk, model.n_mtp) == (N, 0)
    assert planned(source, spec, out, Schedule.PORTABLE) == ()
    sources = LayerMap.parse(spec, N).sources
    direct = tiny.write(tmp_path / "direct.gguf", "deepseek4", N, sources=sources)
    assert np.array_equal(logprobs(out), logprobs(direct))


def test_deepseek4_keeps_an_mtp_block_that_is_there(tmp_path: Path) -> None:
    """It stays behind the layers, and its entry in the list of ratios with it."""
    source = tiny.write(tmp_path / "m.gguf", "deepseek4", N, n_mtp=1)
    planned(source, "blocks:3,6", tmp_path / "out.gguf", Schedule.PORTABLE)
    sources = LayerMap.parse("blocks:3,6", N).sources
    direct = tiny.write(tmp_path / "direct.gguf", "deepseek4", N, n_mtp=1, sources=sources)
    assert np.array_equal(logprobs(tmp_path / "out.gguf"), logprobs(direct))


def test_fewer_layers_than_the_number_of_absent_blocks_are_refused(tmp_path: Path) -> None:
    """llama.cpp compares the two before it finds the blocks absent."""
    extra = {NEXTN: 5}
    source = tiny.write(tmp_path / "m.gguf", "deepseek4", N, extra=extra)
    with Model(source) as model:
        with pytest.raises(Refused, match="keep at least 5 layers"):
            make_plan(model, LayerMap.parse("layers:0..3", N))
        make_plan(model, LayerMap.parse("layers:0..4", N))
    prompts = [[1, 50, 60]]
    path = tmp_path / "plain.gguf"
    logprobs(tiny.write(path, "deepseek4", N, sources=range(5), extra=extra), prompts)
    tiny.write(path, "deepseek4", N, sources=range(4), extra=extra)
    with pytest.raises(EngineFailed, match="GGML_ASSERT"):
        logprobs(path, prompts)


def test_a_block_that_deepseek4_would_miss_is_named(tmp_path: Path) -> None:
    """Counted in block_count and absent, it is a layer without tensors."""
    source = tmp_path / "m.gguf"
    tiny.write(source, "deepseek4", N, n_mtp=1, mtp_is_absent=True)
    with Model(source) as model, pytest.raises(InvalidGGUF, match="block 8 has no tensors"):
        make_plan(model, LayerMap.parse("blocks:3,6", N + 1))
    with pytest.raises(EngineFailed, match=r"blk\.8\."):
        logprobs(source)


# Architecture with one MTP block, key, items of an array, lengths that llama.cpp takes.
LENGTHS: list[tuple[str, str, list[Any], set[int]]] = [
    ("qwen35", ".feed_forward_length", [64] * 10, {9}),
    ("qwen35", ".attention.head_count", [2] * 10, {9}),
    ("qwen35", ".attention.head_count_kv", [1] * 10, {9}),
    ("qwen35", ".attention.recurrent_layers", [n % 4 != 3 for n in range(8)] + [False] * 2, {9}),
    ("qwen3next", ".expert_used_count", [2] * 10, {9}),
    ("qwen3next", ".expert_feed_forward_length", [32] * 10, {9}),
    ("glm5-next", ".attention.head_count_kv", [int(n % 4 == 3) for n in range(8)] + [1] * 2, {9}),
    ("glm5-next", ".attention.indexer.types", [1] * 10, {8}),
    ("glm5-next", ".swiglu_clamp_exp", [10.0] * 10, {9}),
    ("bailingmoe3", ".attention.head_count_kv", [int(n % 4 == 3) for n in range(8)] + [1] * 2, {9}),
    ("bailingmoe3", ".swiglu_clamp_shexp", [10.0] * 10, {9}),
    ("deepseek4", ".attention.compress_ratios", [(0, 4, 128)[n % 3] for n in range(8)] + [0] * 2,
     {9, 10}),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "key", "items", "lengths"), LENGTHS)
def test_arrays_have_the_lengths_that_llama_cpp_takes(
    tmp_path: Path, arch: str, key: str, items: list[Any], lengths: set[int]
) -> None:
    """Entries for MTP blocks are there, or not: what the engine refuses is refused and named."""
    layer_map = LayerMap.parse("layers:0..7,7", N)
    if arch.startswith("qwen"):
        layer_map = LayerMap.parse("layers:0..7,0..7", N)
    for n in (N, N + 1, N + 2):
        path = tmp_path / f"{n}.gguf"
        tiny.write(path, arch, N, n_mtp=1, extra={key: items[:n]})
        with Model(path) as model:
            if n in lengths:
                out = tmp_path / f"out{n}.gguf"
                write(make_plan(model, layer_map), out)
                logprobs(path)
                logprobs(out)
            else:
                with pytest.raises(Refused, match=rf"{arch}{key} has {n} entries for \d "):
                    make_plan(model, layer_map)
                with pytest.raises(EngineFailed, match=r"length|shorter"):
                    logprobs(path)
