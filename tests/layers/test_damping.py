"""Damped copies in the real engine: at 0 the base, at 1 the plain copy, each architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, Plan, Refused, Schedule, find_problems, make_plan, write_plan
from rys_gguf.checks.ablation import edited_copy, redamp
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.residual import Damped, residual_writers
from rys_gguf.layers.rules import CountSwitch
from tests import tiny
from tests.direct import DirectEngine

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

N = 8
PROMPT = (1, 50, 60, 70, 81, *range(90, 110))
DAMPED = [arch for arch in tiny.ARCHITECTURES if ARCHITECTURES[arch].dampers]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gemma4": [{}, {"per_layer_input": False, "keys_as_values": True, "experts": True}],
}
CASES = [(arch, options) for arch in DAMPED for options in OPTIONS.get(arch, [{}])]
# Rows without a tiny model; they were tried on other models with random weights.
BY_HAND = {"grok", "plamo2"}
# Where no norm stands behind the weights, smaller ones do what smaller factors do.
BY_SCALES = [
    arch for arch in DAMPED if not any("post_" in d.tensor for d in ARCHITECTURES[arch].dampers)
]
BIASES = {"attn_output.bias": (tiny.N_EMBD,), "ffn_down.bias": (tiny.N_EMBD,)}
SCALES = {"attn_output.scale": (1,), "ffn_down.scale": (1,)}


@pytest.fixture(scope="module")
def engine() -> Iterator[DirectEngine]:
    """One process for all models of this module."""
    with DirectEngine() as running:
        yield running


def damped_plan(model: Model, factor: float) -> Plan:
    """The first window that is legal and ends before the last layer, with its copy damped.

    The engine computes the last layer in another way.
    """
    reason = ""
    for size in (4, 2, 1):
        for i in range(N - size):
            layer_map = LayerMap.from_blocks([(i, i + size, factor)], N)
            try:
                return make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
            except Refused as e:
                reason = str(e)
    raise AssertionError(reason)


def written(plan: Plan, path: Path) -> Path:
    """The file of a plan."""
    return write_plan(plan, path).paths[0]


def halved(plain: Path, copies: list[int], out: Path) -> Path:
    """The plain copy with half of every weight and bias that its copies write with."""
    raw = bytearray(plain.read_bytes())
    with Model(plain) as model:
        names = {t.name for n in copies for t in residual_writers(model.layers[n])}
        names |= {f"blk.{n}.layer_output_scale.weight" for n in copies}
    for tensor in gguf.GGUFReader(plain).tensors:
        if tensor.name in names and not tensor.name.endswith((".scale", "norm.weight")):
            end = tensor.data_offset + tensor.n_bytes
            raw[tensor.data_offset : end] = (tensor.data * np.float32(0.5)).tobytes()
    out.write_bytes(raw)
    return out


def test_every_row_of_the_table_was_tried() -> None:
    """In this module, or by hand."""
    assert {arch.name for arch in ARCHITECTURES.values() if arch.dampers} == {*DAMPED, *BY_HAND}


@pytest.mark.parametrize(("arch", "options"), CASES)
def test_at_0_it_is_the_base_and_at_1_the_plain_copy(
    tmp_path: Path, engine: DirectEngine, arch: str, options: dict[str, Any]
) -> None:
    """Bit for bit, for a prompt and for tokens one by one; in between it is neither."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    with Model(source) as model:
        plan = damped_plan(model, 0.25)
        layer_map = plan.layer_map
        quarter = written(plan, tmp_path / "quarter.gguf")
        explicit = Schedule.EXPLICIT
        plain = make_plan(model, layer_map.undamped, schedule=explicit)
        silent = make_plan(model, layer_map.undamped.damped(0), schedule=explicit)
        base, copy, none, some = (
            engine.logits(path, PROMPT)
            for path in (
                source,
                written(plain, tmp_path / "plain.gguf"),
                written(silent, tmp_path / "silent.gguf"),
                quarter,
            )
        )
        with Model(quarter) as variant:
            edits = list(redamp(variant, model, layer_map, plan.rules.arch, 1.0))
            with edited_copy(variant, edits, tmp_path) as undamped:
                whole = engine.logits(undamped, PROMPT)
    assert find_problems(quarter, source) == []
    assert np.array_equal(none, base)
    assert np.array_equal(whole, copy)
    assert not np.array_equal(some, base)
    assert not np.array_equal(some, copy)


