"""Damped copies in files: what is written, recorded, verified and given back."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from rys_gguf import (
    InvalidLayerMap,
    LayerMap,
    Model,
    Refused,
    apply,
    find_problems,
    make_plan,
    plan_undo,
    resolve_layer_map,
    unapply,
    write_plan,
)
from rys_gguf.patch.provenance import compose
from tests import tiny


def scales(path: Path) -> dict[str, list[float]]:
    """The scales in a file."""
    found = gguf.GGUFReader(path).tensors
    return {t.name: t.data.tolist() for t in found if t.name.endswith(".scale")}


def test_each_copy_gets_scales_of_its_own(tmp_path: Path) -> None:
    """One for each linear layer that writes; first passes get none."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6)
    (out,) = apply(source, "blocks:2,4", tmp_path / "out.gguf", damp=0.5).paths
    assert scales(out) == {
        f"blk.{n}.{name}.scale": [0.5] for n in (4, 5) for name in ("attn_output", "ffn_down")
    }
    with Model(out) as variant, Model(source) as model:
        assert resolve_layer_map(variant, model) == LayerMap.parse("blocks:2,4@0.5", 6)


def test_a_scale_of_experts_has_a_value_for_each(tmp_path: Path) -> None:
    """llama.cpp looks it up by the expert's number."""
    source = tiny.write(tmp_path / "m.gguf", "qwen3moe", 4)
    (out,) = apply(source, "blocks:1,2@0.25", tmp_path / "out.gguf").paths
    assert scales(out)["blk.2.ffn_down_exps.scale"] == [0.25] * 3


def test_norms_are_multiplied_in_the_copies_alone(tmp_path: Path) -> None:
    """A norm behind a layer undoes a scale in front of it."""
    source = tiny.write(tmp_path / "m.gguf", "gemma2", 6)
    (out,) = apply(source, "blocks:2,4", tmp_path / "out.gguf", damp=0.5).paths
    before, after = (
        {t.name: t.data.copy() for t in gguf.GGUFReader(path).tensors} for path in (source, out)
    )
    for n, original, factor in ((2, 2, 1), (4, 2, 0.5), (5, 3, 0.5), (6, 4, 1)):
        for name in ("post_attention_norm.weight", "post_ffw_norm.weight"):
            want = before[f"blk.{original}.{name}"] * np.float32(factor)
            assert np.array_equal(after[f"blk.{n}.{name}"], want)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gemma4", "qwen35moe"])
def test_chains_of_damped_copies_verify_and_come_back(tmp_path: Path, arch: str) -> None:
    """Against every model on the way, and byte for byte; the second step damps a copy again."""
    window = "0,6" if arch == "gemma3" else "4,8"
    source = tiny.write(tmp_path / "m.gguf", arch, 12)
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    apply(source, f"blocks:{window}@0.3", once)
    apply(once, "blocks:6,12" if arch == "gemma3" else "blocks:8,12", twice, damp=0.7)
    assert find_problems(once, source) == []
    for path in (once, source):
        assert find_problems(twice, path) == []
    for to_base, expected in ((False, once), (True, source)):
        with Model(twice) as model:
            undo = plan_undo(model, to_base=to_base)
            unapply(undo, tmp_path / "back.gguf", force=True)
        assert (tmp_path / "back.gguf").read_bytes() == expected.read_bytes()


def test_a_layer_that_is_there_only_damped_does_not_come_back(tmp_path: Path) -> None:
    """Its norms were rounded."""
    source = tiny.write(tmp_path / "m.gguf", "gemma2", 4)
    (out,) = apply(source, "layers:0..1,2@0.3,3", tmp_path / "out.gguf").paths
    with Model(out) as model, pytest.raises(Refused, match="drops or damps its layer 2"):
        plan_undo(model)


def test_another_scale_is_found(tmp_path: Path) -> None:
    """So is a missing one, and one where none belongs."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6)
    half, third, plain = (
        apply(source, "blocks:2,4", tmp_path / f"{damp}.gguf", damp=damp).paths[0]
        for damp in (0.5, 0.3, 1)
    )
    spec = "blocks:2,4@0.5"
    assert find_problems(half, source, spec) == []
    found = [str(problem) for problem in find_problems(third, source, spec)]
    assert any("records blocks:2,4@0.3, expected blocks:2,4@0.5" in text for text in found)
    assert any("blk.4.ffn_down.scale: differs from the damping of its layer" in t for t in found)
    found = [str(problem) for problem in find_problems(plain, source, spec)]
    assert any("blk.5.attn_output.scale: is missing" in text for text in found)
    found = [str(problem) for problem in find_problems(half, source, "blocks:2,4")]
    assert any("blk.4.ffn_down.scale: is not expected here" in text for text in found)


def test_factors_of_steps_multiply() -> None:
    """The map of both is damped by both."""
    first = LayerMap(3, (0, 1, 1, 2), (1, 1, 0.5, 1))
    second = LayerMap(4, (0, 2, 2, 3), (1, 1, 0.5, 0.25))
    assert compose(first, second) == LayerMap(3, (0, 1, 1, 2), (1, 0.5, 0.25, 0.25))


def test_a_map_without_copies_has_nothing_to_damp(tmp_path: Path) -> None:
    """The message names the model."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6)
    with pytest.raises(InvalidLayerMap, match=r"m\.gguf: layers:0\.\.3 repeats no layer"):
        apply(source, "layers:0..3", damp=0.5)


def test_the_plan_says_what_damps(tmp_path: Path) -> None:
    """As a note, and in the map."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 6)) as model:
        plan = make_plan(model, LayerMap.parse("blocks:2,4@0.5", 6))
        assert any(
            note.startswith("2 layers damped by blk.N.attn_output.scale") for note in plan.notes
        )
        assert str(plan.layer_map.stretches()[1]) == "output 4..5 <- source 2..3, damped by 0.5"
        half = plan.header.n_data_bytes // 2
        paths = write_plan(plan, tmp_path / "out.gguf", split_max_bytes=half).paths
    assert len(paths) > 1
    assert find_problems(paths[0], tmp_path / "m.gguf") == []