@pytest.mark.parametrize("arch", BY_SCALES)
def test_a_half_is_what_half_the_weights_give(
    tmp_path: Path, engine: DirectEngine, arch: str
) -> None:
    """A power of two changes no digit of a product, so it may stand in front of it or behind."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    require_halves(source, engine, tmp_path)


@pytest.mark.parametrize("more", [BIASES, SCALES, BIASES | SCALES])
def test_biases_and_scales_of_the_source_are_damped_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: DirectEngine, more: tiny.Tensors
) -> None:
    """llama.cpp adds one bias behind the scale and the other in front of it."""
    llama = tiny.ARCHITECTURES["llama"]
    row = replace(llama, layer=lambda build, n: llama.layer(build, n) | more)
    monkeypatch.setitem(tiny.ARCHITECTURES, "llama", row)
    source = tiny.write(tmp_path / "m.gguf", "llama", N)
    require_halves(source, engine, tmp_path)
    with Model(source) as model:
        silent = written(damped_plan(model, 0), tmp_path / "silent.gguf")
    assert find_problems(silent, source) == []
    assert np.array_equal(engine.logits(silent, PROMPT), engine.logits(source, PROMPT))


def require_halves(source: Path, engine: DirectEngine, folder: Path) -> None:
    """Compare a variant damped by a half with one that has half of each weight."""
    with Model(source) as model:
        plan = damped_plan(model, 0.5)
        variant = written(plan, folder / "half.gguf")
        plain = make_plan(model, plan.layer_map.undamped, schedule=Schedule.EXPLICIT)
        copies = [out for out in range(len(plan.layer_map)) if plan.layer_map.damp(out) != 1]
        weights = halved(written(plain, folder / "plain.gguf"), copies, folder / "weights.gguf")
    assert np.array_equal(engine.logits(variant, PROMPT), engine.logits(weights, PROMPT))
    assert find_problems(variant, source) == []


@pytest.mark.parametrize(
    ("arch", "writer"),
    [
        ("qwen2", "attn_output"),  # no scale of its network is read
        ("jamba", "ffn_down"),
        ("qwen4exp", "ssm_out"),
    ],
)
def test_what_no_factor_reaches_is_refused(tmp_path: Path, arch: str, writer: str) -> None:
    """The message names the tensor that nothing multiplies."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    with Model(source) as model, pytest.raises(AssertionError) as caught:
        damped_plan(model, 0.5)
    assert "cannot be damped: in " in str(caught.value)
    assert f".{writer} adds" in str(caught.value)


def test_a_layer_whose_keys_others_read_is_not_damped(tmp_path: Path) -> None:
    """They would be computed from what came out of the first pass, and no factor reaches them."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", 12, shared_kv_layers=4)
    layer_map = LayerMap.parse("blocks:6,8@0.5", 12)
    with Model(source) as model, pytest.raises(Refused) as caught:
        make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
    assert "cannot be damped: output 10 also reads what it computes" in str(caught.value)


@given(st.floats(0.01, 10), st.floats(0, 1), st.floats(-9, 9), st.floats(-9, 9))
def test_a_number_of_all_is_damped_towards_one(s: float, d: float, x: float, a: float) -> None:
    """What a layer makes of its input x and its own a differs from x by d times as much."""
    number = Damped("layer_output_scale.weight", of_all=True).values(
        np.array([s], np.float32), d, s
    )
    norm = Damped("post_ffw_norm.weight").values(np.ones(1, np.float32), d, s)
    damped = float(number[0]) * (x + float(norm[0]) * a) - x
    assert damped == pytest.approx(d * (s * (x + a) - x), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("number", [0.0, -1.0, np.inf])
def test_a_number_that_is_not_above_zero_is_refused(tmp_path: Path, number: float) -> None:
    """There would be nothing to divide by."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", N)
    raw = bytearray(source.read_bytes())
    for tensor in gguf.GGUFReader(source).tensors:
        if tensor.name == "blk.2.layer_output_scale.weight":
            raw[tensor.data_offset : tensor.data_offset + 4] = np.float32(number).tobytes()
    source.write_bytes(raw)
    with Model(source) as model, pytest.raises(Refused, match="is not a number above 0"):
        make_plan(model, LayerMap.parse("blocks:2,3@0.5", N), schedule=Schedule.EXPLICIT)


def test_no_tensor_both_damps_and_makes_up_for_the_layer_count() -> None:
    """Each tensor is changed by one thing."""
    for arch in ARCHITECTURES.values():
        repaired = {
            rule.repair.tensor
            for rule in arch.rules
            if isinstance(rule, CountSwitch) and rule.repair is not None
        }
        assert repaired.isdisjoint(damper.tensor for damper in arch.dampers)
